package meter

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // getHours('Europe/Berlin') is the same wherever it is evaluated

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/operators"
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
//	timestamp(seconds)     of any number
//
// Those with an @ stand for the ones of CEL without: see replaced.
var celFunctions = []cel.EnvOption{
	cel.Function("lower", cel.Overload("lower_dyn", []*cel.Type{cel.DynType}, cel.StringType, cel.UnaryBinding(func(v ref.Val) ref.Val {
		s, ok := v.(types.String)
		if !ok {
			return types.MaybeNoSuchOverloadErr(v)
		}
		return types.String(strings.ToLower(string(s)))
	}))),
	extractPattern.function(), matchesPattern.function(),
	cel.Function("hash", cel.Overload("hash_dyn_string", []*cel.Type{cel.DynType, cel.StringType}, cel.StringType, cel.BinaryBinding(pseudonym))),
	cel.Function("sum", cel.Overload("sum_list", []*cel.Type{cel.ListType(cel.DynType)}, cel.DoubleType, cel.UnaryBinding(sum))),
	cel.Function("status", cel.Overload("status_dyn", []*cel.Type{cel.DynType}, cel.DynType, cel.UnaryBinding(onRaw(status)))),
	cel.Function("status_class", cel.Overload("status_class_dyn", []*cel.Type{cel.DynType}, cel.DynType, cel.UnaryBinding(onRaw(statusClass)))),
	cel.Function("timestamp", cel.Overload("timestamp_double", []*cel.Type{cel.DoubleType}, cel.TimestampType, cel.UnaryBinding(timestamp))),
	cel.Function("@mod", cel.Overload("@mod", []*cel.Type{cel.DoubleType, cel.DoubleType}, cel.DoubleType, cel.BinaryBinding(modulo))),
	cel.Function("@string", cel.Overload("@string", []*cel.Type{cel.DynType}, cel.StringType, cel.UnaryBinding(asText))),
	cel.Function("@replace",
		cel.Overload("replace_text", []*cel.Type{cel.StringType, cel.StringType, cel.StringType}, cel.StringType, cel.FunctionBinding(replace)),
		cel.Overload("replace_text_n", []*cel.Type{cel.StringType, cel.StringType, cel.StringType, cel.IntType}, cel.StringType, cel.FunctionBinding(replace))),
	cel.Function("@join",
		cel.Overload("join_list", []*cel.Type{cel.ListType(cel.StringType)}, cel.StringType, cel.FunctionBinding(join)),
		cel.Overload("join_list_text", []*cel.Type{cel.ListType(cel.StringType), cel.StringType}, cel.StringType, cel.FunctionBinding(join))),
}

// replaced are functions and operators that are ours under another name: numbers are doubles, and what a text may grow to, or a
// regular expression may take, is bounded before and not after.
var replaced = map[string]string{
	"string": "@string", "matches": matchesPattern.name, "extract": extractPattern.name, "replace": "@replace", "join": "@join", operators.Modulo: "@mod",
}

// patternFunction is a function of a text, a regular expression and the number of that one's instructions.
type patternFunction struct {
	name   string
	result *cel.Type
	of     func(r *regexp.Regexp, s string) ref.Val
}

var (
	matchesPattern = patternFunction{"@matches", cel.BoolType, func(r *regexp.Regexp, s string) ref.Val { return types.Bool(r.MatchString(s)) }}
	extractPattern = patternFunction{"@extract", cel.StringType, extract}
)

func (f patternFunction) call(r *regexp.Regexp, args []ref.Val) ref.Val {
	s, isText := args[0].(types.String)
	instructions, known := args[2].(types.Double)
	switch {
	case !isText || !known:
		return types.MaybeNoSuchOverloadErr(args[0])
	case len(s)*int(instructions) > maxMatch:
		return types.WrapErr(ErrCost)
	default:
		return f.of(r, string(s))
	}
}

func (f patternFunction) function() cel.EnvOption {
	return cel.Function(f.name, cel.Overload(f.name, []*cel.Type{cel.StringType, cel.StringType, cel.DoubleType}, f.result,
		cel.FunctionBinding(func(args ...ref.Val) ref.Val {
			r, err := regexp.Compile(string(args[1].(types.String)))
			if err != nil {
				return types.WrapErr(err)
			}
			return f.call(r, args)
		})))
}

