package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"kafka-metering/meter/relay"
)

// seenMeter makes an event of each exchange that says how it was seen.
const seenMeter = `{"slug":"seen","event_type":"test.seen","aggregation":"COUNT","group_by":{"case":"request.querystring.case","outcome":"outcome","mode":"capture.mode","complete":"capture.complete","truncated":"capture.truncated","delivered":"capture.bytes_delivered","team":"request.headers['x-team']","consumer":"consumer.custom_id","secret":"request.headers.authorization","kind":"response.headers['content-type']"}}`

// frontCase is one exchange through the front.
type frontCase struct {
	method string // default POST
	path   string // default /v1/chat/completions
	query  string
	body   string
	read   int  // bytes that the client reads before it goes away; 0: all
	http2  bool // instead of HTTP/1.1

	want     string // outcome, mode, complete, truncated, as the observation has them
	usage    string // usage_status input output, of kong.llm_usage; "": there is no such event
	differs  bool   // the two servers' bodies are not compared: where they end is chance
	bodyless bool
}

// asks is a request for a stream.
const asks = `{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"hello"}]}`

var frontCases = map[string]frontCase{
	"stream":                   {query: "answer=stream", body: asks, want: "completed tap true false", usage: "final 11 22"},
	"stream-http2":             {query: "answer=stream", body: asks, http2: true, want: "completed tap true false", usage: "final 11 22"},
	"stream-unbuffered":        {path: "/unbuffered/v1/chat/completions", query: "answer=stream", body: asks, want: "completed tap true false", usage: "final 11 22"},
	"anthropic":                {path: "/v1/messages", query: "answer=anthropic", body: asks, want: "completed tap true false", usage: "final 125 77"},
	"document":                 {query: "answer=document", body: asks, want: "completed tap true false", usage: "final 11 22"},
	"document-get":             {method: "GET", query: "answer=document", want: "completed none false false"},
	"document-chunked":         {query: "answer=document&chunked=1&size=5000&piece=100", body: asks, want: "completed tap true false", usage: "final 11 22"},
	"document-large":           {query: "answer=document&size=20000000", body: asks, want: "completed tap true true", usage: "final 11 22"},
	"document-large-http2":     {query: "answer=document&size=3000000", body: asks, http2: true, want: "completed tap true true", usage: "final 11 22"},
	"gzip":                     {query: "answer=gzip", body: asks, want: "completed tap true false", usage: "final 11 22"},
	"gzip-stream":              {query: "answer=gzip&of=stream&n=200", body: asks, want: "completed tap true false", usage: "final 11 22"},
	"bytes":                    {path: "/files", query: "answer=bytes&type=image/png", want: "completed none false false"},
	"bytes-mislabelled":        {path: "/files", query: "answer=bytes&type=application/json&size=3000000", want: "completed tap true true"},
	"head":                     {method: "HEAD", path: "/", query: "answer=document&size=100", want: "completed none false false", bodyless: true},
	"no-content":               {path: "/", query: "answer=empty&status=204", want: "completed none false false", bodyless: true},
	"not-modified":             {method: "GET", path: "/", query: "answer=empty&status=304", want: "completed none false false", bodyless: true},
	"nothing":                  {path: "/", query: "answer=empty&status=200", want: "completed tap true false", bodyless: true},
	"error":                    {query: "answer=status&status=500", body: asks, want: "upstream_error none false false", usage: "missing"},
	"too-many-requests":        {query: "answer=status&status=429", body: asks, want: "completed none false false", usage: "missing"},
	"rejected":                 {path: "/rejected", want: "rejected none false false"},
	"replaced":                 {path: "/replaced/v1/chat/completions", query: "answer=document", body: asks, want: "completed tap true false", usage: "final 11 22"},
	"away":                     {path: "/away", want: "upstream_error none false false"},
	"away-llm":                 {path: "/away/v1/chat/completions", body: asks, want: "upstream_error none false false", usage: "missing"},
	"never-answers":            {path: "/slow/away", query: "answer=silence", want: "timeout none false false"},
	"reset":                    {query: "answer=stream&n=20&stop=10&end=reset", body: asks, want: "upstream_error tap false false", usage: "missing", differs: true},
	"reset-unbuffered":         {path: "/unbuffered/v1/chat/completions", query: "answer=stream&n=20&stop=10&end=reset", body: asks, want: "upstream_error tap false false", usage: "missing", differs: true},
	"reset-http2":              {query: "answer=stream&n=20&stop=10&end=reset", body: asks, http2: true, want: "upstream_error tap false false", usage: "missing", differs: true},
	"closed":                   {query: "answer=broken&end=close", body: asks, want: "upstream_error tap false false", usage: "missing", differs: true},
	"closed-chunked":           {query: "answer=broken&end=close&chunked=1", body: asks, want: "upstream_error tap false false", usage: "missing", differs: true},
	"closed-untapped":          {method: "GET", path: "/files", query: "answer=broken&end=close", want: "upstream_error none false false", differs: true},
	"stalls":                   {path: "/slow/v1/chat/completions", query: "answer=stream&n=20&stop=10&end=silence", body: asks, want: "timeout tap false false", usage: "missing", differs: true},
	"anthropic-stalls":         {path: "/slow/v1/messages", query: "answer=anthropic&n=20&stop=10&end=silence", body: asks, want: "timeout tap false false", usage: "partial 125 1", differs: true},
	"client-aborts":            {query: "answer=stream&n=100000", body: asks, read: 5000, want: "client_abort tap false false", usage: "missing", differs: true},
	"client-aborts-truncated":  {query: "answer=stream&n=100000", body: asks, read: 3000000, want: "client_abort tap false true", usage: "missing", differs: true},
	"client-aborts-unbuffered": {path: "/unbuffered/v1/chat/completions", query: "answer=stream&n=100000", body: asks, read: 5000, want: "client_abort tap false false", usage: "missing", differs: true},
	"client-aborts-anthropic":  {path: "/v1/messages", query: "answer=anthropic&n=100000", body: asks, read: 5000, want: "client_abort tap false false", usage: "partial 125 1", differs: true},
	"client-aborts-at-once":    {query: "answer=silence", body: asks, read: -1, want: "client_abort none false false", usage: "missing", differs: true},
	"client-aborts-http2":      {query: "answer=stream&n=100000", body: asks, http2: true, read: 5000, want: "client_abort tap false false", usage: "missing", differs: true},
}

