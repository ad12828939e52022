package extract

import (
	"errors"
	"strings"

	"kafka-metering/meter"
	"kafka-metering/meter/scan"
)

const (
	// maxGuesses bounds the events of a stream that are tried for a known shape; later ones only when they may declare usage.
	maxGuesses = 16
	// maxIntroductions bounds the events of a stream that are read for the model and the id alone.
	maxIntroductions = 8
	// maxTail bounds an event that is kept in case it is the one with the finish reason, in bytes.
	maxTail = 4 << 10
)

// Reader takes one response in, in pieces of any size, and keeps what it declares. How the body is cut into pieces makes
// no difference. It needs the memory of the largest event for a stream, and of the whole for a document. It is for one
// goroutine, and must be closed.
type Reader struct {
	response Response // without its body
	request  call
	ignore   bool // certainly no LLM call, or nothing to be read
	err      error

	format   *format // nil until the body's shape shows it
	llm      meter.LLM
	declared meter.Usage // as the provider counts
	spare    meter.Usage // what a gateway of the provider declares beside the answer: for want of anything better
	header   meter.Usage // what the response's headers declare
	earlier  meter.Usage // what answers before the one at hand have declared together, settled

	headerBedrock bool // they are Bedrock's

	streamed bool // the response is a stream
	complete bool // no byte is missing at the end, as far as the observer knows
	sse      bool // the content type says so

	bad     bool  // declared stands for a usage that holds something else than counts
	answers int64 // how many of them there were
	gap     bool  // one of them has not declared all
	spoiled bool  // what one of them has declared is unknown
	settled bool  // declared is the provider's last word
	damaged bool  // since declared, a message that may declare usage could not be read
	lost    bool  // the same, because it was too long
	ended   bool  // the response says itself that it is whole
	cut     bool  // it shows that it is not
	junk    bool  // it holds text that is not its format's
	failed  bool  // its status is an error's: it declares nothing

	decoder *decoder
	head    []byte // the first bytes, until there are enough to tell how the body is encoded
	sniffed bool
	began   bool
	whole   bool // the first piece is the whole body
	framing framing
	events  sse
	values  values
	frames  eventStream
	seen    int  // messages
	closing bool // the message at hand has no end
	element bool // it stands in a top-level array
	tail    [2][]byte
	tailLen int
	chunk   []byte // of a Bedrock stream, decoded

	scanner scan.Scanner[[]byte]
	list    scan.Scanner[[]byte]
	found   [maxFound][]byte // in an element of a list
	signs   [maxSigns][]byte
	latest  meter.Usage // of the message at hand
	sum     meter.Usage // of a list in it
	texts   [maxSlots][]byte
	numbers [maxRules][]byte
	text    *estimate // the delivered text, where an estimate is wanted
}

// framing is how a body holds its messages.
type framing uint8

const (
	unframed framing = iota
	framedEvents
	framedValues
	framedBinary
	framedText // something that declares nothing
)

// NewReader begins to read a response, whose Body and Complete are not looked at.
func NewReader(r *Response) *Reader {
	c := new(Reader)
	c.open(r)
	return c
}

// open begins to read a response. c is new or has been reset.
func (c *Reader) open(r *Response) {
	request, ok := classify(r)
	c.response, c.request = *r, request
	c.response.Body = nil
	if !ok || request.stored && !r.Stored {
		c.ignore, c.err = true, ErrNotLLM
		return
	}
	c.llm.Provider = request.provider
	c.llm.RequestModel = request.model
	c.llm.Operation = request.operation
	c.llm.UsageStatus = meter.UsageMissing
	if request.format != nil {
		c.choose(request.format, "")
		c.explain("path", pathOf(r), c.API())
	}
	if r.Status != 0 && r.Status != statusSwitching && (r.Status < 200 || r.Status > 299) {
		c.ignore, c.failed, c.err = true, true, ErrNoUsage
		if !request.sure {
			c.err = ErrNotLLM
		}
		return
	}
	c.sse = mediaTypeOf(r.ContentType) == "text/event-stream"
	c.streamed = c.sse
	if r.Estimate {
		c.text = new(estimate)
	}
}

// reset lets go of everything but small buffers.
func (c *Reader) reset() {
	*c = Reader{
		events: sse{line: kept(c.events.line), nameOwn: kept(c.events.nameOwn), dataOwn: kept(c.events.dataOwn)},
		values: values{buf: kept(c.values.buf)},
		frames: eventStream{buf: kept(c.frames.buf)},
		tail:   [...][]byte{c.tail[0][:0], c.tail[1][:0]},
		chunk:  kept(c.chunk),
	}
}

// maxKept bounds the memory that is kept of one long message for the next, in bytes.
const maxKept = 64 << 10

func kept(b []byte) []byte {
	if cap(b) > maxKept {
		return nil
	}
	return b[:0]
}

// choose makes f the format.
func (c *Reader) choose(f *format, operation string) {
	if f == openAIResponses && c.response.Status == statusSwitching {
		f = responsesSocket
	}
	if c.element && f.answers != nil {
		f = f.answers
	}
	c.format = f
	if c.llm.Operation == "" {
		c.llm.Operation = operation
	}
	if c.llm.Operation == "" {
		c.llm.Operation = f.operation
	}
}

