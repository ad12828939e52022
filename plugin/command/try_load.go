package command

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"kafka-metering/plugin/devkong/replay"
)

// call is one request of the mixed load.
type call struct {
	method, path, key string
	body              string // empty: none
	header            http.Header
	status            int // that it has to be answered with
}

// answer is a response of the stand-in for Kong.
type answer struct {
	requestID string // X-Kong-Request-Id
	call      call
	events    []time.Duration // of a stream: when each came, after the request
}

// mixedLoad returns what try sends: every customer calls every API, as JSON and as a stream, and some calls fail.
func mixedLoad() []call {
	var all []call
	llm := func(key, path, body string) {
		all = append(all, call{method: http.MethodPost, path: path, key: key, body: body, status: http.StatusOK})
	}
	for _, customer := range []struct{ key, plan, model, claude, gemini, prompt string }{
		{"acme-key", "Gold", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-flash", "Explain Kafka to a five year old."},
		{"globex-key", "silver", "gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro", "Summarise the minutes of our last board meeting."},
		{"initech-key", "silver", "o4-mini", "claude-sonnet-4-5", "gemini-2.5-pro", "Translate this contract into plain English."},
	} {
		prompt := customer.prompt
		chat := fmt.Sprintf(`"model":%q,"messages":[{"role":"user","content":%q}]`, customer.model, prompt)
		llm(customer.key, "/openai/v1/chat/completions", `{`+chat+`}`)
		llm(customer.key, "/openai/v1/chat/completions", `{`+chat+`,"stream":true,"stream_options":{"include_usage":true}}`)
		message := fmt.Sprintf(`"model":%q,"max_tokens":1024,"messages":[{"role":"user","content":%q}]`, customer.claude, prompt)
		llm(customer.key, "/anthropic/v1/messages", `{`+message+`}`)
		llm(customer.key, "/anthropic/v1/messages", `{`+message+`,"stream":true}`)
		content := fmt.Sprintf(`{"contents":[{"role":"user","parts":[{"text":%q}]}]}`, prompt)
		llm(customer.key, "/gemini/v1beta/models/"+customer.gemini+":generateContent", content)
		llm(customer.key, "/gemini/v1beta/models/"+customer.gemini+":streamGenerateContent?alt=sse", content)
		all = append(all,
			call{method: http.MethodGet, path: "/orders/42", key: customer.key, header: http.Header{"X-Department": {"research"}}, status: http.StatusOK},
			call{method: http.MethodGet, path: "/orders", key: customer.key, header: http.Header{"X-Plan": {customer.plan}}, status: http.StatusOK})
	}
	// A stream whose client did not ask for its usage: no number is invented.
	llm("acme-key", "/openai/v1/chat/completions", `{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Why?"}]}`)
	const hello = `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}`
	return append(all,
		call{method: http.MethodPost, path: "/orders", key: "initech-key", body: `{"sku":"kong-1","quantity":2}`, status: http.StatusCreated},
		call{method: http.MethodPost, path: "/openai/v1/chat/completions", key: "acme-key", body: hello, header: http.Header{replay.StatusHeader: {"500"}}, status: http.StatusInternalServerError},
		call{method: http.MethodPost, path: "/openai/v1/chat/completions", key: "globex-key", body: hello, header: http.Header{replay.StatusHeader: {"429"}}, status: http.StatusTooManyRequests},
		call{method: http.MethodGet, path: "/orders/42", key: "wrong-key", status: http.StatusUnauthorized}, // Kong rejects it
		call{method: http.MethodGet, path: "/nowhere", status: http.StatusNotFound},                         // no route
	)
}

// load sends the mixed load, some calls at a time, and returns what was answered. A call that is answered otherwise than
// it has to be is an error.
func (s *stage) load(ctx context.Context) ([]answer, error) {
	const clients = 4
	calls := mixedLoad()
	answers, errs := make([]answer, len(calls)), make([]error, clients)
	next := make(chan int)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for n := range next {
				var err error
				if answers[n], err = s.send(ctx, calls[n]); err != nil && errs[i] == nil {
					errs[i] = err
				}
			}
		})
	}
	for n := range calls {
		next <- n
	}
	close(next)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// send sends one call and reads its response to the end.
func (s *stage) send(ctx context.Context, c call) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, c.method, s.kong.URL()+c.path, strings.NewReader(c.body))
	if err != nil {
		return answer{}, err
	}
	maps.Copy(request.Header, c.header)
	if c.key != "" {
		request.Header.Set("Apikey", c.key)
	}
	if c.body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	start := time.Now()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	var events []time.Duration
	for r, line := bufio.NewReader(response.Body), []byte(nil); err == nil; body.Write(line) {
		if line, err = r.ReadBytes('\n'); bytes.HasPrefix(line, []byte("data:")) {
			events = append(events, time.Since(start))
		}
	}
	if !errors.Is(err, io.EOF) {
		return answer{}, fmt.Errorf("%s %s: %w", c.method, c.path, err)
	}
	if response.StatusCode != c.status {
		return answer{}, fmt.Errorf("%s %s: answered %s, want %d: %.200s", c.method, c.path, response.Status, c.status, body.Bytes())
	}
	return answer{requestID: response.Header.Get("X-Kong-Request-Id"), call: c, events: events}, nil
}

// printStream shows how the longest stream reached its client: event by event while the Lua front tapped it, or all at once
// where Kong holds responses back.
func printStream(out io.Writer, sent []answer) {
	longest := slices.MaxFunc(sent, func(a, b answer) int { return cmp.Compare(len(a.events), len(b.events)) })
	var times strings.Builder
	for _, at := range longest.events {
		fmt.Fprintf(&times, " %d", at.Milliseconds())
	}
	fmt.Fprintf(out, "\nA stream of %s: its client had the events after%s ms.\n", longest.call.path, times.String())
}
