package replay

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// openAI is the Chat Completions API: https://platform.openai.com/docs/api-reference/chat. Its prompt_tokens include the
// cached ones and its completion_tokens the reasoning.
type openAI struct{}

func (openAI) provider() string { return "openai" }

func (openAI) read(c *call, _ *http.Request, body []byte) error {
	var q struct {
		Model         string          `json:"model"`
		Messages      json.RawMessage `json:"messages"`
		Stream        bool            `json:"stream"`
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	err := readJSON(body, &q)
	c.RequestModel, c.prompt, c.Stream, c.askedUsage = q.Model, q.Messages, q.Stream, q.StreamOptions.IncludeUsage
	return err
}

type openAIUsage struct {
	PromptTokens        int64 `json:"prompt_tokens"`
	CompletionTokens    int64 `json:"completion_tokens"`
	TotalTokens         int64 `json:"total_tokens"`
	PromptTokensDetails struct {
		CachedTokens int64 `json:"cached_tokens"`
		AudioTokens  int64 `json:"audio_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionTokensDetails struct {
		ReasoningTokens int64 `json:"reasoning_tokens"`
		AudioTokens     int64 `json:"audio_tokens"`
	} `json:"completion_tokens_details"`
}

func (openAI) usage(u Usage) json.RawMessage {
	var o openAIUsage
	o.PromptTokens, o.CompletionTokens, o.TotalTokens = u.Input, u.Output, u.Total()
	o.PromptTokensDetails.CachedTokens = u.CacheRead
	o.CompletionTokensDetails.ReasoningTokens = u.Reasoning
	return encode(o)
}

// completion is a chat.completion or, streamed, a chat.completion.chunk.
type completion struct {
	ID          string          `json:"id"`
	Object      string          `json:"object"`
	Created     int64           `json:"created"`
	Model       string          `json:"model"`
	Choices     []choice        `json:"choices"`
	Usage       json.RawMessage `json:"usage,omitempty"`
	ServiceTier string          `json:"service_tier"`
	Fingerprint string          `json:"system_fingerprint"`
}

type choice struct {
	Index        int             `json:"index"`
	Message      *openAIMessage  `json:"message,omitempty"`
	Delta        *openAIMessage  `json:"delta,omitempty"`
	Logprobs     json.RawMessage `json:"logprobs"`
	FinishReason *string         `json:"finish_reason"`
}

type openAIMessage struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

func (openAI) completion(c *call, object string, choices []choice) completion {
	return completion{
		ID: "chatcmpl-" + c.id, Object: object, Created: time.Now().Unix(), Model: c.Model, Choices: choices,
		ServiceTier: "default", Fingerprint: "fp_replay",
	}
}

func (a openAI) whole(c *call) any {
	answer := a.completion(c, "chat.completion", []choice{{
		Message:      &openAIMessage{Role: "assistant", Content: new(strings.Join(c.words, " "))},
		FinishReason: new("stop"),
	}})
	answer.Usage = a.usage(c.tokens)
	return answer
}

// events has usage only where stream_options.include_usage asks for it: in a last chunk without choices; the usage of
// the others is null then.
func (a openAI) events(c *call) []event {
	var list []event
	add := func(usage json.RawMessage, choices ...choice) {
		chunk := a.completion(c, "chat.completion.chunk", append([]choice{}, choices...)) // never null
		chunk.Usage = usage
		list = append(list, event{text: sse("", chunk, "\n"), declares: len(choices) == 0})
	}
	var none json.RawMessage
	if c.askedUsage {
		none = json.RawMessage("null")
	}
	add(none, choice{Delta: &openAIMessage{Role: "assistant", Content: new("")}})
	for _, word := range c.words {
		add(none, choice{Delta: &openAIMessage{Content: new(word + " ")}})
	}
	add(none, choice{Delta: &openAIMessage{}, FinishReason: new("stop")})
	if c.askedUsage {
		add(a.usage(c.tokens))
	}
	return append(list, event{text: []byte("data: [DONE]\n\n")})
}

// fail follows https://platform.openai.com/docs/guides/error-codes.
func (openAI) fail(status int, message string) any {
	kind, code := "invalid_request_error", any(nil)
	switch {
	case status == http.StatusTooManyRequests:
		kind, code = "requests", "rate_limit_exceeded"
	case status >= http.StatusInternalServerError:
		kind = "server_error"
	}
	return map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": code}}
}
