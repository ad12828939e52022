package extract

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/tiktoken-go/tokenizer"

	"kafka-metering/meter"
	"kafka-metering/meter/scan"
)

const (
	// maxEstimated bounds the text that is counted, in bytes: a longer one is not estimated.
	maxEstimated = 4 << 20
	// estimatePiece is the text that is counted at once, in bytes.
	estimatePiece = 8 << 10
)

// delivery says where the events of a stream hold the text that they deliver: what a model wrote, its reasoning and the
// arguments of its tool calls.
type delivery struct {
	list  string   // paths are below each of its elements; "" is below the message
	paths []string // of strings
	types []string // what the message's type starts with, if not every message delivers

	message, each *scan.Shape
}

const (
	deliveryType = iota
	deliveryList
	maxDelivered = 16
)

func (d *delivery) compile() {
	if len(d.paths) == 0 {
		return
	}
	d.message, d.each = new(scan.Shape), new(scan.Shape)
	shape := d.message
	d.message.Add("type", deliveryType)
	if d.list != "" {
		d.message.Add(d.list, deliveryList)
		shape = d.each
	}
	for i, path := range d.paths {
		shape.Add(path, deliveryList+1+i)
	}
}

// estimate counts the text that a stream delivers, in pieces, so that its memory does not grow with the stream.
type estimate struct {
	text    []byte // not counted yet
	total   int    // bytes
	tokens  int64
	codec   tokenizer.Codec
	invalid bool // no estimate is possible

	scanner, list scan.Scanner[[]byte]
	found         [deliveryList + 1 + maxDelivered][]byte
}

// take takes in the text of one message.
func (e *estimate) take(f *format, model string, data []byte) {
	d := &f.delivers
	if e.invalid || d.message == nil {
		e.invalid = true
		return
	}
	clear(e.found[:])
	if e.scanner.Scan(data, d.message, e.found[:]) != nil {
		return // [DONE], or damage
	}
	if len(d.types) > 0 && !hasPrefix(e.found[deliveryType], d.types) {
		return
	}
	if d.list == "" {
		e.addFound(model)
		return
	}
	list := e.found[deliveryList]
	if len(list) == 0 || list[0] != '[' {
		return
	}
	e.list.Open(list)
	for {
		clear(e.found[:])
		if element, err := e.list.Next(d.each, e.found[:]); element == nil || err != nil {
			return
		}
		e.addFound(model)
	}
}

func hasPrefix(raw []byte, prefixes []string) bool {
	for _, prefix := range prefixes {
		if len(raw) > 1 && bytes.HasPrefix(raw[1:], []byte(prefix)) {
			return true
		}
	}
	return false
}

func (e *estimate) addFound(model string) {
	for _, raw := range e.found[deliveryList+1:] {
		text := scan.Unquote(raw)
		if e.total += len(text); e.total > maxEstimated {
			e.invalid = true
			return
		}
		if e.text = append(e.text, text...); len(e.text) >= 2*estimatePiece {
			e.count(model, cut(e.text))
		}
	}
}

// cut returns where to cut a text so that no word, and no character, is cut.
func cut(text []byte) int {
	if i := bytes.LastIndexFunc(text[estimatePiece:], unicode.IsSpace); i >= 0 {
		return estimatePiece + i
	}
	n := len(text)
	for n > estimatePiece && !utf8.RuneStart(text[n-1]) {
		n--
	}
	return n - 1
}

// count counts the first n bytes of the text.
func (e *estimate) count(model string, n int) {
	if e.codec == nil {
		e.codec = codecOf(model)
	}
	tokens, err := e.codec.Count(strings.ToValidUTF8(string(e.text[:n]), "\ufffd"))
	if err != nil {
		e.invalid = true
		return
	}
	e.tokens += int64(tokens)
	e.text = append(e.text[:0], e.text[n:]...)
}

// codecs are the vocabularies, which are unpacked when they are needed first.
var codecs = map[tokenizer.Encoding]func() tokenizer.Codec{
	tokenizer.Cl100kBase: sync.OnceValue(func() tokenizer.Codec { return mustGet(tokenizer.Cl100kBase) }),
	tokenizer.O200kBase:  sync.OnceValue(func() tokenizer.Codec { return mustGet(tokenizer.O200kBase) }),
}

func mustGet(encoding tokenizer.Encoding) tokenizer.Codec {
	codec, err := tokenizer.Get(encoding)
	if err != nil {
		panic("bug: no vocabulary " + string(encoding) + ": " + err.Error())
	}
	return codec
}

// cl100kModels are what the names of models start with that have OpenAI's older vocabulary.
var cl100kModels = []string{"gpt-4-", "gpt-3.5", "gpt-35"}

// codecOf returns the vocabulary of a model, and the newest one for models whose vocabulary is not public: Claude's and
// Gemini's. It is an estimate in any case.
func codecOf(model string) tokenizer.Codec {
	_, name, found := strings.Cut(model, "/")
	if !found {
		name = model
	}
	for _, prefix := range cl100kModels {
		if name == "gpt-4" || strings.HasPrefix(name, prefix) {
			return codecs[tokenizer.Cl100kBase]()
		}
	}
	return codecs[tokenizer.O200kBase]()
}

// estimated returns a count of what a stream delivered that ended without usage; ok is false when there is none. It never
// stands in for a number that was declared. What the request took in is not known, and so no total.
func (c *Reader) estimated(err error) (_ meter.LLM, ok bool) {
	e := c.text
	if e == nil || c.failed || !c.streamed || !errors.Is(err, ErrNoUsage) && !errors.Is(err, ErrTruncated) {
		return c.llm, false
	}
	if len(e.text) > 0 && !e.invalid {
		e.count(c.model(), len(e.text))
	}
	if e.invalid || e.tokens == 0 {
		return c.llm, false
	}
	c.llm.Usage.Set(meter.OutputTokens, e.tokens)
	c.llm.UsageStatus, c.llm.UsageSource, c.llm.Tokenizer = meter.UsageEstimated, meter.SourceStream, e.codec.GetName()
	c.explain("estimate by "+c.llm.Tokenizer, "the delivered text", "")
	return c.llm, true
}

// model returns the model that answers, as far as it is known.
func (c *Reader) model() string {
	if c.llm.Model != "" {
		return c.llm.Model
	}
	return c.llm.RequestModel
}
