package devkong

import (
	"net/http"
	"strconv"
	"time"
)

// serialize returns what kong.log.serialize makes of a finished transaction: the members, their types and their order of
// precedence are those of Kong 3.9.3's kong/pdk/log.lua and of the recordings.
func (t *transaction) serialize() []byte {
	headers := headerTable(t.headers)
	for _, secret := range []string{"authorization", "proxy-authorization"} {
		if headers[secret] != nil {
			headers[secret] = "REDACTED"
		}
	}
	doc := map[string]any{
		"request": map[string]any{
			"id":          t.id,
			"uri":         t.r.RequestURI,
			"url":         "http://" + t.host + ":" + strconv.Itoa(t.port) + t.r.RequestURI,
			"querystring": queryArgs(t.r.URL.RawQuery),
			"method":      t.r.Method,
			"headers":     headers,
			"size":        t.requestSize,
		},
		"response": map[string]any{
			"status":  t.status,
			"headers": t.loggedResponseHeaders(),
			"size":    t.bytesSent,
		},
		"upstream_uri":    t.upstreamURI,
		"upstream_status": t.upstreamStatus,
		"latencies": map[string]any{
			"kong":    t.kongLatency,
			"proxy":   t.waiting,
			"request": millis(t.ended.Sub(t.start)),
			"receive": t.receive,
		},
		"client_ip":      t.clientIP,
		"started_at":     t.start.UnixMilli(),
		"source":         map[bool]string{true: "upstream", false: "kong"}[t.source() == "service"],
		"workspace":      DefaultWorkspace,
		"workspace_name": "default",
	}
	if t.match != nil {
		doc["route"] = t.match.route.table()
		doc["service"] = t.match.route.service.table()
		doc["tries"] = t.triesTable()
	}
	if t.consumer != nil {
		doc["consumer"] = t.consumer.table()
	}
	if t.credential != nil {
		doc["authenticated_entity"] = map[string]any{"id": t.credential.ID}
	}
	return appendJSON(make([]byte, 0, 2048), doc)
}

// loggedResponseHeaders are the response's headers as nginx knows them in the log phase, when it has already decided
// about the client's connection: it is always "close" there.
func (t *transaction) loggedResponseHeaders() map[string]any {
	headers := headerTable(t.responseHeaders)
	headers["connection"] = "close"
	if t.chunked {
		headers["transfer-encoding"] = "chunked"
	}
	return headers
}

// source is kong.response.get_source.
func (t *transaction) source() string {
	switch {
	case t.unexpected:
		return "error"
	case t.exited:
		return "exit"
	case t.proxied:
		return "service"
	default:
		return "error"
	}
}

// try is one attempt to reach the upstream.
type try struct {
	ip      string
	port    int
	start   time.Time
	latency time.Duration
	failed  int // the status of a failure: 502, 504; 0 for none
}

// triesTable returns the tries: an empty array until the balancer has run.
func (t *transaction) triesTable() []any {
	list := make([]any, len(t.tries))
	for i, y := range t.tries {
		entry := map[string]any{
			"ip":                  y.ip,
			"port":                y.port,
			"balancer_start":      y.start.UnixMilli(),
			"balancer_start_ns":   float64(y.start.UnixNano()),
			"balancer_latency":    millis(y.latency),
			"balancer_latency_ns": y.latency.Nanoseconds(),
		}
		if y.failed != 0 {
			entry["state"], entry["code"] = "failed", y.failed
		}
		list[i] = entry
	}
	return list
}

// table returns the route as it stands in the log.
func (r *Route) table() map[string]any {
	m := map[string]any{
		"id":                         r.ID,
		"protocols":                  r.Protocols,
		"https_redirect_status_code": r.HTTPSRedirectStatusCode,
		"regex_priority":             r.RegexPriority,
		"path_handling":              r.PathHandling,
		"strip_path":                 r.stripPath(),
		"preserve_host":              r.PreserveHost,
		"request_buffering":          r.RequestBuffering == nil || *r.RequestBuffering,
		"response_buffering":         r.ResponseBuffering == nil || *r.ResponseBuffering,
		"created_at":                 r.CreatedAt,
		"updated_at":                 r.CreatedAt,
		"ws_id":                      DefaultWorkspace,
		"service":                    map[string]any{"id": r.service.ID},
	}
	set(m, "name", r.Name)
	for name, list := range map[string][]string{"paths": r.Paths, "hosts": r.Hosts, "methods": r.Methods, "tags": r.Tags} {
		if list != nil {
			m[name] = list
		}
	}
	if r.Headers != nil {
		headers := make(map[string]any, len(r.Headers))
		for name, values := range r.Headers {
			headers[name] = values
		}
		m["headers"] = headers
	}
	return m
}

// table returns the service as it stands in the log.
func (s *Service) table() map[string]any {
	m := map[string]any{
		"id":              s.ID,
		"protocol":        s.Protocol,
		"host":            s.Host,
		"port":            s.Port,
		"retries":         s.retries(),
		"connect_timeout": s.ConnectTimeout,
		"write_timeout":   s.WriteTimeout,
		"read_timeout":    s.ReadTimeout,
		"enabled":         s.enabled(),
		"created_at":      s.CreatedAt,
		"updated_at":      s.CreatedAt,
		"ws_id":           DefaultWorkspace,
	}
	set(m, "name", s.Name)
	set(m, "path", s.Path)
	if s.Tags != nil {
		m["tags"] = s.Tags
	}
	return m
}

// table returns the consumer as it stands in the log.
func (c *Consumer) table() map[string]any {
	m := map[string]any{"id": c.ID, "created_at": c.CreatedAt, "updated_at": c.CreatedAt}
	set(m, "username", c.Username)
	set(m, "custom_id", c.CustomID)
	if c.Tags != nil {
		m["tags"] = c.Tags
	}
	return m
}

func set(m map[string]any, name, value string) {
	if value != "" {
		m[name] = value
	}
}

// requestSize is nginx's $request_length: the request line, the headers and the body. The framing of a chunked body is
// left out, for net/http does not show it.
func requestSize(r *http.Request, headers http.Header, body int) int {
	n := len(r.Method) + 1 + len(r.RequestURI) + 1 + len(r.Proto) + 2
	return n + headerSize(headers) + 2 + body
}

func headerSize(h http.Header) int {
	n := 0
	for name, values := range h {
		for _, v := range values {
			n += len(name) + 2 + len(v) + 2
		}
	}
	return n
}

// chunkSize is what n bytes of a chunked body take.
func chunkSize(n int) int {
	if n == 0 {
		return 0
	}
	return len(strconv.FormatInt(int64(n), 16)) + 2 + n + 2
}