// Write takes in the next piece of the body, as it was sent. It keeps no reference to p. After an error, which every
// later call will return too, the rest is ignored.
func (c *Reader) Write(p []byte) (int, error) {
	n := len(p)
	if c.ignore {
		return n, nil
	}
	if !c.sniffed {
		if len(c.head)+len(p) < sniffed {
			c.head = append(c.head, p...)
			return n, nil
		}
		if len(c.head) > 0 {
			p = append(c.head, p...)
			c.head = nil
		}
		c.sniff(p)
	}
	c.decode(p)
	return n, c.err
}

// sniff finds out how the body is encoded.
func (c *Reader) sniff(head []byte) {
	c.sniffed = true
	codings, err := codingsOf(c.response.ContentEncoding, head)
	if c.err = err; len(codings) > 0 {
		c.whole = false
		c.decoder = newDecoder(codings, c.take)
	}
}

func (c *Reader) decode(p []byte) {
	switch {
	case c.err != nil:
	case c.decoder != nil:
		c.err = c.decoder.Write(p)
	default:
		c.err = c.take(p)
	}
}

// take takes in the next piece of the decoded body.
func (c *Reader) take(p []byte) error {
	if !c.began {
		if p = c.begin(p); !c.began {
			return nil
		}
	}
	switch c.framing {
	case framedEvents:
		c.events.Write(p)
	case framedValues:
		if !c.whole || !c.document(p) {
			c.values.Write(p)
		}
	case framedBinary:
		c.frames.Write(p)
	case framedText, unframed:
	}
	return nil
}

// begin chooses the framing by the first byte, since content types lie (Gemini sends errors in JSON as
// text/event-stream, others events as application/json): no stream of events starts with a bracket, no JSON like a field,
// and no text with a zero. White space and a byte order mark before it say nothing; it returns what is behind them.
func (c *Reader) begin(p []byte) []byte {
	for i, b := range p {
		switch b {
		case ' ', '\t', '\r', '\n', 0xef, 0xbb, 0xbf:
			continue
		}
		c.began = true
		switch {
		case b == '{' || b == '[' || b == '"':
			c.framing, c.streamed = framedValues, isLines(c.response.ContentType)
			c.values.out = c
		case b == 0:
			c.framing, c.streamed = framedBinary, true
			c.frames.out = c
		case c.sse || strings.IndexByte("deir:", b) >= 0: // data, event, id, retry, a comment
			c.framing, c.streamed = framedEvents, true
			c.events.out = c
		default:
			c.framing, c.streamed = framedText, false
		}
		return p[i:]
	}
	return nil
}

// Close ends the body, of which complete says whether it is whole, and returns what [Extract] would.
func (c *Reader) Close(complete bool) (meter.LLM, error) {
	c.complete = complete
	if !c.ignore {
		c.finish()
	}
	if c.request.counts || errors.Is(c.err, ErrNotLLM) {
		return meter.LLM{}, ErrNotLLM
	}
	return c.result(c.err)
}

// finish takes in the end of the body.
func (c *Reader) finish() {
	if c.err == nil && !c.sniffed {
		c.sniff(c.head)
		c.decode(c.head)
	}
	if c.decoder != nil {
		err := c.decoder.Close()
		if errors.Is(err, ErrTruncated) {
			c.complete, c.cut, err = false, true, nil
		}
		if c.err == nil {
			c.err = err
		}
	}
	if c.err != nil {
		return
	}
	c.closing = true
	switch c.framing {
	case framedEvents:
		c.events.Close()
		if c.seen == 0 && !c.sse && c.complete {
			c.finishText() // that starts like a field
		}
	case framedValues:
		c.finishValues()
	case framedBinary:
		if c.frames.Close() {
			c.cut = true
		}
	case framedText:
		c.finishText()
	case unframed:
	}
	for i := 1; i <= len(c.tail) && c.llm.FinishReason == "" && c.format != nil; i++ {
		c.lookForEnd(c.tail[(c.tailLen+len(c.tail)-i)%len(c.tail)])
	}
	if !c.request.sure && c.format == nil && c.spare.Empty() {
		if c.readHeaders(); !c.headersTell() {
			c.err = ErrNotLLM
		}
	}
}

// finishText judges a body that holds no message: an error where one was promised, or else just a text.
func (c *Reader) finishText() {
	c.streamed = false
	if m := mediaTypeOf(c.response.ContentType); m == "" || strings.Contains(m, "json") {
		c.err = ErrUnparsable
	}
}

// finishValues takes in the end of a JSON text.
func (c *Reader) finishValues() {
	rest, unended := c.values.Close()
	if unended {
		c.unended(rest)
		return
	}
	if c.seen <= 1 && !c.values.ended {
		c.streamed = false // one line is a document
	}
	if c.values.ended || c.seen == 1 && !isLines(c.response.ContentType) && (c.format == nil || c.format.merging != sums) {
		c.ended = true
	}
}

// isLines reports whether a content type is one of JSON values, one for each line.
func isLines(contentType string) bool {
	switch mediaTypeOf(contentType) {
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonl", "application/jsonlines", "application/stream+json":
		return true
	}
	return false
}
