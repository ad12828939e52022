package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"kafka-metering/meter"
	"kafka-metering/meter/extract"
	"kafka-metering/plugin/record"
	"kafka-metering/schema"
)

// Formats of config.format.
const (
	formatStructured = "cloudevents_structured"
	formatBinary     = "cloudevents_binary"
)

// handOverLimit bounds how long a front waits until an exchange is on disk. Kong runs at most 4096 timers at once in a
// worker: a Log that does not return takes other plugins' events with it.
const handOverLimit = 2 * time.Second

// instance is one configuration at work: what to read, what to count, where to put it.
type instance struct {
	process    *process
	program    *meter.Program
	llm        LLM
	recorder   *recorder // nil unless observations are kept
	binary     bool
	dryRun     bool
	topic      string
	source     string
	sink       sink
	deadLetter bool   // exchanges without a customer go to the dead-letter topic
	plugin     string // Kong's id of it
	problems   string
}

// sink takes finished records: a pipeline's spool.
type sink interface {
	// Enqueue hands records over. When it returns nil, done is called once: with nil when all of them are durable.
	Enqueue(records [][]byte, done func(error)) error
	// Hold is Enqueue for what nobody keeps. Where the disk cannot be written done gets [spool.ErrMemory]: they are in memory.
	Hold(records [][]byte, done func(error)) error
}

// newInstance compiles c and finds its pipeline. It always returns an instance that meters what it can; what it cannot
// is in its problems.
func (p *process) newInstance(c *Config) *instance {
	in, problems := p.compile(c)
	connection, shared, err := p.connection(c)
	if err != nil {
		problems = append(problems, err)
	}
	v := p.configVersion(c.identity.Seq)
	pipeline, err := p.pipeline(connection, shared, v, in.plugin)
	if err != nil {
		problems = append(problems, err)
	}
	if c.Record {
		in.recorder = p.recorder()
	}
	in.handOverTo(pipeline, c)
	p.uses(pipeline, in.topic)
	if err := errors.Join(problems...); err != nil {
		text := fmt.Sprintf("kafka-metering: plugin %s: ", c.identity.PluginID) + strings.ReplaceAll(err.Error(), "\n", "; ")
		in.problems = strings.ToValidUTF8(text[:min(len(text), 2048)], "")
		p.ledger.configProblems.Add(len(problems))
		p.log.Warn("the configuration has problems; what can be metered is", "problems", in.problems)
	}
	p.book.set(problem{Plugin: in.plugin, Route: c.identity.RouteID, Text: in.problems, Since: p.now(), version: v})
	return in
}

// renew takes note that Kong has handed the configuration of in over once more, under another number: of several configurations
// with one connection the newest decides, and this one may be what an administrator has gone back to.
func (p *process) renew(in *instance, c *Config, seq int) {
	connection, shared, _ := p.connection(c)
	v := p.configVersion(seq)
	if _, err := p.pipeline(connection, shared, v, in.plugin); err != nil && p.reports.due("renew "+in.plugin, p.now()) {
		p.log.Warn("a configuration is in force again, with problems", "plugin", in.plugin, "error", err)
	}
	p.book.set(problem{Plugin: in.plugin, Route: c.identity.RouteID, Text: in.problems, Since: p.now(), version: v})
}

// handOverTo sets where the events go.
func (in *instance) handOverTo(s sink, c *Config) {
	in.sink, in.deadLetter = s, c.Subject.OnMissing == string(meter.MissingDeadLetter)
}

