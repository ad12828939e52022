package extract

import "kafka-metering/meter"

// UsageHeaders are the response headers that can declare usage, in lower case.
var UsageHeaders = func() (names []string) {
	for _, h := range headerRules {
		names = append(names, h.name)
	}
	return names
}()

// headerRules says which quantity a header declares.
//
//   - Bedrock's InvokeModel (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html): the
//     input leaves out the cached tokens.
//   - Text Generation Inference (https://github.com/huggingface/text-generation-inference, router/src/server.rs).
//   - Text Embeddings Inference, whose answers are bare arrays
//     (https://github.com/huggingface/text-embeddings-inference, router/src/http/server.rs).
//   - Azure AI's Cohere models.
//   - Fireworks (https://docs.fireworks.ai/guides/prompt-caching): the cached part of prompt_tokens.
var headerRules = []struct {
	name     string
	quantity meter.Quantity
	use      headerUse
}{
	{"x-amzn-bedrock-input-token-count", meter.InputTokens, headerBedrock},
	{"x-amzn-bedrock-output-token-count", meter.OutputTokens, headerBedrock},
	{"x-amzn-bedrock-cache-read-input-token-count", meter.CacheReadInputTokens, headerBedrock},
	{"x-amzn-bedrock-cache-write-input-token-count", meter.CacheWriteInputTokens, headerBedrock},
	{"x-prompt-tokens", meter.InputTokens, headerFills},
	{"x-generated-tokens", meter.OutputTokens, headerFills},
	{"x-compute-tokens", meter.InputTokens, headerAlone},
	{"prompt-token-len", meter.InputTokens, headerAlone},
	{"sampling-token-len", meter.OutputTokens, headerAlone},
	{"fireworks-cached-prompt-tokens", meter.CacheReadInputTokens, headerOnlyFills},
}

// headerUse says when a header's number counts.
type headerUse uint8

const (
	headerAlone     headerUse = iota // when the body declares nothing
	headerBedrock                    // the same, and when Bedrock's numbers go over the model's
	headerFills                      // also when the body leaves out this number
	headerOnlyFills                  // only then: alone it says nothing
)

// readHeaders reads the headers that declare something.
func (c *Reader) readHeaders() {
	if c.response.Header == nil || !c.header.Empty() || c.llm.UsageStatus == "" {
		return
	}
	for _, rule := range headerRules {
		n, ok := c.headerCount(rule.name)
		if !ok || rule.use == headerOnlyFills {
			continue
		}
		c.header.Set(rule.quantity, n)
		c.headerBedrock = c.headerBedrock || rule.use == headerBedrock
		c.explainCount(noRoot, rule.name, rule.quantity, n)
	}
	settleBedrock(&c.header)
}

// headersTell reports whether the headers declare something of a call, which any server's may on the path of such an API.
func (c *Reader) headersTell() bool {
	return !c.header.Empty() && (c.request.sure || c.llm.Operation != "")
}

func (c *Reader) headerCount(name string) (int64, bool) {
	value := c.response.Header(name)
	if value == "" {
		return 0, false
	}
	return count([]byte(value))
}

// fillFromHeaders adds what the body leaves out.
func (c *Reader) fillFromHeaders() {
	if c.response.Header == nil {
		return
	}
	for _, rule := range headerRules {
		if _, declared := c.llm.Usage.Get(rule.quantity); declared || rule.use < headerFills {
			continue
		}
		if n, ok := c.headerCount(rule.name); ok {
			c.llm.Usage.Set(rule.quantity, n)
			c.explainCount(noRoot, rule.name, rule.quantity, n)
		}
	}
}

// bedrockGoesOver reports whether Bedrock's numbers, which are there, go over the model's.
func (c *Reader) bedrockGoesOver() bool {
	return c.format.bedrock != bedrockAlone && !c.spare.Empty() || c.format.bedrock == bedrockWins && c.headerBedrock
}

// takeSpare takes what stands beside the answer, for want of numbers in it.
func (c *Reader) takeSpare() {
	c.llm.Usage, c.llm.UsageSource, c.llm.UsageStatus = c.spare, meter.SourceStream, meter.UsageFinal
	if c.spare.Empty() {
		c.llm.Usage, c.llm.UsageSource = c.header, meter.SourceHeader
	}
}
