package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Path    string // for example config.queue.max_batch_size or config.meters[1].slug; entries count from 1, as in Kong
	Message string // in Kong's words
}

// String returns the problem as one line.
func (p Problem) String() string { return p.Path + ": " + p.Message }

// Error returns the same: a problem is an error.
func (p Problem) Error() string { return p.String() }

// Validate checks a plugin's configuration as Kong checks what its Admin API or a declarative file brings, and returns
// it as Kong would then send it to the plugin: defaults filled in, unset fields absent, unset records present and
// perhaps empty. Vault references stay as they are; Kong resolves them later.
//
// It returns all problems, in the order of the schema, at most one for each value. The completed configuration shares
// nothing with config; integers in it are int64, other numbers float64. It is of use only when there is no problem.
// Numbers in config may be of any Go number type or json.Number.
func (f *Field) Validate(config map[string]any) (complete map[string]any, problems []Problem) {
	v := validation{}
	return v.record(f.Name, f, config), v.problems
}

// validation collects the problems of one configuration.
type validation struct{ problems []Problem }

func (v *validation) fail(path, message string) {
	v.problems = append(v.problems, Problem{Path: path, Message: message})
}

// value completes and checks one value that is present and returns it; nil stands for null.
func (v *validation) value(path string, f *Field, in any) any {
	if in == nil {
		if f.Required {
			v.fail(path, "required field missing")
		}
		return nil
	}
	before := len(v.problems)
	var (
		out    any
		length int
	)
	switch f.Type {
	case TypeArray, TypeSet:
		list, ok := asList(in)
		if !ok {
			v.fail(path, map[string]string{TypeArray: "expected an array", TypeSet: "expected a set"}[f.Type])
			return nil
		}
		items := make([]any, 0, len(list))
		for i, element := range list {
			item := v.value(fmt.Sprintf("%s[%d]", path, i+1), f.Elements, element)
			if f.Type == TypeSet && slices.ContainsFunc(items, func(other any) bool { return isScalar(item) && other == item }) {
				continue
			}
			items = append(items, item)
		}
		out, length = items, len(items)
	case TypeMap:
		m, ok := asMap(in)
		if !ok {
			v.fail(path, "expected a map")
			return nil
		}
		entries := make(map[string]any, len(m))
		for _, key := range slices.Sorted(maps.Keys(m)) {
			entry := path + "." + key
			if key == "" {
				entry = path + `[""]`
			}
			v.value(entry, f.Keys, key)
			entries[key] = v.value(entry, f.Values, m[key])
		}
		out, length = entries, len(entries)
	case TypeRecord:
		m, ok := asMap(in)
		if !ok {
			v.fail(path, "expected a record")
			return nil
		}
		return v.record(path, f, m)
	default:
		plain, message := f.scalar(in)
		if message != "" {
			v.fail(path, message)
			return nil
		}
		if s, ok := plain.(string); ok {
			if f.Referenceable && IsReference(s) {
				return s
			}
			length = len(s)
		}
		out = plain
	}
	if message := f.broken(out, length); message != "" && len(v.problems) == before {
		if f.Err != "" {
			message = f.Err
		}
		v.fail(path, message)
	}
	return out
}

// record completes and checks the fields of a record.
func (v *validation) record(path string, f *Field, in map[string]any) map[string]any {
	out := make(map[string]any, len(f.Fields))
	wrong := make(map[string]bool)
	for _, sub := range f.Fields {
		given, ok := in[sub.Name]
		if !ok {
			given = sub.unset()
		}
		before := len(v.problems)
		if value := v.value(path+"."+sub.Name, sub, given); value != nil {
			out[sub.Name] = value
		}
		wrong[sub.Name] = len(v.problems) > before
	}
	for _, c := range f.checks {
		v.check(path, f, c, out, wrong)
	}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if f.Field(name) == nil {
			v.fail(path+"."+name, "unknown field")
		}
	}
	return out
}

// unset returns what Kong puts where nothing was given; nil for nothing.
func (f *Field) unset() any {
	switch {
	case f.Default != nil:
		return f.Default // copied by value
	case f.Type == TypeRecord && f.Required:
		return map[string]any{}
	default:
		return nil
	}
}

// check applies a rule about several fields of a record.
func (v *validation) check(path string, f *Field, c check, record map[string]any, wrong map[string]bool) {
	empty := func(name string) bool {
		switch x := record[name].(type) {
		case nil:
			return true
		case string:
			return x == ""
		case []any:
			return len(x) == 0
		case map[string]any:
			return len(x) == 0
		default:
			return false
		}
	}
	if c.MutuallyRequired != nil {
		set := 0
		for _, name := range c.MutuallyRequired {
			s, _ := record[name].(string)
			if wrong[name] || f.Field(name).Referenceable && IsReference(s) {
				return // as in Kong: what a reference holds is not known yet
			}
			if !empty(name) {
				set++
			}
		}
		if set != 0 && set != len(c.MutuallyRequired) {
			v.fail(path, "all or none of these fields must be set: '"+strings.Join(c.MutuallyRequired, "', '")+"'")
		}
		return
	}
	if wrong[c.Conditional.IfField] || wrong[c.Conditional.ThenField] || record[c.Conditional.IfField] == nil {
		return
	}
	probe := validation{}
	probe.value("", c.Conditional.ifMatch, record[c.Conditional.IfField])
	if len(probe.problems) == 0 {
		v.value(path+"."+c.Conditional.ThenField, c.Conditional.thenMatch, record[c.Conditional.ThenField])
	}
}