// compiledOnce compiles the regular expression with the program.
func (f patternFunction) compiledOnce() *interpreter.RegexOptimization {
	return &interpreter.RegexOptimization{
		Function: f.name, OverloadID: f.name, RegexIndex: 1,
		Factory: func(call interpreter.InterpretableCall, pattern string) (interpreter.InterpretableCall, error) {
			r, err := regexp.Compile(pattern)
			if err != nil {
				return nil, err
			}
			return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
				return f.call(r, args)
			}), nil
		},
	}
}

func extract(r *regexp.Regexp, s string) ref.Val {
	match := r.FindStringSubmatchIndex(s)
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
	return types.String(s[group[0]:group[1]])
}

func timestamp(v ref.Val) ref.Val {
	seconds := float64(v.(types.Double))
	if !(seconds >= -62135596800 && seconds < 253402300800) { // the years 1 to 9999
		return types.NewErr("a timestamp is out of range")
	}
	whole, fraction := math.Modf(seconds)
	return types.Timestamp{Time: time.Unix(int64(whole), int64(math.Round(fraction*1e6))*1000).UTC()}
}

func modulo(a, b ref.Val) ref.Val {
	x, xIsNumber := a.(types.Double)
	y, yIsNumber := b.(types.Double)
	if !xIsNumber || !yIsNumber {
		return types.MaybeNoSuchOverloadErr(a)
	}
	return types.Double(math.Mod(float64(x), float64(y)))
}

// asText is CEL's string(), of numbers as events hold them: CEL writes 1234567 as 1.234567e+06.
func asText(v ref.Val) ref.Val {
	if f, ok := v.(types.Double); ok {
		return types.String(strconv.FormatFloat(rounded(float64(f)), 'f', -1, 64))
	}
	return v.ConvertToType(types.StringType)
}

// replace is CEL's, of texts that do not grow without bounds.
func replace(args ...ref.Val) ref.Val {
	s, isText := args[0].(types.String)
	before, isText2 := args[1].(types.String)
	after, isText3 := args[2].(types.String)
	if !isText || !isText2 || !isText3 {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	n := strings.Count(string(s), string(before))
	if len(args) == 4 {
		if most, ok := args[3].(types.Int); ok && most >= 0 {
			n = min(n, int(most))
		}
	}
	if len(s)+n*len(after) > maxResult {
		return types.WrapErr(ErrCost)
	}
	return types.String(strings.Replace(string(s), string(before), string(after), n))
}

// join is CEL's, of texts that do not grow without bounds.
func join(args ...ref.Val) ref.Val {
	list, ok := args[0].(traits.Lister)
	if !ok {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	var separator types.String
	if len(args) > 1 {
		if separator, ok = args[1].(types.String); !ok {
			return types.MaybeNoSuchOverloadErr(args[1])
		}
	}
	var b strings.Builder
	for it := list.Iterator(); it.HasNext() == types.True; {
		v := it.Next()
		s, ok := v.(types.String)
		if !ok {
			return types.NewErr("join of something that is no text")
		}
		if b.Len()+len(separator)+len(s) > maxResult {
			return types.WrapErr(ErrCost)
		}
		b.WriteString(string(s))
		if it.HasNext() == types.True {
			b.WriteString(string(separator))
		}
	}
	return types.String(b.String())
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

// functionCost is what calls cost that work on texts, lists and objects: one for ten bytes, read or made, or for an element. CEL
// itself knows it only of functions whose arguments have types that are known beforehand, and here they have not.
type functionCost struct{}

// CallCost returns nil where CEL knows the cost.
func (functionCost) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	size := 0
	switch {
	case function == matchesPattern.name || function == extractPattern.name:
		s, _ := args[0].(types.String)
		instructions, _ := args[2].(types.Double)
		size = len(s) * int(instructions) / 10
	case function == "hash":
		size = 50
	case strings.HasPrefix(function, "get") && len(args) == 2: // a time zone is a file
		size = 1000
	}
	if made, ok := result.(types.String); ok {
		size += len(made) / 10
	}
	for _, arg := range args {
		switch v := arg.(type) {
		case types.String:
			size += len(v) / 10
		case *list:
			size += len(v.raw) / 10
		case *object:
			size += len(v.raw) / 10
		case traits.Lister:
			if function == operators.Add {
				continue // nothing is copied: map and filter add once for each element
			}
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
