package command

import (
	"slices"
	"strings"

	"kafka-metering/schema"
)

// saslSchemes are AsyncAPI's names of Kafka's mechanisms.
var saslSchemes = map[string]string{"PLAIN": "plain", "SCRAM-SHA-256": "scramSha256", "SCRAM-SHA-512": "scramSha512"}

// asyncAPI returns the topics and their events as an AsyncAPI 3.0 document.
func (x *exported) asyncAPI() ([]byte, error) {
	messages, schemas := map[string]any{}, map[string]any{}
	for _, name := range x.types() {
		schemas[name] = x.data(name)
	}
	channels, operations := map[string]any{}, map[string]any{}
	for _, c := range x.channels {
		refs := map[string]any{}
		for _, name := range withOwnTypes(c.types) {
			for _, mode := range []struct {
				on     bool
				suffix string
				of     func(string) map[string]any
			}{{c.structured, "", structuredMessage}, {c.binary, ".binary", binaryMessage}} {
				if !mode.on {
					continue
				}
				key := name + mode.suffix
				messages[key] = mode.of(name)
				refs[key] = map[string]any{"$ref": "#/components/messages/" + key}
			}
		}
		channels[c.topic] = map[string]any{"address": c.topic, "messages": refs, "bindings": map[string]any{"kafka": map[string]any{"topic": c.topic}}}
		operations["publish-"+c.topic] = map[string]any{"action": "send", "channel": map[string]any{"$ref": "#/channels/" + c.topic}}
	}
	components := map[string]any{"messages": messages, "schemas": schemas}
	document := map[string]any{
		"asyncapi": "3.0.0",
		"info": map[string]any{
			"title": "Metering events of " + x.file, "version": "1",
			"description": "CloudEvents 1.0, at least once: count an event once by source and id.",
		},
		"channels": channels, "operations": operations, "components": components,
	}
	if len(x.brokers) > 0 {
		servers := map[string]any{}
		for _, broker := range x.brokers {
			server := map[string]any{"host": broker, "protocol": "kafka"}
			if x.login.tls {
				server["protocol"] = "kafka-secure"
			}
			if scheme := saslSchemes[x.login.mechanism]; scheme != "" {
				server["security"] = []any{map[string]any{"$ref": "#/components/securitySchemes/sasl"}}
				components["securitySchemes"] = map[string]any{"sasl": map[string]any{"type": scheme}}
			}
			servers[strings.NewReplacer(":", "-", ".", "-", "[", "", "]", "").Replace(broker)] = server
		}
		document["servers"] = servers
	}
	return withComment(document, "The events of "+x.file+", made by kafka-metering export asyncapi.")
}

// structuredMessage is a record whose value is the whole event.
func structuredMessage(eventType string) map[string]any {
	payload := known(schema.EventSchema)
	delete(payload, "allOf")
	properties := payload["properties"].(map[string]any)
	properties["type"] = map[string]any{"type": "string", "const": eventType}
	properties["data"] = map[string]any{"$ref": "#/components/schemas/" + eventType}
	return message(eventType, "application/cloudevents+json", payload)
}

// binaryMessage is a record whose value is the data.
func binaryMessage(eventType string) map[string]any {
	return message(eventType, "application/json", map[string]any{"$ref": "#/components/schemas/" + eventType})
}

// message returns a message with what records have in either mode: the key, and the event's attributes as headers.
func message(eventType, contentType string, payload map[string]any) map[string]any {
	headers, required := map[string]any{}, []string{}
	envelope := known(schema.EventSchema)
	for name, attribute := range envelope["properties"].(map[string]any) {
		if name != "data" && name != "datacontenttype" { // that is the header content-type
			headers["ce_"+name] = attribute
		}
	}
	for _, name := range envelope["required"].([]any) {
		if header := "ce_" + name.(string); headers[header] != nil {
			required = append(required, header)
		}
	}
	slices.Sort(required)
	headers["ce_type"] = map[string]any{"type": "string", "const": eventType}
	return map[string]any{
		"name": eventType, "title": "Data of " + eventType, "contentType": contentType, "payload": payload,
		"headers":  map[string]any{"type": "object", "properties": headers, "required": required},
		"bindings": map[string]any{"kafka": map[string]any{"key": map[string]any{"type": "string", "description": "The subject: who is billed."}}},
	}
}