// request sends a case's request to one of nginx's servers and returns what a client sees.
func (c *frontCase) request(t *testing.T, name, address string) (status int, headers http.Header, body []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	query := c.query + "&case=" + url.QueryEscape(name)
	method, path := c.method, c.path
	if method == "" {
		method = "POST"
	}
	if path == "" {
		path = "/v1/chat/completions"
	}
	var send io.Reader
	if c.body != "" {
		send = strings.NewReader(c.body)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+address+path+"?"+query, send)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept-Encoding", "identity") // nothing is unpacked for us
	r.Header.Set("X-Team", "research")
	r.Header.Set("Authorization", "Bearer planted-secret")
	r.Header.Set("apikey", "acme")
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	if c.http2 {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	if c.read < 0 { // goes away before there is an answer
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Write(conn); err != nil {
			t.Fatal(err)
		}
		pause(t)
		pause(t)
		conn.Close()
		return 0, nil, nil
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if c.read > 0 {
		body = make([]byte, c.read)
		if _, err := io.ReadFull(response.Body, body); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		response.Body.Close()
		return response.StatusCode, response.Header, body
	}
	body, err = io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil && !c.differs {
		t.Errorf("%s: %v", name, err)
	}
	return response.StatusCode, response.Header, body
}

// events reads the topic.
func events(t testing.TB, broker string) []gjson.Result {
	t.Helper()
	var all []gjson.Result
	if err := relay.ReadAll(t.Context(), relay.Settings{Brokers: []string{broker}}, defaultTopic, func(m relay.Message) {
		all = append(all, gjson.ParseBytes(append([]byte(nil), m.Value...)))
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestTheFrontSeesEveryKindOfExchange sends one of each kind through nginx with the front and without it: the client sees
// no difference, and each is metered once, as what it was.
func TestTheFrontSeesEveryKindOfExchange(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	n := startNginx(t, s, 2, &frontUpstream{}, s.configuration(broker, `{"meters":[`+seenMeter+`]}`).Config)
	for _, name := range slices.Sorted(maps.Keys(frontCases)) {
		c := frontCases[name]
		bare, front := n.Bare, n.Front
		if c.http2 {
			front = n.FrontHTTP2
		}
		gotStatus, gotHeaders, gotBody := c.request(t, name, front)
		if c.http2 || strings.HasPrefix(c.path, "/rejected") || strings.Contains(c.path, "away") || strings.HasPrefix(c.path, "/unbuffered") || c.differs {
			continue
		}
		wantStatus, wantHeaders, wantBody := c.request(t, name, bare)
		if gotStatus != wantStatus {
			t.Errorf("%s: status %d, without the front %d", name, gotStatus, wantStatus)
		}
		wantHeaders.Del("Date")
		gotHeaders.Del("Date")
		if diff := cmp.Diff(wantHeaders, gotHeaders); diff != "" {
			t.Errorf("%s: headers (-without the front +with it):\n%s", name, diff)
		}
		if sha256.Sum256(gotBody) != sha256.Sum256(wantBody) || (len(gotBody) == 0) != c.bodyless {
			t.Errorf("%s: the body has %d bytes, without the front %d", name, len(gotBody), len(wantBody))
		}
	}
	n.quit()
	s.awaitPublished()
	s.checkBalances()
	seen, usage := map[string][]string{}, map[string]string{}
	byRequest := map[string]string{}
	all := events(t, broker)
	for _, e := range all {
		if e.Get("type").Str == "test.seen" {
			d := e.Get("data")
			name := d.Get("case").Str
			seen[name] = append(seen[name], fmt.Sprintf("%s %s %v %v", d.Get("outcome"), d.Get("mode"), d.Get("complete"), d.Get("truncated")))
			id, _, _ := strings.Cut(e.Get("id").Str, "/")
			byRequest[id] = name
			if d.Get("team").Str != "research" || d.Get("secret").Str != "REDACTED" {
				t.Errorf("%s: %s", name, d)
			}
		}
	}
	for _, e := range all {
		if d := e.Get("data"); e.Get("type").Str == "kong.llm_usage" {
			name := byRequest[d.Get("request_id").Str]
			usage[name] += strings.TrimSpace(fmt.Sprintf("%s %v %v", d.Get("usage_status").Str, d.Get("input_tokens"), d.Get("output_tokens")))
			answered := name != "client-aborts-at-once" && name != "away-llm" // else nothing is kept of the request
			if answered && d.Get("request_model").Str != "gpt-4o-mini" {
				t.Errorf("%s: the model that was asked for is %q", name, d.Get("request_model"))
			}
		}
		if strings.Contains(e.Raw, "planted-secret") {
			t.Errorf("a secret is on the topic: %s", e)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(frontCases)) {
		c := frontCases[name]
		if diff := cmp.Diff([]string{c.want}, seen[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if usage[name] != c.usage {
			t.Errorf("%s: the usage is %q, want %q", name, usage[name], c.usage)
		}
	}
	if log := n.errors(); strings.Contains(log, "kafka-metering") || strings.Contains(log, "[alert]") || strings.Contains(log, "lua") {
		t.Errorf("nginx has logged:\n%s", log)
	}
}

// TestTheFrontSendsNoMoreThanTheMetersRead counts how often the whole log is made of many exchanges of all kinds.
func TestTheFrontSendsNoMoreThanTheMetersRead(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	const attributes = `[{"source":"header","look_up_value_in":"X-Team","event_property_name":"x_team"},{"source":"query","look_up_value_in":"case","event_property_name":"x_case"}]`
	n := startNginx(t, s, 1, &frontUpstream{}, s.configuration(broker, `{"attributes":`+attributes+`,"meters":[`+seenMeter+`]}`).Config)
	names := []string{"stream", "document", "document-get", "error", "head", "not-modified", "gzip"}
	first := frontCases["document"]
	first.request(t, "document", n.Front)
	await(t, "the process has said what it needs", func() bool { return s.metric("kong_meter_exchanges_observed_total") > 0 })
	for range 25 {
		for _, name := range names {
			c := frontCases[name]
			c.request(t, name, n.Front)
		}
	}
	total := 1 + len(names)*25
	var whole int
	if _, err := fmt.Sscan(httpGet(t, "http://"+n.Counts), &whole); err != nil {
		t.Fatal(err)
	}
	// Before the process has said what it needs, and one in twice as many exchanges each time.
	if whole > 20 {
		t.Errorf("the whole log was made %d times of %d exchanges", whole, total)
	}
	n.quit()
	s.awaitPublished()
	c := count(t, broker)
	c.check(t, int64(total))
	if log := n.errors(); strings.Contains(log, "kafka-metering") {
		t.Errorf("nginx has logged:\n%s", log)
	}
}
