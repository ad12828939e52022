// Package schema holds the contracts of the plugin: kong.json, its configuration in the form in which Kong writes
// schemas, and the JSON Schemas of the events that it publishes.
//
// Kong itself enforces kong.json, because -dump prints it (Dump). The same rules are here in Go (Parse, Field.Validate)
// for the commands that have no Kong at hand: they refuse what Kong 3.9 refuses and complete a configuration as Kong
// completes it. The event schemas are versioned by their URN, the dataschema of an event: additions keep the version.
//
// The package reads nothing but its own embedded files, keeps no state, and is safe for concurrent use.
package schema

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

//go:embed kong.json
var kongJSON []byte

//go:embed event.schema.json *.v1.json
var eventFiles embed.FS

// urnPrefix starts the name of every event schema. It is a URN because the project has no public address, and the name
// of a schema must not change when it gets one.
const urnPrefix = "urn:kafka-metering:schema:"

// EventSchema is the URN of the schema of a whole event in CloudEvents' structured mode.
const EventSchema = urnPrefix + "cloudevent:1"

// The event types whose data has a schema of its own.
const (
	typeAPIRequest = "kong.api_request"
	typeLLMRequest = "kong.llm_request"
	typeLLMUsage   = "kong.llm_usage"
	typeGap        = "kong.metering_gap"
	typeCheckpoint = "kong.metering_checkpoint"
	typeOther      = "event" // stands for the event types that users name
)

// Config returns the schema of the plugin's configuration. Callers must not change it.
var Config = sync.OnceValue(func() *Field {
	f, err := Parse(kongJSON)
	if err != nil {
		panic(fmt.Sprintf("bug: kong.json: %v", err))
	}
	return f
})

// DataSchema returns the URN of the schema of data for an event type: the value of the CloudEvents attribute
// dataschema. Every event type that is not one of the presets' or ours has flat data of whatever its meters name.
func DataSchema(eventType string) string {
	switch eventType {
	case typeAPIRequest, typeLLMRequest, typeLLMUsage, typeGap, typeCheckpoint:
		return urnPrefix + eventType + ":1"
	default:
		return urnPrefix + typeOther + ":1"
	}
}

// EventSchemas returns the JSON Schemas (2020-12) of the events by their URN. They refer to each other by URN; the one
// to validate a whole event with is EventSchema.
func EventSchemas() map[string][]byte {
	entries, err := eventFiles.ReadDir(".")
	if err != nil {
		panic(fmt.Sprintf("bug: list embedded schemas: %v", err))
	}
	schemas := make(map[string][]byte, len(entries))
	for _, entry := range entries {
		raw, err := eventFiles.ReadFile(entry.Name())
		if err != nil {
			panic(fmt.Sprintf("bug: read embedded schema: %v", err))
		}
		var doc struct {
			ID string `json:"$id"`
		}
		if err := json.Unmarshal(raw, &doc); err != nil || !strings.HasPrefix(doc.ID, urnPrefix) {
			panic(fmt.Sprintf("bug: %s: $id %q: %v", entry.Name(), doc.ID, err))
		}
		schemas[doc.ID] = raw
	}
	return schemas
}

// Dump returns the document that Kong reads from a plugin server's query_cmd, one line of JSON without its end, in the form that
// go-pdk prints, but with the full schema. The name is the plugin's, and the base name of its executable; phases are
// Kong's phase names, such as log and response.
func Dump(name, version string, priority int, phases []string, socketPath string) ([]byte, error) {
	type plugin struct {
		Name     string
		Phases   []string
		Version  string
		Priority int
		Schema   map[string]any
	}
	var config bytes.Buffer
	if err := json.Compact(&config, kongJSON); err != nil {
		return nil, fmt.Errorf("compact kong.json: %w", err)
	}
	line, err := json.Marshal(struct {
		Protocol   string
		SocketPath string
		Plugins    []plugin
	}{
		Protocol:   "ProtoBuf:1",
		SocketPath: socketPath,
		Plugins: []plugin{{
			Name:     name,
			Phases:   append([]string{}, phases...), // Kong wants a list, never null
			Version:  version,
			Priority: priority,
			Schema: map[string]any{
				"name":   name,
				"fields": []any{map[string]any{"config": json.RawMessage(config.Bytes())}},
			},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("write the dump document: %w", err)
	}
	return line, nil
}
