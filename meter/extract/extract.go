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
//   - Streams repeat cumulative numbers: a later one replaces an earlier one. Only answers of their own add up, of a
//     realtime session, a batch, several prompts, or a gateway that calls tools in between. A stream that told of an error
//     since has not declared all.
//
// All functions may be used by several goroutines at once, and none of them keeps a reference to a body.
package extract

import (
	"errors"
	"sync"

	"kafka-metering/meter"
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

	// Header returns a response header by its name in lower case, or "". nil: the headers are not known. Those that are
	// read are [UsageHeaders].
	Header func(name string) string
	// Stored asks for the usage of answers that are read again too: a response, run, prediction or batch that is polled or
	// downloaded. What they consumed is declared each time, so a bill must not.
	Stored bool
	// Estimate asks for a count of the delivered text where a stream has declared no usage.
	Estimate bool
	// Explain is told each step.
	Explain func(Finding)
}

// configured reports whether the configuration names a provider.
func (r *Response) configured() bool { return r.Provider != "" && r.Provider != "auto" }

// Extract returns what a response says about the LLM call that it answers.
//
// With a nil error the usage is final, or partial when the response was cut, or broke, after it had declared something. With
// [ErrNotLLM] there is no LLM call. With every other error, compared with [errors.Is], the result holds what is known of
// the call beside its usage, which is missing.
//
// A call is a POST to the path of a known API, or on a route whose provider is configured, or one whose body has the
// shape of a known API's answer (so that any server that speaks OpenAI's or Anthropic's dialect is understood), or a
// WebSocket session with a realtime API. Counts of tokens, uploads, and answers that are read again are none. Responses
// whose status is not one of success declare no usage.
//
// The provider is the configured one, or the one whose host (or unmistakable path) it is. For other hosts it is empty,
// unless the server speaks a provider's own format and names one of its models.
func Extract(r *Response) (meter.LLM, error) {
	c := readers.Get().(*Reader)
	defer func() {
		c.reset()
		readers.Put(c)
	}()
	c.open(r)
	if !c.ignore && !r.Seen {
		c.ignore, c.err = true, ErrNoBody
		switch c.readHeaders(); {
		case c.headersTell():
			c.err = nil
		case !c.request.sure:
			c.err = ErrNotLLM
		}
	}
	c.whole = true
	_, _ = c.Write(r.Body) // Close returns the error
	return c.Close(r.Complete)
}

var readers = sync.Pool{New: func() any { return new(Reader) }}
