package devkong

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAStreamPassesChunkByChunkAndTheLogPhaseComesAfterIt(t *testing.T) {
	next := make(chan string)
	f := startKong(t, "log", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for chunk := range next {
			_, _ = io.WriteString(w, chunk)
			_ = http.NewResponseController(w).Flush()
		}
	})
	var resp *http.Response
	wait := later(t, func() {
		var err error
		if resp, err = http.DefaultTransport.RoundTrip(f.request("GET /open/stream")); err != nil {
			t.Error(err)
		}
	})
	wait() // the headers are here although the upstream has not begun with the body
	if resp == nil {
		return
	}
	defer resp.Body.Close()
	for _, chunk := range []string{"one", "two", "three"} {
		next <- chunk // only now: each chunk gets here before the upstream has sent the following one
		got := make([]byte, len(chunk))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != chunk {
			t.Fatalf("read %q, %v, want %q", got, err, chunk)
		}
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("read %q, %v at the end", rest, err)
	}
	e := f.probe.next("log") // the response is whole, and the Log phase has not finished
	doc := e.document()
	e.end("return")
	if got, want := doc["upstream_status"], any("200"); got != want {
		t.Errorf("upstream_status %#v, want %#v", got, want)
	}
	headers := doc["response"].(map[string]any)["headers"].(map[string]any)
	if headers["transfer-encoding"] != "chunked" {
		t.Errorf("response headers %v", headers)
	}
	f.wait()
	if got := f.Stats(); got.Events != 1 || got.Delivered != 1 {
		t.Errorf("%+v", got)
	}
}

func TestAResponsePhaseBuffersTheWholeResponse(t *testing.T) {
	f := startKong(t, allPhases, func(w http.ResponseWriter, _ *http.Request) {
		for i := range 3 {
			fmt.Fprint(w, "part ", i, ";")
			_ = http.NewResponseController(w).Flush()
		}
	})
	var body string
	answered := make(chan struct{})
	wait := later(t, func() {
		defer close(answered)
		_, body = f.get("/open/stream")
	})
	e := f.probe.next("access")
	e.must("Ctx.SetShared word")
	e.end("return")
	e = f.probe.next("response")
	const whole = "part 0;part 1;part 2;"
	if got := e.must("ServiceResponse.GetRawBody"); got != whole {
		t.Errorf("the body in the response phase: %q", got)
	}
	select {
	case <-answered:
		t.Error("the client has its response while the response phase is running")
	default:
	}
	e.end("return")
	wait()
	if body != whole {
		t.Errorf("the client got %q", body)
	}
	e = f.probe.next("log")
	if got := e.must("ServiceResponse.GetRawBody"); got != whole {
		t.Errorf("the body in the log phase: %q", got)
	}
	if got := e.must("Ctx.GetShared word"); got != `"shared word"` {
		t.Errorf("kong.ctx.shared in the log phase: %s", got)
	}
	if got, want := e.document()["upstream_status"], any(200.0); got != want {
		t.Errorf("upstream_status %#v, want %#v", got, want)
	}
	e.end("return")
}

func TestBufferedProxyingInTheContextBuffersWithoutAResponsePhase(t *testing.T) {
	f := startKong(t, "access,log", answer("whole"))
	wait := later(t, func() { f.get("/open") })
	e := f.probe.next("access")
	e.must("Nginx.SetCtx buffered_proxying")
	e.end("return")
	wait()
	e = f.probe.next("log")
	if got := e.must("ServiceResponse.GetRawBody"); got != "whole" {
		t.Errorf("the body is %q", got)
	}
	if got, want := e.document()["upstream_status"], any(200.0); got != want {
		t.Errorf("upstream_status %#v, want %#v", got, want)
	}
	e.end("return")
}

