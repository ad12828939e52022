package extract

import (
	"bytes"
	"encoding/base64"
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

// usageMarkers are the keys that usage mostly stands under.
var usageMarkers = []string{`"usage"`, `"usageMetadata"`, `"billed_units"`, `"details"`}

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

	streamed bool // the response is a stream
	complete bool // no byte is missing at the end, as far as the observer knows
	sse      bool // the content type says so

	bad     bool // declared stands for a usage that holds something else than counts
	settled bool // declared is the provider's last word
	damaged bool // since declared, a message that may declare usage could not be read
	lost    bool // the same, because it was too long
	ended   bool // the response says itself that it is whole
	cut     bool // it shows that it is not
	junk    bool // it holds text that is not its format's
	failed  bool // its status is an error's: it declares nothing

	decoder *decoder
	head    []byte // the first bytes, until there are enough to tell how the body is encoded
	sniffed bool
	began   bool
	framing framing
	events  sse
	values  values
	frames  eventStream
	seen    int  // messages
	closing bool // the message at hand has no end
	tail    [2][]byte
	tailLen int
	chunk   []byte // of a Bedrock stream, decoded

	scanner scan.Scanner[[]byte]
	list    scan.Scanner[[]byte]
	found   [8][]byte // in an element of a list
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
		c.values.Write(p)
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
			c.err = ErrUnparsable // a text that starts like a field
		}
	case framedValues:
		c.finishValues()
	case framedBinary:
		if c.frames.Close() {
			c.cut = true
		}
	case framedText:
		if m := mediaTypeOf(c.response.ContentType); m == "" || strings.Contains(m, "json") {
			c.err = ErrUnparsable
		}
	case unframed:
	}
	for i := 1; i <= len(c.tail) && c.llm.FinishReason == "" && c.format != nil; i++ {
		c.lookForEnd(c.tail[(c.tailLen+len(c.tail)-i)%len(c.tail)])
	}
	if !c.request.sure && c.format == nil && c.spare.Empty() {
		c.err = ErrNotLLM
	}
}

// event takes in one event of a stream.
func (c *Reader) event(_, data []byte) {
	if c.closing && !c.complete {
		c.seen++
		c.cut = true // the rest of it may be missing
		return
	}
	c.message(data)
}

