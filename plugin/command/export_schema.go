package command

import (
	"encoding/json"
	"slices"
	"strings"

	"kafka-metering/meter"
	"kafka-metering/schema"
)

// jsonSchema returns a JSON Schema (2020-12) of the events that the configuration publishes: of the records' values. In binary
// mode these are data alone.
func (x *exported) jsonSchema() ([]byte, error) {
	envelope := known(schema.EventSchema)
	delete(envelope, "allOf") // of the types that the configuration may not have
	types := x.types()
	envelope["properties"].(map[string]any)["type"] = map[string]any{"type": "string", "enum": types, "description": "The event type, which fixes the members of data."}
	definitions, cases, values := map[string]any{"event": envelope}, []any{}, []any{}
	for _, name := range types {
		definitions[name] = x.data(name)
		cases = append(cases, map[string]any{
			"if":   map[string]any{"properties": map[string]any{"type": map[string]any{"const": name}}},
			"then": map[string]any{"properties": map[string]any{"data": map[string]any{"$ref": "#/$defs/" + name}}},
		})
		values = append(values, map[string]any{"$ref": "#/$defs/" + name})
	}
	envelope["allOf"] = cases
	document := map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"title":   "Events of " + x.file,
		"$defs":   definitions,
	}
	if x.binary() {
		structured := slices.ContainsFunc(x.channels, func(c channel) bool { return c.structured })
		if structured {
			values = append(values, map[string]any{"$ref": "#/$defs/event"})
		}
		document["anyOf"] = values
		document["description"] = "Records in CloudEvents' binary mode hold data alone; the header ce_type says which."
	} else {
		document["$ref"] = "#/$defs/event"
	}
	return asJSON(document)
}

// types returns the event types, those about the metering itself included.
func (x *exported) types() []string {
	var all []string
	for _, m := range x.members {
		all = append(all, m.EventType)
	}
	return withOwnTypes(all)
}

// withOwnTypes returns event types, each once, with those about the metering itself.
func withOwnTypes(types []string) []string {
	all := slices.Clone(types)
	for urn := range schema.EventSchemas() {
		name := strings.TrimSuffix(strings.TrimPrefix(urn, "urn:kafka-metering:schema:"), ":1")
		if strings.HasPrefix(name, "kong.metering_") {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// known returns one of the project's own schemas, as part of another one.
func known(urn string) map[string]any {
	var document map[string]any
	if err := json.Unmarshal(schema.EventSchemas()[urn], &document); err != nil {
		panic("bug: " + err.Error())
	}
	delete(document, "$schema")
	delete(document, "$id")
	return document
}

// data returns the schema of an event type's data: the project's own with what the configuration adds, or what the
// configuration's meters declare.
func (x *exported) data(eventType string) map[string]any {
	document := map[string]any{
		"title": "Data of " + eventType, "type": "object", "minProperties": 1, "additionalProperties": false,
		"properties": map[string]any{},
	}
	own := false
	if urn := schema.DataSchema(eventType); strings.Contains(urn, ":"+eventType+":") {
		document, own = known(urn), true
	}
	properties, required := document["properties"].(map[string]any), []string{}
	for i := range x.members {
		m := &x.members[i]
		if m.EventType != eventType || properties[m.Name] != nil && own {
			continue
		}
		properties[m.Name] = memberSchema(m)
		if m.Always {
			required = append(required, m.Name)
		}
	}
	if len(required) > 0 && !own {
		document["required"] = required
	}
	return document
}

func memberSchema(m *meter.Member) map[string]any {
	s := map[string]any{}
	switch m.Kind {
	case meter.KindAny:
		s["type"] = []string{"string", "number", "boolean"}
	default:
		s["type"] = string(m.Kind)
	}
	switch {
	case m.Aggregation == meter.Count && m.Expression == "":
		s["const"] = 1
		s["description"] = "One exchange."
	case m.Aggregation != "":
		if m.Kind == meter.KindNumber {
			s["minimum"] = 0
		}
		s["description"] = string(m.Aggregation) + " of " + strings.Join(strings.Fields(m.Expression), " ")
	case m.Expression != "":
		s["description"] = strings.Join(strings.Fields(m.Expression), " ")
	default:
		s["description"] = "A configured attribute."
	}
	return s
}