func TestTheUpstreamSeesKongsHeadersAndNoKey(t *testing.T) {
	var seen *http.Request
	f := startKong(t, "log", func(w http.ResponseWriter, r *http.Request) {
		seen = r.Clone(r.Context())
		w.Header()["Content-Type"] = nil
		w.Header().Set("Via", "1.0 before")
		_, _ = io.WriteString(w, "<html>")
	})
	resp, body := f.get("/keyed/a%20b/?x=1&apikey=alice-key", "X-Forwarded-For", "10.0.0.1")
	e := f.probe.next("log")
	doc := e.document()
	e.end("return")

	if got, want := seen.RequestURI, "/base/a%20b/?x=1"; got != want {
		t.Errorf("the upstream was asked for %s, want %s", got, want)
	}
	id := resp.Header.Get("X-Kong-Request-Id")
	credential := doc["authenticated_entity"].(map[string]any)["id"].(string)
	consumer := doc["consumer"].(map[string]any)["id"].(string)
	port := f.Addr()[strings.LastIndexByte(f.Addr(), ':')+1:]
	want := http.Header{
		"Accept-Encoding": {"identity"}, "User-Agent": {"test"}, "Via": {"1.1 kong/3.9.3"},
		"X-Forwarded-For": {"10.0.0.1, 127.0.0.1"}, "X-Forwarded-Host": {"127.0.0.1"}, "X-Forwarded-Path": {"/keyed/a%20b/"},
		"X-Forwarded-Port": {port}, "X-Forwarded-Prefix": {"/keyed"}, "X-Forwarded-Proto": {"http"}, "X-Real-Ip": {"127.0.0.1"},
		"X-Kong-Request-Id": {id}, "X-Consumer-Id": {consumer}, "X-Consumer-Username": {"alice"},
		"X-Consumer-Custom-Id": {"cust-42"}, "X-Credential-Identifier": {credential},
	}
	if diff := cmp.Diff(want, seen.Header); diff != "" || seen.Host != "upstream:8080" || len(id) != 32 {
		t.Errorf("host %s, id %q, the upstream saw (-want +got):\n%s", seen.Host, id, diff)
	}
	if got := doc["request"].(map[string]any)["id"]; got != id {
		t.Errorf("the log has the id %v, the client %s", got, id)
	}
	resp.Header.Del("Date")
	for _, latency := range []string{"X-Kong-Upstream-Latency", "X-Kong-Proxy-Latency"} {
		if resp.Header.Get(latency) == "" {
			t.Errorf("the response has no %s", latency)
		}
		resp.Header.Del(latency)
	}
	wantResponse := http.Header{
		"Connection": {"keep-alive"}, "Content-Length": {"6"}, "Server": {serverName}, "Via": {"1.0 before, 1.1 kong/3.9.3"},
		"X-Kong-Request-Id": {id},
	}
	if diff := cmp.Diff(wantResponse, resp.Header); diff != "" || body != "<html>" {
		t.Errorf("%s (-want +got):\n%s", body, diff)
	}
}

func TestBytesThatAreNotUTF8PassUnharmed(t *testing.T) {
	for _, phases := range []string{"log", allPhases} {
		t.Run(phases, func(t *testing.T) {
			body := "\x1f\x8b\xff\x00"
			f := startKong(t, phases, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Back", r.Header.Get("X-Latin"))
				w.Header()["Content-Type"] = nil
				_, _ = io.WriteString(w, body)
			})
			got := later(t, func() {
				resp, got := f.get("/open?a=%ff", "X-Latin", "caf\xe9")
				if guessed := resp.Header.Get("Content-Type"); guessed != "" {
					t.Errorf("a type that the upstream has not given: %s", guessed)
				}
				if got != body || resp.Header.Get("X-Back") != "caf\xe9" {
					t.Errorf("the client got %q, X-Back %q", got, resp.Header.Get("X-Back"))
				}
			})
			if phases == allPhases {
				f.probe.next("access").end("return")
				f.probe.next("response").end("return")
			}
			got()
			e := f.probe.next("log")
			log := e.must("Log.SerializeBytes")
			for _, want := range []string{`"a":"` + "\xff" + `"`, `"x-latin":"caf` + "\xe9" + `"`, `"x-back":"caf` + "\xe9" + `"`} {
				if !strings.Contains(log, want) {
					t.Errorf("no %q in %q", want, log)
				}
			}
			if phases == allPhases {
				if got := e.must("ServiceResponse.GetRawBody"); got != body {
					t.Errorf("the body is %q", got)
				}
			}
			// The same as a string is what go-pdk cannot read, and a real Kong does not notice.
			if _, err := e.ask("Log.Serialize"); err == nil || !strings.Contains(err.Error(), "invalid UTF-8") {
				t.Errorf("as a string: %v", err)
			}
			if got := e.must("Response.GetStatus"); got != "200" {
				t.Errorf("the call after it: %s", got)
			}
			e.end("return")
		})
	}
}

func TestHEADHasNoBodyAndA204Neither(t *testing.T) {
	f := startKong(t, "log", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Length", "5")
	})
	f.probe.release()
	for line, want := range map[string]string{"HEAD /open": "200 5", "DELETE /open": "204 "} {
		resp, body := f.do(f.request(line))
		if got := fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Content-Length")); got != want || body != "" {
			t.Errorf("%s: %s %q", line, got, body)
		}
	}
}

func TestTheLoggedSizesAreTheBytesOnTheWire(t *testing.T) {
	f := startKong(t, "log", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/base/stream" {
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.WriteString(w, "hello")
	})
	for _, head := range []string{
		"GET /open HTTP/1.1\r\nHost: h\r\n",
		"GET /open/stream HTTP/1.1\r\nHost: h\r\nX-Twice: 1\r\nX-Twice: 2\r\n",
		"HEAD /open HTTP/1.1\r\nHost: h\r\n",
		"POST /open HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n",
		"GET /nowhere HTTP/1.1\r\nHost: h\r\n",
		"GET /refusing HTTP/1.1\r\nHost: h\r\n",
	} {
		request := head + "Connection: close\r\n\r\n"
		if strings.HasPrefix(head, "POST") {
			request += "abc"
		}
		c, err := net.Dial("tcp", f.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		response, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		e := f.probe.next("log")
		doc := e.document()
		e.end("return")
		if got := doc["request"].(map[string]any)["size"]; got != float64(len(request)) {
			t.Errorf("%q: request.size %v, %d were sent", head, got, len(request))
		}
		if got := doc["response"].(map[string]any)["size"]; got != float64(len(response)) {
			t.Errorf("%q: response.size %v, %d came:\n%s", head, got, len(response), response)
		}
	}
}
