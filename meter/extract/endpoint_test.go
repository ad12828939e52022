package extract

import (
	"errors"
	"strings"
	"testing"

	"kafka-metering/meter"
)

func TestPathsTellWhatACallIs(t *testing.T) {
	const openAI, unknown = "api.openai.com", "gateway.internal"
	for _, c := range []struct {
		method, host, path string
		want               string // api and operation when the path alone is enough; "shape" when the body must tell; "none"
	}{
		{"POST", openAI, "/v1/chat/completions", "openai chat"},
		{"POST", unknown, "/any/prefix/chat/completions?x=1", "openai chat"},
		{"POST", unknown, "/v1/chat/completions/", "openai chat"},
		{"POST", openAI, "/v1/completions", "openai text_completion"},
		{"POST", unknown, "/v1/completions", "shape"},
		{"POST", openAI, "/v1/responses", "responses "},
		{"POST", openAI, "/v1/responses/compact", "responses "},
		{"POST", openAI, "/v1/responses/input_tokens", "none"},
		{"POST", unknown, "/surveys/1/responses", "shape"},
		{"GET", openAI, "/v1/responses/resp_1", "none"},
		{"DELETE", openAI, "/v1/responses/resp_1", "none"},
		{"POST", openAI, "/v1/chat/completions/chatcmpl-1", "none"},
		{"GET", openAI, "/v1/models", "none"},
		{"GET", openAI, "/v1/chat/completions", "none"},
		{"POST", openAI, "/v1/files", "none"},
		{"POST", openAI, "/v1/batches", "none"},
		{"POST", openAI, "/v1/audio/transcriptions", "openai transcription"},
		{"POST", openAI, "/v1/threads/t/runs", "openai chat"},
		{"POST", "r.openai.azure.com", "/openai/deployments/d/embeddings?api-version=1", "shape embeddings"},
		{"POST", "api.anthropic.com", "/v1/messages?beta=true", "messages "},
		{"POST", unknown, "/v1/messages", "shape"},
		{"POST", "api.anthropic.com", "/v1/messages/count_tokens", "none"},
		{"POST", "api.anthropic.com", "/v1/messages/batches", "none"},
		{"POST", unknown, "/v1beta/models/gemini-2.5-pro:generateContent", "generate_content "},
		{"POST", unknown, "/v1beta/models/gemini-2.5-pro:countTokens", "none"},
		{"POST", unknown, "/v1/projects/p/locations/l/publishers/anthropic/models/count-tokens:rawPredict", "none"},
		{"POST", unknown, "/model/amazon.nova-lite-v1%3A0/converse", "converse "},
		{"POST", unknown, "/model/amazon.nova-lite-v1%3A0/converse-stream", "converse "},
		{"POST", unknown, "/model/x/invoke", "shape "},
		{"POST", unknown, "/model/cohere.embed-english-v3/invoke", "shape embeddings"},
		{"POST", unknown, "/model/cohere.rerank-v3-5%3A0/invoke", "shape rerank"},
		{"POST", unknown, "/agents/a/agentAliases/b/sessions/c/text", "invoke_agent "},
		{"POST", "bedrock-agent-runtime.us-east-1.amazonaws.com", "/agents/c", "invoke_agent "},
		{"POST", "bedrock-agent-runtime.us-east-1.amazonaws.com", "/knowledgebases/k/retrieve", "shape"},
		{"POST", unknown, "/agents/c", "shape"},
		{"POST", unknown, "/lambda/invoke", "shape"},
		{"POST", unknown, "/model/x/count-tokens", "none"},
		{"POST", unknown, "/orders", "shape"},
		{"PUT", unknown, "/orders", "none"},
		{"POST", "api.mistral.ai", "/v1/agents/completions", "openai chat"},
		{"POST", "api.mistral.ai", "/v1/fim/completions", "openai text_completion"},
		{"POST", openAI, "/v1/threads/t/runs/r/submit_tool_outputs", "shape"},
		{"POST", openAI, "/v1/threads/t/runs/r", "none"},
	} {
		request, ok := classify(&Response{Method: c.method, Host: c.host, Path: c.path, Status: 200})
		got := "none"
		switch {
		case !ok || request.counts || request.stored:
		case request.format != nil:
			got = request.format.api + " " + request.operation
		case request.sure:
			got = "shape " + request.operation
		default:
			got = "shape"
		}
		if got != c.want {
			t.Errorf("%s %s%s: got %q, want %q", c.method, c.host, c.path, got, c.want)
		}
	}
}

func TestAnErrorDeclaresNothingWhateverItsBodySays(t *testing.T) {
	for _, status := range []int{100, 302, 400, 401, 404, 429, 500, 529} {
		r := chatCall(string(chatJSON()))
		r.Status = status
		r.Header = func(string) string { return "9" }
		if llm, err := Extract(r); !errors.Is(err, ErrNoUsage) || !llm.Usage.Empty() || llm.Provider != "openai" {
			t.Errorf("%d: got %v, %+v", status, err, llm)
		}
		r.Host, r.Path = "gateway.internal", "/orders"
		if _, err := Extract(r); !errors.Is(err, ErrNotLLM) {
			t.Errorf("%d of an unknown API: got %v", status, err)
		}
	}
}

