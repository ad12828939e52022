package extract

import (
	"bytes"
	"errors"
	"strings"

	"kafka-metering/meter"
	"kafka-metering/meter/scan"
)

// maxGuesses bounds the events of a stream that are tried for a known shape.
const maxGuesses = 16

// maxIntroductions bounds the events of a stream that are read for the model and the id alone.
const maxIntroductions = 8

// maxTail bounds an event that is kept in case it is the one with the finish reason, in bytes.
const maxTail = 4 << 10

// collector takes one response in, body byte by body byte, and keeps what it declares. It needs the memory of the largest
// event for a stream, and of the whole for a document.
type collector struct {
	format   *format // nil until the body's shape shows it
	llm      meter.LLM
	declared meter.Usage // as the provider counts
	named    bool        // the provider is configured: the dialect says nothing about it

	streamed bool // the response is a stream
	complete bool // no byte is missing at the end, as far as the observer knows
	sse      bool // the content type says so

	bad     bool // declared stands for a usage that holds something else than counts
	settled bool // declared is the provider's last word
	damaged bool // since declared, a message that may declare usage could not be read
	lost    bool // the same, because it was too long
	ended   bool // the response says itself that it is whole
	cut     bool // it shows that it is not

	kind    kind
	doc     []byte
	stream  sse
	events  int
	closing bool // the event at hand has no end
	tail    [2][]byte
	tailLen int

	scanner  scan.Scanner[[]byte]
	values   [maxSlots][]byte
	modality [2][]byte // for Gemini's lists
}

type kind uint8

const (
	unknown kind = iota
	document
	events
)

func newCollector(r *Response, request call) *collector {
	c := &collector{format: request.format, named: r.configured(), complete: r.Complete}
	c.llm.Provider = request.provider
	c.llm.RequestModel = request.model
	c.llm.UsageStatus = meter.UsageMissing
	mediaType, _, _ := strings.Cut(r.ContentType, ";")
	c.sse = strings.EqualFold(strings.TrimSpace(mediaType), "text/event-stream")
	c.streamed = c.sse
	if c.format != nil {
		c.llm.Operation = c.format.operation
	}
	return c
}

// body takes in the whole body.
func (c *collector) body(r *Response) error {
	z, err := decompress(r.Body, r.ContentEncoding)
	if err == nil && z == nil {
		if err = c.whole(r.Body); err == nil {
			err = c.close()
		}
		return err
	}
	if err == nil {
		err = inflate(z, c.write)
		z.Close() // it has no error that reading did not have
	}
	if errors.Is(err, ErrTruncated) {
		c.complete, c.cut, err = false, true, nil
	}
	if err == nil {
		err = c.close()
	}
	return err
}

// whole is write and more for a body that is decoded already and lasts: it is not copied.
func (c *collector) whole(p []byte) error {
	if c.begin(p); c.kind == document {
		c.doc = p
		if len(p) > maxDocument {
			return ErrTooLarge
		}
		return nil
	}
	return c.write(p)
}

// write takes in the next piece of the decoded body.
func (c *collector) write(p []byte) error {
	c.begin(p)
	switch c.kind {
	case events:
		c.stream.Write(p)
	case document:
		if len(c.doc)+len(p) > maxDocument {
			return ErrTooLarge
		}
		c.doc = append(c.doc, p...)
	case unknown: // nothing but white space so far, which means nothing in either
	}
	return nil
}

// begin tells a stream of events from a document by the first byte, since content types lie (Gemini sends errors in JSON
// as text/event-stream, others events as application/json): no stream starts with a bracket, no document like a field.
func (c *collector) begin(p []byte) {
	if c.kind != unknown {
		return
	}
	p = bytes.TrimLeft(p, "\ufeff \t\r\n")
	switch {
	case len(p) == 0:
		return
	case p[0] == '{' || p[0] == '[':
		c.kind = document
	case c.sse || strings.IndexByte("deir:", p[0]) >= 0: // data, event, id, retry, a comment
		c.kind = events
		c.streamed = true
		c.stream.event, c.stream.lost = c.event, c.loseEvent
		return
	default:
		c.kind = document
	}
	c.streamed = false
}

