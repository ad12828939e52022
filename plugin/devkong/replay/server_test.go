package replay

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// upstream is a running Server.
type upstream struct {
	*Server
	t   *testing.T
	url string
}

func start(t *testing.T) *upstream {
	t.Helper()
	s := &Server{Delay: -1}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return &upstream{Server: s, t: t, url: server.URL}
}

// send sends a request with an id and further headers, given as name and value, and returns the response. A body is a
// POST. Nothing is decompressed.
func (u *upstream) send(id, path, body string, headers ...string) *http.Response {
	u.t.Helper()
	method, reader := http.MethodGet, io.Reader(nil)
	if body != "" {
		method, reader = http.MethodPost, strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(u.t.Context(), method, u.url+path, reader)
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set(RequestIDHeader, id)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func (u *upstream) read(resp *http.Response) string {
	u.t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	return string(body)
}

func (u *upstream) parse(text string, into any) {
	u.t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		u.t.Fatalf("%v in %q", err, text)
	}
}

// data returns the data of the events of a stream, and their names.
func data(stream, newline string) (data, names []string) {
	for block := range strings.SplitSeq(strings.TrimSuffix(stream, newline+newline), newline+newline) {
		name := ""
		for line := range strings.SplitSeq(block, newline) {
			if rest, ok := strings.CutPrefix(line, "event: "); ok {
				name = rest
			}
			if rest, ok := strings.CutPrefix(line, "data: "); ok {
				data, names = append(data, rest), append(names, name)
			}
		}
	}
	return data, names
}

// prompts are different enough that each feature of a model shows in one of them.
func prompts(yield func(i int, prompt string) bool) {
	for i := range 24 {
		if !yield(i, strings.Repeat("tell me more ", i+1)) {
			return
		}
	}
}

// rawOpenAI is what the documentation says about usage, read by hand.
type rawOpenAI struct {
	Model string
	Usage *struct {
		Prompt     int64 `json:"prompt_tokens"`
		Completion int64 `json:"completion_tokens"`
		Total      int64 `json:"total_tokens"`
		Details    struct {
			Cached int64 `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
		Completions struct {
			Reasoning int64 `json:"reasoning_tokens"`
		} `json:"completion_tokens_details"`
	}
	Choices []struct {
		Message, Delta struct{ Content string }
		FinishReason   string `json:"finish_reason"`
	}
}

func (r rawOpenAI) normalised(t *testing.T) Usage {
	t.Helper()
	if r.Usage == nil || r.Usage.Total != r.Usage.Prompt+r.Usage.Completion {
		t.Fatalf("usage %+v does not add up", r.Usage)
	}
	return Usage{
		Input: r.Usage.Prompt, Output: r.Usage.Completion, CacheRead: r.Usage.Details.Cached, Reasoning: r.Usage.Completions.Reasoning,
	}
}

func TestOpenAIDeclaresWhatTheLedgerSays(t *testing.T) {
	u := start(t)
	cached, reasoned := 0, 0
	for i, prompt := range prompts {
		for name, snapshot := range map[string]string{"o4-mini": "o4-mini-2025-04-16", "my-own": "my-own"} {
			id := fmt.Sprint(name, i)
			body := fmt.Sprintf(`{"model": %q, "messages": [{"role": "user", "content": %q}]}`, name, prompt)
			var whole rawOpenAI
			u.parse(u.read(u.send(id, "/v1/chat/completions", body)), &whole)
			want := Answer{
				Provider: "openai", RequestModel: name, Model: snapshot, Status: 200, Declared: true, Usage: whole.normalised(t),
			}
			if diff := cmp.Diff(want, u.Declared()[id]); diff != "" || whole.Model != snapshot {
				t.Fatalf("model %s, ledger (-answer +ledger):\n%s", whole.Model, diff)
			}
			if want.Usage.CacheRead > 0 {
				cached++
			}
			if want.Usage.Reasoning > 0 {
				reasoned++
			}
		}
	}
	if cached == 0 || cached > 20 || reasoned != 24 {
		t.Errorf("%d of 48 answers were cached and %d reasoned: too plain", cached, reasoned)
	}
}

func TestAnOpenAIStreamDeclaresUsageOnlyWhenAsked(t *testing.T) {
	u := start(t)
	const messages = `"messages": [{"role": "user", "content": "hello"}]`
	stream := func(id, options string) []string {
		resp := u.send(id, "/v1/chat/completions", `{"model": "gpt-4o", "stream": true, `+options+messages+`}`)
		if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream; charset=utf-8" {
			t.Errorf("content type %q", kind)
		}
		list, _ := data(u.read(resp), "\n")
		if len(list) < 5 || list[len(list)-1] != "[DONE]" {
			t.Fatalf("no whole stream: %q", list)
		}
		return list[:len(list)-1]
	}
	text := func(chunks []string) (content string) {
		for _, chunk := range chunks {
			var r rawOpenAI
			u.parse(chunk, &r)
			if len(r.Choices) > 0 {
				content += r.Choices[0].Delta.Content
			}
		}
		return strings.TrimSpace(content)
	}

	unasked := stream("unasked", "")
	for _, chunk := range unasked {
		if strings.Contains(chunk, "usage") {
			t.Errorf("usage in %s", chunk)
		}
	}
	if got := u.Declared()["unasked"]; got.Declared || got.Usage != (Usage{}) || !got.Stream || got.Model != "gpt-4o-2024-08-06" {
		t.Errorf("ledger: %+v", got)
	}

	asked := stream("asked", `"stream_options": {"include_usage": true}, `)
	for _, chunk := range asked[:len(asked)-1] {
		if !strings.Contains(chunk, `"usage":null`) {
			t.Errorf("no null usage in %s", chunk)
		}
	}
	var last rawOpenAI
	u.parse(asked[len(asked)-1], &last)
	if !strings.Contains(asked[len(asked)-1], `"choices":[]`) {
		t.Errorf("the last chunk has choices: %s", asked[len(asked)-1])
	}
	got := u.Declared()["asked"]
	if diff := cmp.Diff(last.normalised(t), got.Usage); diff != "" || !got.Declared {
		t.Errorf("declared %v, ledger (-answer +ledger):\n%s", got.Declared, diff)
	}

	var whole rawOpenAI
	u.parse(u.read(u.send("whole", "/v1/chat/completions", `{"model": "gpt-4o", `+messages+`}`)), &whole)
	if text(asked) != whole.Choices[0].Message.Content || text(unasked) != text(asked) || u.Declared()["whole"].Usage != got.Usage {
		t.Error("the same request is answered differently, streamed and not")
	}
}

type rawAnthropicUsage struct {
	Input      int64 `json:"input_tokens"`
	CacheRead  int64 `json:"cache_read_input_tokens"`
	CacheWrite int64 `json:"cache_creation_input_tokens"`
	Output     int64 `json:"output_tokens"`
}

func (r rawAnthropicUsage) normalised() Usage {
	return Usage{Input: r.Input + r.CacheRead + r.CacheWrite, Output: r.Output, CacheRead: r.CacheRead, CacheWrite: r.CacheWrite}
}

func TestAnthropicDeclaresInputWithoutTheCache(t *testing.T) {
	u := start(t)
	read, written := 0, 0
	for i, prompt := range prompts {
		body := fmt.Sprintf(`{"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": %q}]`, prompt)
		var whole struct {
			Usage      rawAnthropicUsage
			StopReason string `json:"stop_reason"`
		}
		id := fmt.Sprint("whole", i)
		u.parse(u.read(u.send(id, "/v1/messages", body+"}")), &whole)
		want := Answer{
			Provider: "anthropic", RequestModel: "claude-sonnet-4-5", Model: "claude-sonnet-4-5-20250929", Status: 200,
			Declared: true, Usage: whole.Usage.normalised(),
		}
		if diff := cmp.Diff(want, u.Declared()[id]); diff != "" || whole.StopReason != "end_turn" {
			t.Fatalf("stop reason %q, ledger (-answer +ledger):\n%s", whole.StopReason, diff)
		}
		if want.Usage.CacheRead > 0 {
			read++
		}
		if want.Usage.CacheWrite > 0 {
			written++
		}

		id = fmt.Sprint("stream", i)
		list, names := data(u.read(u.send(id, "/v1/messages", body+`, "stream": true}`)), "\n")
		var begin struct {
			Message struct{ Usage rawAnthropicUsage }
		}
		var delta struct{ Usage rawAnthropicUsage }
		for n, name := range names {
			var typed struct{ Type string }
			if u.parse(list[n], &typed); typed.Type != name {
				t.Errorf("event %q has type %q", name, typed.Type)
			}
			switch name {
			case "message_start":
				u.parse(list[n], &begin)
			case "message_delta":
				u.parse(list[n], &delta)
			}
		}
		if names[0] != "message_start" || names[2] != "ping" || names[len(names)-1] != "message_stop" {
			t.Errorf("events in the wrong order: %q", names)
		}
		streamed := begin.Message.Usage
		if streamed.Output != 1 {
			t.Errorf("message_start has %d output tokens, not the placeholder", streamed.Output)
		}
		streamed.Output = delta.Usage.Output
		want.Stream = true
		if diff := cmp.Diff(want, u.Declared()[id]); diff != "" || streamed.normalised() != want.Usage {
			t.Fatalf("streamed %+v, ledger (-answer +ledger):\n%s", streamed, diff)
		}
	}
	if read == 0 || written == 0 || read == 24 {
		t.Errorf("of 24 answers %d read from the cache and %d wrote: too plain", read, written)
	}
}

type rawGemini struct {
	UsageMetadata struct{ PromptTokenCount, CachedContentTokenCount, CandidatesTokenCount, ThoughtsTokenCount, TotalTokenCount int64 }
	ModelVersion  string
	Candidates    []struct{ FinishReason string }
}

func (r rawGemini) normalised(t *testing.T) Usage {
	t.Helper()
	m := r.UsageMetadata
	u := Usage{
		Input: m.PromptTokenCount, Output: m.CandidatesTokenCount + m.ThoughtsTokenCount,
		CacheRead: m.CachedContentTokenCount, Reasoning: m.ThoughtsTokenCount,
	}
	if m.TotalTokenCount != u.Total() {
		t.Fatalf("usage %+v does not add up", m)
	}
	return u
}

func TestGeminiDeclaresCandidatesWithoutThoughts(t *testing.T) {
	u := start(t)
	for i, prompt := range prompts {
		body := fmt.Sprintf(`{"contents": [{"role": "user", "parts": [{"text": %q}]}]}`, prompt)
		var whole rawGemini
		id := fmt.Sprint("whole", i)
		u.parse(u.read(u.send(id, "/v1beta/models/gemini-2.5-pro:generateContent", body)), &whole)
		want := Answer{
			Provider: "google", RequestModel: "gemini-2.5-pro", Model: "gemini-2.5-pro", Status: 200,
			Declared: true, Usage: whole.normalised(t),
		}
		if diff := cmp.Diff(want, u.Declared()[id]); diff != "" || want.Usage.Reasoning == 0 {
			t.Fatalf("ledger (-answer +ledger):\n%s", diff)
		}
		want.Stream = true

		id = fmt.Sprint("sse", i)
		list, _ := data(u.read(u.send(id, "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", body)), "\r\n")
		var events []rawGemini
		u.parse("["+strings.Join(list, ",")+"]", &events)
		id2 := fmt.Sprint("array", i)
		var array []rawGemini
		u.parse(u.read(u.send(id2, "/v1beta/models/gemini-2.5-pro:streamGenerateContent", body)), &array)
		if diff := cmp.Diff(events, array); diff != "" {
			t.Fatalf("the array differs from the events:\n%s", diff)
		}
		for n, piece := range events {
			piece.normalised(t) // adds up in every piece
			if last := n == len(events)-1; (piece.Candidates[0].FinishReason == "STOP") != last {
				t.Errorf("piece %d of %d finishes with %q", n, len(events), piece.Candidates[0].FinishReason)
			}
		}
		for _, id := range []string{id, id2} {
			if diff := cmp.Diff(want, u.Declared()[id]); diff != "" || events[len(events)-1].normalised(t) != want.Usage {
				t.Fatalf("%s: ledger (-answer +ledger):\n%s", id, diff)
			}
		}
	}
}

func TestErrorsHaveTheFormatOfTheirAPI(t *testing.T) {
	u := start(t)
	const chat, claude, flash = "/v1/chat/completions", "/v1/messages", "/v1beta/models/gemini-2.5-flash:generateContent"
	for i, test := range []struct {
		path, body, wanted string
		status             int
		contains           string
	}{
		{chat, `{"model": "gpt-4o"}`, "500", 500, `"type":"server_error"`},
		{chat, `{"model": "gpt-4o", "stream": true}`, "429", 429, `"code":"rate_limit_exceeded"`},
		{chat, `{"model": `, "", 400, `"type":"invalid_request_error"`},
		{chat, `{}`, "", 400, "the request names no model"},
		{claude, `{"model": "claude-haiku-4-5"}`, "529", 529, `"type":"overloaded_error"`},
		{claude, `{"model": "claude-haiku-4-5"}`, "500", 500, `"type":"api_error"`},
		{flash, `{}`, "429", 429, `"status":"RESOURCE_EXHAUSTED"`},
		{"/v1beta/models/gemini-2.5-flash:countTokens", `{}`, "", 400, `countTokens`},
		{"/orders/7", "", "500", 500, `"error":`},
		{"/nothing", "", "", 404, ""},
	} {
		id := fmt.Sprint(i)
		resp := u.send(id, test.path, test.body, StatusHeader, test.wanted)
		body := u.read(resp)
		if resp.StatusCode != test.status || !strings.Contains(body, test.contains) {
			t.Errorf("%s %s: %d %s", test.path, test.body, resp.StatusCode, body)
		}
		if got, is := u.Declared()[id]; is != strings.HasPrefix(test.path, "/v1") || got.Declared || is && got.Status != test.status {
			t.Errorf("%s %s: ledger has %+v", test.path, test.body, got)
		}
	}
	if n := u.Requests(); n != 10 {
		t.Errorf("%d requests were counted, 10 were sent", n)
	}
}

func TestOrdersAnswerJSONAndAreNoLLMCalls(t *testing.T) {
	u := start(t)
	for _, test := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/orders", "", 200, `{"orders":[{"id":"1001","status":"shipped","items":3},{"id":"1002","status":"packed","items":1}]}`},
		{"/orders/42?full=1", "", 200, `{"id":"42","status":"shipped","items":3}`},
		{"/orders", `{"items": 1}`, 201, `{"id":"1003","status":"accepted","items":1}`},
	} {
		resp := u.send("id", test.path, test.body)
		if got := u.read(resp); resp.StatusCode != test.status || got != test.want {
			t.Errorf("%s: %d %s", test.path, resp.StatusCode, got)
		}
	}
	if got := u.Declared(); len(got) != 0 {
		t.Errorf("the ledger has %v", got)
	}
}

func TestGzipComesWhenAskedFor(t *testing.T) {
	u := start(t)
	const body = `{"model": "gpt-4o-mini", "messages": [], "stream": %v}`
	for _, stream := range []bool{false, true} {
		plain := u.read(u.send("plain", "/v1/chat/completions", fmt.Sprintf(body, stream), "Accept-Encoding", "br, gzip;q=0"))
		resp := u.send("plain", "/v1/chat/completions", fmt.Sprintf(body, stream), "Accept-Encoding", "deflate, gzip;q=0.5")
		if got := resp.Header.Get("Content-Encoding"); got != "gzip" {
			t.Fatalf("content encoding %q", got)
		}
		zip, err := gzip.NewReader(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		unzipped, err := io.ReadAll(zip)
		if err != nil || len(unzipped) != len(plain) {
			t.Errorf("stream %v: %v, plain:\n%s\nunzipped:\n%s", stream, err, plain, unzipped)
		}
	}
}

func TestAStreamComesEventByEvent(t *testing.T) {
	u := start(t)
	u.Delay = time.Hour // only the first event comes
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url+"/v1/messages",
		strings.NewReader(`{"model": "claude-haiku-4-5", "stream": true}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(RequestIDHeader, "cut")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "event: message_start\n" {
		t.Errorf("%q, %v", line, err)
	}
	if got := u.Declared()["cut"]; got.Declared || got.Usage != (Usage{}) || !got.Stream {
		t.Errorf("before its usage was sent the ledger has %+v", got)
	}
}

func TestAServerWithoutALedgerRemembersNothing(t *testing.T) {
	u := start(t)
	u.NoLedger = true
	u.read(u.send("id", "/v1/messages", `{"model": "claude-haiku-4-5"}`))
	if got := u.Declared(); len(got) != 0 || u.Requests() != 1 {
		t.Errorf("the ledger has %v after %d requests", got, u.Requests())
	}
}
