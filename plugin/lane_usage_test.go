package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEnsureStreamUsageAsksForWhatWasNotAskedFor looks at what reaches the upstream.
func TestEnsureStreamUsageAsksForWhatWasNotAskedFor(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	upstream := &frontUpstream{}
	n := startNginx(t, s, 1, upstream, s.configuration(broker, `{"llm":{"ensure_stream_usage":true}}`).Config)
	const asked = `{"stream_options":{"include_usage":true},`
	for name, test := range map[string]struct {
		path, contentType, encoding string
		chunked                     bool
		body, want                  string // want "": as it was sent, byte for byte
	}{
		"a stream":                        {body: asks, want: asked + asks[1:]},
		"a stream of completions":         {path: "/openai/v1/completions", body: `{"model":"m","prompt":"p","stream":true}`, want: asked + `"model":"m","prompt":"p","stream":true}`},
		"white space, numbers, order":     {body: " {\n\t\"stream\" : true, \"messages\" : [ ] , \"temperature\" : 1.0, \"seed\":12345678901234567890, \"u\":\"\\u00e9\"}\n", want: " " + asked + "\n\t\"stream\" : true, \"messages\" : [ ] , \"temperature\" : 1.0, \"seed\":12345678901234567890, \"u\":\"\\u00e9\"}\n"},
		"options without it":              {body: `{"stream_options":{"include_obfuscation":false},"stream":true,"messages":[]}`, want: `{"stream_options":{"include_usage":true,"include_obfuscation":false},"stream":true,"messages":[]}`},
		"empty options":                   {body: `{"stream":true,"stream_options":{},"messages":[]}`, want: `{"stream":true,"stream_options":{"include_usage":true},"messages":[]}`},
		"options that are null":           {body: `{"stream":true,"stream_options": null,"messages":[]}`, want: `{"stream":true,"stream_options": {"include_usage":true},"messages":[]}`},
		"asked for already":               {body: `{"stream":true,"stream_options":{"include_usage":true},"messages":[]}`},
		"asked not to":                    {body: `{"stream":true,"stream_options":{"include_usage":false},"messages":[]}`},
		"no stream":                       {body: `{"model":"m","messages":[]}`},
		"stream is not true":              {body: `{"stream":"true","messages":[]}`},
		"the options elsewhere":           {body: `{"metadata":{"stream_options":{}},"stream":true,"stream_options":{},"messages":[]}`},
		"the options in a text":           {body: `{"messages":[{"content":"\"stream_options\":{"}],"stream":true,"stream_options":{}}`, want: `{"messages":[{"content":"\"stream_options\":{"}],"stream":true,"stream_options":{"include_usage":true}}`},
		"a shape that nobody knows":       {body: `{"stream":true,"input":"x"}`},
		"a list":                          {body: `[{"stream":true,"messages":[]}]`},
		"no JSON":                         {body: `{"stream":true,"messages":[]`},
		"nothing":                         {body: ``},
		"another path":                    {path: "/v1/messages", body: asks},
		"another content type":            {contentType: "text/plain", body: asks},
		"compressed":                      {encoding: "gzip", body: asks},
		"larger than nginx has in memory": {body: `{"stream":true,"messages":["` + filler(20000) + `"]}`, want: asked + `"stream":true,"messages":["` + filler(20000) + `"]}`},
		"nobody says how large":           {body: asks, chunked: true, want: asked + asks[1:]},
		"nobody is to wait for":           {path: "/unbuffered/v1/chat/completions", body: asks, chunked: true},
		"as large as nobody says":         {body: `{"stream":true,"messages":["` + filler(3<<20) + `"]}`, chunked: true},
		"larger than the front looks at":  {body: `{"stream":true,"messages":["` + filler(3<<20) + `"]}`},
		"a text that is invalid in UTF-8": {body: "{\"stream\":true,\"messages\":[\"\xff\"]}", want: asked + "\"stream\":true,\"messages\":[\"\xff\"]}"},
	} {
		path, contentType := test.path, test.contentType
		if path == "" {
			path = "/v1/chat/completions"
		}
		if contentType == "" {
			contentType = "application/json; charset=utf-8"
		}
		r, err := http.NewRequest("POST", "http://"+n.Front+path, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		if test.chunked {
			r.ContentLength = -1
		}
		r.URL.RawQuery = "answer=stream&n=1&case=" + strings.ReplaceAll(name, " ", "+")
		r.Header.Set("Content-Type", contentType)
		if test.encoding != "" {
			r.Header.Set("Content-Encoding", test.encoding)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		want := test.want
		if want == "" {
			want = test.body
		}
		upstream.mu.Lock()
		got, reached := upstream.bodies[name]
		upstream.mu.Unlock()
		if !reached {
			t.Errorf("%s: the request did not reach the upstream", name)
		}
		if got != want {
			t.Errorf("%s (-want +got):\n%s", name, cmp.Diff(want, got))
		}
		if test.want != "" && strings.ToValidUTF8(want, "") == want && !json.Valid([]byte(got)) {
			t.Errorf("%s: what reached the upstream is no JSON: %s", name, got)
		}
	}
	if log := n.errors(); strings.Contains(log, "kafka-metering") {
		t.Errorf("nginx has logged:\n%s", log)
	}
}
