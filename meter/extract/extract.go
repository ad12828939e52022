// Package extract reads what a response of an LLM API declares about the call: token counts above all, and the model,
// the reason why it ended and its id. It knows API formats and nothing of Kong's or Kafka's, but for kong.go, which reads
// the statistics of Kong's own AI plugins.
//
// Its results become bills, hence its rules:
//
//   - A number is taken only from a documented place in a valid JSON document: a whole body, one event of a stream, one
//     element of a streamed array. Text that a model wrote is inside JSON strings and can declare nothing.
//   - A number is a JSON number, integral, between 0 and 10^12. Where a documented place holds anything else but null,
//     none of that usage is believed and the outcome is [ErrUnparsable].
//   - Of a member that an object holds twice the first counts. A name spelled with escapes is not that name.
//   - Absent is not zero. A declared zero is kept.
//   - Numbers are normalised to what OpenTelemetry asks: input includes cached tokens, output includes reasoning. What a
//     format declares otherwise is added by that format's documented rule; a total that contradicts its parts without
//     such a rule is left as it was declared.
//   - Streams repeat cumulative numbers: a later one replaces an earlier one, and nothing is ever added up.
//
// All functions may be used by several goroutines at once, and none of them keeps a reference to a body.
package extract

import (
	"errors"
	"strings"

	"kafka-metering/meter"
	"kafka-metering/meter/scan"
)

// Outcomes of [Extract] other than success. Each exchange has exactly one.
var (
	// ErrNotLLM: no call to a language model. There is no [meter.LLM].
	ErrNotLLM = errors.New("no LLM call")
	// ErrNoUsage: a call whose response declares no usage, or an error response.
	ErrNoUsage = errors.New("the response declares no usage")
	// ErrNoBody: a call, going by the request, whose response body was not seen.
	ErrNoBody = errors.New("the response body was not seen")
	// ErrUnparsable: the body, or the usage in it, is not what the format documents.
	ErrUnparsable = errors.New("the response cannot be parsed")
	// ErrTruncated: the end of the body is missing, and what is there declares no usage.
	ErrTruncated = errors.New("the response is cut short")
	// ErrTooLarge: the body, decoded, or one event of it, exceeds the size up to which it is read.
	ErrTooLarge = errors.New("the response is too large")
	// ErrEncoding: the body has a content encoding that is not read.
	ErrEncoding = errors.New("the response has an unsupported content encoding")
)

// Response is what is known of an upstream's answer to one request.
type Response struct {
	Method          string // of the request
	Host            string // of the upstream; may have a port
	Path            string // of the upstream's URL; may have a query
	Status          int    // of the response; 0 is unknown and taken for a success
	ContentType     string
	ContentEncoding string
	Body            []byte // as observed, still encoded; only read
	Seen            bool   // a body was observed; it may be empty
	Complete        bool   // Body is known to be the whole body
	Provider        string // the configured provider name; "" or "auto" is to go by what the exchange shows
}

// configured reports whether the configuration names a provider.
func (r *Response) configured() bool { return r.Provider != "" && r.Provider != "auto" }

// format is how one API declares usage. The rules are data; read holds what is not.
type format struct {
	operation string // gen_ai.operation.name
	marker    string // the key, quoted, without which no message declares anything
	roots     []string
	counts    []countRule // below each root; of several for one quantity the first that is declared counts
	texts     []textRule
	arrays    bool   // a stream may come as one JSON array
	native    string // the provider whose own format this is
	models    string // what the names of that provider's models start with
	lateEnd   bool   // the finish reason may stand in a message that declares no usage

	// read takes a message that has been scanned.
	read func(c *collector)
	// ends reports whether an event, which no marker is in, says that the stream is whole. nil: no event does.
	ends func(c *collector, data []byte) bool
	// settle turns the numbers as declared into meter's. nil: they are.
	settle func(u *meter.Usage)

	shape *scan.Shape // compiled from the above
}

type countRule struct {
	path     string
	quantity meter.Quantity
}

type textRule struct {
	path string
	slot int
}

