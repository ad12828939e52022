package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
)

// The types of a Field.
const (
	TypeString  = "string"
	TypeBoolean = "boolean"
	TypeInteger = "integer"
	TypeNumber  = "number"
	TypeArray   = "array"
	TypeSet     = "set"
	TypeMap     = "map"
	TypeRecord  = "record"
)

// Field is one field of a Kong schema: a name, a type and the rules for its values.
type Field struct {
	Name        string // empty for the elements of a list and the keys and values of a map
	Type        string
	Description string

	// Required says that the value may not be null. Kong requires every record that hangs on the configuration by
	// records alone and does not say otherwise: unset, it arrives as {} with its defaults.
	Required bool
	Default  any // nil for none; otherwise as Validate returns it

	OneOf          []any
	Between        []float64 // nil, or the least and the greatest value
	Gt             *float64
	LenMin, LenMax *int // bytes of a string, entries of a list or map
	Match          string
	NotMatch       string
	Err            string // replaces the message of a broken rule

	Encrypted     bool
	Referenceable bool // takes a {vault://…} reference in place of a value

	Fields   []*Field // of a record, in order
	Elements *Field   // of an array or set
	Keys     *Field   // of a map
	Values   *Field

	explicit        bool // the schema says required: true or false
	match, notMatch *regexp.Regexp
	checks          []check
}

// Field returns the named field of a record, or nil.
func (f *Field) Field(name string) *Field {
	for _, sub := range f.Fields {
		if sub.Name == name {
			return sub
		}
	}
	return nil
}

// check is one entry of a record's entity_checks: a rule about several of its fields.
type check struct {
	MutuallyRequired []string     `json:"mutually_required"`
	Conditional      *conditional `json:"conditional"`
}

// conditional says: where if_field keeps the rules of if_match, then_field has to keep those of then_match.
type conditional struct {
	IfField   string `json:"if_field"`
	IfMatch   rules  `json:"if_match"`
	ThenField string `json:"then_field"`
	ThenMatch rules  `json:"then_match"`

	ifMatch, thenMatch *Field
}

// rules are the attributes of a field that Kong calls validators.
type rules struct {
	Required *bool     `json:"required"`
	OneOf    []any     `json:"one_of"`
	Between  []float64 `json:"between"`
	Gt       *float64  `json:"gt"`
	LenMin   *int      `json:"len_min"`
	LenMax   *int      `json:"len_max"`
	Match    string    `json:"match"`
	NotMatch string    `json:"not_match"`
}

// rawField is a field as it is written.
type rawField struct {
	rules
	Type          string                `json:"type"`
	Description   *string               `json:"description"`
	Default       any                   `json:"default"`
	Err           string                `json:"err"`
	Encrypted     bool                  `json:"encrypted"`
	Referenceable bool                  `json:"referenceable"`
	Fields        []map[string]rawField `json:"fields"`
	Elements      *rawField             `json:"elements"`
	Keys          *rawField             `json:"keys"`
	Values        *rawField             `json:"values"`
	EntityChecks  []check               `json:"entity_checks"`
}

// Parse reads the schema of a plugin's configuration: a record in the form in which Kong writes schemas. An attribute,
// type or pattern that this package does not enforce is an error, and so is what Kong's metaschema refuses: the schema
// means the same here and in Kong, or it is not read. All problems are reported at once.
func Parse(raw []byte) (*Field, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	dec.UseNumber()
	var top rawField
	if err := dec.Decode(&top); err != nil {
		return nil, fmt.Errorf("read Kong schema: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read Kong schema: something follows it")
	}
	b := builder{}
	f := b.field("config", "config", &top)
	if f.Type != TypeRecord {
		b.fail("config", "type: a configuration must be a record, not %q", f.Type)
	}
	if len(b.errs) == 0 {
		f.Required = true
		requireRecords(f)
		b.defaults(f.Name, f)
	}
	if len(b.errs) > 0 {
		return nil, fmt.Errorf("read Kong schema: %w", errors.Join(b.errs...))
	}
	return f, nil
}

// requireRecords is Kong's rule for the records of an entity: required unless they say otherwise. It reaches records
// within records, not those within lists.
func requireRecords(f *Field) {
	for _, sub := range f.Fields {
		if sub.Type != TypeRecord {
			continue
		}
		if !sub.explicit {
			sub.Required = true
		}
		requireRecords(sub)
	}
}

// builder turns what is written into fields and collects what is wrong with it.
type builder struct{ errs []error }

