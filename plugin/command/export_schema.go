package command

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"kafka-metering/meter"
	"kafka-metering/schema"
)

// jsonSchema returns a JSON Schema (2020-12) of the events, in structured mode, that the configuration publishes.
func (x *exported) jsonSchema() map[string]any {
	envelope := x.known(schema.EventSchema)
	delete(envelope, "allOf") // of the types that the configuration may not have
	types := x.types()
	envelope["properties"].(map[string]any)["type"] = map[string]any{"type": "string", "enum": types, "description": "The event type, which fixes the members of data."}
	definitions, cases := map[string]any{"event": envelope}, []any{}
	for _, name := range types {
		definitions[name] = x.data(name)
		cases = append(cases, map[string]any{
			"if":   map[string]any{"properties": map[string]any{"type": map[string]any{"const": name}}},
			"then": map[string]any{"properties": map[string]any{"data": map[string]any{"$ref": "#/$defs/" + name}}},
		})
	}
	envelope["allOf"] = cases
	return map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"title":   "Events of " + x.file,
		"$ref":    "#/$defs/event",
		"$defs":   definitions,
	}
}

// types returns the event types, those about the metering itself included.
func (x *exported) types() []string {
	var all []string
	for _, m := range x.members {
		all = append(all, m.EventType)
	}
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
func (x *exported) known(urn string) map[string]any {
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
		document, own = x.known(urn), true
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

// asyncAPI returns the topics and their events as an AsyncAPI 3.0 document.
func (x *exported) asyncAPI() ([]byte, error) {
	messages, schemas := map[string]any{}, map[string]any{}
	refs := map[string]any{}
	for _, name := range x.types() {
		schemas[name] = x.data(name)
		payload := x.known(schema.EventSchema)
		delete(payload, "allOf")
		properties := payload["properties"].(map[string]any)
		properties["type"] = map[string]any{"type": "string", "const": name}
		properties["data"] = map[string]any{"$ref": "#/components/schemas/" + name}
		messages[name] = map[string]any{
			"name": name, "title": "Data of " + name, "contentType": "application/cloudevents+json", "payload": payload,
			"bindings": map[string]any{"kafka": map[string]any{"key": map[string]any{"type": "string", "description": "The subject: who is billed."}}},
		}
		refs[name] = map[string]any{"$ref": "#/components/messages/" + name}
	}
	channels, operations := map[string]any{}, map[string]any{}
	for _, topic := range x.topics {
		channels[topic] = map[string]any{"address": topic, "messages": maps.Clone(refs), "bindings": map[string]any{"kafka": map[string]any{"topic": topic}}}
		operations["publish-"+topic] = map[string]any{"action": "send", "channel": map[string]any{"$ref": "#/channels/" + topic}}
	}
	document := map[string]any{
		"asyncapi": "3.0.0",
		"info": map[string]any{
			"title": "Metering events of " + x.file, "version": "1",
			"description": "CloudEvents 1.0 in structured mode, at least once: count an event once by source and id.",
		},
		"channels": channels, "operations": operations,
		"components": map[string]any{"messages": messages, "schemas": schemas},
	}
	if len(x.brokers) > 0 {
		servers := map[string]any{}
		for _, broker := range x.brokers {
			servers[strings.NewReplacer(":", "-", ".", "-").Replace(broker)] = map[string]any{"host": broker, "protocol": "kafka"}
		}
		document["servers"] = servers
	}
	return withComment(document, "The events of "+x.file+", made by kafka-metering export asyncapi.")
}
