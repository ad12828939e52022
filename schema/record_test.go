package schema_test

import (
	"strings"
	"testing"

	"kafka-metering/schema"
)

func TestParseRefusesASchemaThatItCannotEnforce(t *testing.T) {
	for name, c := range map[string]struct{ schema, want string }{
		"an unknown attribute":                       {`{"type": "record", "fields": [{"a": {"type": "string", "is_regex": true}}]}`, `unknown field "is_regex"`},
		"an unknown type":                            {`{"type": "record", "fields": [{"a": {"type": "foreign"}}]}`, `config.a: type: unknown type "foreign"`},
		"a configuration that is no record":          {`{"type": "string"}`, "a configuration must be a record"},
		"a list without elements":                    {`{"type": "record", "fields": [{"a": {"type": "array"}}]}`, "config.a: elements: missing"},
		"a map without keys":                         {`{"type": "record", "fields": [{"a": {"type": "map", "values": {"type": "string"}}}]}`, "config.a: keys: missing"},
		"elements of a scalar":                       {`{"type": "record", "fields": [{"a": {"type": "string", "elements": {"type": "string"}}}]}`, "config.a: elements: not for"},
		"a record without fields":                    {`{"type": "record", "fields": [{"a": {"type": "record"}}]}`, "config.a: fields: missing"},
		"two fields of one name":                     {`{"type": "record", "fields": [{"a": {"type": "string"}}, {"a": {"type": "string"}}]}`, `another field is called "a"`},
		"one_of for a boolean":                       {`{"type": "record", "fields": [{"a": {"type": "boolean", "one_of": [true]}}]}`, "one_of: not for a field of type boolean"},
		"a range for a string":                       {`{"type": "record", "fields": [{"a": {"type": "string", "between": [1, 2]}}]}`, "between: not for"},
		"a pattern for a number":                     {`{"type": "record", "fields": [{"a": {"type": "number", "match": "x"}}]}`, "match: not for"},
		"a range of one value":                       {`{"type": "record", "fields": [{"a": {"type": "number", "between": [1]}}]}`, "between: must be"},
		"an option of another type":                  {`{"type": "record", "fields": [{"a": {"type": "string", "one_of": [1]}}]}`, "one_of: 1: expected a string"},
		"a default of another type":                  {`{"type": "record", "fields": [{"a": {"type": "integer", "default": "x"}}]}`, "config.a: default: config.a: expected an integer"},
		"a default that breaks its rule":             {`{"type": "record", "fields": [{"a": {"type": "integer", "default": 0, "between": [1, 2]}}]}`, "should be between 1 and 2"},
		"a description that Kong refuses":            {`{"type": "record", "fields": [{"a": {"type": "string", "description": "short"}}]}`, "Kong takes 10 to 500 bytes"},
		"a Lua pattern with a capture":               {`{"type": "record", "fields": [{"a": {"type": "string", "match": "(a)"}}]}`, "captures are not known"},
		"a check of a field that is not there":       {`{"type": "record", "fields": [{"a": {"type": "string"}}], "entity_checks": [{"mutually_required": ["a", "b"]}]}`, `no field is called ["b"]`},
		"a reference in place of a number":           {`{"type": "record", "fields": [{"a": {"type": "number", "referenceable": true}}]}`, "only a string can be a reference"},
		"two problems, reporting both: the first":    {`{"type": "record", "fields": [{"a": {"type": "x"}}, {"b": {"type": "y"}}]}`, `config.a: type: unknown type "x"`},
		"two problems, reporting both: the second":   {`{"type": "record", "fields": [{"a": {"type": "x"}}, {"b": {"type": "y"}}]}`, `config.b: type: unknown type "y"`},
		"something that follows the schema":          {`{"type": "record", "fields": []} {}`, "something follows it"},
		"something that is no JSON":                  {`{`, "read Kong schema"},
		"a field entry with two fields at a time":    {`{"type": "record", "fields": [{"a": {"type": "string"}, "b": {"type": "string"}}]}`, "must be one field, not 2"},
		"a check that Kong has and this package not": {`{"type": "record", "fields": [], "entity_checks": [{"only_one_of": ["a"]}]}`, `unknown field "only_one_of"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := schema.Parse([]byte(c.schema))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestTheConfigurationSchemaKeepsItsOwnRules(t *testing.T) {
	var check func(path string, f *schema.Field)
	check = func(path string, f *schema.Field) {
		if f.Description == "" {
			t.Errorf("%s: no description", path)
		}
		if f.Name == "password" || f.Name == "client_key" {
			if !f.Encrypted || !f.Referenceable {
				t.Errorf("%s: a secret must be encrypted and referenceable", path)
			}
		}
		for _, sub := range f.Fields {
			check(path+"."+sub.Name, sub)
		}
		if f.Elements != nil {
			for _, sub := range f.Elements.Fields {
				check(path+"[]."+sub.Name, sub)
				// A null in a list's entry reaches the plugin as an absent member, and no default fills it there.
				if sub.Default != nil && !sub.Required {
					t.Errorf("%s[].%s: a default within a list must be required, or null undoes it", path, sub.Name)
				}
			}
		}
	}
	for _, f := range schema.Config().Fields {
		check(f.Name, f)
	}
}
