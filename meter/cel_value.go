package meter

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
	"github.com/tidwall/gjson"
)

// maxResult bounds a text that an expression reads, and a value that it makes, as JSON, in bytes: a list for for_each.
const maxResult = 1 << 20

// celValue returns raw JSON as CEL sees it: numbers as doubles, lists and objects unread until something in them is.
func celValue(raw string, x *evaluation) ref.Val {
	switch raw[0] {
	case '"':
		if len(raw) > maxResult {
			return types.WrapErr(ErrCost)
		}
		s, _ := text(raw)
		return types.String(strings.ToValidUTF8(s, "\ufffd"))
	case 't':
		return types.True
	case 'f':
		return types.False
	case 'n':
		return types.NullValue
	case '[':
		return &list{raw: raw, x: x}
	case '{':
		return &object{raw: raw, x: x}
	default:
		f, ok := number(raw)
		if !ok {
			return types.NewErr("a number is too large")
		}
		return types.Double(f)
	}
}

// rawJSON returns a value as JSON, "" for null. Its error is errAbsent where an optional value is not there.
func rawJSON(v ref.Val) (string, error) {
	switch v := v.(type) {
	case types.Bool:
		return string(boolean(nil, bool(v))), nil
	case types.String:
		return string(appendString(nil, string(v))), nil
	case types.Double:
		if math.IsInf(float64(v), 0) || math.IsNaN(float64(v)) {
			return "", errors.New("the result is no finite number")
		}
		return string(appendNumber(nil, rounded(float64(v)))), nil
	case types.Null:
		return "", nil
	case *types.Optional:
		if !v.HasValue() {
			return "", errAbsent
		}
		return rawJSON(v.GetValue())
	}
	b, err := appendJSON(nil, v)
	return string(b), err
}

// rounded returns a computed number without the noise of binary fractions: a double holds 15 decimal digits, and 0.1 + 0.2 is
// 0.3 on a bill.
func rounded(f float64) float64 {
	if f == math.Trunc(f) {
		return f
	}
	f, _ = strconv.ParseFloat(strconv.FormatFloat(f, 'g', 15, 64), 64)
	return f
}

// appendJSON appends any value as JSON.
func appendJSON(b []byte, v ref.Val) ([]byte, error) {
	if len(b) > maxResult {
		return nil, ErrCost
	}
	switch v := v.(type) {
	case *list:
		return append(b, v.raw...), nil
	case *object:
		return append(b, v.raw...), nil
	case types.Null:
		return append(b, "null"...), nil
	case types.Timestamp, types.Duration:
		return appendJSON(b, v.ConvertToType(types.StringType))
	case types.Int:
		return appendNumber(b, float64(v)), nil
	case types.Bool, types.String, types.Double:
		raw, err := rawJSON(v)
		return append(b, raw...), err
	case *types.Err:
		return nil, v
	case traits.Lister:
		b = append(b, '[')
		for it := v.Iterator(); it.HasNext() == types.True; {
			var err error
			if b, err = appendJSON(b, it.Next()); err != nil {
				return nil, err
			}
			b = append(b, ',')
		}
		return closed(b, '[', ']'), nil
	default:
		return nil, fmt.Errorf("the result is a %s, which no event can hold", v.Type().TypeName())
	}
}

// closed ends a list whose elements all have a comma behind them.
func closed(b []byte, open, end byte) []byte {
	if b[len(b)-1] == open {
		return append(b, end)
	}
	b[len(b)-1] = end
	return b
}

// reading counts that a list or an object is read. It panics with what cel-go recovers from, and returns as an error, when
// the cost limit of its own is hit: the interfaces of values have no errors.
func (x *evaluation) reading(raw string) {
	if x.read += len(raw); x.read > maxRead {
		panic(interpreter.EvalCancelledError{Cause: interpreter.CostLimitExceeded, Message: ErrCost.Error()})
	}
}

// list is a JSON array.
type list struct {
	raw    string
	x      *evaluation
	values []ref.Val // once they have been looked for
}

func (l *list) load() []ref.Val {
	if l.values == nil {
		l.x.reading(l.raw)
		l.values = []ref.Val{}
		gjson.Parse(l.raw).ForEach(func(_, v gjson.Result) bool {
			l.values = append(l.values, celValue(v.Raw, l.x))
			return true
		})
	}
	return l.values
}

// Add is +: a list of CEL's own, which copies nothing.
func (l *list) Add(other ref.Val) ref.Val {
	own := types.NewRefValList(types.DefaultTypeAdapter, l.load())
	if second, ok := other.(*list); ok {
		other = types.NewRefValList(types.DefaultTypeAdapter, second.load())
	}
	return own.(traits.Adder).Add(other)
}

