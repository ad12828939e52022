package replay

import (
	"encoding/json"
	"net/http"
	"strings"
)

// anthropic is the Messages API: https://docs.anthropic.com/en/api/messages and /en/docs/build-with-claude/streaming. Its
// input_tokens leave out what was read from and written to a cache, and it declares no total.
type anthropic struct{}

func (anthropic) provider() string { return "anthropic" }

func (anthropic) read(c *call, _ *http.Request, body []byte) error {
	var q struct {
		Model    string          `json:"model"`
		System   json.RawMessage `json:"system"`
		Messages json.RawMessage `json:"messages"`
		Stream   bool            `json:"stream"`
	}
	err := readJSON(body, &q)
	c.RequestModel, c.prompt, c.Stream = q.Model, append(q.System, q.Messages...), q.Stream
	return err
}

type anthropicUsage struct {
	InputTokens              int64  `json:"input_tokens"`
	CacheCreationInputTokens int64  `json:"cache_creation_input_tokens"`
	CacheReadInputTokens     int64  `json:"cache_read_input_tokens"`
	OutputTokens             int64  `json:"output_tokens"`
	ServiceTier              string `json:"service_tier"`
}

func (anthropic) usage(u Usage) anthropicUsage {
	return anthropicUsage{
		InputTokens: u.Input - u.CacheRead - u.CacheWrite, CacheCreationInputTokens: u.CacheWrite,
		CacheReadInputTokens: u.CacheRead, OutputTokens: u.Output, ServiceTier: "standard",
	}
}

type anthropicMessage struct {
	ID           string         `json:"id"`
	Type         string         `json:"type"`
	Role         string         `json:"role"`
	Model        string         `json:"model"`
	Content      []textBlock    `json:"content"`
	StopReason   *string        `json:"stop_reason"`
	StopSequence *string        `json:"stop_sequence"`
	Usage        anthropicUsage `json:"usage"`
}

type textBlock struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

func (a anthropic) message(c *call) anthropicMessage {
	return anthropicMessage{
		ID: "msg_" + c.id, Type: "message", Role: "assistant", Model: c.Model, Content: []textBlock{}, Usage: a.usage(c.tokens),
	}
}

func (a anthropic) whole(c *call) any {
	m := a.message(c)
	m.Content, m.StopReason = []textBlock{{Type: "text", Text: strings.Join(c.words, " ")}}, new("end_turn")
	return m
}

// events declares the input in message_start, beside an output that is a placeholder, and the output in message_delta.
func (a anthropic) events(c *call) []event {
	var list []event
	add := func(name string, members map[string]any) {
		members["type"] = name
		list = append(list, event{text: sse(name, members, "\n"), declares: name == "message_delta"})
	}
	start := a.message(c)
	start.Usage.OutputTokens = 1
	add("message_start", map[string]any{"message": start})
	add("content_block_start", map[string]any{"index": 0, "content_block": textBlock{Type: "text"}})
	add("ping", map[string]any{})
	for _, word := range c.words {
		add("content_block_delta", map[string]any{"index": 0, "delta": textBlock{Type: "text_delta", Text: word + " "}})
	}
	add("ping", map[string]any{})
	add("content_block_stop", map[string]any{"index": 0})
	add("message_delta", map[string]any{
		"delta": map[string]any{"stop_reason": "end_turn", "stop_sequence": nil},
		"usage": map[string]any{"output_tokens": c.tokens.Output},
	})
	add("message_stop", map[string]any{})
	return list
}

// fail follows https://docs.anthropic.com/en/api/errors.
func (anthropic) fail(status int, message string) any {
	kind := "invalid_request_error"
	switch {
	case status == http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case status == 529:
		kind = "overloaded_error"
	case status >= http.StatusInternalServerError:
		kind = "api_error"
	}
	return map[string]any{"type": "error", "error": map[string]any{"type": kind, "message": message}}
}
