package meter

import (
	"errors"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
)

// ErrNotObject is returned by [Program.Observe] for a log that is not one JSON object.
var ErrNotObject = errors.New("the serialized log is not a JSON object")

// Outcome says how an exchange ended.
type Outcome string

// The outcomes.
const (
	OutcomeCompleted     Outcome = "completed"
	OutcomeClientAbort   Outcome = "client_abort"
	OutcomeUpstreamError Outcome = "upstream_error" // the upstream answered 5xx, or could not be reached
	OutcomeTimeout       Outcome = "timeout"        // the upstream did not answer in time
	OutcomeRejected      Outcome = "rejected"       // Kong answered without asking the upstream
)

// CaptureMode says how a response body was seen.
type CaptureMode string

// The capture modes.
const (
	CaptureTap      CaptureMode = "tap"      // copied while it passed
	CaptureBuffered CaptureMode = "buffered" // held by Kong until it was whole
	CaptureNone     CaptureMode = "none"
)

// Capture says how, and how far, the response body was seen: the observation's capture object.
type Capture struct {
	Mode      CaptureMode
	Truncated bool // a part in the middle or at the end was left out
	Complete  bool // the body was seen to its end

	Measured        bool          // the next two are known
	TimeToFirstByte time.Duration // from the request's start to the body's first byte; negative: there was none
	BytesDelivered  int64         // of the body, as the client got them
}

// Observation is one exchange as meters see it. A front fills it in: [Program.Observe] reads Kong's log, then LLM, Body,
// Outcome and Capture are set, then [Program.Events] evaluates the meters. It is for one goroutine.
type Observation struct {
	LLM     *LLM   // nil when the exchange was no call to a language model
	Body    []byte // the response body where it was observed and is JSON, decoded; nil otherwise
	Outcome Outcome
	Capture Capture

	log      string
	values   []string       // raw JSON by slot; slot 0 is nowhere
	headers  map[string]int // the program's
	replayed []string       // what the observation adds to the log, by slot, where it is a document's; see Replay
}

// Paths that every program reads, because the path of an exchange depends on them.
const (
	slotRequestID = iota + 1
	slotStartedAt
	slotMethod
	slotURI
	slotUpstreamURI
	slotStatus
	slotUpstreamStatus
	slotSource
	slotServiceHost
	slotContentType
	slotContentEncoding
	slotTraceParent
	slotClientIP
	slotDuration
	slotAI
	slotTries
	numFactSlots
)

var factPaths = [...]string{
	slotRequestID:       "request.id",
	slotStartedAt:       "started_at",
	slotMethod:          "request.method",
	slotURI:             "request.uri",
	slotUpstreamURI:     "upstream_uri",
	slotStatus:          "response.status",
	slotUpstreamStatus:  "upstream_status",
	slotSource:          "source",
	slotServiceHost:     "service.host",
	slotContentType:     "response.headers['content-type']",
	slotContentEncoding: "response.headers['content-encoding']",
	slotTraceParent:     "request.headers.traceparent",
	slotClientIP:        "client_ip",
	slotDuration:        "latencies.request",
	slotAI:              "ai",
	slotTries:           "tries",
}

// text returns a fact that is a string, or "".
func (o *Observation) text(slot int) string {
	s, _ := text(o.values[slot])
	return s
}

// RequestID returns Kong's request id, which is also the response header X-Kong-Request-Id; empty before Kong 3.5.
func (o *Observation) RequestID() string { return o.text(slotRequestID) }

// Method returns the request's method.
func (o *Observation) Method() string { return o.text(slotMethod) }

// ServiceHost returns the host that Kong's service names.
func (o *Observation) ServiceHost() string { return o.text(slotServiceHost) }

// ContentType and ContentEncoding are the response's headers, as Kong sent them to the client.
func (o *Observation) ContentType() string { return o.text(slotContentType) }

// ContentEncoding is described at ContentType.
func (o *Observation) ContentEncoding() string { return o.text(slotContentEncoding) }

// ResponseHeader returns a response header by its name in lower case, one of [Settings].Headers, or "": of a header that
// was sent more than once too, because one of them would be a guess.
func (o *Observation) ResponseHeader(name string) string { return o.text(o.headers[name]) }

// UpstreamPath returns path and query as the upstream saw them, or, where Kong did not log that, as the client sent them.
func (o *Observation) UpstreamPath() string {
	if uri := o.text(slotUpstreamURI); uri != "" {
		return uri
	}
	return o.text(slotURI)
}

// Status returns the status that the client got, or 0.
func (o *Observation) Status() int {
	f, _ := number(o.values[slotStatus])
	return int(f)
}

// Buffered reports whether Kong held the response back: only then upstream_status is a number, and only then the body
// can be asked for in the Log phase (measured on Kong 3.9.3).
func (o *Observation) Buffered() bool {
	_, ok := number(o.values[slotUpstreamStatus])
	return ok
}

// ResponseSize returns how many bytes of the response, head and body, Kong has sent, or 0.
func (o *Observation) ResponseSize() int64 { return gjson.Get(o.log, "response.size").Int() }

// AI returns the raw JSON of what Kong's own AI plugins logged, or "".
func (o *Observation) AI() string { return o.values[slotAI] }

// StartedAt returns when the request began, in UTC with milliseconds, and whether Kong logged it.
func (o *Observation) StartedAt() (time.Time, bool) {
	ms, ok := number(o.values[slotStartedAt])
	// CloudEvents times are RFC 3339, which ends with the year 9999.
	if !ok || ms <= 0 || ms > 253402300799999 {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(ms)).UTC(), true
}

