package command

import (
	"kafka-metering/meter"
	"kafka-metering/meter/relay"
	"kafka-metering/plugin/lint"
)

// Host is what package main lends to the commands: the very code that works behind Kong.
type Host struct {
	ReadConnection ReadConnection
	// NewEvaluator compiles a configuration of the plugin, as JSON. What is wrong with it is in the error; where the
	// evaluator is not nil it meters what it can. node is the name in the events' source; "" is this machine's.
	NewEvaluator func(config []byte, node string) (Evaluator, error)
	// Check returns all that is wrong with a configuration: values of [schema.Problem] and *[meter.Problem].
	Check   lint.Check
	Version string
}

// Evaluator evaluates saved exchanges, and hands nothing over.
type Evaluator interface {
	// Observe makes the observation of a log that Kong has serialized, and of the response's body where there is one, as
	// the upstream sent it.
	Observe(log, body []byte) (*meter.Observation, error)
	// Program returns the compiled meters.
	Program() *meter.Program
	// Records returns the Kafka records of an observation, without what belongs to the moment of recording.
	Records(o *meter.Observation) ([]Record, meter.Result)
}

// Record is an event as it is published.
type Record struct {
	Topic, Key string
	Binary     bool   // CloudEvents' binary mode: the attributes are in the headers alone
	Dead       string // why it goes to the dead-letter topic instead; empty for the topic
	Headers    []relay.Header
	Value      []byte
	Event      meter.Event
}
