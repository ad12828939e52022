package extract

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// chatJSON is a chat completion of about 2 KB, with everything that OpenAI declares.
func chatJSON() []byte {
	content := strings.Repeat("The sky looks blue because air scatters short waves. \\n", 20)
	return []byte(`{
  "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
  "object": "chat.completion",
  "created": 1741570283,
  "model": "gpt-4o-2024-08-06",
  "choices": [
    {
      "index": 0,
      "message": {
        "role": "assistant",
        "content": "` + content + `",
        "refusal": null,
        "annotations": []
      },
      "logprobs": null,
      "finish_reason": "stop"
    }
  ],
  "usage": {
    "prompt_tokens": 1117,
    "completion_tokens": 46,
    "total_tokens": 1163,
    "prompt_tokens_details": {
      "cached_tokens": 1024,
      "audio_tokens": 0
    },
    "completion_tokens_details": {
      "reasoning_tokens": 32,
      "audio_tokens": 0,
      "accepted_prediction_tokens": 0,
      "rejected_prediction_tokens": 0
    }
  },
  "service_tier": "default",
  "system_fingerprint": "fp_fc9f1d7035"
}
`)
}

// chatStream is a stream of about size bytes with one usage at its end.
func chatStream(size int) []byte {
	const head = `data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_fc9f1d7035",`
	var b bytes.Buffer
	b.WriteString(head + `"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}` + "\n\n")
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, head+`"choices":[{"index":0,"delta":{"content":" word%d"},"finish_reason":null}],"usage":null}`+"\n\n", i)
	}
	b.WriteString(head + `"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}` + "\n\n")
	b.WriteString(head + `"choices":[],"usage":{"prompt_tokens":1117,"completion_tokens":46,"total_tokens":1163,"prompt_tokens_details":{"cached_tokens":1024}}}` + "\n\n")
	b.WriteString("data: [DONE]\n\n")
	return b.Bytes()
}

// messageStream is the same in Anthropic's format.
func messageStream(size int) []byte {
	var b bytes.Buffer
	b.WriteString("event: message_start\n" + `data: {"type":"message_start","message":{"id":"msg_01","type":"message","role":"assistant","model":"claude-sonnet-4-5-20250929","content":[],"stop_reason":null,"usage":{"input_tokens":25,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,"output_tokens":1}}}` + "\n\n")
	b.WriteString("event: content_block_start\n" + `data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}` + "\n\n")
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "event: content_block_delta\n"+`data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" some words in chunk %d"}}`+"\n\n", i)
	}
	b.WriteString("event: content_block_stop\n" + `data: {"type":"content_block_stop","index":0}` + "\n\n")
	b.WriteString("event: message_delta\n" + `data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":515}}` + "\n\n")
	b.WriteString("event: message_stop\n" + `data: {"type":"message_stop"}` + "\n\n")
	return b.Bytes()
}

// contentStream is a Gemini stream, whose every message declares usage.
func contentStream(size int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `data: {"candidates": [{"content": {"parts": [{"text": "%s"}],"role": "model"},"index": 0}],"usageMetadata": {"promptTokenCount": 8,"candidatesTokenCount": %d,"totalTokenCount": %d,"promptTokensDetails": [{"modality": "TEXT","tokenCount": 8}]},"modelVersion": "gemini-2.5-flash","responseId": "x"}`+"\r\n\r\n",
			strings.Repeat("words and words ", 12), i, i+8)
	}
	return b.Bytes()
}

// converseStream is a ConverseStream of Bedrock.
func converseStream(size int) []byte {
	var b strings.Builder
	b.WriteString(`messageStart {"p":"abcdefghijkl","role":"assistant"}` + "\n")
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `contentBlockDelta {"contentBlockIndex":0,"delta":{"text":" some words in chunk %d"},"p":"abcdefghijklmnopqrstuvwxyzABCDEF"}`+"\n", i)
	}
	b.WriteString(`messageStop {"p":"abc","stopReason":"end_turn"}` + "\n")
	b.WriteString(`metadata {"metrics":{"latencyMs":4121},"p":"abc","usage":{"inputTokens":25,"outputTokens":515,"totalTokens":540}}`)
	return eventStreamOf(b.String())
}

