package devkong

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hang is an upstream that does not answer on /silent before its client has gone.
func hang(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/silent") {
		<-r.Context().Done()
		return
	}
	_, _ = io.WriteString(w, "hello")
}

// rejection is what a client and a plugin see of a request that Kong answers itself.
type rejection struct {
	Status         int
	Body           string // with ID for the request's id
	Challenge      string
	Latency        string // which of the two kinds of latency headers the response has
	Source         any    // members of the document
	UpstreamStatus any
	UpstreamURI    any
	Route          any
	Tries          []any // their states and codes
	ConsumerKnown  bool
	PDKSource      string // kong.response.get_source
}

func TestKongAnswersItselfAsARealOneDoes(t *testing.T) {
	const (
		badGateway = `{"message":"An invalid response was received from the upstream server","request_id":"ID"}`
		timeout    = `{"message":"The upstream server is timing out","request_id":"ID"}`
	)
	failed := func(code float64) map[string]any { return map[string]any{"state": "failed", "code": code} }
	f := startKong(t, "log", hang)
	for _, test := range []struct {
		name, line string
		headers    []string
		want       rejection
	}{
		{
			"no route: the global plugin logs it without a route and a service", "GET /nowhere?x=1", nil,
			rejection{
				Status: 404, Body: `{"message":"no Route matched with those values","request_id":"ID"}`, Latency: "response",
				Source: "kong", UpstreamStatus: "", UpstreamURI: "", PDKSource: "exit",
			},
		},
		{
			"no key: it has a route, no tries and no consumer", "GET /keyed/x", nil,
			rejection{
				Status: 401, Body: `{"message":"No API key found in request","request_id":"ID"}`, Challenge: "Key", Latency: "response",
				Source: "kong", UpstreamStatus: "", UpstreamURI: "/base/x", Route: "keyed", Tries: []any{}, PDKSource: "exit",
			},
		},
		{
			"a wrong key", "GET /keyed",
			[]string{"apikey", "wrong"},
			rejection{
				Status: 401, Body: `{"message":"Unauthorized","request_id":"ID"}`, Challenge: "Key", Latency: "response",
				Source: "kong", UpstreamStatus: "", UpstreamURI: "/base", Route: "keyed", Tries: []any{}, PDKSource: "exit",
			},
		},
		{
			"two keys", "GET /keyed?apikey=a&apikey=b", nil,
			rejection{
				Status: 401, Body: `{"message":"Duplicate API key found","request_id":"ID"}`, Challenge: "Key", Latency: "response",
				Source: "kong", UpstreamStatus: "", UpstreamURI: "/base?apikey=a&apikey=b", Route: "keyed", Tries: []any{}, PDKSource: "exit",
			},
		},
		{
			"an upstream that refuses connections is tried again as often as the service says", "POST /refusing",
			[]string{"Accept", "application/json"},
			rejection{
				Status: 502, Body: badGateway, Latency: "upstream",
				Source: "kong", UpstreamStatus: "502, 502, 502", UpstreamURI: "/", Route: "refusing",
				Tries: []any{failed(502), failed(502), failed(502)}, PDKSource: "error",
			},
		},
		{
			"a silent upstream is tried again where that is safe", "GET /silent",
			[]string{"Accept", "*/*"},
			rejection{
				Status: 504, Body: timeout, Latency: "upstream",
				Source: "kong", UpstreamStatus: "504, 504", UpstreamURI: "/silent", Route: "silent",
				Tries: []any{failed(504), failed(504)}, PDKSource: "error",
			},
		},
		{
			"a silent upstream is not tried again with what is not idempotent", "POST /silent",
			[]string{"Accept", "application/json"},
			rejection{
				Status: 504, Body: timeout, Latency: "upstream",
				Source: "kong", UpstreamStatus: "504", UpstreamURI: "/silent", Route: "silent", Tries: []any{failed(504)}, PDKSource: "error",
			},
		},
		{
			"an upstream whose name nobody knows", "GET /unknown", nil,
			rejection{
				Status: 503, Body: `{"message":"name resolution failed","request_id":"ID"}`, Latency: "response",
				Source: "kong", UpstreamStatus: "", UpstreamURI: "/", Route: "unknown", Tries: []any{}, PDKSource: "exit",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, body := f.do(f.request(test.line, test.headers...))
			e := f.probe.next("log")
			doc := e.document()
			got := rejection{
				Status: resp.StatusCode, Challenge: resp.Header.Get("WWW-Authenticate"),
				Body:      strings.NewReplacer("\n", "", "  ", "", resp.Header.Get("X-Kong-Request-Id"), "ID").Replace(body),
				Source:    doc["source"],
				PDKSource: e.must("Response.GetSource"), UpstreamStatus: doc["upstream_status"], UpstreamURI: doc["upstream_uri"],
			}
			e.end("return")
			if resp.Header.Get("X-Kong-Response-Latency") != "" {
				got.Latency += "response"
			}
			if resp.Header.Get("X-Kong-Upstream-Latency") != "" {
				got.Latency += "upstream"
			}
			if route, ok := doc["route"].(map[string]any); ok {
				got.Route = route["name"]
			}
			_, hasService := doc["service"]
			_, got.ConsumerKnown = doc["consumer"]
			if tries, ok := doc["tries"].([]any); ok {
				got.Tries = []any{}
				for _, one := range tries {
					got.Tries = append(got.Tries, map[string]any{"state": one.(map[string]any)["state"], "code": one.(map[string]any)["code"]})
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" || hasService != (got.Route != nil) {
				t.Errorf("service %v (-want +got):\n%s", hasService, diff)
			}
		})
	}
}

func TestAnErrorComesInTheTypeThatTheClientAccepts(t *testing.T) {
	f := startKong(t, "log", hang)
	f.probe.release()
	for _, test := range []struct{ path, accept, contentType, start string }{
		{"/nowhere", "", jsonType, "{\n  \"message\""},
		{"/nowhere", "text/html;q=0.9, application/json", "text/html; charset=utf-8", "<!doctype html>"},
		{"/nowhere", "application/xml", "application/xml; charset=utf-8", "<?xml"},
		{"/nowhere", "image/png", jsonType, "{\n  \"message\""},
		{"/refusing", "", "text/plain; charset=utf-8", "An invalid response was received"},
		{"/refusing", "*/*", jsonType, "{\n  \"message\""},
	} {
		resp, body := f.get(test.path, "Accept", test.accept)
		if got := resp.Header.Get("Content-Type"); got != test.contentType || !strings.HasPrefix(body, test.start) {
			t.Errorf("%s with Accept %q: %s\n%s", test.path, test.accept, got, body)
		}
	}
}

func TestAKeyNamesItsConsumer(t *testing.T) {
	f := startKong(t, "log", hang)
	for _, headers := range [][]string{{"apikey", "alice-key"}, {"Apikey", "alice-key", "Authorization", "Bearer secret"}} {
		if resp, body := f.get("/keyed", headers...); resp.StatusCode != http.StatusOK || body != "hello" {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		e := f.probe.next("log")
		doc := e.document()
		if consumer := doc["consumer"].(map[string]any); consumer["username"] != "alice" || consumer["custom_id"] != "cust-42" {
			t.Errorf("consumer %v", consumer)
		}
		logged := doc["request"].(map[string]any)["headers"].(map[string]any)
		if logged["apikey"] != nil || logged["authorization"] != nil && logged["authorization"] != "REDACTED" {
			t.Errorf("the log has the headers %v", logged)
		}
		for call, want := range map[string]string{"Client.GetConsumer": `"username":"alice"`, "Client.GetCredential": `"id":"`} {
			if got := strings.ReplaceAll(strings.ToLower(e.must(call)), " ", ""); !strings.Contains(got, want) {
				t.Errorf("%s: %s", call, got)
			}
		}
		e.end("return")
	}
}

func TestBufferedAnUpstreamThatFailsHasNoStatusAndNoBody(t *testing.T) {
	f := startKong(t, allPhases, hang)
	wait := later(t, func() {
		if resp, _ := f.get("/refusing"); resp.StatusCode != http.StatusBadGateway {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
	f.probe.next("access").end("return")
	wait()
	e := f.probe.next("log") // without a response phase
	if doc := e.document(); doc["upstream_status"] != "" || doc["source"] != "kong" {
		t.Errorf("upstream_status %#v, source %v", doc["upstream_status"], doc["source"])
	}
	if _, err := e.ask("ServiceResponse.GetRawBody"); err == nil {
		t.Error("there is a body")
	}
	e.end("return")
}

func TestAClientThatGoesAwayIsLogged(t *testing.T) {
	f := startKong(t, "log", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begin")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // nothing more until the stand-in hangs up
	})
	resp, err := http.DefaultTransport.RoundTrip(f.request("GET /open"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	e := f.probe.next("log")
	doc := e.document()
	e.end("return")
	// Measured: the upstream's status, not 499.
	if got := doc["response"].(map[string]any)["status"]; got != 200.0 || doc["upstream_status"] != "200" {
		t.Errorf("status %v, upstream status %v", got, doc["upstream_status"])
	}
}

func TestAClientThatGoesBeforeTheAnswerIsA499(t *testing.T) {
	asked := make(chan struct{})
	f := startKong(t, "log", func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	req := f.request("GET /open")
	ctx, cancel := context.WithCancel(req.Context())
	wait := later(t, func() {
		if resp, err := http.DefaultTransport.RoundTrip(req.WithContext(ctx)); err == nil {
			resp.Body.Close()
			t.Error("the client got an answer")
		}
	})
	<-asked
	cancel()
	wait()
	e := f.probe.next("log")
	doc := e.document()
	e.end("return")
	if got := doc["response"].(map[string]any)["status"]; got != 499.0 || doc["upstream_status"] != "-" {
		t.Errorf("status %v, upstream status %v", got, doc["upstream_status"])
	}
}

func TestBufferedAClientThatGoesIsNotNoticed(t *testing.T) {
	asked, gone := make(chan struct{}), make(chan struct{})
	f := startKong(t, allPhases, func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-gone
		_, _ = io.WriteString(w, "answer")
	})
	req := f.request("GET /open")
	ctx, cancel := context.WithCancel(req.Context())
	wait := later(t, func() {
		if resp, err := http.DefaultTransport.RoundTrip(req.WithContext(ctx)); err == nil {
			resp.Body.Close()
			t.Error("the client got an answer")
		}
	})
	f.probe.next("access").end("return")
	<-asked
	cancel()
	wait()
	close(gone)
	f.probe.next("response").end("return")
	e := f.probe.next("log")
	doc := e.document()
	e.end("return")
	if got := doc["response"].(map[string]any)["status"]; got != 200.0 || doc["upstream_status"] != 200.0 {
		t.Errorf("status %v, upstream status %v", got, doc["upstream_status"])
	}
}

func TestATruncatedResponseBreaksOffOrBecomesAnErrorText(t *testing.T) {
	truncate := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "begin")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // the last chunk is missing
	}
	t.Run("unbuffered, the connection ends early", func(t *testing.T) {
		f := startKong(t, "log", truncate)
		f.probe.release()
		resp, err := http.DefaultTransport.RoundTrip(f.request("GET /open"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err == nil || string(body) != "begin" {
			t.Errorf("%q, %v", body, err)
		}
	})
	t.Run("buffered, it is a 200 with an error text", func(t *testing.T) {
		f := startKong(t, allPhases, truncate)
		wait := later(t, func() {
			resp, body := f.get("/open")
			if resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, "The upstream server responded with 200") {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
		f.probe.next("access").end("return")
		wait()
		e := f.probe.next("log") // without a response phase
		doc := e.document()
		e.end("return")
		headers := doc["response"].(map[string]any)["headers"].(map[string]any)
		if headers["transfer-encoding"] != nil || doc["upstream_status"] != "" {
			t.Errorf("upstream_status %v, response headers %v", doc["upstream_status"], headers)
		}
	})
}

func TestAFailingRequestPhaseGivesTheClient500(t *testing.T) {
	f := startKong(t, allPhases, answer("hello"))
	get := func() (wait func()) {
		return later(t, func() {
			resp, body := f.get("/open", "Accept", "application/json")
			if resp.StatusCode != http.StatusInternalServerError || !strings.Contains(body, "An unexpected error occurred") {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
	wait := get()
	e := f.probe.next("access")
	if _, err := e.ask("ServiceResponse.GetRawBody"); err == nil {
		t.Error("the access phase has a response")
	}
	e.end("return")
	wait()
	f.probe.next("log").end("return")

	wait = get()
	f.probe.next("access").end("return")
	e = f.probe.next("response")
	if got := e.must("ServiceResponse.GetHeaders"); got != "{}" {
		t.Errorf("ServiceResponse.GetHeaders: %s; measured: empty", got)
	}
	if _, err := e.ask("ServiceResponse.GetHeader content-length"); err == nil {
		t.Error("ServiceResponse.GetHeader(content-length) works; measured: 500")
	}
	e.end("return")
	wait()
	f.probe.next("log").end("return")
}