func (b *builder) fail(path, format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

func (b *builder) field(path, name string, raw *rawField) *Field {
	f := &Field{
		Name: name, Type: raw.Type, Default: raw.Default, Err: raw.Err,
		Encrypted: raw.Encrypted, Referenceable: raw.Referenceable,
	}
	b.rules(path, f, &raw.rules)
	if raw.Description != nil {
		f.Description = *raw.Description
		if n := len(f.Description); n < 10 || n > 500 {
			b.fail(path, "description: Kong takes 10 to 500 bytes, not %d", n)
		}
	}
	if f.Referenceable && f.Type != TypeString {
		b.fail(path, "referenceable: only a string can be a reference")
	}
	part := func(attribute string, raw *rawField, types ...string) *Field {
		switch wanted := slices.Contains(types, f.Type); {
		case raw == nil && wanted:
			b.fail(path, "%s: missing from a field of type %s", attribute, f.Type)
		case raw != nil && !wanted:
			b.fail(path, "%s: not for a field of type %s", attribute, f.Type)
		case raw != nil:
			sub := b.field(path+"."+attribute, "", raw)
			sub.Required = true // Kong's rule for the parts of a list or map
			return sub
		}
		return nil
	}
	f.Elements = part("elements", raw.Elements, TypeArray, TypeSet)
	f.Keys = part("keys", raw.Keys, TypeMap)
	f.Values = part("values", raw.Values, TypeMap)
	switch f.Type {
	case TypeString, TypeBoolean, TypeInteger, TypeNumber, TypeArray, TypeSet, TypeMap:
		if raw.Fields != nil || raw.EntityChecks != nil {
			b.fail(path, "fields, entity_checks: not for a field of type %s", f.Type)
		}
	case TypeRecord:
		b.record(path, f, raw)
	default:
		b.fail(path, "type: unknown type %q", f.Type)
	}
	return f
}

func (b *builder) record(path string, f *Field, raw *rawField) {
	if raw.Fields == nil {
		b.fail(path, "fields: missing from a record")
	}
	for i, entry := range raw.Fields {
		if len(entry) != 1 {
			b.fail(path, "fields[%d]: must be one field, not %d", i+1, len(entry))
			continue
		}
		for name, rawSub := range entry {
			if f.Field(name) != nil {
				b.fail(path, "fields[%d]: another field is called %q", i+1, name)
			}
			f.Fields = append(f.Fields, b.field(path+"."+name, name, &rawSub))
		}
	}
	for i, c := range raw.EntityChecks {
		at := fmt.Sprintf("%s.entity_checks[%d]", path, i+1)
		if (c.MutuallyRequired == nil) == (c.Conditional == nil) {
			b.fail(at, "must be either mutually_required or conditional")
			continue
		}
		named := c.MutuallyRequired
		if c.Conditional != nil {
			named = []string{c.Conditional.IfField, c.Conditional.ThenField}
		}
		missing := slices.DeleteFunc(slices.Clone(named), func(name string) bool { return f.Field(name) != nil })
		if len(missing) > 0 {
			b.fail(at, "no field is called %q", missing)
			continue
		}
		if c.Conditional != nil {
			c.Conditional.ifMatch = b.narrowed(at, f.Field(c.Conditional.IfField), &c.Conditional.IfMatch)
			c.Conditional.thenMatch = b.narrowed(at, f.Field(c.Conditional.ThenField), &c.Conditional.ThenMatch)
		}
		f.checks = append(f.checks, c)
	}
}

// narrowed returns a copy of f with r's rules in place of f's own where r has any.
func (b *builder) narrowed(path string, f *Field, r *rules) *Field {
	sub := *f
	b.rules(path, &sub, r)
	return &sub
}

// attributeTypes are the types that a rule is for, as in Kong's metaschema.
var attributeTypes = map[string][]string{
	"one_of":  {TypeString, TypeInteger, TypeNumber},
	"between": {TypeInteger, TypeNumber},
	"gt":      {TypeInteger, TypeNumber},
	"len_min": {TypeString, TypeArray, TypeSet, TypeMap},
	"len_max": {TypeString, TypeArray, TypeSet, TypeMap},
	"match":   {TypeString},
}

// rules lays r over f.
func (b *builder) rules(path string, f *Field, r *rules) {
	has := func(attribute string, is bool) bool {
		if is && !slices.Contains(attributeTypes[attribute], f.Type) {
			b.fail(path, "%s: not for a field of type %s", attribute, f.Type)
			return false
		}
		return is
	}
	compile := func(attribute, pattern string) *regexp.Regexp {
		re, err := compileLua(pattern)
		if err != nil {
			b.fail(path, "%s: %v", attribute, err)
		}
		return re
	}
	if r.Required != nil {
		f.Required, f.explicit = *r.Required, true
	}
	if has("one_of", r.OneOf != nil) {
		f.OneOf = nil
		for _, v := range r.OneOf {
			plain, message := f.scalar(v)
			if message != "" {
				b.fail(path, "one_of: %v: %s", v, message)
			}
			f.OneOf = append(f.OneOf, plain)
		}
	}
	if has("between", r.Between != nil) {
		if len(r.Between) != 2 || r.Between[0] > r.Between[1] {
			b.fail(path, "between: must be the least and the greatest value")
		} else {
			f.Between = r.Between
		}
	}
	if has("gt", r.Gt != nil) {
		f.Gt = r.Gt
	}
	if has("len_min", r.LenMin != nil) {
		f.LenMin = r.LenMin
	}
	if has("len_max", r.LenMax != nil) {
		f.LenMax = r.LenMax
	}
	if has("match", r.Match != "") {
		f.Match, f.match = r.Match, compile("match", r.Match)
	}
	if has("match", r.NotMatch != "") {
		f.NotMatch, f.notMatch = r.NotMatch, compile("not_match", r.NotMatch)
	}
}

// defaults replaces every default by its completed form and reports those that break their own field's rules.
func (b *builder) defaults(path string, f *Field) {
	for _, sub := range f.Fields {
		b.defaults(path+"."+sub.Name, sub)
	}
	if f.Elements != nil {
		b.defaults(path+".elements", f.Elements)
	}
	if f.Default == nil {
		return
	}
	v := validation{}
	f.Default = v.value(path, f, f.Default)
	for _, p := range v.problems {
		b.fail(path, "default: %v", p)
	}
}