// compile is newInstance without the connection.
func (p *process) compile(c *Config) (*instance, []error) {
	problems := slices.Clone(c.problems)
	connection, _, _ := p.connection(c)
	in := &instance{
		process: p,
		llm:     c.LLM,
		binary:  c.Format == formatBinary,
		dryRun:  c.DryRun,
		plugin:  c.identity.PluginID,
		topic:   connection.Topic,
		source:  "/kong/" + connection.ClusterName + "/" + p.node,
	}
	var err error
	in.program, err = meter.Compile(meter.Settings{
		Meters:         c.meters(),
		SubjectSources: c.subjectSources(),
		OnMissing:      meter.OnMissing(c.Subject.OnMissing),
		Attributes:     c.attributes(),
		Source:         in.source,
		Headers:        extract.UsageHeaders,
		DataSchema:     schema.DataSchema,
	})
	if err != nil {
		problems = append(problems, err)
	}
	return in, problems
}

// problemsDue returns the configuration's problems, and what is wrong with the spool's disk, when it is time to report them again.
func (in *instance) problemsDue(now time.Time) string {
	var alarm *string
	if l, ok := in.sink.(*pipeline); ok {
		alarm = l.alarm.Load()
	}
	if in.problems == "" && alarm == nil || !in.process.reports.due("problems "+in.plugin, now) {
		return ""
	}
	switch {
	case alarm == nil:
		return in.problems
	case in.problems == "":
		return *alarm
	default:
		return in.problems + "; " + *alarm
	}
}

// unreadable is where an exchange ends whose log cannot be read. It says why, once a minute.
func (in *instance) unreadable(err error) place {
	if in.process.reports.due("log "+in.plugin, in.process.now()) {
		in.process.log.Error("an exchange is not metered: Kong's log of it cannot be read", "plugin", in.plugin, "error", err)
	}
	return placeBadLog
}

// handle takes one exchange from a front to the spool and ends t. It returns when the events are on disk, or after
// handOverLimit, when the spool ends t.
func (in *instance) handle(x exchange, t *ticket) {
	began := time.Now()
	log, err := x.Serialize()
	if err != nil {
		t.end(placeSerialize)
		return
	}
	o, err := in.program.Observe(string(log))
	if err != nil {
		t.end(in.unreadable(err))
		return
	}
	if id := o.RequestID(); id != "" {
		done, first := in.process.recent.claim(id)
		if done == nil {
			t.end(placeRepeated)
			wait(first)
			return
		}
		defer done()
	}
	o.InferOutcome()
	response := in.response(o)
	in.readBuffered(o, x, &response)
	result := in.readBody(o, &response)
	in.record(o, result, t, began)
}

// record evaluates the meters and hands the events to the spool.
func (in *instance) record(o *meter.Observation, result extraction, t *ticket, began time.Time) {
	r := results.Get().(*meter.Result)
	end := in.evaluate(o, r)
	in.process.ledger.tally(result, &r.Notes)
	if end != placeSpooled {
		releaseResult(r)
		t.end(end)
		return
	}
	settled := make(chan struct{})
	buffer := record.NewBuffer()
	records := in.encode(r, buffer)
	releaseResult(r)
	err := in.sink.Hold(records, func(err error) {
		buffer.Release()
		if in.process.repeats(err) {
			return
		}
		if err == nil {
			in.process.ledger.handOvers.UpdateDuration(began)
		}
		t.end(placeOf(err))
		close(settled)
	})
	if err != nil {
		buffer.Release()
	}
	switch {
	case in.process.repeats(err):
		select {} // until the process exits
	case err != nil:
		t.end(placeOf(err))
	case !wait(settled):
		if in.process.leaving.Load() {
			select {}
		}
		in.process.ledger.handOversLate.Inc()
	}
}

// results are those of exchanges that have been encoded.
var results = sync.Pool{New: func() any { return new(meter.Result) }}

func releaseResult(r *meter.Result) {
	r.Reset()
	results.Put(r)
}

