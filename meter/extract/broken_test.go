package extract

import (
	"testing"

	"kafka-metering/meter"
)

// A stream that breaks with an error has not had its last word, whatever follows that is no usage.
func TestAStreamThatBreaksIsPartial(t *testing.T) {
	const (
		chat      = "/v1/chat/completions"
		usage     = `data: {"object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}` + "\n\n"
		content   = `data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"{\"error\":{\"code\":1}}"}}]}` + "\n\n"
		broken    = `data: {"error":{"message":"x","code":500}}` + "\n\n"
		done      = "data: [DONE]\n\n"
		messages  = "/v1/messages"
		begins    = `data: {"type":"message_start","message":{"type":"message","usage":{"input_tokens":3,"output_tokens":1}}}` + "\n\n"
		delta     = `data: {"type":"message_delta","delta":{},"usage":{"output_tokens":4}}` + "\n\n"
		stops     = `data: {"type":"message_stop"}` + "\n\n"
		overload  = "event: error\n" + `data: {"type":"error","error":{"type":"overloaded_error"}}` + "\n\n"
		gemini    = "/v1beta/models/gemini-2.5-pro:streamGenerateContent"
		candidate = `data: {"candidates":[{"content":{}}],"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4,"totalTokenCount":7}}` + "\n\n"
	)
	for name, c := range map[string]struct {
		path, body string
		want       meter.UsageStatus
	}{
		"whole":                                   {chat, content + usage + done, meter.UsageFinal},
		"an error at the end":                     {chat, usage + broken, meter.UsagePartial},
		"an error before the mark of the end":     {chat, usage + broken + done, meter.UsagePartial},
		"an error behind the mark of the end":     {chat, usage + done + broken, meter.UsageFinal},
		"an error, and content":                   {chat, usage + broken + content + done, meter.UsagePartial},
		"an error, and usage":                     {chat, usage + broken + usage + done, meter.UsageFinal},
		"an error with a usage of its own":        {chat, usage + `data: {"error":{"code":1},"usage":{"prompt_tokens":3,"completion_tokens":4}}` + "\n\n", meter.UsageFinal},
		"an error only by its name":               {chat, usage + "event: error\ndata: {\"code\":\"x\"}\n\n", meter.UsagePartial},
		"an error in a text":                      {chat, usage + `data: {"error":"overloaded"}` + "\n\n", meter.UsagePartial},
		"an error in a chunk":                     {chat, usage + `data: {"choices":[],"error":{"code":502}}` + "\n\n" + done, meter.UsagePartial},
		"no error in a text that a model wrote":   {chat, usage + content + done, meter.UsageFinal},
		"no error in a member for it":             {chat, usage + `data: {"choices":[],"error":null}` + "\n\n" + done, meter.UsageFinal},
		"an empty text in a member for it":        {chat, usage + `data: {"choices":[],"error":""}` + "\n\n" + done, meter.UsageFinal},
		"an error of the content's filter, below": {chat, usage + `data: {"choices":[{"content_filter_results":{"error":{"code":"x"}}}]}` + "\n\n" + done, meter.UsageFinal},
		"Anthropic, whole":                        {messages, begins + delta + stops, meter.UsageFinal},
		"Anthropic, an error instead of the end":  {messages, begins + delta + overload, meter.UsagePartial},
		"Anthropic, an error before the output":   {messages, begins + overload, meter.UsagePartial},
		"Gemini, whole":                           {gemini, candidate + candidate, meter.UsageFinal},
		"Gemini, an error at the end":             {gemini, candidate + broken, meter.UsagePartial},
	} {
		llm, err := Extract(&Response{
			Method: "POST", Host: "gateway.internal", Path: c.path, Status: 200, ContentType: "text/event-stream",
			Body: []byte(c.body), Seen: true, Complete: true,
		})
		if err != nil || llm.UsageStatus != c.want || tokens(&llm, meter.InputTokens) != 3 {
			t.Errorf("%s: got %s, %v, %v", name, llm.UsageStatus, reportOf(llm, nil).Usage, err)
		}
	}
}