// close takes in the end of the body.
func (c *collector) close() error {
	switch c.kind {
	case document:
		return c.document()
	case events:
		c.closing = true
		c.stream.Close()
		if c.events == 0 && !c.sse && c.complete {
			return ErrUnparsable // a text that starts like a field
		}
		for i := 1; i <= len(c.tail) && c.llm.FinishReason == "" && c.format != nil; i++ {
			c.finish(c.tail[(c.tailLen+len(c.tail)-i)%len(c.tail)])
		}
	case unknown:
	}
	return nil
}

// event takes in one event of a stream.
func (c *collector) event(_, data []byte) {
	if c.events++; c.ended {
		return
	}
	if c.closing && !c.complete {
		c.cut = true // the rest of it may be missing
		return
	}
	if c.format == nil && (c.events > maxGuesses || !c.recognise(data)) {
		return
	}
	declares := mentions(data, c.format.marker)
	switch {
	case !declares && c.format.ends != nil && c.format.ends(c, data):
		c.ended = true
	case declares || c.closing || c.events <= maxIntroductions && (c.llm.Model == "" || c.llm.ResponseID == ""):
		if c.message(data) {
			break
		}
		c.cut = c.cut || c.closing
		c.damaged = c.damaged || declares
	case c.format.lateEnd && len(data) <= maxTail:
		i := c.tailLen % len(c.tail)
		c.tail[i] = append(c.tail[i][:0], data...)
		c.tailLen++
	}
}

func (c *collector) loseEvent() {
	c.events++
	if !c.ended {
		c.damaged, c.lost = true, true
	}
}

// mentions reports whether data may declare what stands under key: whether the key is there at all, and not always null,
// as it is in nearly every chunk of an OpenAI stream. It may be wrong about a yes, never about a no.
func mentions(data []byte, key string) bool {
	for from := 0; ; {
		// Without its opening quote, since quotes are frequent and the search looks for the first byte.
		i := bytes.Index(data[from:], []byte(key[1:]))
		if i < 0 {
			return false
		}
		i += from
		from = i + len(key) - 1
		if i == 0 || data[i-1] != '"' {
			continue
		}
		rest, colon := bytes.CutPrefix(data[from:], []byte(":"))
		if !colon || !bytes.HasPrefix(bytes.TrimPrefix(rest, []byte(" ")), []byte("null")) {
			return true
		}
	}
}

// document takes in a body that is one JSON text.
func (c *collector) document() error {
	doc := bytes.TrimLeft(c.doc, "\ufeff \t\r\n")
	if len(doc) > 0 && doc[0] == '[' && (c.format == nil || c.format.arrays) {
		return c.array(doc)
	}
	if c.format == nil && !c.recognise(doc) {
		return nil
	}
	err := c.parse(doc)
	switch {
	case err == nil:
		c.ended = true
		c.accept()
		return nil
	case !errors.Is(err, scan.ErrEnd) || c.complete:
		return ErrUnparsable
	}
	c.cut = true
	// Cut short, but not damaged: the members before the last comma are whole.
	if comma := c.scanner.Comma(); comma > 0 && c.parse(append(doc[:comma:comma], '}')) == nil {
		c.accept()
	}
	return nil
}

// array takes in a stream that comes as one JSON array of messages.
func (c *collector) array(doc []byte) error {
	c.streamed = true
	var list scan.Scanner[[]byte]
	list.Open(doc)
	for {
		element, err := list.Next(nil, nil)
		switch {
		case errors.Is(err, scan.ErrEnd):
			c.cut = true
			return nil
		case err != nil:
			return ErrUnparsable
		case element == nil:
			c.ended = true
			return nil
		}
		if c.format != nil || c.recognise(element) {
			c.message(element)
		}
	}
}

// message takes in one JSON text and reports whether it is one.
func (c *collector) message(data []byte) bool {
	if c.parse(data) != nil {
		return false
	}
	c.accept()
	return true
}

func (c *collector) parse(data []byte) error {
	clear(c.values[:])
	return c.scanner.Scan(data, c.format.shape, c.values[:])
}