// evaluate evaluates the meters into r. The exchange's place is [placeSpooled] when there are events to spool.
func (in *instance) evaluate(o *meter.Observation, r *meter.Result) place {
	in.program.Evaluate(o, r)
	if in.recorder != nil {
		in.recorder.add(in.program.Document(o))
	}
	if r.Failure != nil && in.process.reports.due("failure "+in.plugin, in.process.now()) {
		in.process.log.Warn("a meter could not be applied to an exchange", "plugin", in.plugin, "request", o.RequestID(), "error", r.Failure)
	}
	switch {
	case r.Dropped:
		return placeNoSubject
	case len(r.Events) == 0:
		return placeNoMeter
	case in.dryRun:
		return placeDryRun
	default:
		return placeSpooled
	}
}

// encode returns the events' records, which are in b. The spool numbers them.
func (in *instance) encode(r *meter.Result, b *record.Buffer) [][]byte {
	now := in.process.now()
	if r.NoStartTime {
		r.SetTime(now)
	}
	recorded := meter.FormatTime(now)
	for i := range r.Events {
		r.Events[i].Sequence, r.Events[i].RecordedTime = record.Unnumbered, recorded
	}
	return b.Encode(r.Events, in.topic, in.dead(r), in.binary)
}

// dead returns why an exchange's events go to the dead-letter topic, "" where they do not.
func (in *instance) dead(r *meter.Result) string {
	if r.SubjectMissing && in.deadLetter {
		return record.DeadSubject
	}
	return ""
}

// wait waits for done at most handOverLimit; a nil done is done.
func wait(done <-chan struct{}) bool { return waitFor(done, handOverLimit) }

func waitFor(done <-chan struct{}, most time.Duration) bool {
	if done == nil {
		return true
	}
	select {
	case <-done:
		return true
	default:
	}
	limit := time.NewTimer(most)
	defer limit.Stop()
	select {
	case <-done:
		return true
	case <-limit.C:
		return false
	}
}

// response is what Kong's log says of the upstream's answer.
func (in *instance) response(o *meter.Observation) extract.Response {
	return extract.Response{
		Method: o.Method(), Host: o.ServiceHost(), Path: o.UpstreamPath(), Status: o.Status(),
		ContentType: o.ContentType(), ContentEncoding: o.ContentEncoding(), Provider: in.llm.Provider,
		Header: o.ResponseHeader, Estimate: in.llm.Estimate,
	}
}

// readsBodies reports whether a meter reads what only a response's body tells.
func (in *instance) readsBodies() bool { return in.program.ReadsLLM() || in.program.ReadsBody() }

// maxBuffered is the size of a response, in bytes, up to which its body is asked for: it would stand in memory as a whole, and
// nothing larger is read.
const maxBuffered = 64 << 20

// readBuffered reads the body where Kong has buffered one.
func (in *instance) readBuffered(o *meter.Observation, x exchange, response *extract.Response) {
	o.Capture.Mode = meter.CaptureNone
	if in.readsBodies() && o.Buffered() && extract.Readable(response.ContentType) && (in.program.ReadsBody() || response.Method == "POST") {
		if o.ResponseSize() > maxBuffered {
			in.process.ledger.bodiesUnread.Inc()
			return
		}
		body, err := x.Body()
		if err != nil {
			in.process.ledger.bodiesUnread.Inc()
		} else {
			response.Body, response.Seen, response.Complete = body, true, true
			o.Capture = meter.Capture{Mode: meter.CaptureBuffered, Complete: true}
		}
	}
}

// readBody sets o's LLM and Body from the best that is there: the body where it was seen, else Kong's own AI statistics. It returns
// how reading the usage ended, "" where there was nothing to read.
func (in *instance) readBody(o *meter.Observation, response *extract.Response) extraction {
	if in.program.ReadsBody() && response.Seen {
		o.Body = extract.JSONBody(response)
	}
	if !in.program.ReadsLLM() || o.Outcome == meter.OutcomeRejected && !o.Tried() {
		return "" // a call that Kong answered itself never reached a model
	}
	llm, err := extract.Extract(response)
	result := extractionResult(err)
	if statistics, ok := in.statistics(o, response); ok {
		if err == nil || errors.Is(err, extract.ErrNoUsage) { // a body that was read and declares nothing is the last word
			llm.Provider = cmp.Or(llm.Provider, statistics.Provider)
			llm.RequestModel = cmp.Or(llm.RequestModel, statistics.RequestModel)
		} else {
			llm, result, err = statistics, extractionAIProxy, nil
		}
	}
	if !errors.Is(err, extract.ErrNotLLM) {
		o.LLM = &llm
		in.settleAbort(o)
	}
	return result
}

