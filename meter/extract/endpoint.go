package extract

import (
	"slices"
	"strings"
)

// endpoint is a path that tells something of a call. A path that is none may still be one by its body's shape.
type endpoint struct {
	suffix    string
	format    *format // nil: the shape must tell
	operation string
	part      string // what the path has before the suffix
	hosts     bool   // other APIs have such paths: they tell only with a known or configured provider
}

// endpoints are in the order in which they are tried.
var endpoints = []endpoint{
	{suffix: "/chat/completions", format: openAIChat, operation: "chat"},
	{suffix: ":generateContent", format: geminiContent},
	{suffix: ":streamGenerateContent", format: geminiContent},
	{suffix: ":embedContent", format: geminiContent, operation: "embeddings"},
	{suffix: ":batchEmbedContents", format: geminiContent, operation: "embeddings"},
	{suffix: ":rawPredict"},
	{suffix: ":streamRawPredict"},
	{suffix: "BidiGenerateContent", format: geminiLive},
	{suffix: "/converse", format: converse, part: "/model/"},
	{suffix: "/converse-stream", format: converse, part: "/model/"},
	{suffix: "/invoke", part: "/model/"},
	{suffix: "/invoke-with-response-stream", part: "/model/"},
	{suffix: "/v1/messages", format: anthropicMessages, hosts: true},
	{suffix: "/v1/complete", format: anthropicComplete, hosts: true},
	{suffix: ":predict", hosts: true},
	{suffix: "/interactions", format: interactions, hosts: true},
	{suffix: "/agents/completions", format: openAIChat, operation: "chat", hosts: true},
	{suffix: "/completions", format: openAIChat, operation: "text_completion", hosts: true},
	{suffix: "/responses", format: openAIResponses, hosts: true},
	{suffix: "/responses/compact", format: openAIResponses, hosts: true},
	{suffix: "/realtime", format: realtime, hosts: true},
	{suffix: "/embeddings", operation: "embeddings", hosts: true},
	{suffix: "/multimodalembeddings", operation: "embeddings", hosts: true},
	{suffix: "/contextualizedembeddings", operation: "embeddings", hosts: true},
	{suffix: "/embeddings/multimodal", operation: "embeddings", hosts: true},
	{suffix: "/embed", operation: "embeddings", hosts: true},
	{suffix: "/rerank", operation: "rerank", hosts: true},
	{suffix: "/ranking", operation: "rerank", hosts: true},
	{suffix: "/reranking", operation: "rerank", hosts: true},
	{suffix: "/images/generations", format: openAIChat, operation: "image_generation", hosts: true},
	{suffix: "/images/edits", format: openAIChat, operation: "image_generation", hosts: true},
	{suffix: "/images/variations", format: openAIChat, operation: "image_generation", hosts: true},
	{suffix: "/api/v1/images", format: openAIChat, operation: "image_generation", hosts: true},
	{suffix: "/audio/transcriptions", format: openAIChat, operation: "transcription", hosts: true},
	{suffix: "/audio/translations", format: openAIChat, operation: "transcription", hosts: true},
	{suffix: "/audio/speech", format: openAIChat, operation: "speech", hosts: true},
	{suffix: "/moderations", format: openAIChat, operation: "moderation", hosts: true},
	{suffix: "/ocr", format: openAIChat, operation: "ocr", hosts: true},
	{suffix: "/threads/runs", format: openAIChat, operation: "chat", hosts: true},
	{suffix: "/runs", format: openAIChat, operation: "chat", part: "/threads/", hosts: true},
	{suffix: "/listen", format: deepgram, hosts: true},
	{suffix: "/predictions", format: replicate, hosts: true},
	{suffix: "/inference:complete", operation: "chat", hosts: true},
	{suffix: "/invocations", part: "/serving-endpoints/", hosts: true},
	{suffix: "/text/chat", format: openAIChat, operation: "chat", part: "/ml/", hosts: true},
	{suffix: "/text/chat_stream", format: openAIChat, operation: "chat", part: "/ml/", hosts: true},
	{suffix: "/chat", hosts: true},
	{suffix: "/generate", operation: "text_completion", hosts: true},
	{suffix: "/classify", hosts: true},
	{suffix: "/summarize", hosts: true},
	{suffix: "", part: "/ml/v1/text/", hosts: true},
	{suffix: "", part: "/ml/v1-beta/generation/", hosts: true},
	{suffix: "", part: "/services/aigc/", hosts: true},
	{suffix: "", part: "/services/embeddings/", operation: "embeddings", hosts: true},
	{suffix: "", part: "/services/rerank/", operation: "rerank", hosts: true},
	{suffix: "", part: "/ai/run/", hosts: true},
}