// Contains reports whether an element equals v.
func (l *list) Contains(v ref.Val) ref.Val {
	for _, element := range l.load() {
		if types.Equal(element, v) == types.True {
			return types.True
		}
	}
	return types.False
}

// Get returns the element at an index from 0 on.
func (l *list) Get(index ref.Val) ref.Val {
	i, err := types.GetOrError(index)
	if err != nil {
		return types.WrapErr(err)
	}
	if i < 0 || i >= len(l.load()) {
		return absentValue
	}
	return l.values[i]
}

// Size returns the number of elements.
func (l *list) Size() ref.Val { return types.Int(len(l.load())) }

// Iterator returns an iterator over the elements.
func (l *list) Iterator() traits.Iterator { return &iterator{values: l.load()} }

// Equal compares element by element.
func (l *list) Equal(other ref.Val) ref.Val {
	second, ok := other.(traits.Lister)
	if !ok {
		return types.False
	}
	if second.Size() != l.Size() {
		return types.False
	}
	a, b := l.Iterator(), second.Iterator()
	for a.HasNext() == types.True {
		if types.Equal(a.Next(), b.Next()) != types.True {
			return types.False
		}
	}
	return types.True
}

// ConvertToNative is for what embeds CEL in Go, and not offered.
func (l *list) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("a list cannot become a %v", t)
}

// ConvertToType converts to a list, or to the name of the type.
func (l *list) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.ListType:
		return l
	case types.TypeType:
		return types.ListType
	default:
		return types.NewErr("a list is no %s", t.TypeName())
	}
}

// Type returns CEL's list type.
func (l *list) Type() ref.Type { return types.ListType }

// Value returns the JSON.
func (l *list) Value() any { return l.raw }

// object is a JSON object. Of a name that it holds twice the first counts, and a null is as good as absent.
type object struct {
	raw     string
	x       *evaluation
	members map[string]ref.Val // once they have been looked for
	names   []ref.Val          // in their order
}

func (o *object) load() map[string]ref.Val {
	if o.members == nil {
		o.x.reading(o.raw)
		o.members = map[string]ref.Val{}
		seen := map[string]bool{} // the first of a name counts, a null too
		gjson.Parse(o.raw).ForEach(func(k, v gjson.Result) bool {
			name := strings.ToValidUTF8(k.Str, "\ufffd")
			if seen[name] {
				return true
			}
			if seen[name] = true; v.Type != gjson.Null {
				o.members[name] = celValue(v.Raw, o.x)
				o.names = append(o.names, types.String(name))
			}
			return true
		})
	}
	return o.members
}

// Find returns a member.
func (o *object) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	v, ok := o.load()[string(name)]
	return v, ok
}

// Contains reports whether there is such a member.
func (o *object) Contains(key ref.Val) ref.Val {
	_, ok := o.Find(key)
	return types.Bool(ok)
}

// Get returns a member, or that it is absent.
func (o *object) Get(key ref.Val) ref.Val {
	if v, ok := o.Find(key); ok {
		return v
	}
	return absentValue
}

// Size returns the number of members.
func (o *object) Size() ref.Val { return types.Int(len(o.load())) }

// Iterator returns an iterator over the names.
func (o *object) Iterator() traits.Iterator {
	o.load()
	return &iterator{values: o.names}
}

// Equal compares member by member.
func (o *object) Equal(other ref.Val) ref.Val {
	second, ok := other.(traits.Mapper)
	if !ok || second.Size() != o.Size() {
		return types.False
	}
	for _, name := range o.names {
		v, ok := second.Find(name)
		if !ok || types.Equal(o.Get(name), v) != types.True {
			return types.False
		}
	}
	return types.True
}

// ConvertToNative is for what embeds CEL in Go, and not offered.
func (o *object) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("an object cannot become a %v", t)
}

// ConvertToType converts to a map, or to the name of the type.
func (o *object) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.MapType:
		return o
	case types.TypeType:
		return types.MapType
	default:
		return types.NewErr("an object is no %s", t.TypeName())
	}
}

// Type returns CEL's map type.
func (o *object) Type() ref.Type { return types.MapType }

// Value returns the JSON.
func (o *object) Value() any { return o.raw }

// iterator is over the values of a list, or the names of an object.
type iterator struct {
	types.Null // the methods of a value, which nobody calls
	values     []ref.Val
}

// HasNext reports whether there is another.
func (it *iterator) HasNext() ref.Val { return types.Bool(len(it.values) > 0) }

// Next returns the next one.
func (it *iterator) Next() ref.Val {
	v := it.values[0]
	it.values = it.values[1:]
	return v
}
