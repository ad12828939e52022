package extract

import (
	"bytes"
	"strings"

	"kafka-metering/meter"
	"kafka-metering/meter/scan"
)

// converse is Bedrock's Converse and ConverseStream, and the messages of Amazon's Nova models behind InvokeModel.
//
//   - https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html: inputTokens leaves out what was
//     read from and written to the cache (https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html).
//   - https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStreamMetadataEvent.html: the last
//     message of a stream.
//   - https://docs.aws.amazon.com/nova/latest/userguide/complete-request-schema.html: metadata.usage in a stream.
//
// The model is named by the request's path alone.
var converse = format{
	api:       "converse",
	operation: "chat",
	markers:   []string{`"usage"`},
	shapes: []shape{
		{[]sign{{"usage.inputTokens", ""}, {"usage.totalTokens", ""}}, ""},
		{[]sign{{"messageStart.role", `"`}}, ""},
	},
	texts: []textRule{
		{"stopReason", slotFinish},
		{"messageStop.stopReason", slotFinish},
	},
	roots: []string{"usage", "metadata.usage"},
	counts: []countRule{
		{"inputTokens", meter.InputTokens},
		{"outputTokens", meter.OutputTokens},
		{"totalTokens", meter.TotalTokens},
		{"cacheReadInputTokens", meter.CacheReadInputTokens},
		{"cacheReadInputTokenCount", meter.CacheReadInputTokens},
		{"cacheWriteInputTokens", meter.CacheWriteInputTokens},
		{"cacheWriteInputTokenCount", meter.CacheWriteInputTokens},
	},
	// https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_CacheDetail.html
	lists: []listRule{{path: "cacheDetails", name: "ttl", named: cacheTTL, counts: []countRule{{path: "inputTokens"}}}},
	delivers: delivery{paths: []string{
		"delta.text", "delta.reasoningContent.text", "delta.toolUse.input", "contentBlockDelta.delta.text",
	}},
	lateEnd: true,
	read:    readConverse,
	settle:  settleConverse,
}.compile()

// readConverse knows a stream's last event by the usage, which no other has.
func readConverse(c *Reader) {
	c.readRoots()
	c.ended = c.streamed && !c.declared.Empty()
}

// cacheTTL says which cache was written to.
func cacheTTL(name []byte) (meter.Quantity, bool) {
	switch {
	case is(name, "5m"):
		return meter.CacheWrite5mInputTokens, true
	case is(name, "1h"):
		return meter.CacheWrite1hInputTokens, true
	default:
		return 0, false
	}
}

// settleConverse includes the cached tokens in the input, unless the total shows that they are in it already: it is the
// sum of all four. More than the input cannot be in it.
func settleConverse(u *meter.Usage, _ string) {
	total, hasTotal := u.Get(meter.TotalTokens)
	input, _ := u.Get(meter.InputTokens)
	output, _ := u.Get(meter.OutputTokens)
	read, _ := u.Get(meter.CacheReadInputTokens)
	written, _ := u.Get(meter.CacheWriteInputTokens)
	if hasTotal && total == input+output && read+written <= input {
		return
	}
	settleBedrock(u)
}

// settleBedrock includes the cached tokens in the input, which Bedrock counts beside it.
func settleBedrock(u *meter.Usage) {
	include(u, meter.InputTokens, meter.CacheReadInputTokens)
	include(u, meter.InputTokens, meter.CacheWriteInputTokens)
}

// isConverseEvent reports whether a message of an event stream is ConverseStream's.
func isConverseEvent(name []byte) bool {
	switch string(name) {
	case "messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata":
		return true
	}
	return false
}

// bedrockAgent is an agent of Bedrock's, whose stream tells of each call of a model that it makes where the request asks for
// traces (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_agent-runtime_InvokeAgent.html,
// API_agent-runtime_ModelInvocationInput.html and API_agent-runtime_Usage.html). They add up.
var bedrockAgent = format{
	api:       "invoke_agent",
	operation: "invoke_agent",
	markers:   []string{`"usage"`},
	texts: []textRule{
		{"trace.orchestrationTrace.modelInvocationInput.foundationModel", slotModel},
		{"trace.preProcessingTrace.modelInvocationInput.foundationModel", slotModel},
		{"trace.routingClassifierTrace.modelInvocationInput.foundationModel", slotModel},
	},
	roots: []string{
		"trace.orchestrationTrace.modelInvocationOutput.metadata.usage",
		"trace.preProcessingTrace.modelInvocationOutput.metadata.usage",
		"trace.postProcessingTrace.modelInvocationOutput.metadata.usage",
		"trace.routingClassifierTrace.modelInvocationOutput.metadata.usage",
	},
	counts: []countRule{
		{"inputTokens", meter.InputTokens},
		{"outputTokens", meter.OutputTokens},
	},
	merging: sums,
	read:    readAgent,
}.compile()

