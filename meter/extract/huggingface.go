package extract

import "kafka-metering/meter"

// textGeneration is Hugging Face's Text Generation Inference
// (https://huggingface.co/docs/text-generation-inference/reference/api_reference): an object, an array of one, or a stream
// whose last event holds the details. The input is the number of prefill tokens, where the request asked for them, or
// stands in the header x-prompt-tokens.
var textGeneration = format{
	api:       "text_generation",
	operation: "text_completion",
	markers:   []string{`"details"`},
	shapes: []shape{
		{[]sign{{"generated_text", `"`}}, ""},
		{[]sign{{"token.id", ""}, {"token.text", `"`}, {"token.special", ""}}, ""},
	},
	texts: []textRule{
		{"details.finish_reason", slotFinish},
		{"details.prefill", slotFlag},
	},
	roots: []string{"details"},
	counts: []countRule{
		{"input_length", meter.InputTokens},
		{"generated_tokens", meter.OutputTokens},
	},
	arrays:  arrayOfOne,
	lateEnd: true,
	read:    readTextGeneration,
}.compile()

func readTextGeneration(c *Reader) {
	c.readRoots()
	list := c.texts[slotFlag]
	if _, declared := c.declared.Get(meter.InputTokens); declared || c.bad || len(list) == 0 || list[0] != '[' {
		return
	}
	c.list.Open(list)
	n := int64(0)
	for {
		if element, err := c.list.Next(nil, nil); element == nil || err != nil {
			break
		}
		n++
	}
	if n > 0 {
		c.declared.Set(meter.InputTokens, n)
		c.explainCount(noRoot, "details.prefill", meter.InputTokens, n)
	}
}