// Slots of the texts that formats read. The counts follow, root by root.
const (
	slotModel = iota
	slotID
	slotFinish
	slotType
	slotInputDetails
	slotOutputDetails
	numTextSlots
	maxSlots = 64
)

// compile makes the format's shape.
func (f format) compile() *format {
	f.shape = new(scan.Shape)
	for _, t := range f.texts {
		f.shape.Add(t.path, t.slot)
	}
	slot := numTextSlots
	for _, root := range f.roots {
		for _, c := range f.counts {
			f.shape.Add(root+"."+c.path, slot)
			slot++
		}
	}
	if slot > maxSlots {
		panic("bug: a format has too many rules")
	}
	return &f
}

// endpoints are the paths that tell the format. A path that is not here may still be an LLM call by its body's shape.
var endpoints = []struct {
	suffix string
	format *format // nil: the shape must tell
	hosts  bool    // other APIs have such paths: only with a known or configured provider
}{
	{suffix: "/chat/completions", format: openAIChat},
	{suffix: "/v1/messages", format: anthropicMessages, hosts: true},
	{suffix: ":generateContent", format: geminiContent},
	{suffix: ":streamGenerateContent", format: geminiContent},
	{suffix: ":rawPredict"},
	{suffix: ":streamRawPredict"},
}

// elsewhere are the paths that look like calls, or whose answers have the shape of one, but where nothing is consumed:
// counts of a request that is not made, and stored answers, whose usage was declared before.
var elsewhere = struct{ suffixes, parts []string }{
	suffixes: []string{"/count_tokens", "/count-tokens", ":countTokens", "/input_tokens", "/batches", "/files", "/uploads"},
	parts:    []string{"/chat/completions/", "/models/count-tokens:"},
}

// call is what the request alone says.
type call struct {
	sure     bool    // it is an LLM call whatever the body holds
	format   *format // nil when only the body can tell
	provider string
	model    string
}

// classify goes by method, path, host and configuration. ok is false when the exchange is certainly no LLM call.
func classify(r *Response) (_ call, ok bool) {
	if r.Method != "POST" {
		return call{}, false
	}
	path, _, _ := strings.Cut(r.Path, "?")
	path = strings.TrimSuffix(path, "/")
	for _, suffix := range elsewhere.suffixes {
		if strings.HasSuffix(path, suffix) {
			return call{}, false
		}
	}
	for _, part := range elsewhere.parts {
		if strings.Contains(path, part) {
			return call{}, false
		}
	}
	c := call{provider: providerOf(r, path), model: pathModel(path), sure: r.configured()}
	for _, e := range endpoints {
		if strings.HasSuffix(path, e.suffix) && (!e.hosts || c.provider != "") {
			c.sure, c.format = true, e.format
			break
		}
	}
	return c, true
}

// Extract returns what a response says about the LLM call that it answers.
//
// With a nil error the usage is final, or partial when the response was cut after it had declared something. With
// [ErrNotLLM] there is no LLM call. With every other error, compared with [errors.Is], the result holds what is known of
// the call beside its usage, which is missing.
//
// A call is a POST to the path of a known API, or on a route whose provider is configured, or one whose body has the
// shape of a known API's answer (so that any server that speaks OpenAI's or Anthropic's dialect is understood).
// Responses with a status of 400 or more declare no usage.
//
// The provider is the configured one, or the one whose host (or unmistakable path) it is. For other hosts it is empty,
// unless the server speaks Anthropic's or Gemini's own format and names one of their models.
func Extract(r *Response) (meter.LLM, error) {
	request, ok := classify(r)
	if !ok {
		return meter.LLM{}, ErrNotLLM
	}
	if r.Status != 0 && (r.Status < 200 || r.Status > 299) {
		if !request.sure {
			return meter.LLM{}, ErrNotLLM
		}
		c := newCollector(r, request)
		return c.llm, ErrNoUsage
	}
	if !request.sure && (!r.Seen || !promising(r)) {
		return meter.LLM{}, ErrNotLLM
	}
	c := newCollector(r, request)
	if !r.Seen {
		return c.llm, ErrNoBody
	}
	err := c.body(r)
	if !request.sure && c.format == nil {
		return meter.LLM{}, ErrNotLLM
	}
	return c.result(err)
}
