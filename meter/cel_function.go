package meter

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// celFunctions are what expressions have beside CEL's standard library and its extensions for text and numbers:
//
//	lower(text)            in lower case, letters beyond ASCII too
//	extract(text, regexp)  the first match: its first group where the expression has one; absent without a match
//	hash(value, salt)      a pseudonym: the first 128 bits of the HMAC-SHA-256 of value with the key salt, in hexadecimal
//	sum(list)              the sum of a list of numbers
//	status(value)          an HTTP status as Kong logs it, where several tries left several the last
//	status_class(value)    2xx for 200 to 299, and so on
var celFunctions = []cel.EnvOption{
	cel.Function("lower", cel.Overload("lower_dyn", []*cel.Type{cel.DynType}, cel.StringType, cel.UnaryBinding(func(v ref.Val) ref.Val {
		s, ok := v.(types.String)
		if !ok {
			return types.MaybeNoSuchOverloadErr(v)
		}
		return types.String(strings.ToLower(string(s)))
	}))),
	cel.Function("extract", cel.Overload(extractOverload, []*cel.Type{cel.StringType, cel.StringType}, cel.StringType,
		cel.BinaryBinding(func(v, pattern ref.Val) ref.Val {
			r, err := regexp.Compile(string(pattern.(types.String)))
			if err != nil {
				return types.WrapErr(err)
			}
			return extract(r, v)
		}))),
	cel.Function("hash", cel.Overload("hash_dyn_string", []*cel.Type{cel.DynType, cel.StringType}, cel.StringType, cel.BinaryBinding(pseudonym))),
	cel.Function("sum", cel.Overload("sum_list", []*cel.Type{cel.ListType(cel.DynType)}, cel.DoubleType, cel.UnaryBinding(sum))),
	cel.Function("status", cel.Overload("status_dyn", []*cel.Type{cel.DynType}, cel.DynType, cel.UnaryBinding(onRaw(status)))),
	cel.Function("status_class", cel.Overload("status_class_dyn", []*cel.Type{cel.DynType}, cel.DynType, cel.UnaryBinding(onRaw(statusClass)))),
}

const extractOverload = "extract_string_string"

// extractOptimization compiles the pattern once.
var extractOptimization = &interpreter.RegexOptimization{
	Function: "extract", OverloadID: extractOverload, RegexIndex: 1,
	Factory: func(call interpreter.InterpretableCall, pattern string) (interpreter.InterpretableCall, error) {
		r, err := regexp.Compile(pattern)
		if err != nil {
			return nil, err
		}
		return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
			return extract(r, args[0])
		}), nil
	},
}

func extract(r *regexp.Regexp, v ref.Val) ref.Val {
	s, ok := v.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(v)
	}
	match := r.FindStringSubmatchIndex(string(s))
	if match == nil {
		return absentValue
	}
	group := match[:2]
	if len(match) > 2 {
		group = match[2:4]
	}
	if group[0] < 0 {
		return absentValue
	}
	return s[group[0]:group[1]]
}

func pseudonym(v, salt ref.Val) ref.Val {
	key, ok := salt.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(salt)
	}
	message, isText := v.(types.String)
	if !isText {
		raw, err := rawJSON(v)
		if err != nil {
			return types.WrapErr(err)
		}
		message = types.String(raw)
	}
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(message))
	return types.String(hex.EncodeToString(mac.Sum(nil)[:16]))
}

func sum(v ref.Val) ref.Val {
	values, ok := v.(traits.Lister)
	if !ok {
		return types.MaybeNoSuchOverloadErr(v)
	}
	total := types.Double(0)
	for it := values.Iterator(); it.HasNext() == types.True; {
		n, ok := it.Next().(types.Double)
		if !ok {
			return types.NewErr("sum of something that is no number")
		}
		total += n
	}
	return total
}

// onRaw makes a function of raw JSON one of CEL's.
func onRaw(fn function) func(ref.Val) ref.Val {
	return func(v ref.Val) ref.Val {
		raw, err := rawJSON(v)
		if err != nil {
			return types.WrapErr(err)
		}
		if raw = fn(raw); raw == "" {
			return absentValue
		}
		return celValue(raw, nil) // a text or a number
	}
}

// functionCost is what calls cost that work on texts, lists and objects: one for ten bytes or for an element. CEL itself
// knows it only of functions whose arguments have types that are known beforehand, and here they have not.
type functionCost struct{}

// CallCost returns nil where CEL knows the cost.
func (functionCost) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	if function == "matches" {
		return nil
	}
	var size int
	for _, arg := range args {
		switch v := arg.(type) {
		case types.String:
			size += len(v) / 10
		case *list:
			size += len(v.raw) / 10
		case *object:
			size += len(v.raw) / 10
		case traits.Lister:
			n, _ := v.Size().(types.Int)
			size += int(n)
		}
	}
	if size == 0 {
		return nil
	}
	cost := uint64(size) + 1
	return &cost
}