// accept takes over what has been scanned.
func (c *collector) accept() {
	c.format.read(c)
	if c.llm.Model == "" {
		c.llm.Model = text(c.values[slotModel])
	}
	if c.llm.ResponseID == "" {
		c.llm.ResponseID = text(c.values[slotID])
	}
	if reason := text(c.values[slotFinish]); reason != "" {
		c.llm.FinishReason = reason
	}
}

// finish looks for the finish reason alone in an event that was passed over.
func (c *collector) finish(data []byte) {
	if len(data) > 0 && c.parse(data) == nil {
		c.llm.FinishReason = text(c.values[slotFinish])
	}
}

// counts reads the numbers below a root of the format. ok is false when one of them is no count.
func (c *collector) counts(root int) (u meter.Usage, ok bool) {
	slot := numTextSlots + root*len(c.format.counts)
	for i, rule := range c.format.counts {
		raw := c.values[slot+i]
		if raw == nil {
			continue
		}
		if _, declared := u.Get(rule.quantity); declared {
			continue
		}
		n, ok := count(raw)
		if !ok {
			return u, false
		}
		u.Set(rule.quantity, n)
	}
	return u, true
}

// replace makes u what the provider declares: the rule for numbers that are cumulative and repeated in full. A usage
// without numbers (Vertex AI sends one that tells the kind of traffic) says nothing and replaces nothing.
func (c *collector) replace(u *meter.Usage, ok bool) {
	if ok && u.Empty() {
		return
	}
	c.declared, c.bad, c.settled, c.damaged, c.lost = *u, !ok, true, false, false
}

// result returns the call and its outcome. err is what went wrong with the body.
func (c *collector) result(err error) (meter.LLM, error) {
	if c.kind != unknown || c.sse {
		c.llm.Stream = &c.streamed
	}
	if c.format != nil && c.llm.Provider == "" && !c.named {
		c.llm.Provider = c.nativeProvider()
	}
	if err == nil {
		err = c.outcome()
	}
	if err != nil {
		return c.llm, err
	}
	u := c.declared
	if c.format.settle != nil {
		c.format.settle(&u)
	}
	complement(&u)
	c.llm.Usage = u
	c.llm.UsageSource = meter.SourceBody
	if c.streamed {
		c.llm.UsageSource = meter.SourceStream
	}
	c.llm.UsageStatus = meter.UsagePartial
	if c.settled && !c.damaged && (c.ended || c.complete && !c.cut) {
		c.llm.UsageStatus = meter.UsageFinal
	}
	return c.llm, nil
}

func (c *collector) outcome() error {
	switch {
	case c.bad:
		return ErrUnparsable
	case !c.declared.Empty():
		return nil
	case c.lost:
		return ErrTooLarge
	case c.damaged:
		return ErrUnparsable
	case !c.ended && (c.cut || !c.complete):
		return ErrTruncated
	default:
		return ErrNoUsage
	}
}

// nativeProvider names the provider of a host that nobody knows, where a gateway in front of it is far likelier than
// another server: the format is the provider's own, and the model is one of theirs.
func (c *collector) nativeProvider() string {
	for _, model := range [...]string{c.llm.Model, c.llm.RequestModel} {
		if model != "" {
			if f := c.format; f.native != "" && strings.HasPrefix(strings.TrimPrefix(model, "models/"), f.models) {
				return f.native
			}
			break
		}
	}
	return ""
}

// complement adds the total that a provider leaves out: what it declares of input and output.
func complement(u *meter.Usage) {
	if _, ok := u.Get(meter.TotalTokens); ok {
		return
	}
	input, hasInput := u.Get(meter.InputTokens)
	output, hasOutput := u.Get(meter.OutputTokens)
	if hasInput || hasOutput {
		u.Set(meter.TotalTokens, input+output)
	}
}

// include adds part to whole, of which some formats leave it out. A part without a whole is all there is of it.
func include(u *meter.Usage, whole, part meter.Quantity) {
	if n, ok := u.Get(part); ok {
		sum, _ := u.Get(whole)
		u.Set(whole, sum+n)
	}
}
