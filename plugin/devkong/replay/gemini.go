package replay

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// gemini is the Gemini API: https://ai.google.dev/api/generate-content. Its promptTokenCount includes the cached tokens,
// its candidatesTokenCount leaves out the thoughts, and it omits what is zero.
type gemini struct{}

func (gemini) provider() string { return "google" }

func (gemini) read(c *call, r *http.Request, body []byte) error {
	var q struct {
		Contents json.RawMessage `json:"contents"`
	}
	name, verb, _ := strings.Cut(r.PathValue("call"), ":")
	c.RequestModel = name
	switch verb {
	case "generateContent":
	case "streamGenerateContent":
		c.Stream, c.array = true, r.URL.Query().Get("alt") != "sse"
	default:
		return fmt.Errorf("the replay has generateContent and streamGenerateContent, not %q", verb)
	}
	err := readJSON(body, &q)
	c.prompt = q.Contents
	return err
}

type usageMetadata struct {
	PromptTokenCount        int64           `json:"promptTokenCount,omitempty"`
	CachedContentTokenCount int64           `json:"cachedContentTokenCount,omitempty"`
	CandidatesTokenCount    int64           `json:"candidatesTokenCount,omitempty"`
	TotalTokenCount         int64           `json:"totalTokenCount,omitempty"`
	PromptTokensDetails     []modalityCount `json:"promptTokensDetails,omitempty"`
	ThoughtsTokenCount      int64           `json:"thoughtsTokenCount,omitempty"`
}

type modalityCount struct {
	Modality   string `json:"modality"`
	TokenCount int64  `json:"tokenCount"`
}

func (gemini) usage(u Usage) usageMetadata {
	return usageMetadata{
		PromptTokenCount: u.Input, CachedContentTokenCount: u.CacheRead, CandidatesTokenCount: u.Output - u.Reasoning,
		TotalTokenCount: u.Total(), PromptTokensDetails: []modalityCount{{"TEXT", u.Input}}, ThoughtsTokenCount: u.Reasoning,
	}
}

type generated struct {
	Candidates    []candidate   `json:"candidates"`
	UsageMetadata usageMetadata `json:"usageMetadata"`
	ModelVersion  string        `json:"modelVersion"`
	ResponseID    string        `json:"responseId"`
}

type candidate struct {
	Content      content `json:"content"`
	FinishReason string  `json:"finishReason,omitempty"`
	Index        int     `json:"index"`
}

type content struct {
	Parts []part `json:"parts"`
	Role  string `json:"role"`
}

type part struct {
	Text string `json:"text"`
}

func (a gemini) response(c *call, text, finish string, u Usage) generated {
	return generated{
		Candidates:    []candidate{{Content: content{Parts: []part{{text}}, Role: "model"}, FinishReason: finish}},
		UsageMetadata: a.usage(u), ModelVersion: c.Model, ResponseID: c.id,
	}
}

func (a gemini) whole(c *call) any {
	return a.response(c, strings.Join(c.words, " "), "STOP", c.tokens)
}

// events has usage in every piece, cumulative; the last one counts. Lines end in CRLF.
func (a gemini) events(c *call) []event {
	var list []event
	soFar := c.tokens
	for i, word := range c.words {
		last := i == len(c.words)-1
		finish := ""
		if soFar.Output = c.tokens.Reasoning + int64(i) + 1; last {
			finish, soFar.Output = "STOP", c.tokens.Output
		}
		piece := a.response(c, word+" ", finish, soFar)
		e := event{declares: last}
		switch {
		case !c.array:
			e.text = sse("", piece, "\r\n")
		case i == 0:
			e.text = append([]byte("["), encode(piece)...)
		default:
			e.text = append([]byte(",\r\n"), encode(piece)...)
		}
		if c.array && last {
			e.text = append(e.text, "]\n"...)
		}
		list = append(list, e)
	}
	return list
}

// fail follows https://cloud.google.com/apis/design/errors.
func (gemini) fail(status int, message string) any {
	name := "INVALID_ARGUMENT"
	switch {
	case status == http.StatusTooManyRequests:
		name = "RESOURCE_EXHAUSTED"
	case status == http.StatusServiceUnavailable:
		name = "UNAVAILABLE"
	case status >= http.StatusInternalServerError:
		name = "INTERNAL"
	}
	return map[string]any{"error": map[string]any{"code": status, "message": message, "status": name}}
}
