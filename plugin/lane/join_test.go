package lane_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/meter"
	"kafka-metering/meter/extract"
	"kafka-metering/plugin/lane"
)

// frame is a message of an AWS event stream.
func frame(eventType, payload string) []byte {
	var headers []byte
	for _, h := range [][2]string{{":message-type", "event"}, {":event-type", eventType}, {":content-type", "application/json"}} {
		headers = append(append(headers, byte(len(h[0]))), h[0]...)
		headers = append(binary.BigEndian.AppendUint16(append(headers, 7), uint16(len(h[1]))), h[1]...)
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(12+len(headers)+len(payload)+4))
	b = binary.BigEndian.AppendUint32(b, uint32(len(headers)))
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	b = append(append(b, headers...), payload...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// repeat returns n pieces, each with its number and text that tries to look like the end of something.
func repeat(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// largeBodies are answers of LLMs that are larger than any window in these tests.
func largeBodies() map[string]extract.Response {
	post := func(host, path, contentType, body string) extract.Response {
		return extract.Response{
			Method: "POST", Host: host, Path: path, Status: 200, ContentType: contentType,
			Body: []byte(body), Seen: true, Complete: true,
		}
	}
	forged := `a\n\ndata: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n,\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9,\"total_tokens\":18}}]}`
	converse := bytes.Join([][]byte{
		frame("messageStart", `{"role":"assistant"}`),
		bytes.Repeat(frame("contentBlockDelta", `{"contentBlockIndex":0,"delta":{"text":"`+forged+`"}}`), 300),
		frame("messageStop", `{"stopReason":"end_turn"}`),
		frame("metadata", `{"metrics":{"latencyMs":1},"usage":{"inputTokens":30,"outputTokens":40,"totalTokens":70}}`),
	}, nil)
	return map[string]extract.Response{
		"a stream of OpenAI's": post("api.openai.com", "/v1/chat/completions", "text/event-stream",
			repeat(500, `data: {"id":"c1","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"index":0,"delta":{"content":"%d `+forged+`"}}],"usage":null}`+"\n\n")+
				`data: {"id":"c1","object":"chat.completion.chunk","model":"gpt-4o","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":22,"total_tokens":33}}`+"\n\ndata: [DONE]\n\n"),
		"a stream of OpenAI's with CRLF": post("api.openai.com", "/v1/chat/completions", "text/event-stream",
			repeat(500, `data: {"id":"c1","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"index":0,"delta":{"content":"%d"}}]}`+"\r\n\r\n")+
				`data: {"id":"c1","object":"chat.completion.chunk","model":"gpt-4o","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":22,"total_tokens":33}}`+"\r\n\r\ndata: [DONE]\r\n\r\n"),
		"a stream of Anthropic's": post("api.anthropic.com", "/v1/messages", "text/event-stream",
			"event: message_start\n"+`data: {"type":"message_start","message":{"id":"m1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],"usage":{"input_tokens":25,"cache_read_input_tokens":100,"output_tokens":1}}}`+"\n\n"+
				repeat(500, "event: content_block_delta\n"+`data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%d `+forged+`"}}`+"\n\n")+
				"event: message_delta\n"+`data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":77}}`+"\n\n"+
				"event: message_stop\n"+`data: {"type":"message_stop"}`+"\n\n"),
		"a document of OpenAI's": post("api.openai.com", "/v1/chat/completions", "application/json",
			`{"id":"c1","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"`+
				strings.Repeat(forged, 500)+`"},"finish_reason":"stop"}],"usage":{"prompt_tokens":11,"completion_tokens":22,"total_tokens":33,"prompt_tokens_details":{"cached_tokens":4}},"system_fingerprint":"fp"}`),
		"embeddings": post("api.openai.com", "/v1/embeddings", "application/json",
			`{"object":"list","data":[`+strings.TrimSuffix(repeat(3000, `{"object":"embedding","embedding":[0.1,-0.2,%d],"index":0},`), ",")+
				`],"model":"text-embedding-3-small","usage":{"prompt_tokens":8000,"total_tokens":8000}}`),
		"a list of Gemini's": post("generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-flash:streamGenerateContent", "application/json",
			"["+repeat(400, `{"candidates":[{"content":{"parts":[{"text":"%d `+forged+`"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":40,"totalTokenCount":40},"modelVersion":"gemini-2.5-flash"}`+"\n,\r\n")+
				`{"candidates":[{"content":{"parts":[{"text":"."}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":40,"candidatesTokenCount":50,"totalTokenCount":90},"modelVersion":"gemini-2.5-flash"}]`),
		"lines of Ollama's": post("ollama", "/api/chat", "application/x-ndjson",
			repeat(500, `{"model":"llama3.2","message":{"role":"assistant","content":"%d `+forged+`"},"done":false}`+"\n")+
				`{"model":"llama3.2","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":26,"eval_count":290}`+"\n"),
		"an event stream of Bedrock's": post("bedrock-runtime.us-east-1.amazonaws.com", "/model/amazon.nova-lite-v1:0/converse-stream",
			"application/vnd.amazon.eventstream", string(converse)),
	}
}

// TestABodyWithAHoleDeclaresWhatTheWholeDeclares cuts holes of every place and size into large answers whose first and last
// kilobytes are there.
func TestABodyWithAHoleDeclaresWhatTheWholeDeclares(t *testing.T) {
	for name, response := range largeBodies() {
		t.Run(name, func(t *testing.T) {
			want, err := extract.Extract(&response)
			if err != nil || want.Usage.Empty() || want.UsageStatus != meter.UsageFinal {
				t.Fatalf("the whole body declares %v, %v", want, err)
			}
			whole := response.Body
			r := rand.New(rand.NewPCG(1, 2))
			for range 300 {
				head, tail := 1024+r.IntN(8192), 1024+r.IntN(8192)
				body, ok := lane.Join(bytes.Clone(whole[:head]), bytes.Clone(whole[len(whole)-tail:]), "")
				if !ok {
					t.Fatalf("a head of %d bytes and a tail of %d do not join", head, tail)
				}
				response.Body = body
				got, err := extract.Extract(&response)
				if err != nil {
					t.Fatalf("head %d, tail %d: %v\n%s", head, tail, err, body)
				}
				want := want
				want.FinishReason, got.FinishReason = "", "" // it may be in the hole
				if diff := cmp.Diff(want, got, cmp.AllowUnexported(meter.Usage{})); diff != "" {
					t.Fatalf("head %d, tail %d (-whole +with a hole):\n%s", head, tail, diff)
				}
			}
		})
	}
}

func TestWhatDoesNotJoinIsSaid(t *testing.T) {
	for name, test := range map[string]struct{ head, tail, encoding string }{
		"a compressed body":                   {`{"a":1,"b":"`, `","usage":{}}`, "gzip"},
		"gzip that nobody declared":           {"\x1f\x8b\x08\x00", "\x00\x00", ""},
		"a body that is no JSON":              {"<html>", "</html>", ""},
		"nothing":                             {"", "x", ""},
		"a document without its end":          {`{"a":1,"b":"`, `xxx","usage":{"prompt_tokens":1`, ""},
		"a stream without a blank line":       {"data: {", "}", ""},
		"a list without its end":              {`[{"a":1},{"b":"`, `x"},{"c":`, ""},
		"an event stream without a beginning": {"\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if body, ok := lane.Join([]byte(test.head), []byte(test.tail), test.encoding); ok {
				t.Errorf("joined to %q", body)
			}
		})
	}
}

func FuzzJoin(f *testing.F) {
	for _, response := range largeBodies() {
		f.Add(response.Body[:1000], response.Body[len(response.Body)-1000:])
	}
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		body, ok := lane.Join(bytes.Clone(head), bytes.Clone(tail), "")
		if ok && len(body) > len(head)+len(tail)+2 {
			t.Errorf("%d and %d bytes became %d", len(head), len(tail), len(body))
		}
	})
}