// invokeStream is a stream of InvokeModel with an Anthropic model.
func invokeStream(size int) []byte {
	var b strings.Builder
	for line := range strings.Lines(string(messageStream(size))) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			b.WriteString("chunk " + data)
		}
	}
	return eventStreamOf(b.String())
}

// chatLines is a stream of Ollama.
func chatLines(size int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `{"model":"llama3.2","created_at":"2025-01-01T00:00:00.000000Z","message":{"role":"assistant","content":" word%d"},"done":false}`+"\n", i)
	}
	b.WriteString(`{"model":"llama3.2","created_at":"2025-01-01T00:00:00Z","message":{"role":"assistant","content":""},"done_reason":"stop","done":true,"prompt_eval_count":26,"eval_count":282}` + "\n")
	return b.Bytes()
}

func contentJSON() []byte {
	return []byte(`{"candidates":[{"content":{"parts":[{"text":"` + strings.Repeat("words and words ", 80) + `"}],"role":"model"},"finishReason":"STOP","index":0}],` +
		`"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":20,"totalTokenCount":100,"thoughtsTokenCount":72,"promptTokensDetails":[{"modality":"TEXT","tokenCount":8}]},"modelVersion":"gemini-2.5-flash","responseId":"x"}`)
}

// ordersJSON is the answer of some other API, which has a usage of its own kind.
func ordersJSON() []byte {
	return []byte(`{"object":"list","orders":[{"note":"` + strings.Repeat("leave it at the door, please. ", 60) + `"}],"usage":{"quota":10,"used":3}}`)
}

func BenchmarkExtract(b *testing.B) {
	openAI := Response{Method: "POST", Host: "api.openai.com", Path: "/v1/chat/completions", Status: 200, Seen: true, Complete: true}
	anthropic, gemini, elsewhere, bedrock, invoke := openAI, openAI, openAI, openAI, openAI
	bedrock.Host, bedrock.Path = "bedrock-runtime.us-east-1.amazonaws.com", "/model/amazon.nova-lite-v1%3A0/converse-stream"
	invoke.Host, invoke.Path = bedrock.Host, "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke-with-response-stream"
	anthropic.Host, anthropic.Path = "api.anthropic.com", "/v1/messages"
	gemini.Host, gemini.Path = "generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-flash:generateContent"
	elsewhere.Host, elsewhere.Path = "orders.internal", "/orders"
	for _, bench := range []struct {
		name     string
		response Response
		body     []byte
		err      error
	}{
		{"openai/json-2KB", openAI, chatJSON(), nil},
		{"openai/sse-60KB", openAI, chatStream(60 << 10), nil},
		{"openai/sse-1MB", openAI, chatStream(1 << 20), nil},
		{"openai/sse-60KB-crlf", openAI, bytes.ReplaceAll(chatStream(60<<10), []byte("\n"), []byte("\r\n")), nil},
		{"openai/sse-60KB-gzip", openAI, gzipped(chatStream(60 << 10)), nil},
		{"anthropic/sse-60KB", anthropic, messageStream(60 << 10), nil},
		{"gemini/json-2KB", gemini, contentJSON(), nil},
		{"gemini/sse-60KB", gemini, contentStream(60 << 10), nil},
		{"bedrock/converse-60KB", bedrock, converseStream(60 << 10), nil},
		{"bedrock/invoke-60KB", invoke, invokeStream(60 << 10), nil},
		{"ollama/ndjson-60KB", elsewhere, chatLines(60 << 10), nil},
		{"openai/sse-60KB-brotli", openAI, brotlied(chatStream(60 << 10)), nil},
		{"openai/sse-60KB-zstd", openAI, zstandard(chatStream(60 << 10)), nil},
		{"by-shape/json-2KB", elsewhere, chatJSON(), nil},
		{"no-llm/json-2KB", elsewhere, ordersJSON(), ErrNotLLM},
	} {
		b.Run(bench.name, func(b *testing.B) {
			r := bench.response
			r.Body = bench.body
			if strings.HasSuffix(bench.name, "brotli") {
				r.ContentEncoding = "br"
			}
			b.SetBytes(int64(len(r.Body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Extract(&r); !errors.Is(err, bench.err) {
					b.Fatal(err)
				}
			}
		})
	}
}
