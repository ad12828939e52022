package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"kafka-metering/meter"
	"kafka-metering/plugin/command"
	"kafka-metering/plugin/record"
	"kafka-metering/schema"
)

// evaluator evaluates saved exchanges for the commands explain and simulate, with the code that does it behind Kong, and
// hands nothing over.
type evaluator struct{ in *instance }

// newEvaluator compiles a configuration of the plugin, as JSON, as it would run on a node, "" for this machine. What is wrong
// with it is in the error; the evaluator meters what it can.
func newEvaluator(config []byte, node string) (command.Evaluator, error) {
	var tree map[string]any
	if err := json.Unmarshal(config, &tree); err != nil {
		return nil, err
	}
	complete, wrong := schema.Config().Validate(tree)
	if len(wrong) > 0 {
		errs := make([]error, len(wrong))
		for i, problem := range wrong {
			errs[i] = errors.New(problem.String())
		}
		return nil, errors.Join(errs...)
	}
	config, err := json.Marshal(complete)
	if err != nil {
		return nil, err
	}
	p := newProcess("", slog.New(slog.DiscardHandler))
	p.node = cmp.Or(node, p.node)
	c := newConfig(p)
	if err := c.UnmarshalJSON(config); err != nil {
		return nil, err
	}
	in, problems := p.compile(c)
	in.deadLetter = c.Subject.OnMissing == string(meter.MissingDeadLetter)
	return evaluator{in}, errors.Join(problems...)
}

// Program returns the compiled meters.
func (e evaluator) Program() *meter.Program { return e.in.program }

// Observe makes the observation of a log that Kong has serialized, and of the response's body where there is one, as the
// upstream sent it.
func (e evaluator) Observe(log, body []byte) (*meter.Observation, error) {
	o, err := e.in.program.Observe(string(log))
	if err != nil {
		return nil, err
	}
	o.InferOutcome()
	response := e.in.response(o)
	o.Capture.Mode = meter.CaptureNone
	if body != nil {
		response.Body, response.Seen, response.Complete = body, true, true
		o.Capture = meter.Capture{Mode: meter.CaptureTap, Complete: true}
	}
	e.in.readBody(o, &response)
	return o, nil
}

// Records returns the Kafka records of an observation, without what belongs to the moment of recording.
func (e evaluator) Records(o *meter.Observation) ([]command.Record, meter.Result) {
	r := e.in.program.Events(o)
	dead := e.in.dead(&r)
	var records []command.Record
	for i := range r.Events {
		of := record.Of(&r.Events[i], e.in.topic, e.in.binary)
		records = append(records, command.Record{
			Topic: of.Topic, Key: string(of.Key), Binary: e.in.binary, Dead: dead, Headers: of.Headers, Value: of.Value, Event: r.Events[i],
		})
	}
	return records, r
}

// check returns all that is wrong with a configuration of the plugin, as JSON: values of [schema.Problem] for what Kong refuses,
// and *[meter.Problem] for what the meters' compiler finds beside that.
func check(config []byte) []error {
	var tree map[string]any
	if err := json.Unmarshal(config, &tree); err != nil {
		return []error{err}
	}
	var errs []error
	_, refused := schema.Config().Validate(tree)
	for _, p := range refused {
		errs = append(errs, p)
	}
	c := newConfig(newProcess("", slog.New(slog.DiscardHandler)))
	if err := c.UnmarshalJSON(config); err != nil {
		return append(errs, err)
	}
	_, problems := c.process.compile(c)
	for _, problem := range problems {
		for _, p := range meter.Problems(problem) {
			if !slices.ContainsFunc(refused, func(r schema.Problem) bool { return sameSetting(r.Path, p, c.Meters) }) {
				errs = append(errs, p)
			}
		}
	}
	return errs
}

// sameSetting reports whether Kong's schema has refused the setting that a problem is about, or a part of it: it has the rules of
// names and choices, too.
func sameSetting(path string, p *meter.Problem, meters []Meter) bool {
	path = strings.TrimPrefix(path, "config.")
	if p.Meter == "" && !strings.HasSuffix(p.Field, "]") {
		return true // of a meter without a slug: that is refused
	}
	if p.Meter == "" {
		return path == p.Field || strings.HasPrefix(path, p.Field+".")
	}
	for i := range meters {
		if meters[i].Slug == p.Meter && path == fmt.Sprintf("meters[%d].%s", i+1, p.Field) {
			return true
		}
	}
	return false
}