// elsewhere are the paths that look like calls, but where nothing is consumed: uploads, lists of what there is, the end of
// a call that was made before, and tokenizers (that of Z.ai and DashScope answers with a usage).
var elsewhere = []string{
	"/batches", "/files", "/uploads", "/cancel", "/tokenize", "/detokenize", "/tokenization", "/tokenizer", "/estimate-token-count",
}

// counting are the paths that count the tokens of a request that is not made.
var counting = struct{ suffixes, parts []string }{
	suffixes: []string{"/count_tokens", "/count-tokens", ":countTokens", ":computeTokens", "/input_tokens"},
	parts:    []string{"/models/count-tokens:"},
}

// readAgain are the paths of stored answers. What they consumed was declared before, or is declared each time that they
// are read.
var readAgain = []struct {
	before, after string // what the path has before and behind the id
	format        *format
}{
	{"/chat/completions/", "", openAIChat},
	{"/async/sonar/", "", openAIChat}, // Perplexity
	{"/chat/deferred-completion/", "", openAIChat},
	{"/responses/", "", openAIResponses},
	{"/interactions/", "", interactions},
	{"/runs/", "", openAIChat},
	{"/predictions/", "", replicate},
	{"/files/", "/content", nil},
	{"/batches/", "/results", nil},
}

// call is what the request alone says.
type call struct {
	sure      bool    // it is an LLM call whatever the body holds
	stored    bool    // its answer was made by another call
	counts    bool    // it counts tokens and consumes nothing
	format    *format // nil when only the body can tell
	operation string
	provider  string
	model     string
}

const statusSwitching = 101 // to WebSocket

// classify goes by method, path, host and configuration. ok is false when the exchange is certainly no LLM call.
func classify(r *Response) (_ call, ok bool) {
	path := pathOf(r)
	if isCounting(path) {
		return call{counts: true, format: tokenCount}, r.Method == "POST"
	}
	for _, suffix := range elsewhere {
		if strings.HasSuffix(path, suffix) {
			return call{}, false
		}
	}
	c := call{provider: providerOf(r, path), model: pathModel(path), sure: r.configured()}
	switch {
	case r.Method == "POST" && isAgent(r, path):
		c.sure, c.format = true, bedrockAgent
		return c, true
	case r.Method == "POST" || r.Method == "GET" && r.Status == statusSwitching:
		if i := slices.IndexFunc(endpoints, func(e endpoint) bool { return e.matches(path) }); i >= 0 {
			e := &endpoints[i]
			if c.operation = e.operation; e.format == nil && c.operation == "" {
				c.operation = modelOperation(c.model)
			}
			if !e.hosts || c.provider != "" {
				c.sure, c.format = true, e.format
			}
			return c, true
		}
	case r.Method != "GET":
		return call{}, false
	}
	stored, ok := storedFormat(path)
	if ok {
		c.stored, c.format, c.sure = true, stored, false
	}
	return c, ok || r.Method == "POST" || r.Status == statusSwitching
}

// modelOperation is what a model that a path names can do, where the path says no more: of Bedrock's InvokeModel and Vertex AI's
// predict. Some of those answers declare nothing that would tell it (https://docs.aws.amazon.com/bedrock/latest/userguide/models-supported.html).
func modelOperation(model string) string {
	switch {
	case strings.Contains(model, "embed"):
		return "embeddings"
	case strings.Contains(model, "rerank"):
		return "rerank"
	default:
		return ""
	}
}

func pathOf(r *Response) string {
	path, _, _ := strings.Cut(r.Path, "?")
	return strings.TrimSuffix(path, "/")
}

func (e *endpoint) matches(path string) bool {
	before, ok := strings.CutSuffix(path, e.suffix)
	return ok && strings.Contains(before+"/", e.part)
}

func isCounting(path string) bool {
	for _, suffix := range counting.suffixes {
		if strings.HasSuffix(path, suffix) {
			return true
		}
	}
	for _, part := range counting.parts {
		if strings.Contains(path, part) {
			return true
		}
	}
	return false
}

func storedFormat(path string) (*format, bool) {
	for _, s := range readAgain {
		if _, id, found := strings.Cut(path, s.before); found {
			if id, found = strings.CutSuffix(id, s.after); found && id != "" && !strings.Contains(id, "/") {
				return s.format, true
			}
		}
	}
	return nil, false
}
