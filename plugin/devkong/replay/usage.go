package replay

import "strings"

// Usage are the tokens of an answer in the sense of OpenTelemetry's gen_ai.usage attributes, whatever the provider calls
// them and however it adds them up: input includes what was read from and written to a cache, output includes reasoning.
type Usage struct {
	Input, Output         int64
	CacheRead, CacheWrite int64 // parts of Input
	Reasoning             int64 // part of Output
}

// Total returns the sum of input and output.
func (u Usage) Total() int64 { return u.Input + u.Output }

// model is what is special about a model. A model that is not listed answers plainly, under the name asked for.
type model struct {
	snapshot string // the name in the answer, where it differs
	reads    bool   // some prompts are found in a cache
	writes   bool   // some prompts are written to a cache, and declared so
	reasons  bool
}

var models = map[string]model{
	"gpt-4o":            {snapshot: "gpt-4o-2024-08-06", reads: true},
	"gpt-4o-mini":       {snapshot: "gpt-4o-mini-2024-07-18"},
	"o4-mini":           {snapshot: "o4-mini-2025-04-16", reads: true, reasons: true},
	"claude-sonnet-4-5": {snapshot: "claude-sonnet-4-5-20250929", reads: true, writes: true},
	"claude-haiku-4-5":  {snapshot: "claude-haiku-4-5-20251001"},
	"gemini-2.5-flash":  {},
	"gemini-2.5-pro":    {reads: true, reasons: true},
}

// text is what all answers are cut from.
var text = strings.Fields("This answer is replayed. It says the same each time it is asked the same, and declares the " +
	"same tokens, so that whoever counts them can be checked.")

// draw makes up the name of the answering model, the tokens and the words of an answer. The numbers come from the length
// of the prompt and a hash of it; a cache has another half of the prompts.
func (c *call) draw() (name string, u Usage, words []string) {
	m, n := models[c.RequestModel], c.hash()
	number := func(shift, below uint64) int64 { return int64(n >> shift % below) }
	visible := 8 + number(0, 40)
	u = Usage{Input: 7 + int64(len(c.prompt))/4, Output: visible}
	if m.reads && number(8, 2) == 0 {
		u.CacheRead = 128 * (1 + number(12, 8))
	}
	if m.writes && number(9, 2) == 0 {
		u.CacheWrite = 64 * (1 + number(20, 8))
	}
	if m.reasons {
		u.Reasoning = 64 * (1 + number(28, 8))
	}
	u.Input += u.CacheRead + u.CacheWrite
	u.Output += u.Reasoning
	if name = m.snapshot; name == "" {
		name = c.RequestModel
	}
	return name, u, text[:min(int(visible)/2, len(text))]
}