// value takes in one JSON value: a document, or one of many.
func (c *Reader) value(data []byte, element bool) {
	switch {
	case data[0] != '{', element && c.format != nil && c.format.arrays == noArrays:
		c.seen++
		return
	case element:
		c.streamed = c.format != nil && c.format.arrays == arrayStream
	case c.seen == 1:
		c.streamed = true // a second document: these are lines
	}
	c.message(data)
	if element && c.format != nil {
		c.streamed = c.format.arrays == arrayStream
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

// frame takes in one message of an event stream (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
// and API_runtime_InvokeModelWithResponseStream.html).
func (c *Reader) frame(h eventHeaders, payload []byte) {
	switch {
	case string(h.messageType) != "event":
		c.seen++ // an exception, which ends the stream
		c.cut = true
		return
	case string(h.eventType) == "chunk":
		if payload = c.unwrap(payload); payload == nil {
			return
		}
	case c.format == nil && isConverseEvent(h.eventType):
		c.choose(converse, "")
	}
	c.message(payload)
}

// chunkShape is the payload of a chunk: the model's own message in base64.
var chunkShape = func() *scan.Shape {
	s := new(scan.Shape)
	s.Add("bytes", 0)
	return s
}()

// unwrap returns the message in a chunk; it is valid until the next one.
func (c *Reader) unwrap(payload []byte) []byte {
	found := c.found[:1]
	clear(found)
	if c.scanner.Scan(payload, chunkShape, found) != nil || len(found[0]) < 2 || found[0][0] != '"' {
		c.damaged = true
		return nil
	}
	encoded := found[0][1 : len(found[0])-1]
	if n := base64.StdEncoding.DecodedLen(len(encoded)); cap(c.chunk) < n {
		c.chunk = make([]byte, n)
	}
	n, err := base64.StdEncoding.Decode(c.chunk[:cap(c.chunk)], encoded)
	if err != nil {
		c.damaged = true
		return nil
	}
	c.readInvocationMetrics(c.chunk[:n])
	return c.chunk[:n]
}

// stray takes note of text that is not JSON.
func (c *Reader) stray() { c.junk = true }

// broken takes note of an event stream that cannot be read on.
func (c *Reader) broken() { c.damaged = true }

// lose takes note of a message that was too long.
func (c *Reader) lose() {
	c.seen++
	if !c.ended {
		c.damaged, c.lost = true, true
	}
}

// message takes in one message: a document, or an event of a stream.
func (c *Reader) message(data []byte) {
	if c.seen++; c.ended {
		return
	}
	if c.format == nil && (c.seen > maxGuesses && !mentionsAny(data, usageMarkers) || !c.recognise(data)) {
		return
	}
	if c.text != nil {
		c.text.take(c.format, c.model(), data)
	}
	declares := mentionsAny(data, c.format.markers)
	switch {
	case declares:
	case c.format.ends != nil && c.format.ends(c, data):
		c.ended = true
		return
	case c.streamed && (c.seen > maxIntroductions || c.llm.Model != "" && c.llm.ResponseID != ""):
		c.keep(data)
		return
	}
	switch {
	case c.parse(data) == nil:
		c.accept()
		if declares && c.format.ends != nil && c.format.ends(c, data) {
			c.ended = true
		}
	case !c.streamed:
		c.junk = true
	case declares:
		c.damaged = true
	}
}

// keep keeps an event that is passed over, in case it is the one with the finish reason.
func (c *Reader) keep(data []byte) {
	if c.format.lateEnd && len(data) <= maxTail && c.llm.FinishReason == "" {
		c.tail[c.tailLen%len(c.tail)] = append(c.tail[c.tailLen%len(c.tail)][:0], data...)
		c.tailLen++
	}
}

// lookForEnd looks for the finish reason alone in an event that was passed over.
func (c *Reader) lookForEnd(data []byte) {
	if len(data) > 0 && c.parse(data) == nil {
		c.llm.FinishReason = text(c.texts[slotFinish])
	}
}

// unended takes in a JSON text that has no end. A document that was cut short is not damaged: the members before its last
// comma are whole.
func (c *Reader) unended(data []byte) {
	if c.complete {
		if c.damaged = true; c.seen == 0 {
			c.err = ErrUnparsable
		}
		return
	}
	c.cut = true
	if c.values.array || c.seen > 0 || len(data) == 0 || data[0] != '{' {
		return
	}
	var s scan.Scanner[[]byte]
	if !errors.Is(s.Scan(data, nil, nil), scan.ErrEnd) || s.Comma() == 0 {
		return
	}
	whole := append(data[:s.Comma():s.Comma()], '}')
	if c.format != nil || c.recognise(whole) {
		if c.parse(whole) == nil {
			c.accept()
		}
	}
}

// mentionsAny reports whether data may declare what stands under one of the keys.
func mentionsAny(data []byte, keys []string) bool {
	for _, key := range keys {
		if mentions(data, key) {
			return true
		}
	}
	return len(keys) == 0
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

func (c *Reader) parse(data []byte) error {
	clear(c.texts[:])
	if err := c.scanner.Scan(data, c.format.message, c.texts[:]); err != nil {
		return err
	}
	for i, root := range c.format.roots {
		if root == "" {
			c.texts[numTextSlots+i] = data
		}
	}
	return nil
}

// accept takes over what has been parsed.
func (c *Reader) accept() {
	if c.format.read != nil {
		c.format.read(c)
	} else {
		c.readRoots()
	}
	if c.llm.Model == "" {
		c.llm.Model = text(c.texts[slotModel])
	}
	if c.llm.ResponseID == "" {
		c.llm.ResponseID = text(c.texts[slotID])
	}
	if reason := text(c.texts[slotFinish]); reason != "" {
		c.llm.FinishReason = reason
	}
}

// readRoots takes over the usage of the first root that declares something.
func (c *Reader) readRoots() {
	for root := range c.format.roots {
		u, ok := c.usage(root)
		if ok && u.Empty() {
			continue
		}
		c.merge(u, ok)
		return
	}
}

// merge takes over what one message declares.
func (c *Reader) merge(u *meter.Usage, ok bool) {
	switch c.format.merging {
	case replaces:
		c.replace(u, ok)
	case sums:
		c.add(u, ok)
	case overlays, peaks:
		if !ok {
			c.bad = true // for good: what it goes over or under is not known any more
			return
		}
		if c.format.merging == peaks {
			raise(u, &c.declared)
		}
		c.declared.Overlay(u)
		c.settled, c.damaged, c.lost = true, false, false
	}
}

// raise makes no count of u smaller than v's.
func raise(u, v *meter.Usage) {
	for _, q := range meter.Quantities() {
		if n, ok := u.Get(q); ok {
			before, _ := v.Get(q)
			u.Set(q, max(n, before))
		}
	}
}

// usage reads the numbers below a root of the format, valid until the next call. ok is false when one of them is no count.
func (c *Reader) usage(root int) (u *meter.Usage, ok bool) {
	u = &c.latest
	*u = meter.Usage{}
	raw := c.texts[numTextSlots+root]
	if len(raw) == 0 || raw[0] != '{' {
		return u, true
	}
	f := c.format
	clear(c.numbers[:])
	if c.scanner.Scan(raw, f.usage, c.numbers[:]) != nil {
		return u, false
	}
	slot := 0
	for _, rule := range f.counts {
		raw := c.numbers[slot]
		slot++
		if _, declared := u.Get(rule.quantity); declared || raw == nil {
			continue
		}
		n, ok := count(raw)
		if !ok {
			c.explainBad(root, rule.path, raw)
			return u, false
		}
		u.Set(rule.quantity, n)
		c.explainCount(root, rule.path, rule.quantity, n)
	}
	for _, rule := range f.amounts {
		if x, ok := amount(c.numbers[slot]); ok {
			if _, declared := u.Amount(rule.amount); !declared {
				u.SetAmount(rule.amount, x)
				c.explainAmount(root, rule.path, rule.amount, c.numbers[slot])
			}
		}
		slot++
	}
	for i := range f.lists {
		if !c.sumList(u, root, &f.lists[i], c.numbers[slot]) {
			return u, false
		}
		slot++
	}
	return u, true
}

// sumList adds up what the elements of a list declare, and reports whether all of it are counts. The list has been scanned
// before.
func (c *Reader) sumList(u *meter.Usage, root int, rule *listRule, list []byte) bool {
	if len(list) == 0 || list[0] != '[' {
		return true
	}
	sum := &c.sum
	*sum = meter.Usage{}
	found := &c.found
	c.list.Open(list)
	for {
		clear(found[:])
		if element, err := c.list.Next(rule.shape, found[:]); element == nil || err != nil {
			break
		}
		for i, r := range rule.counts {
			q := r.quantity
			if rule.named != nil {
				named, ok := rule.named(found[len(rule.counts)])
				if !ok {
					continue
				}
				q = named
			}
			if found[i] == nil {
				continue
			}
			n, ok := count(found[i])
			before, _ := sum.Get(q)
			if !ok || before+n > maxCount {
				c.explainBad(root, rule.path, found[i])
				return false
			}
			sum.Set(q, before+n)
		}
	}
	for _, q := range meter.Quantities() {
		n, declared := sum.Get(q)
		if _, already := u.Get(q); declared && !already {
			u.Set(q, n)
			c.explainCount(root, rule.path, q, n)
		}
	}
	return true
}

// replace makes u what the provider declares: the rule for numbers that are cumulative and repeated in full. A usage
// without numbers (Vertex AI sends one that tells the kind of traffic) says nothing and replaces nothing.
func (c *Reader) replace(u *meter.Usage, ok bool) {
	if ok && u.Empty() {
		return
	}
	c.declared, c.bad, c.settled, c.damaged, c.lost = *u, !ok, true, false, false
}

// maxAnswers bounds how many usages add up, so that no sum of counts overflows.
const maxAnswers = 1 << 20

// add adds u to what is declared: the rule for answers of their own in one response.
func (c *Reader) add(u *meter.Usage, ok bool) {
	answers, _ := c.declared.Get(meter.Answers)
	if !ok || answers >= maxAnswers {
		c.bad = true // for good: the sum lacks something
		return
	}
	if c.format.settle != nil {
		c.format.settle(u)
	}
	complement(u)
	u.Set(meter.Answers, 1)
	c.declared.Add(u)
	c.settled = true
}