// scalar returns in as a string, bool, int64 or float64, or what is wrong with its type.
func (f *Field) scalar(in any) (_ any, message string) {
	switch f.Type {
	case TypeString:
		if s, ok := in.(string); ok {
			return s, ""
		}
		return nil, "expected a string"
	case TypeBoolean:
		if b, ok := in.(bool); ok {
			return b, ""
		}
		return nil, "expected a boolean"
	case TypeInteger:
		// Kong computes in doubles: what has no fraction is an integer, however it was written.
		if n, ok := asNumber(in); ok && n == math.Trunc(n) && math.Abs(n) < 1<<63 {
			return int64(n), ""
		}
		return nil, "expected an integer"
	case TypeNumber:
		if n, ok := asNumber(in); ok {
			return n, ""
		}
		return nil, "expected a number"
	default:
		return in, ""
	}
}

// broken returns the message of the first rule that a value breaks, in Kong's order, or "". The length is that of a
// string, list or map.
func (f *Field) broken(value any, length int) string {
	if f.OneOf != nil && !slices.Contains(f.OneOf, value) {
		options := make([]string, len(f.OneOf))
		for i, o := range f.OneOf {
			options[i] = fmt.Sprint(o)
		}
		return "expected one of: " + strings.Join(options, ", ")
	}
	switch f.Type {
	case TypeInteger, TypeNumber:
		n, _ := asNumber(value)
		if f.Gt != nil && n <= *f.Gt {
			return "value must be greater than " + decimal(*f.Gt)
		}
		if f.Between != nil && (n < f.Between[0] || n > f.Between[1]) {
			return "value should be between " + decimal(f.Between[0]) + " and " + decimal(f.Between[1])
		}
	case TypeString, TypeArray, TypeSet, TypeMap:
		least := 0
		if f.Type == TypeString {
			least = 1 // an empty string has to be allowed by len_min
		}
		if f.LenMin != nil {
			least = *f.LenMin
		}
		if length < least {
			return fmt.Sprintf("length must be at least %d", least)
		}
		if f.LenMax != nil && length > *f.LenMax {
			return fmt.Sprintf("length must be at most %d", *f.LenMax)
		}
		if s, ok := value.(string); ok && (f.notMatch != nil && f.notMatch.MatchString(s) || f.match != nil && !f.match.MatchString(s)) {
			return "invalid value: " + s
		}
	}
	return ""
}

// IsReference reports whether s is a reference to a secret in one of Kong's vaults.
func IsReference(s string) bool {
	return strings.HasPrefix(s, "{vault://") && strings.HasSuffix(s, "}")
}

// asList returns v as a list. To Kong an empty table is an empty list too.
func asList(v any) ([]any, bool) {
	if list, ok := v.([]any); ok {
		return list, true
	}
	m, ok := asMap(v)
	return nil, ok && len(m) == 0
}

// asMap returns v as a map. To Kong an empty table is an empty map too.
func asMap(v any) (map[string]any, bool) {
	switch m := v.(type) {
	case map[string]any:
		return m, true
	case map[any]any: // YAML with keys that are no strings
		named := make(map[string]any, len(m))
		for key, value := range m {
			named[fmt.Sprint(key)] = value
		}
		return named, true
	case []any:
		return nil, len(m) == 0
	default:
		return nil, false
	}
}

// asNumber returns v as a finite number.
func asNumber(v any) (float64, bool) {
	var n float64
	switch x := v.(type) {
	case float64:
		n = x
	case float32:
		n = float64(x)
	case int:
		n = float64(x)
	case int64:
		n = float64(x)
	case int32:
		n = float64(x)
	case uint:
		n = float64(x)
	case uint64:
		n = float64(x)
	case uint32:
		n = float64(x)
	case json.Number:
		var err error
		if n, err = x.Float64(); err != nil {
			return 0, false
		}
	default:
		return 0, false
	}
	return n, !math.IsNaN(n) && !math.IsInf(n, 0)
}

// isScalar reports whether v is a scalar.
func isScalar(v any) bool {
	switch v.(type) {
	case string, bool, int64, float64:
		return true
	default:
		return false
	}
}

// decimal writes n without an exponent.
func decimal(n float64) string {
	b, _ := json.Marshal(n)
	return string(b)
}
