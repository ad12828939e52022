package main

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"kafka-metering/meter"
	"kafka-metering/plugin/lane"
)

// abortable are streams and what they have declared after so many events.
var abortable = map[string]struct {
	path     string
	events   []string
	declared func(events int) string // usage_status, input_tokens, output_tokens
}{
	"stream": {"/v1/chat/completions", openAIStream(3), func(events int) string {
		switch {
		case events < 5:
			return "missing"
		case events < 6: // the usage, but not [DONE]
			return "partial 11 22"
		default:
			return "final 11 22"
		}
	}},
	"anthropic": {"/v1/messages", anthropicStream(3), func(events int) string {
		switch {
		case events < 1:
			return "" // nothing shows that this is an LLM: many servers have such a path
		case events < 7: // message_start counts the input, and the output as far as it was then
			return "partial 125 1"
		case events < 8: // message_delta, but not message_stop
			return "partial 125 77"
		default:
			return "final 125 77"
		}
	}},
}

// declaredIn is usage_status, input_tokens and output_tokens of an event's data.
func declaredIn(d gjson.Result) string {
	return strings.TrimSpace(fmt.Sprintf("%s %v %v", d.Get("usage_status").Str, d.Get("input_tokens"), d.Get("output_tokens")))
}

// TestEveryAbortPointOfAStreamGivesWhatWasDeclaredByThen cuts streams behind each of their events, once by the upstream and
// once by the client, in a real nginx, and looks at what arrives on the topic.
func TestEveryAbortPointOfAStreamGivesWhatWasDeclaredByThen(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	n := startNginx(t, s, 2, &frontUpstream{}, s.configuration(broker, `{"meters":[`+seenMeter+`]}`).Config)
	type cut struct{ outcome, usage string }
	want := map[string]cut{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for name, a := range abortable {
		for k := range len(a.events) + 1 {
			for _, by := range []string{"upstream", "client"} {
				if by == "client" && k == len(a.events) {
					continue // then there is nothing left to go away from
				}
				wg.Go(func() {
					slots <- struct{}{}
					defer func() { <-slots }()
					id := fmt.Sprintf("%s-%d-%s", name, k, by)
					end := "reset"
					if by == "client" {
						end = "silence"
					}
					c := cut{"upstream_error", a.declared(k)}
					if by == "client" {
						c.outcome = "client_abort"
					}
					switch {
					case k == len(a.events) && by == "upstream":
						c.outcome = "completed"
					case k == 0 && by == "upstream":
						c.outcome = "upstream_error" // there is no response: a 502 of nginx's
					}
					mu.Lock()
					want[id] = c
					mu.Unlock()
					readCut(t, n.Front, fmt.Sprintf("%s?answer=%s&n=3&stop=%d&end=%s&case=%s", a.path, name, k, end, id), strings.Join(a.events[:k], ""), by == "client")
				})
			}
		}
	}
	wg.Wait()
	n.quit()
	s.awaitPublished()
	s.checkBalances()
	got, byRequest := map[string]cut{}, map[string]string{}
	all := events(t, broker)
	for _, e := range all {
		if e.Get("type").Str == "test.seen" {
			id, _, _ := strings.Cut(e.Get("id").Str, "/")
			byRequest[id] = e.Get("data.case").Str
		}
	}
	for _, e := range all {
		if d := e.Get("data"); e.Get("type").Str == meter.TypeLLMUsage {
			name := byRequest[d.Get("request_id").Str]
			if _, twice := got[name]; twice {
				t.Errorf("%s: metered twice", name)
			}
			got[name] = cut{d.Get("outcome").Str, declaredIn(d)}
		}
	}
	for name, w := range want {
		if w.usage == "" {
			w = cut{} // no event
		}
		if got[name] != w {
			t.Errorf("%s: got %v, want %v", name, got[name], w)
		}
	}
}

// readCut asks for a stream, reads what it is told will come, and goes away or waits for the end.
func readCut(t *testing.T, address, uri, body string, leave bool) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	r, err := http.NewRequest("POST", "http://"+address+uri, strings.NewReader(asks))
	if err != nil {
		t.Error(err)
		return
	}
	r.Header.Set("Content-Type", "application/json")
	r.Close = true
	if err := r.Write(conn); err != nil {
		t.Error(err)
		return
	}
	// Chunked: each event ends before the next begins, and the last words of the body are to be seen.
	var seen strings.Builder
	buf := make([]byte, 4096)
	last := body
	if i := strings.LastIndex(strings.TrimSuffix(body, "\n\n"), "\n\n"); i >= 0 {
		last = body[i+2:]
	}
	for {
		if leave && (body == "" || strings.Contains(seen.String(), last)) {
			if body == "" {
				pause(t) // until nginx has asked the upstream
				pause(t)
			}
			return
		}
		n, err := conn.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			break // the end, or nginx has reset the connection in the middle of a body
		}
	}
	if !strings.Contains(seen.String(), last) {
		t.Errorf("%s: the client got %q", uri, seen.String())
	}
}

// TestEveryByteAtWhichAStreamIsCutGivesWhatWasDeclaredByThen does the same for each byte, from the lane on.
func TestEveryByteAtWhichAStreamIsCutGivesWhatWasDeclaredByThen(t *testing.T) {
	for name, a := range abortable {
		t.Run(name, func(t *testing.T) {
			p, l := laneProcess(t)
			w := dialLane(t, l.prefix, "w", 0)
			w.register(1, `{"meter_api_requests":false,"meter_ai_token_usage":false}`)
			body := strings.Join(a.events, "")
			var want []string
			var exchanges []lane.Exchange
			for i := range len(body) + 1 {
				whole := strings.Count(body[:i], "\n\n") // an event is there with its blank line
				want = append(want, a.declared(whole))
				exchanges = append(exchanges, lane.Exchange{
					Config: 1, Number: int64(i + 1), HasBody: true, Tapped: true, Type: []byte("text/event-stream"), Head: []byte(body[:i]), FirstByte: -1,
					Log: fmt.Appendf(nil, `{"request":{"id":"%032x","method":"POST"},"upstream_uri":%q,"tries":[{}],"upstream_status":"200","response":{"status":200},"source":"upstream","started_at":1795428217672}`, i, a.path),
				})
			}
			if got := w.ask(batch(1, false, nil, exchanges...)); got != "OK 1" {
				t.Fatal(got)
			}
			got := make([]string, len(want))
			for _, e := range p.spooled(t) {
				i, err := strconv.ParseInt(e.Get("data.request_id").Str, 16, 64)
				if err != nil || got[i] != "" {
					t.Fatalf("one event too many: %s", e)
				}
				if got[i] = declaredIn(e.Get("data")); e.Get("data.outcome").Str != "client_abort" {
					t.Errorf("cut at byte %d: the outcome is %s", i, e.Get("data.outcome"))
				}
			}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("cut at byte %d, behind %q: %q, want %q", i, body[max(0, i-20):i], got[i], want[i])
				}
			}
		})
	}
}
