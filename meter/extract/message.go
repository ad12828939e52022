package extract

import (
	"bytes"
	"encoding/base64"
	"errors"

	"kafka-metering/meter"
	"kafka-metering/meter/scan"
)

// usageMarkers are the keys that usage mostly stands under, and those of streams whose last event alone shows their format.
var usageMarkers = []string{
	`"usage"`, `"usageMetadata"`, `"usage_metadata"`, `"billed_units"`, `"details"`, `"tokens_predicted"`, `"num_tokens_prompt_total"`,
}

// event takes in one event of a stream.
func (c *Reader) event(name, data []byte) {
	failed := string(name) == "error"
	if c.closing && !c.complete { // the rest of its last line may be missing
		c.lines(data[:max(0, bytes.LastIndexByte(data, '\n'))], false)
		c.seen++
		c.cut = true
		return
	}
	if bytes.IndexByte(data, '\n') >= 0 && c.scanner.Scan(data, nil, nil) != nil && c.lines(data, failed) {
		return
	}
	if failed && !c.ended {
		c.settled = false // as in message
	}
	c.message(data)
}

// lines takes in an event's data whose lines are messages of their own, from a server that leaves out the blank lines between
// events: each is a JSON object, or the end's [DONE]. It reports whether they were; otherwise nothing has happened. failed says
// that the last one is an error.
func (c *Reader) lines(data []byte, failed bool) bool {
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		if string(line) != "[DONE]" && (len(line) == 0 || line[0] != '{' || c.scanner.Scan(line, nil, nil) != nil) {
			return false
		}
	}
	for more := true; more; {
		var line []byte
		line, data, more = bytes.Cut(data, []byte("\n"))
		if failed && !more && !c.ended {
			c.settled = false // as in message
		}
		c.message(line)
	}
	return true
}

// value takes in one JSON value: a document, or one of many.
func (c *Reader) value(data []byte, element bool) {
	c.element = element
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

// document takes in a body that is one JSON document of a known format, as nearly every one is, without looking for its
// end before it is parsed. It reports whether it was one; otherwise nothing has happened.
func (c *Reader) document(p []byte) bool {
	if c.format == nil || c.text != nil || p[0] != '{' || len(p) > maxDocument || c.parse(bytes.TrimRight(p, " \t\r\n")) != nil {
		return false
	}
	c.seen = 1
	c.accept()
	return true
}

// frame takes in one message of an event stream (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
// and API_runtime_InvokeModelWithResponseStream.html).
func (c *Reader) frame(h eventHeaders, payload []byte) {
	switch {
	case string(h.messageType) != "event" && (len(h.messageType) > 0 || len(h.eventType) == 0): // gateways leave it out of events
		c.seen++ // an exception, which ends the stream
		c.cut = true
		return
	case string(h.eventType) == "chunk" && c.format == bedrockAgent:
		c.seen++ // what the agent says
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
	if bytes.IndexByte(encoded, '\\') >= 0 {
		encoded = []byte(scan.Unquote(found[0])) // base64 has slashes, which JSON may escape
	}
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
	if c.seen++; c.ended && !c.follow(data) {
		return
	}
	if c.format == nil && (c.seen > maxGuesses && !mentionsAny(data, usageMarkers) || !c.recognise(data)) {
		return
	}
	if c.text != nil {
		c.text.take(c.format, c.model(), data)
	}
	declares := mentionsAny(data, c.format.markers)
	if !declares && c.settled && c.streamed && c.format.merging != sums && c.breaks(data) {
		c.settled = false // what it has declared so far is not the last word
	}
	switch {
	case declares:
	case c.format.ends != nil && c.format.ends(c, data):
		if c.ended = true; c.streamed {
			return
		}
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

// follow reports whether an event behind the end of a stream begins another answer, with an id of its own, which is then the one at
// hand: gateways that call tools by themselves send all answers of such a conversation one behind the other. They add up.
func (c *Reader) follow(data []byte) bool {
	if !c.streamed || c.format == nil || c.format.begins == nil || !c.format.begins(c, data) {
		return false
	}
	id := text(c.texts[slotID])
	if id == "" || id == c.llm.ResponseID {
		return false
	}
	c.earlier, c.spoiled = c.total(), c.spoiled || c.bad
	if c.gap = c.gap || !c.settled || c.damaged; !c.declared.Empty() {
		c.answers++
	}
	c.declared, c.settled, c.damaged, c.lost, c.ended = meter.Usage{}, false, false, false, false
	c.llm.ResponseID, c.llm.FinishReason = id, ""
	return true
}

// errorShape is an event that tells of an error: most APIs have such a member at the top.
var errorShape = func() *scan.Shape {
	s := new(scan.Shape)
	s.Add("error", 0)
	s.Add("errors", 1) // of watsonx
	return s
}()

// breaks reports whether an event says that the stream breaks with an error.
func (c *Reader) breaks(data []byte) bool {
	if !mentions(data, `"error`) {
		return false
	}
	found := c.found[:2]
	clear(found)
	if c.scanner.Scan(data, errorShape, found) != nil {
		return true
	}
	for _, e := range found {
		if len(e) > 2 && e[0] != 't' && e[0] != 'f' && e[0] != 'n' {
			return true
		}
	}
	return false
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
	if c.values.tooLong {
		c.lose()
		return
	}
	if c.complete {
		if c.damaged = true; c.seen == 0 {
			c.err = ErrUnparsable
		}
		return
	}
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
	for i, rule := range c.format.texts {
		if raw := c.texts[numTextSlots+maxRoots+i]; len(raw) > 0 && len(c.texts[rule.slot]) == 0 {
			c.texts[rule.slot] = raw
		}
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
