package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// frontUpstream answers as its path says, below any prefix.
type frontUpstream struct {
	mu      sync.Mutex
	emitted map[string][]time.Time // when the events of a stream were sent, by the value of ?case
	bodies  map[string]string      // the requests' bodies
}

const openAIChunk = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{"content":"word %d "}}],"usage":null}` + "\n\n"

// openAIStream returns the events of a stream with n words.
func openAIStream(n int) []string {
	var events []string
	for i := range n {
		events = append(events, fmt.Sprintf(openAIChunk, i))
	}
	return append(events,
		`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}`+"\n\n",
		`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-4o-mini-2024-07-18","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":22,"total_tokens":33}}`+"\n\n",
		"data: [DONE]\n\n")
}

// anthropicStream returns the events of a stream with n words.
func anthropicStream(n int) []string {
	events := []string{
		"event: message_start\n" + `data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],"usage":{"input_tokens":25,"cache_read_input_tokens":100,"cache_creation_input_tokens":0,"output_tokens":1}}}` + "\n\n",
		"event: content_block_start\n" + `data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}` + "\n\n",
	}
	for i := range n {
		events = append(events, "event: content_block_delta\n"+fmt.Sprintf(`data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word %d "}}`, i)+"\n\n")
	}
	return append(events,
		"event: content_block_stop\n"+`data: {"type":"content_block_stop","index":0}`+"\n\n",
		"event: message_delta\n"+`data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":77}}`+"\n\n",
		"event: message_stop\n"+`data: {"type":"message_stop"}`+"\n\n")
}

const openAIDocument = `{"id":"chatcmpl-2","object":"chat.completion","model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}],"usage":{"prompt_tokens":11,"completion_tokens":22,"total_tokens":33}}`

// filler is text that does not compress to nothing.
func filler(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		b.WriteString(strconv.Itoa(i * 7919))
	}
	return b.String()[:n]
}

func (u *frontUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	u.mu.Lock()
	if u.bodies == nil {
		u.bodies, u.emitted = map[string]string{}, map[string][]time.Time{}
	}
	u.bodies[q.Get("case")] = string(body)
	u.mu.Unlock()
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(q.Get(name)); err == nil {
			return n
		}
		return otherwise
	}
	write := func(p string) { _, _ = io.WriteString(w, p) }
	h := w.Header()
	switch q.Get("answer") {
	case "stream", "anthropic":
		events := openAIStream(number("n", 20))
		if q.Get("answer") == "anthropic" {
			events = anthropicStream(number("n", 20))
		}
		h.Set("Content-Type", "text/event-stream")
		every := time.NewTicker(time.Duration(max(number("every", 0)*1000, 1)) * time.Microsecond)
		defer every.Stop()
		for i, event := range events {
			if i == number("stop", -1) {
				u.end(w, q.Get("end"), r)
				return
			}
			if number("every", 0) > 0 {
				<-every.C
			}
			u.mu.Lock()
			u.emitted[q.Get("case")] = append(u.emitted[q.Get("case")], time.Now())
			u.mu.Unlock()
			write(event)
			if w.(http.Flusher).Flush(); r.Context().Err() != nil {
				return
			}
		}
	case "document":
		text := fmt.Sprintf(openAIDocument, filler(number("size", 10)))
		h.Set("Content-Type", "application/json")
		if q.Get("chunked") == "" {
			h.Set("Content-Length", strconv.Itoa(len(text)))
		}
		for len(text) > 0 {
			n := min(len(text), number("piece", len(text)))
			write(text[:n])
			text = text[n:]
			w.(http.Flusher).Flush()
		}
	case "gzip":
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		text := fmt.Sprintf(openAIDocument, filler(number("size", 10)))
		if q.Get("of") == "stream" {
			text = strings.Join(openAIStream(number("n", 20)), "")
		}
		_, _ = io.WriteString(z, text)
		_ = z.Close()
		h.Set("Content-Type", map[bool]string{true: "text/event-stream", false: "application/json"}[q.Get("of") == "stream"])
		h.Set("Content-Encoding", "gzip")
		write(packed.String())
	case "bytes":
		h.Set("Content-Type", q.Get("type"))
		write(filler(number("size", 20<<20)))
	case "status":
		h.Set("Content-Type", "application/json")
		w.WriteHeader(number("status", 200))
		write(`{"error":{"message":"no"}}`)
	case "empty":
		w.WriteHeader(number("status", 204))
	case "broken":
		h.Set("Content-Type", "application/json")
		text := fmt.Sprintf(openAIDocument, filler(2000))
		if q.Get("chunked") == "" {
			h.Set("Content-Length", strconv.Itoa(len(text)))
		}
		write(text[:1000])
		u.end(w, q.Get("end"), r)
	case "silence":
		u.end(w, "silence", r)
	default:
		h.Set("Content-Type", "application/json")
		write(`{"ok":true}`)
	}
}

// end ends an answer in the middle.
func (u *frontUpstream) end(w http.ResponseWriter, how string, r *http.Request) {
	switch how {
	case "silence":
		<-r.Context().Done()
	default: // reset, close
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		if tcp, ok := conn.(*net.TCPConn); ok && how == "reset" {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}