func readAgent(c *Reader) {
	for root := range c.format.roots {
		if u, ok := c.usage(root); !u.Empty() || !ok {
			c.merge(u, ok)
		}
	}
	if bytes.HasPrefix(c.texts[slotModel], []byte(`"arn:`)) {
		c.texts[slotModel] = nil // of an inference profile: it has an account's number
	}
}

// isAgent reports whether a call is one of an agent of Bedrock's: of one that is stored, or of one that the request describes.
func isAgent(r *Response, path string) bool {
	return strings.Contains(path, "/agentAliases/") && strings.HasSuffix(path, "/text") ||
		strings.HasPrefix(r.Host, "bedrock-agent-runtime") && strings.Contains(path, "/agents/")
}

// titan is Amazon's Titan models behind InvokeModel
// (https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-text.html, and
// model-parameters-titan-embed-text.html). A stream's first chunk declares the input, its last the output.
var titan = format{
	api:       "invoke_titan",
	operation: "text_completion",
	markers:   []string{`"inputTextTokenCount"`, `"totalOutputTextTokenCount"`},
	shapes: []shape{
		{[]sign{{"inputTextTokenCount", ""}, {"embedding", "["}}, "embeddings"},
		{[]sign{{"inputTextTokenCount", ""}, {"embeddingsByType", "{"}}, "embeddings"},
		{[]sign{{"inputTextTokenCount", ""}}, ""},
		{[]sign{{"outputText", `"`}, {"index", ""}}, ""},
	},
	texts: []textRule{
		{"results[].completionReason", slotFinish},
		{"completionReason", slotFinish},
	},
	roots: []string{""},
	counts: []countRule{
		{"inputTextTokenCount", meter.InputTokens},
		{"totalOutputTextTokenCount", meter.OutputTokens},
	},
	lists:   []listRule{{path: "results", counts: []countRule{{"tokenCount", meter.OutputTokens}}}},
	merging: overlays,
	bedrock: bedrockStream,
}.compile()

// llama is Meta's Llama models behind InvokeModel
// (https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-meta.html). In a stream generation_token_count
// counts up, and prompt_token_count is null in all chunks but the first.
var llama = format{
	api:       "invoke_llama",
	operation: "text_completion",
	markers:   []string{`"generation_token_count"`},
	shapes:    []shape{{[]sign{{"generation_token_count", ""}, {"generation", `"`}}, ""}},
	texts:     []textRule{{"stop_reason", slotFinish}},
	roots:     []string{""},
	counts: []countRule{
		{"prompt_token_count", meter.InputTokens},
		{"generation_token_count", meter.OutputTokens},
	},
	merging: overlays,
	bedrock: bedrockStream,
}.compile()

// invocationMetrics is what Bedrock adds to the last chunk of InvokeModelWithResponseStream, whatever the model
// (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModelWithResponseStream.html). It can differ
// from the model's own numbers. Where those are what another API documents as its bill, they go over it; Titan and Llama
// are billed by Bedrock alone.
const invocationMetrics = "amazon-bedrock-invocationMetrics"

var invocationCounts = []countRule{
	{invocationMetrics + ".inputTokenCount", meter.InputTokens},
	{invocationMetrics + ".outputTokenCount", meter.OutputTokens},
	{invocationMetrics + ".cacheReadInputTokenCount", meter.CacheReadInputTokens},
	{invocationMetrics + ".cacheWriteInputTokenCount", meter.CacheWriteInputTokens},
}

var invocationShape = func() *scan.Shape {
	s := new(scan.Shape)
	for i, rule := range invocationCounts {
		s.Add(rule.path, i)
	}
	return s
}()

// readInvocationMetrics takes them from a chunk that has them.
func (c *Reader) readInvocationMetrics(data []byte) {
	if !bytes.Contains(data, []byte(`"`+invocationMetrics+`"`)) {
		return
	}
	found := c.found[:len(invocationCounts)]
	clear(found)
	if c.scanner.Scan(data, invocationShape, found) != nil {
		c.damaged = true
		return
	}
	var u meter.Usage
	for i, rule := range invocationCounts {
		if found[i] == nil {
			continue
		}
		n, ok := count(found[i])
		if !ok {
			c.explainBad(noRoot, rule.path, found[i])
			return
		}
		u.Set(rule.quantity, n)
		c.explainCount(noRoot, rule.path, rule.quantity, n)
	}
	settleBedrock(&u)
	c.spare = u
}