// A front that cannot see a body may still see headers.
func TestHeadersDeclareTheUsageOfABodyThatWasNotSeen(t *testing.T) {
	headers := map[string]string{
		"x-amzn-bedrock-input-token-count": "12", "x-amzn-bedrock-output-token-count": "30",
		"x-amzn-bedrock-cache-read-input-token-count": "100", "x-amzn-bedrock-cache-write-input-token-count": "-5",
	}
	r := &Response{
		Method: "POST", Host: "bedrock-runtime.us-east-1.amazonaws.com", Path: "/model/mistral.mistral-7b-instruct-v0%3A2/invoke",
		Status: 200, Header: func(name string) string { return headers[name] },
	}
	llm, err := Extract(r)
	if err != nil || llm.UsageSource != meter.SourceHeader || llm.UsageStatus != meter.UsageFinal || llm.Stream != nil {
		t.Fatalf("got %+v, %v", llm, err)
	}
	if in, out := tokens(&llm, meter.InputTokens), tokens(&llm, meter.OutputTokens); in != 112 || out != 30 {
		t.Errorf("got %d and %d, want the cached tokens in the input", in, out)
	}
	r.Header = func(string) string { return "" }
	if _, err := Extract(r); !errors.Is(err, ErrNoBody) {
		t.Errorf("without headers: got %v", err)
	}
}

func TestHeadersOfAnUnknownServerTellOnAnLLMPathAlone(t *testing.T) {
	for _, seen := range []bool{false, true} {
		r := &Response{
			Method: "POST", Host: "models.internal", Path: "/embed", Status: 200, Seen: seen, Complete: true,
			ContentType: "application/json",
			Header: func(name string) string {
				return map[string]string{"x-compute-tokens": "12"}[name]
			},
		}
		if seen {
			r.Body = []byte(`[[0.1,0.2]]`)
		}
		if llm, err := Extract(r); err != nil || tokens(&llm, meter.InputTokens) != 12 || llm.UsageStatus != meter.UsageFinal {
			t.Errorf("body seen %v: got %v, %v", seen, reportOf(llm, nil), err)
		}
		r.Path = "/orders"
		if llm, err := Extract(r); !errors.Is(err, ErrNotLLM) || !llm.Usage.Empty() {
			t.Errorf("body seen %v, on another path: got %v, %v", seen, reportOf(llm, nil), err)
		}
	}
}

func TestHeadersThatStandForTheBodyDoNotFillItsGaps(t *testing.T) {
	r := &Response{
		Method: "POST", Path: "/model/m/converse", Seen: true, Complete: true,
		Body: []byte(`{"usage":{"inputTokens":5,"outputTokens":1,"totalTokens":6}}`),
		Header: func(name string) string {
			return map[string]string{"x-amzn-bedrock-cache-read-input-token-count": "9"}[name]
		},
	}
	if llm, err := Extract(r); err != nil || tokens(&llm, meter.CacheReadInputTokens) != -1 || tokens(&llm, meter.InputTokens) != 5 {
		t.Errorf("got %v, %v", reportOf(llm, nil).Usage, err)
	}
}

func TestACountIsNoUsage(t *testing.T) {
	for path, body := range map[string]string{
		"/v1/messages/count_tokens":         `{"input_tokens":14}`,
		"/v1/responses/input_tokens":        `{"object":"response.input_tokens","input_tokens":14}`,
		"/model/m/count-tokens":             `{"inputTokens":14}`,
		"/v1beta/models/gemini:countTokens": `{"totalTokens":14,"promptTokensDetails":[{"modality":"TEXT","tokenCount":14}]}`,
	} {
		r := &Response{Method: "POST", Path: path, Status: 200, Body: []byte(body), Seen: true, Complete: true}
		if llm, err := Extract(r); !errors.Is(err, ErrNotLLM) || !llm.Usage.Empty() {
			t.Errorf("%s: got %+v, %v", path, llm, err)
		}
		c := NewReader(r)
		if _, err := c.Write(r.Body); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Close(true); !errors.Is(err, ErrNotLLM) {
			t.Errorf("%s: got %v", path, err)
		}
		if n, ok := c.Counted(); n != 14 || !ok {
			t.Errorf("%s: counted %d, %v", path, n, ok)
		}
	}
}

func TestEveryFormatHasAGoldenCaseOfItsOwn(t *testing.T) {
	read := map[*format]bool{tokenCount: true}
	for _, g := range goldens(t) {
		c := NewReader(g.response)
		if _, err := c.Write(g.response.Body); err != nil {
			continue
		}
		if llm, err := c.Close(g.response.Complete); err == nil && !llm.Usage.Empty() {
			read[c.format] = true
		}
	}
	for _, f := range formats {
		if !read[f] && f != anthropicComplete {
			t.Errorf("no golden case is read by %s", f.api)
		}
	}
}

// Every rule is read at the place that it names: a usage with that number alone declares it, and explains where.
func TestEveryRuleReadsItsPath(t *testing.T) {
	for _, f := range formats {
		for _, rule := range f.counts {
			c := &Reader{format: f}
			var found Finding
			c.response.Explain = func(finding Finding) { found = finding }
			c.texts[numTextSlots] = []byte(nested(rule.path))
			u, ok := c.usage(0)
			if n, declared := u.Get(rule.quantity); !ok || !declared || n != 7 || !strings.HasSuffix(found.At, rule.path) {
				t.Errorf("%s, %s: got %d, %v, %v, %+v", f.api, rule.path, n, declared, ok, found)
			}
		}
		for _, rule := range f.amounts {
			c := &Reader{format: f}
			c.texts[numTextSlots] = []byte(nested(rule.path))
			u, _ := c.usage(0)
			if x, declared := u.Amount(rule.amount); !declared || x != 7 {
				t.Errorf("%s, %s: got %v, %v", f.api, rule.path, x, declared)
			}
		}
	}
}

// nested returns an object that has 7 at a path.
func nested(path string) string {
	keys := strings.Split(path, ".")
	return `{"` + strings.Join(keys, `":{"`) + `":7` + strings.Repeat("}", len(keys))
}