// statistics returns what Kong's ai-proxy logged of a call, if it had a part in the exchange. Its counts of a stream are its own
// (measured on Kong 3.9.3: 2 + 0 of OpenAI's 11 + 22, twice Ollama's); and of an answer that is no success, or was cut, it
// logs what it takes the prompt for: nobody has declared that.
func (in *instance) statistics(o *meter.Observation, response *extract.Response) (meter.LLM, bool) {
	if o.AI() == "" {
		return meter.LLM{}, false
	}
	s, ok := extract.FromAIProxy([]byte(o.AI()))
	if in.llm.Provider != "" && in.llm.Provider != "auto" {
		s.Provider = in.llm.Provider
	}
	switch {
	case s.UsageStatus == meter.UsageMissing:
	case o.Outcome == meter.OutcomeUpstreamError || o.Outcome == meter.OutcomeTimeout || o.Status() >= 300:
		s.Usage, s.UsageStatus, s.UsageSource = meter.Usage{}, meter.UsageMissing, ""
	case s.Stream != nil && *s.Stream || extract.Streams(response.ContentType):
		s.UsageStatus, s.Stream = meter.UsageEstimated, new(true)
	case o.Outcome != meter.OutcomeCompleted:
		s.UsageStatus = meter.UsagePartial
	}
	return s, ok
}

// meters returns the presets that are on and the declared meters.
func (c *Config) meters() []meter.Meter {
	var all []meter.Meter
	if c.MeterAPIRequests {
		all = append(all, meter.APIRequests())
	}
	if c.MeterAITokenUsage {
		all = append(all, meter.AITokenUsage())
	}
	if c.MeterAICalls {
		all = append(all, meter.AICalls())
	}
	declared := slices.Clone(c.Meters)
	slices.SortStableFunc(declared, func(a, b Meter) int { return strings.Compare(a.Slug, b.Slug) }) // so that their order never matters
	for _, m := range declared {
		all = append(all, meter.Meter{
			Slug: m.Slug, EventType: m.EventType, Aggregation: meter.Aggregation(m.Aggregation), Filter: m.Filter,
			Value: m.Value, ValueProperty: m.ValueProperty, GroupBy: m.GroupBy, ForEach: m.ForEach,
		})
	}
	return all
}

func (c *Config) subjectSources() []meter.SubjectSource {
	sources := make([]meter.SubjectSource, len(c.Subject.Sources))
	for i, s := range c.Subject.Sources {
		sources[i] = meter.SubjectSource(s)
	}
	return sources
}

func (c *Config) attributes() []meter.Attribute {
	attributes := make([]meter.Attribute, len(c.Attributes))
	for i, a := range c.Attributes {
		attributes[i] = meter.Attribute(a)
	}
	return attributes
}

// extractionResult is the place of an extraction in the ledger.
func extractionResult(err error) extraction {
	switch {
	case err == nil:
		return extractionOK
	case errors.Is(err, extract.ErrNotLLM):
		return extractionNotLLM
	case errors.Is(err, extract.ErrNoUsage):
		return extractionNoUsage
	case errors.Is(err, extract.ErrNoBody):
		return extractionNoBody
	case errors.Is(err, extract.ErrTruncated):
		return extractionTruncated
	case errors.Is(err, extract.ErrTooLarge):
		return extractionTooLarge
	case errors.Is(err, extract.ErrEncoding):
		return extractionEncoding
	default:
		return extractionUnparsable
	}
}
