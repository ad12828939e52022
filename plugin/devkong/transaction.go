package devkong

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// transaction is one request on its way through Kong: what Kong keeps in ngx.ctx.
type transaction struct {
	kong   *Kong
	config *configuration // the one that was current when the request came
	worker *Worker
	w      http.ResponseWriter
	r      *http.Request

	id          string
	start       time.Time
	body        []byte
	headers     http.Header // the request's, with Host, as plugins left them
	requestSize int
	host        string // without the port
	port        int    // of Kong
	clientIP    string
	query       string // as plugins left it

	match      *match
	consumer   *Consumer
	credential *credential
	exchange   *Exchange // what plugins see; made when the first one looks

	plugins  []*Configuration // that apply, in the order of their priority
	buffered bool             // one of them has the response phase

	upstreamURI    string
	upstreamStatus any // a string, or a number where the response was buffered
	tries          []try
	bufferedBody   []byte

	proxied, exited, unexpected bool // see source

	broken bool     // the response ended before its time
	tapped *watched // nil without the Lua front, and without a body

	status          int
	responseHeaders http.Header
	chunked         bool
	bytesSent       int
	balanced        time.Time // when the last try began
	received        time.Time // when the upstream's headers were there
	ended           time.Time

	kongLatency, waiting, receive int // milliseconds
}

// run sends the request through Kong's phases. It returns whether the connection must be broken off, because a response
// ended before its time.
func (t *transaction) run() (abort bool) {
	t.upstreamStatus, t.waiting = "", -1
	t.match = t.config.router.find(t.r, t.host)
	if t.match == nil {
		t.collect("", "", "")
		t.buffered = false
		t.reject(http.StatusNotFound, "no Route matched with those values", nil)
		return false
	}
	t.upstreamURI = t.match.upstreamPath(t.r.URL.EscapedPath())
	rejected := t.access()
	if t.query != "" || strings.HasSuffix(t.r.RequestURI, "?") {
		t.upstreamURI += "?" + t.query
	}
	if rejected != nil {
		rejected()
		return false
	}
	return t.proxy()
}

// access runs the access phase: it finds out which plugin configurations apply, which goes on after a plugin has
// rejected the request, as in Kong, and runs them until one has.
func (t *transaction) access() (rejected func()) {
	route, service := t.match.route, t.match.route.service
	for _, p := range t.config.plugins {
		consumer := ""
		if t.consumer != nil {
			consumer = t.consumer.ID
		}
		config := p.lookup(route.ID, service.ID, consumer)
		switch {
		case config == nil:
		case config.keyAuth != nil:
			if rejected != nil {
				break
			}
			if refusal := config.keyAuth.access(t); refusal != "" {
				challenge := "Key"
				if config.keyAuth.realm != "" {
					challenge = `Key realm="` + config.keyAuth.realm + `"`
				}
				rejected = func() {
					t.reject(http.StatusUnauthorized, refusal, http.Header{"Www-Authenticate": {challenge}})
				}
			}
		default:
			t.plugins = append(t.plugins, config.external)
			t.buffered = t.buffered || slices.Contains(p.external.Phases, PhaseResponse)
			if rejected == nil && slices.Contains(p.external.Phases, PhaseAccess) {
				if err := t.worker.Event(t.r.Context(), config.external, PhaseAccess, t.live()); err != nil {
					t.kong.log.Error("access phase failed", "plugin", p.name, "error", err)
					rejected = t.crash
				}
			}
		}
	}
	if t.exchange != nil && t.exchange.nginx.get("buffered_proxying") == true {
		t.buffered = true // what kong.service.request.enable_buffering sets, and a Go plugin can only set by hand
	}
	return rejected
}

// collect finds the configurations that apply to a request whose access phase did not run.
func (t *transaction) collect(route, service, consumer string) {
	for _, p := range t.config.plugins {
		if config := p.lookup(route, service, consumer); config != nil && config.external != nil {
			t.plugins = append(t.plugins, config.external)
		}
	}
}

// live returns the exchange as plugins see it while the request runs.
func (t *transaction) live() *Exchange {
	if t.exchange == nil {
		t.exchange = &Exchange{
			Start: t.start, RequestHeaders: t.headers,
			Request: &Request{
				Method: t.r.Method, Host: t.host, Path: t.r.URL.EscapedPath(), RawQuery: t.r.URL.RawQuery,
				Port: t.port, Body: t.body, ClientIP: t.clientIP,
			},
		}
	}
	e := t.exchange
	e.Status, e.ResponseHeaders, e.Source = t.status, t.responseHeaders, t.source()
	e.Consumer, e.Buffered, e.Body = t.consumer, t.buffered, t.bufferedBody
	e.CredentialID = ""
	if t.credential != nil {
		e.CredentialID = t.credential.ID
	}
	if t.match != nil {
		e.Route, e.Service = t.match.route, t.match.route.service
	}
	return e
}

// log runs the Log phase: the document is made at once, the plugins run in timers, of which a worker has so many.
func (t *transaction) log() {
	t.ended = time.Now()
	var conf []*Configuration
	for _, c := range t.plugins {
		if slices.Contains(c.Plugin.Phases, PhaseLog) {
			conf = append(conf, c)
		}
	}
	if len(conf) == 0 {
		return
	}
	e := t.live()
	e.Log = t.serialize()
	for _, c := range conf {
		if t.kong.options.Lua {
			t.overLane(c, e.Log, !t.broken)
			continue
		}
		if t.worker.timers.Add(1) > maxTimers {
			t.worker.timers.Add(-1)
			t.kong.workers.count.events.Add(1)
			t.kong.workers.count.dropped.Add(1)
			t.kong.log.Error("lua_max_running_timers are not enough", "worker", t.worker.id)
			continue
		}
		t.kong.running.begin()
		go func() {
			defer t.kong.running.end()
			defer t.worker.timers.Add(-1)
			// The timer has nothing to do with the request's context any more.
			if err := t.worker.Log(t.kong.base, c, e); err != nil {
				t.kong.log.Error("log phase failed", "error", err)
			}
		}()
	}
}