// InferOutcome sets Outcome from Kong's log alone: what a front without eyes on the body knows. (Measured on Kong 3.9.3.)
func (o *Observation) InferOutcome() {
	switch httpStatus := o.Status(); {
	case o.text(slotSource) != "upstream" && !o.Tried():
		o.Outcome = OutcomeRejected
	case o.text(slotSource) != "upstream" && o.answered() && httpStatus < 500:
		// A plugin has put an answer of its own in the place of the upstream's (kong.response.exit in header_filter).
		o.Outcome = OutcomeRejected
	case o.text(slotSource) != "upstream" && httpStatus == 504:
		o.Outcome = OutcomeTimeout
	case o.text(slotSource) != "upstream":
		// Kong answers for an upstream that did not. Buffered, it keeps the upstream's status over an error of its own.
		o.Outcome = OutcomeUpstreamError
	case httpStatus == 499 && status(o.values[slotUpstreamStatus]) != "499":
		// nginx's own status: the client went away while the upstream's answer began.
		o.Outcome = OutcomeClientAbort
	case o.values[slotUpstreamStatus] != "" && status(o.values[slotUpstreamStatus]) == "":
		// The upstream has not answered, and Kong has not either: nobody was left to answer.
		o.Outcome = OutcomeClientAbort
	case httpStatus >= 500:
		o.Outcome = OutcomeUpstreamError
	default:
		o.Outcome = OutcomeCompleted
	}
}

// answered reports whether an upstream has answered, and with no error.
func (o *Observation) answered() bool {
	s := status(o.values[slotUpstreamStatus])
	return s != "" && s < "5"
}

// Tried reports whether Kong has tried an upstream.
func (o *Observation) Tried() bool {
	n := size(o.values[slotTries])
	return n != "" && n != "0"
}

// llmScalars are the llm members that are text or true/false, in the order in which they are written.
var llmScalars = []string{
	"provider", "gen_ai_provider_name", "operation", "request_model", "model", "stream", "finish_reason", "response_id",
	"usage_status", "usage_source", "usage_contradiction", "tokenizer",
}

// appendLLM appends the observation's llm object.
func appendLLM(b []byte, l *LLM) (_ []byte, consistent bool) {
	b = append(b, '{')
	field := func(name, value string) {
		if value != "" {
			b = append(appendString(b, name), ':')
			b = append(appendString(b, value), ',')
		}
	}
	field("provider", l.Provider)
	field("gen_ai_provider_name", ProviderOTel(l.Provider))
	field("operation", l.Operation)
	field("request_model", l.RequestModel)
	field("model", l.Model)
	if l.Stream != nil {
		b = append(boolean(append(b, `"stream":`...), *l.Stream), ',')
	}
	for q := range numQuantities {
		if n, ok := l.Usage.Get(q); ok {
			b = append(appendString(b, q.String()), ':')
			b = append(appendNumber(b, float64(n)), ',')
		}
	}
	for a := range numAmounts {
		if x, ok := l.Usage.Amount(a); ok {
			b = append(appendString(b, a.String()), ':')
			b = append(appendNumber(b, x), ',')
		}
	}
	field("finish_reason", l.FinishReason)
	field("response_id", l.ResponseID)
	field("usage_status", string(l.UsageStatus))
	if l.UsageStatus != UsageMissing {
		field("usage_source", string(l.UsageSource))
		field("usage_contradiction", l.Usage.Contradiction())
		field("tokenizer", l.Tokenizer)
	}
	var space [4]TokenRow
	rows, consistent := l.Usage.AppendRows(space[:0])
	if len(rows) > 0 {
		b = append(b, `"tokens":[`...)
		for i, row := range rows {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"type":"`...)
			b = append(b, row.Type...)
			b = append(b, `","tokens":`...)
			b = append(appendNumber(b, float64(row.Tokens)), '}')
		}
		b = append(b, "],"...)
	}
	b[len(b)-1] = '}'
	return b, consistent
}

// appendAdded appends the members of the observation that are not in Kong's log, as far as they are read, and the body
// aside, to an object that has been opened. consistent is false where the declared cached tokens exceed the input.
func (o *Observation) appendAdded(b []byte, subject string, reads func(root string) bool) (_ []byte, consistent bool) {
	consistent = true
	b = appendString(append(b, `"outcome":`...), string(o.Outcome))
	if reads("subject") {
		b = appendString(append(b, `,"subject":`...), subject)
	}
	if reads("capture") {
		b = o.Capture.append(append(b, `,"capture":`...))
	}
	if o.LLM != nil {
		b, consistent = appendLLM(append(b, `,"llm":`...), o.LLM)
	}
	return b, consistent
}

func (c Capture) append(b []byte) []byte {
	mode := c.Mode
	if mode == "" {
		mode = CaptureNone
	}
	b = append(b, `{"mode":"`...)
	b = append(b, mode...)
	b = append(b, `","truncated":`...)
	b = boolean(b, c.Truncated)
	b = append(b, `,"complete":`...)
	b = boolean(b, c.Complete)
	if c.Measured {
		if c.TimeToFirstByte >= 0 {
			b = append(b, `,"time_to_first_byte_ms":`...)
			b = strconv.AppendInt(b, c.TimeToFirstByte.Milliseconds(), 10)
		}
		b = append(b, `,"bytes_delivered":`...)
		b = strconv.AppendInt(b, c.BytesDelivered, 10)
	}
	return append(b, '}')
}

func boolean(b []byte, v bool) []byte {
	if v {
		return append(b, "true"...)
	}
	return append(b, "false"...)
}
