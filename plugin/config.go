package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
)

// Config is the plugin's configuration as Kong sends it for one instance, described field by field in schema/kong.json.
// A test holds the two together. A Config owns nothing that must be released: Kong starts and drops instances as it
// likes.
type Config struct {
	Connection

	Format            string          `json:"format"`
	Subject           Subject         `json:"subject"`
	Attributes        list[Attribute] `json:"attributes"`
	MeterAPIRequests  bool            `json:"meter_api_requests"`
	MeterAITokenUsage bool            `json:"meter_ai_token_usage"`
	MeterAICalls      bool            `json:"meter_ai_calls"`
	Meters            list[Meter]     `json:"meters"`
	LLM               LLM             `json:"llm"`
	MaxBodyBytes      int             `json:"max_body_bytes"`
	Record            bool            `json:"record"`
	DryRun            bool            `json:"dry_run"`

	process  *process // whose instance this is
	identity identity
	problems []error // found while decoding

	start    sync.Once
	instance *instance
}

// Connection is what can also be given once for the whole process, in the file of the flag -config.
type Connection struct {
	BootstrapServers                     list[Broker]   `json:"bootstrap_servers"`
	Topic                                string         `json:"topic"`
	ClusterName                          string         `json:"cluster_name"`
	DeadLetterTopic                      string         `json:"dead_letter_topic"`
	CreateTopics                         bool           `json:"create_topics"`
	Authentication                       Authentication `json:"authentication"`
	Security                             Security       `json:"security"`
	Timeout                              int            `json:"timeout"`   // milliseconds
	Keepalive                            int            `json:"keepalive"` // milliseconds
	ProducerRequestAcks                  int            `json:"producer_request_acks"`
	ProducerRequestLimitsBytesPerRequest int            `json:"producer_request_limits_bytes_per_request"`
	ProducerCompression                  string         `json:"producer_compression"`
	Queue                                Queue          `json:"queue"`
}

// Broker is one Kafka broker to start from.
type Broker struct {
	Host string `json:"host"`
	Port int    `json:"port"`
}

// Authentication is how the process identifies itself to Kafka.
type Authentication struct {
	Strategy  string `json:"strategy"`
	Mechanism string `json:"mechanism"`
	User      string `json:"user"`
	Password  string `json:"password"`
}

// Security is the connection's TLS.
type Security struct {
	SSL               bool   `json:"ssl"`
	SSLVerify         bool   `json:"ssl_verify"`
	CACertificate     string `json:"ca_certificate"`
	ClientCertificate string `json:"client_certificate"`
	ClientKey         string `json:"client_key"`
}

// Queue bounds the spool and paces the relay.
type Queue struct {
	MaxBatchSize       int     `json:"max_batch_size"`
	MaxCoalescingDelay float64 `json:"max_coalescing_delay"` // seconds
	MaxBytes           int     `json:"max_bytes"`
	MaxRetryDelay      float64 `json:"max_retry_delay"` // seconds
	WhenFull           string  `json:"when_full"`
	MaxEventAge        float64 `json:"max_event_age"` // seconds; 0: no bound
}

// Subject says how to find the customer.
type Subject struct {
	Sources   list[SubjectSource] `json:"sources"`
	OnMissing string              `json:"on_missing"`
}

// SubjectSource is one place to look for the customer.
type SubjectSource struct {
	LookUpValueIn string `json:"look_up_value_in"`
	Field         string `json:"field"`
}

// Attribute is one more dimension of every event.
type Attribute struct {
	Source            string `json:"source"`
	LookUpValueIn     string `json:"look_up_value_in"`
	EventPropertyName string `json:"event_property_name"`
}

// Meter is one declared meter.
type Meter struct {
	Slug          string            `json:"slug"`
	EventType     string            `json:"event_type"`
	Aggregation   string            `json:"aggregation"`
	Filter        string            `json:"filter"`
	Value         string            `json:"value"`
	ValueProperty string            `json:"value_property"`
	GroupBy       map[string]string `json:"group_by"`
	ForEach       string            `json:"for_each"`
}