// reject answers in place of the upstream: kong.response.error.
func (t *transaction) reject(status int, message string, headers http.Header) {
	t.exited = true
	mime := responseType(strings.Join(t.r.Header.Values("Accept"), ","))
	t.answer(status, mime, errorBody(mime, message, t.id), headers)
}

// crash answers for a plugin that failed in the access phase: kong.response.exit with 500, which has no request id.
func (t *transaction) crash() {
	t.exited, t.unexpected = true, true
	t.answer(http.StatusInternalServerError, jsonType, `{"message":"An unexpected error occurred"}`, nil)
}

// fail answers for nginx, in Kong's error handler.
func (t *transaction) fail(status int) {
	message := map[int]string{
		http.StatusInternalServerError: "An unexpected error occurred",
		http.StatusBadGateway:          "An invalid response was received from the upstream server",
		http.StatusServiceUnavailable:  "The upstream server is currently unavailable",
		http.StatusGatewayTimeout:      "The upstream server is timing out",
	}[status]
	if message == "" {
		message = "The upstream server responded with " + strconv.Itoa(status)
	}
	t.exited = true
	t.buffered, t.bufferedBody = false, nil // the error handler takes the buffering back
	accept := t.r.Header.Get("Accept")
	if accept == "" {
		accept = t.r.Header.Get("Content-Type")
	}
	if accept == "" {
		accept = "text/plain" // error_default_type
	}
	mime := responseType(accept)
	t.answer(status, mime, errorBody(mime, message, t.id), nil)
}

// answer sends a response that Kong has made itself.
func (t *transaction) answer(status int, mime, body string, headers http.Header) {
	t.status, t.chunked = status, false
	t.responseHeaders = http.Header{
		"Content-Type": {mime}, "Content-Length": {strconv.Itoa(len(body))}, "Date": {time.Now().UTC().Format(http.TimeFormat)},
	}
	maps.Copy(t.responseHeaders, headers)
	t.finishHeaders()
	t.writeHeader()
	if t.r.Method != http.MethodHead {
		_, _ = t.w.Write([]byte(body)) // the client may have gone; it is logged all the same
		t.bytesSent += len(body)
	}
}

// finishHeaders adds what Kong adds to every response.
func (t *transaction) finishHeaders() {
	h := t.responseHeaders
	if t.proxied {
		h.Set("X-Kong-Upstream-Latency", strconv.Itoa(t.waiting))
		h.Set("X-Kong-Proxy-Latency", strconv.Itoa(t.kongLatency))
		via := "1.1 " + serverName
		if v := h.Get("Via"); v != "" {
			via = v + ", " + via
		}
		h.Set("Via", via)
		if h.Get("Server") == "" {
			h.Set("Server", serverName)
		}
	} else {
		t.kongLatency = millis(time.Since(t.start))
		h.Set("X-Kong-Response-Latency", strconv.Itoa(t.kongLatency))
		h.Set("Server", serverName)
	}
	h.Set("X-Kong-Request-Id", t.id)
}

// writeHeader sends the status and the headers and counts their bytes.
func (t *transaction) writeHeader() {
	out := t.w.Header()
	out["Content-Type"] = nil // keeps Go from guessing one
	maps.Copy(out, t.responseHeaders)
	out.Set("Connection", "keep-alive")
	if t.r.Close {
		out.Set("Connection", "close")
	}
	t.w.WriteHeader(t.status)
	t.bytesSent = len("HTTP/1.1 200 ") + len(http.StatusText(t.status)) + 2 + headerSize(out) + 2
	if t.chunked {
		t.bytesSent += len("Transfer-Encoding: chunked\r\n")
	}
}

// serverName is how Kong 3.9.3 calls itself in Server and Via.
const serverName = "kong/3.9.3"

const jsonType = "application/json; charset=utf-8"

// responseType chooses the type of an error's body by an Accept header, without its quality values: the first type that
// Kong has wins.
func responseType(accept string) string {
	for part := range strings.SplitSeq(accept, ",") {
		kind, _, _ := strings.Cut(part, ";")
		switch strings.ToLower(strings.TrimSpace(kind)) {
		case "text/html":
			return "text/html; charset=utf-8"
		case "text/plain", "text/*":
			return "text/plain; charset=utf-8"
		case "application/xml":
			return "application/xml; charset=utf-8"
		case "application/json", "application/*", "*/*":
			return jsonType
		}
	}
	return jsonType
}

// errorBody writes a message in one of the types of responseType.
func errorBody(mime, message, id string) string {
	switch kind, _, _ := strings.Cut(mime, ";"); kind {
	case "text/html":
		return "<!doctype html>\n<html>\n  <head>\n    <meta charset=\"utf-8\">\n    <title>Error</title>\n  </head>\n  <body>\n    <h1>Error</h1>\n    <p>" +
			message + ".</p>\n    <p>request_id: " + id + "</p>\n  </body>\n</html>\n"
	case "text/plain":
		return message + "\nrequest_id: " + id + "\n"
	case "application/xml":
		return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<error>\n  <message>" + message + "</message>\n  <requestid>" + id + "</requestid>\n</error>\n"
	default:
		return "{\n  \"message\":\"" + message + "\",\n  \"request_id\":\"" + id + "\"\n}"
	}
}
