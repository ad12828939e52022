package devkong

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// testConfig has a service that answers, and others that do not.
const testConfig = `
_format_version: "3.0"
services:
- name: up
  url: http://upstream:8080/base
  routes:
  - {name: open, paths: [/open], tags: [t1, t2]}
  - name: keyed
    paths: [/keyed]
    plugins:
    - {name: key-auth, config: {hide_credentials: true}}
- {name: refusing, url: "http://refusing:8080", retries: 2, routes: [{name: refusing, paths: [/refusing]}]}
- {name: silent, url: "http://upstream:8080/silent", retries: 1, read_timeout: 50, routes: [{name: silent, paths: [/silent]}]}
- {name: unknown, url: "http://unknown:8080", routes: [{name: unknown, paths: [/unknown]}]}
consumers:
- {username: alice, custom_id: cust-42, keyauth_credentials: [{key: alice-key}]}
plugins:
- {name: probe, config: {n: 3, tag: a}}
`

// fixture is a stand-in with a probe behind it and an upstream that a test writes.
type fixture struct {
	*Kong
	t     testing.TB
	probe *probe
	logs  *logs
}

// logs keeps what the stand-in logs.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// startKong starts a stand-in with testConfig and a probe that has the phases. The options may be changed before.
func startKong(t testing.TB, phases string, upstream http.HandlerFunc, change ...func(*Options)) *fixture {
	t.Helper()
	up := httptest.NewServer(upstream)
	t.Cleanup(up.Close)
	refusing := httptest.NewServer(nil)
	refusing.Close()
	f := &fixture{t: t, probe: newProbe(t), logs: &logs{}}
	o := Options{
		Declarative:   []byte(testConfig),
		PluginServers: []PluginServer{f.probe.server(phases)},
		Resolve: map[string]string{
			"upstream:8080": up.Listener.Addr().String(),
			"refusing:8080": refusing.Listener.Addr().String(),
			"unknown:8080":  "", // no name that anybody knows
		},
		Log: slog.New(slog.NewTextHandler(f.logs, nil)),
	}
	for _, c := range change {
		c(&o)
	}
	var err error
	if f.Kong, err = Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.probe.release()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the stand-in logged:\n%s", f.logs)
		}
	})
	return f
}

// answer is an upstream that always gives the same response.
func answer(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body)
	}
}

// request makes a request: "GET /path", with headers as name and value.
func (f *fixture) request(line string, headers ...string) *http.Request {
	f.t.Helper()
	method, path, _ := strings.Cut(line, " ")
	ctx, cancel := context.WithTimeout(f.t.Context(), testTimeout)
	f.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, f.URL()+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("User-Agent", "test")
	req.Header.Set("Accept-Encoding", "identity")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

// do sends a request and returns the response, whose body it has read.
func (f *fixture) do(req *http.Request) (*http.Response, string) {
	f.t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp, string(body)
}

func (f *fixture) get(path string, headers ...string) (*http.Response, string) {
	f.t.Helper()
	return f.do(f.request("GET "+path, headers...))
}

// wait waits for the Log phases.
func (f *fixture) wait() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), testTimeout)
	defer cancel()
	if err := f.Wait(ctx); err != nil {
		f.t.Fatal(err)
	}
}

// respawned waits until a process other than the one before serves a plugin.
func (f *fixture) respawned(p *probe, before int) {
	f.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(testTimeout); ; <-tick.C {
		if pid := f.PluginServerPID(p.name); pid != 0 && pid != before {
			break
		}
		if time.Now().After(deadline) {
			f.t.Fatal("no other process was started")
		}
	}
	if err := awaitSocket(f.t.Context(), p.socket(), nil); err != nil {
		f.t.Fatal(err)
	}
}

// later runs something and returns a function that waits for its end.
func later(t testing.TB, run func()) (wait func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		run()
	}()
	return func() {
		t.Helper()
		select {
		case <-done:
		case <-time.After(testTimeout):
			t.Fatal("it does not end")
		}
	}
}