// LLM says how responses of language models are read.
type LLM struct {
	Provider string `json:"provider"`
	OnAbort  string `json:"on_abort"`
	Estimate bool   `json:"estimate"`
	// EnsureStreamUsage is for the Lua front alone.
	EnsureStreamUsage bool `json:"ensure_stream_usage"`
}

// identity is what Kong adds to an instance's configuration.
type identity struct {
	Seq      int    `json:"__seq__"`
	PluginID string `json:"__plugin_id"`
	RouteID  string `json:"route_id"`
}

// defaultConnection holds the defaults of schema/kong.json, for what reaches us without having passed through Kong.
func defaultConnection() Connection {
	return Connection{
		Security:                             Security{SSLVerify: true},
		Timeout:                              10_000,
		Keepalive:                            60_000,
		ProducerRequestAcks:                  -1,
		ProducerRequestLimitsBytesPerRequest: 1 << 20,
		ProducerCompression:                  "zstd",
		Queue:                                Queue{MaxBatchSize: 500, MaxCoalescingDelay: 0.05, MaxBytes: 10 << 30, MaxRetryDelay: 30, WhenFull: "drop_newest"},
	}
}

// newConfig returns a configuration of p with every default. It has no side effects: Kong may never send it an event.
func newConfig(p *process) *Config {
	return &Config{
		Connection: defaultConnection(),
		Format:     formatStructured,
		Subject: Subject{
			Sources: list[SubjectSource]{
				{LookUpValueIn: "consumer", Field: "custom_id"},
				{LookUpValueIn: "consumer", Field: "username"},
				{LookUpValueIn: "consumer", Field: "id"},
				{LookUpValueIn: "credential", Field: "id"},
			},
			OnMissing: "anonymous",
		},
		MeterAPIRequests:  true,
		MeterAITokenUsage: true,
		MeterAICalls:      true,
		MaxBodyBytes:      1 << 20, // the Lua front's
		LLM:               LLM{Provider: "auto", OnAbort: "bill_reported"},
		process:           p,
	}
}

// UnmarshalJSON decodes what Kong sends and never refuses it: to Kong a refusal is a plugin that does not start, which
// no administrator sees. A field that cannot be read keeps its default and becomes a problem that the plugin reports.
func (c *Config) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, &c.identity); err != nil {
		c.problems = append(c.problems, fmt.Errorf("config: %w", err))
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		c.problems = append(c.problems, fmt.Errorf("config: %w", err))
	}
	c.problems = append(c.problems, decodeFields(reflect.ValueOf(c).Elem(), fields)...)
	return nil
}

// decodeFields decodes each field that v has a json tag for, takes it out of fields, and returns all errors.
func decodeFields(v reflect.Value, fields map[string]json.RawMessage) []error {
	var problems []error
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous {
			problems = append(problems, decodeFields(v.Field(i), fields)...)
			continue
		}
		name := field.Tag.Get("json")
		raw, found := fields[name]
		if name == "" || !found {
			continue
		}
		delete(fields, name)
		if err := json.Unmarshal(raw, v.Field(i).Addr().Interface()); err != nil {
			if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
				err = fmt.Errorf("expected %s, got %s", mismatch.Type, mismatch.Value)
			}
			problems = append(problems, fmt.Errorf("config.%s: %w", name, err))
		}
	}
	return problems
}

// list is a list as Lua's cjson encodes it: an empty one may arrive as an empty object.
type list[T any] []T

// UnmarshalJSON decodes a JSON array, or {} as an empty one. Null is no list, and leaves l as it is.
func (l *list[T]) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	if bytes.Equal(bytes.Join(bytes.Fields(b), nil), []byte("{}")) {
		*l = nil
		return nil
	}
	return json.Unmarshal(b, (*[]T)(l))
}
