package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// page asks for a page.
func page(t *testing.T, pages http.Handler, path string) (status int, body string, header http.Header) {
	t.Helper()
	w := httptest.NewRecorder()
	pages.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String(), w.Header()
}

// sections parses an HTML page and returns the text of each section, by id, and of the page's header as "". It fails where
// an element is not closed.
func sections(t *testing.T, html string) map[string]string {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(html))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	text, current, open := map[string]string{}, "", []string{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the page is no HTML: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			open = append(open, token.Name.Local)
			for _, a := range token.Attr {
				if token.Name.Local == "section" && a.Name.Local == "id" {
					current = a.Value
				}
			}
		case xml.EndElement:
			if open[len(open)-1] != token.Name.Local {
				t.Fatalf("<%s> is closed by </%s>", open[len(open)-1], token.Name.Local)
			}
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 && open[len(open)-1] != "style" {
				text[current] += " " + string(token)
			}
		}
	}
	if len(open) > 0 {
		t.Fatalf("not closed: %v", open)
	}
	for id := range text {
		text[id] = strings.Join(strings.FieldsFunc(text[id], func(r rune) bool { return strings.ContainsRune(" \t\n", r) }), " ")
	}
	return text
}

func expect(t *testing.T, where, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%s does not say %q:\n%s", where, want, text)
		}
	}
}

const planted = "hunter2-planted"

// stuckProcess is a process with an exchange in its spool that cannot be published, a planted password, and hostile names.
func stuckProcess(t *testing.T) *process {
	t.Helper()
	p := withFile(t, `
bootstrap_servers: [{host: 127.0.0.1, port: 1}]
authentication: {strategy: sasl, mechanism: PLAIN, user: metering, password: `+planted+`}
security: {client_key: `+planted+`-key}
brokers: typo
`)
	p.now = func() time.Time { return time.Now().Add(90 * time.Minute) }
	p.problems = append(p.problems, errors.New("something that quotes "+planted))
	in := p.newInstance(parsed(t, p, `{"__seq__":1,"__plugin_id":"plugin-<b>1</b>","route_id":"route-7","topic":"metering.audit","timeout":"soon"}`))
	t.Cleanup(func() {
		for _, l := range p.running() {
			l.stop()
			l.running.Wait()
			_ = l.spool.Close()
		}
	})
	in.handle(saved{log: newExchanges(t).exchange(1).Log}, p.ledger.open())
	p.ledger.lose(placeGap, 1234)
	for deadline := time.Now().Add(30 * time.Second); ; pause(t) {
		if _, r := p.running()[0].stats(); r.ConsecutiveFailures > 0 {
			return p
		}
		if time.Now().After(deadline) {
			s, r := p.running()[0].stats()
			t.Fatalf("publishing to a closed port does not fail: %+v %+v %v", s, r, p.book.all())
		}
	}
}

