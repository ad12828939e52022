package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"kafka-metering/meter"
	"kafka-metering/meter/scan"
	"kafka-metering/plugin/lane"
	"kafka-metering/plugin/record"
)

// laneExchange is an exchange that has been evaluated, and waits for the rest of its batch.
type laneExchange struct {
	in      *instance
	id      string   // Kong's request id
	end     place    // [placeSpooled]: its events are to be spooled
	records [][]byte // of the events, in the session's buffer

	// Counted with end: until then the batch may come again.
	extraction extraction
	notes      meter.Notes
}

// observe evaluates an exchange, and encodes its events into b. It keeps nothing of x. The memory of o, an earlier observation,
// is used again.
func (in *laneConfig) observe(x *lane.Exchange, o *meter.Observation, b *record.Buffer) (e laneExchange) {
	e.in = in.instance
	defer func() {
		if cause := recover(); cause != nil {
			e.end, e.records = placePanic, nil
			in.process.reportPanic(cause)
		}
	}()
	o, err := in.log(x, o)
	if err != nil {
		e.end = in.unreadable(err)
		return e
	}
	e.id = o.RequestID()
	o.InferOutcome()
	o.Outcome = outcomeOf(o.Outcome, o.Status(), x)
	e.extraction = in.readTapped(o, x)
	r := results.Get().(*meter.Result)
	if e.end = in.evaluate(o, r); e.end == placeSpooled {
		e.records = in.encode(r, b)
	}
	e.notes = r.Notes
	releaseResult(r)
	return e
}

// log reads what the front sent of Kong's log, into o where it can.
func (in *laneConfig) log(x *lane.Exchange, o *meter.Observation) (*meter.Observation, error) {
	if x.List == lane.ListNone {
		return in.program.Observe(string(x.Log))
	}
	excerpt := in.excerpts[x.List]
	if excerpt == nil {
		return nil, fmt.Errorf("%w: members of Kong's log that nobody asked for", lane.ErrProtocol)
	}
	return o, excerpt.Observe(o, x.Members)
}

// statusClientClosed is what nginx logs for a client that went away before there was an answer.
const statusClientClosed = 499

// outcomeOf corrects what Kong's log says of an exchange's outcome by what the front saw. Kong logs the upstream's status
// also where the client went away or the upstream broke off in the middle of its answer.
//
// nginx finishes a request that the upstream broke off as it finishes others, without a last buffer; one whose client is
// gone it terminates ($request_completion is empty then).
func outcomeOf(logged meter.Outcome, status int, x *lane.Exchange) meter.Outcome {
	switch {
	case logged == meter.OutcomeUpstreamError || logged == meter.OutcomeTimeout:
		return logged
	case !x.Delivered && (logged != meter.OutcomeRejected || status == statusClientClosed):
		return meter.OutcomeClientAbort
	case x.HasBody && !x.Ended && x.Stalled:
		return meter.OutcomeTimeout
	case x.HasBody && !x.Ended:
		return meter.OutcomeUpstreamError
	default:
		return logged
	}
}

// readTapped sets o's LLM, Body and Capture from what the tap saw of the body. It returns how reading the usage ended, as readBody.
func (in *instance) readTapped(o *meter.Observation, x *lane.Exchange) extraction {
	o.Capture = meter.Capture{
		Mode: meter.CaptureNone, Measured: true,
		TimeToFirstByte: time.Duration(x.FirstByte) * time.Millisecond, BytesDelivered: x.Bytes,
	}
	switch {
	case x.Tapped:
	case x.List == lane.ListLog && in.program.ReadsLLM(): // of a call there is more
		return extractionNotLLM
	case !in.readsBodies():
		return ""
	}
	response := in.response(o)
	if x.Tapped {
		o.Capture.Mode, o.Capture.Truncated, o.Capture.Complete = meter.CaptureTap, x.Skipped > 0, x.Ended
		// Of the headers what the tap saw counts: plugins may have changed them since.
		response.ContentType, response.ContentEncoding = string(x.Type), string(x.Encoding)
		response.Body, response.Seen, response.Complete = x.Head, true, x.Ended
		if x.Skipped > 0 {
			response.Estimate = false // of what is missing too
			joined, ok := lane.Join(x.Head, x.Tail, response.ContentEncoding)
			if ok {
				response.Body = joined
			}
			response.Complete = response.Complete && ok
		} else if len(x.Tail) > 0 { // nothing is missing, but it is more than the half that the head holds
			response.Body = slices.Concat(x.Head, x.Tail)
		}
	}
	if !in.readsBodies() {
		return ""
	}
	result := in.readBody(o, &response)
	if o.Capture.Truncated {
		o.Body = nil // what is left of it is no answer to a question about the whole
	}
	if o.LLM != nil {
		asked := askedOf(x.Request)
		o.LLM.RequestModel = cmp.Or(o.LLM.RequestModel, asked.model)
		if o.LLM.Stream == nil {
			o.LLM.Stream = asked.stream
		}
	}
	return result
}

// The policies of llm.on_abort.
const (
	abortBillReported = "bill_reported"
	abortBillNothing  = "bill_nothing"
)

// settleAbort applies llm.on_abort to a call whose response was cut off.
func (in *instance) settleAbort(o *meter.Observation) {
	cut := o.LLM.UsageStatus == meter.UsagePartial || o.LLM.UsageStatus == meter.UsageEstimated
	if in.llm.OnAbort == abortBillNothing && cut && o.Outcome != meter.OutcomeCompleted {
		o.LLM.Usage, o.LLM.UsageStatus, o.LLM.UsageSource = meter.Usage{}, meter.UsageMissing, ""
	}
}

// asked is what a request to an LLM asked for.
type asked struct {
	model  string
	stream *bool
}

// askedShape is where the known APIs have it: at the top of the document.
var askedShape = func() *scan.Shape {
	s := new(scan.Shape)
	s.Add("model", 0)
	s.Add("stream", 1)
	return s
}()

// askedOf reads a request's body.
func askedOf(body []byte) (a asked) {
	var s scan.Scanner[[]byte]
	var found [2][]byte
	if len(body) == 0 || s.Scan(body, askedShape, found[:]) != nil {
		return a
	}
	const longest = 256 // a model's name, in bytes
	if model := scan.Unquote(found[0]); len(model) <= longest {
		a.model = model
	}
	switch string(found[1]) {
	case "true", "false":
		stream := string(found[1]) == "true"
		a.stream = &stream
	}
	return a
}