func TestTheStatusPageSaysWhatSomebodyOnCallMustKnow(t *testing.T) {
	p := stuckProcess(t)
	if err := os.MkdirAll(filepath.Join(p.spoolDir, "kafka-gone-0a1b2c3d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.spoolDir, "kafka-gone-0a1b2c3d", "x.spool"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.sample(p.now().Add(-10 * time.Second))
	p.ledger.lose(placeGap, 100)
	code, html, header := page(t, p.pages(), "/")
	if code != http.StatusOK || header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Error(code, header)
	}
	s := sections(t, html)
	expect(t, "the header", s[""], "kafka-metering "+version, p.node, "ready", "up ")
	expect(t, "exchanges", s["exchanges"], "Kong handed over 1\u202f335.", "spooled – 1 ", "dropped gap 1\u202f334 ")
	expect(t, "pipelines", s["pipelines"], "process publishing fails", "127.0.0.1:1", "metering.audit", "oldest pending 1 h 30 min",
		"last error, publishing", "nobody listens at 127.0.0.1:1", " ago")
	expect(t, "usage", s["extractions"], "not_llm 1 ")
	expect(t, "configuration", s["configuration"], "plugin plugin-<b>1</b>, route route-7", "config.timeout: expected int", "brokers: unknown field")
	expect(t, "orphans", s["orphans"], "kafka-gone-0a1b2c3d")
	expect(t, "the balance", s["balance"], "Exchanges balanced observed 1\u202f335 spooled 1 skipped 0 dropped 1\u202f334 failed 0 under way 0", "Records balanced spooled")
	if strings.Contains(html, "<b>1</b>") {
		t.Error("a text is not escaped")
	}
	_, rate, _ := strings.Cut(s["exchanges"], "dropped gap 1\u202f334 ")
	var perSecond float64
	if _, err := fmt.Sscan(rate, &perSecond); err != nil || perSecond < 5 || perSecond > 10 {
		t.Errorf("%q, want about 100 in 10 s (%v)", rate, err)
	}
}

func TestNoPageHoldsASecret(t *testing.T) {
	p := stuckProcess(t)
	p.book.set(problem{Plugin: "other", Text: "quotes " + planted})
	for _, unready := range []bool{false, true} {
		if unready {
			p.spoolDir = filepath.Join(t.TempDir(), planted, "file")
			if err := os.WriteFile(filepath.Dir(p.spoolDir), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, path := range []string{"/", "/metrics", "/healthz", "/readyz"} {
			code, body, _ := page(t, p.pages(), path)
			if strings.Contains(body, planted) {
				t.Errorf("%s holds the planted password", path)
			}
			if path == "/" {
				expect(t, path, body, "something that quotes ***", "quotes ***")
			}
			if path == "/readyz" && (code == http.StatusOK) == unready {
				t.Errorf("%s answers %d: %s", path, code, body)
			}
		}
	}
}

func TestThePageLoadsAndRunsNothing(t *testing.T) {
	_, html, header := page(t, testProcess(t).pages(), "/")
	expect(t, "the policy", header.Get("Content-Security-Policy"), "default-src 'none'", "style-src 'sha256-")
	for _, forbidden := range []string{"<script", "style=", "src=", "http://", "https://", "ZgotmplZ"} {
		if strings.Contains(html, forbidden) {
			t.Errorf("the page has %s", forbidden)
		}
	}
	_, rest, _ := strings.Cut(html, "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	expect(t, "the policy, or no browser would apply the style,", header.Get("Content-Security-Policy"), base64.StdEncoding.EncodeToString(sum[:]))
	if len(style) < 1000 {
		t.Errorf("the page's style is %q", style)
	}
	expect(t, "the page", html, `name="viewport" content="width=device-width, initial-scale=1"`)
}

func TestAnIdleProcessHasAPageWithoutAlarms(t *testing.T) {
	_, html, _ := page(t, testProcess(t).pages(), "/")
	s := sections(t, html)
	expect(t, "pipelines", s["pipelines"], "None yet")
	expect(t, "configuration", s["configuration"], "No problems.")
	if strings.Contains(html, "alarm\"") || s["unready"] != "" {
		t.Error("an idle process alarms")
	}
}

func TestAnAddressWithoutAHostIsNotOfferedToTheNetwork(t *testing.T) {
	for address, want := range map[string]string{
		":9542": "127.0.0.1:9542", "0.0.0.0:9542": "0.0.0.0:9542", "[::]:9542": "[::]:9542", "10.0.0.7:9542": "10.0.0.7:9542", "9542": "9542",
	} {
		if got := withHost(address); got != want {
			t.Errorf("%s is %s, want %s", address, got, want)
		}
	}
}

func TestAPageThatWaitsForTheDiskEnds(t *testing.T) {
	p := testProcess(t)
	p.spoolDir = os.DevNull // what the page began goes on beyond its limit: it must find no directory that the test removes
	l := newPipeline(p, p.spoolDir)
	l.mu.Lock() // as while the disk does not answer the opening of the spool
	defer l.mu.Unlock()
	p.pipelines["stuck"] = l
	code, body, _ := page(t, p.pagesWithin(time.Millisecond), "/")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "does not answer") {
		t.Error(code, body)
	}
	if code, _, _ := page(t, p.pages(), "/healthz"); code != http.StatusOK {
		t.Error("the process lives, /healthz says", code)
	}
}

func TestAnotherPathIsNotThePage(t *testing.T) {
	if code, _, _ := page(t, testProcess(t).pages(), "/wp-login.php"); code != http.StatusNotFound {
		t.Error(code)
	}
}

func TestReadyzNamesWhatCannotBeWritten(t *testing.T) {
	p := testProcess(t)
	if code, body, _ := page(t, p.pages(), "/readyz"); code != http.StatusOK || body != "ok\n" {
		t.Fatal(code, body)
	}
	if left, err := filepath.Glob(filepath.Join(p.spoolDir, "*")); err != nil || len(left) > 0 {
		t.Errorf("the check leaves %v", left)
	}
	l := newPipeline(p, filepath.Join(p.spoolDir, "kafka-0a1b2c3d"))
	if err := os.WriteFile(l.dir, nil, 0o600); err != nil { // where its directory should be
		t.Fatal(err)
	}
	if err := l.configure(defaultConnection(), configVersion{}, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.close(t.Context()) })
	p.pipelines["kafka-0a1b2c3d"] = l
	code, body, _ := page(t, p.pages(), "/readyz")
	if code != http.StatusServiceUnavailable {
		t.Error(code)
	}
	expect(t, "/readyz", body, "not ready:", "pipeline kafka-0a1b2c3d: the spool's disk cannot be written", "not a directory")
	_, html, _ := page(t, p.pages(), "/")
	expect(t, "the status page", sections(t, html)["pipelines"], "the spool's disk cannot be written", "last error, spool")
	p.spoolDir = filepath.Join(t.TempDir(), "file", "spool")
	if err := os.WriteFile(filepath.Dir(p.spoolDir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, body, _ = page(t, p.pages(), "/readyz")
	expect(t, "/readyz", body, "the spool cannot be written", "not a directory")
	_, html, _ = page(t, p.pages(), "/")
	expect(t, "the status page", sections(t, html)["unready"], "the spool cannot be written")
	if code, _, _ := page(t, p.pages(), "/healthz"); code != http.StatusOK {
		t.Error("a process that is not ready is alive, /healthz says", code)
	}
}

func TestReadyzNoticesThatAnOpenSpoolWasDeleted(t *testing.T) {
	p := stuckProcess(t)
	dir := p.running()[0].dir
	if code, body, _ := page(t, p.pages(), "/readyz"); code != http.StatusOK {
		t.Fatal(body)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.spool"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	_, body, _ := page(t, p.pages(), "/readyz")
	expect(t, "/readyz", body, "pipeline process: its files were deleted from "+dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	code, body, _ := page(t, p.pages(), "/readyz")
	expect(t, "/readyz", body, "pipeline process: its spool cannot be written", "no such file or directory")
	if code != http.StatusServiceUnavailable {
		t.Error(code)
	}
}

func TestADiskThatHangsIsNotReadyAndHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var checks atomic.Int64
		release := make(chan struct{})
		r := readiness{check: func() []string { checks.Add(1); <-release; return nil }}
		for range 3 {
			start := time.Now()
			if got := r.problems(); len(got) != 1 || !strings.Contains(got[0], "has not answered") || time.Since(start) != readyLimit {
				t.Error(got, time.Since(start))
			}
		}
		if n := checks.Load(); n != 1 {
			t.Errorf("%d checks wait for the disk, want 1", n)
		}
		close(release)
		synctest.Wait()
		if got := r.problems(); got != nil || checks.Load() != 2 {
			t.Error(got, checks.Load())
		}
	})
}

func TestAProblemIsOfThePluginsNewestConfiguration(t *testing.T) {
	var b problemBook
	texts := func() map[string]string {
		m := map[string]string{}
		for _, p := range b.all() {
			m[p.Plugin] = p.Text
		}
		return m
	}
	b.set(problem{Plugin: "a", version: configVersion{seq: 2}, Text: "wrong"})
	b.set(problem{Plugin: "a", version: configVersion{seq: 1}, Text: "older"})
	b.set(problem{Plugin: "b", version: configVersion{seq: 1}, Text: "other"})
	b.set(problem{Plugin: "c", version: configVersion{seq: 1}})
	if diff := cmp.Diff(map[string]string{"a": "wrong", "b": "other"}, texts()); diff != "" {
		t.Error(diff)
	}
	b.set(problem{Plugin: "a", version: configVersion{seq: 3}})
	b.set(problem{Plugin: "a", version: configVersion{seq: 2}, Text: "wrong"}) // a worker that lags behind
	if diff := cmp.Diff(map[string]string{"b": "other"}, texts()); diff != "" {
		t.Error(diff)
	}
	for i := range 2 * problemsKept {
		b.set(problem{Plugin: fmt.Sprint(i), Text: "x", Since: time.UnixMilli(int64(i) + 1)})
	}
	if len(b.pages) != problemsKept || b.pages[fmt.Sprint(2*problemsKept-1)].Text == "" {
		t.Errorf("%d plugins are remembered", len(b.pages))
	}
}

func TestNumbersAreWrittenForPeople(t *testing.T) {
	got := []string{
		number(0), number(999), number(1000), number(-1234567), size(512), size(1536), size(3 << 30),
		duration(0), duration(59 * time.Second), duration(61 * time.Second), duration(25 * time.Hour), duration(2*time.Hour + time.Minute),
	}
	want := []string{
		"0", "999", "1\u202f000", "-1\u202f234\u202f567", "512 B", "1.5 KiB", "3.0 GiB",
		"under 1 s", "59 s", "1 min 1 s", "1 d 1 h", "2 h 1 min",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestTheListenerServesARealServer asks a server in a process of its own.
func TestTheListenerServesARealServer(t *testing.T) {
	s := startServer(t)
	if got := httpGet(t, "http://"+s.metrics+"/readyz"); got != "ok\n" {
		t.Error(got)
	}
	expect(t, "the status page", sections(t, httpGet(t, "http://"+s.metrics+"/"))[""], "kafka-metering "+version)
	if n := s.metric("kong_meter_imbalance_exchanges") + s.metric("kong_meter_imbalance_records"); n != 0 {
		t.Error("an idle server misses", n)
	}
}
