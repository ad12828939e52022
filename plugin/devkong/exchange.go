package devkong

import (
	"net/http"
	"sync"
	"time"
)

// Exchange is one proxied request and its response as the PDK shows it to a plugin. For the Log phase, Log is all that
// most plugins need; what is left zero is absent, as a missing consumer is.
//
// The bytes are not copied: they must not change while an event runs. An Exchange may be used for several events at once.
type Exchange struct {
	Log []byte // the serialized log: what kong.log.serialize answers

	// Buffered says that Kong held the response back until it was whole, and still has its Body, as the upstream encoded
	// it. Unbuffered, kong.service.response.get_raw_body fails, and with it the event.
	Buffered bool
	Body     []byte

	Status          int
	Source          string      // kong.response.get_source: service, exit or error
	RequestHeaders  http.Header // names in Go's canonical form
	ResponseHeaders http.Header
	Start           time.Time

	Consumer     *Consumer
	CredentialID string
	Route        *Route
	Service      *Service

	// Request is what can be asked for only while the request is there: in Access and Response, never in Log.
	Request *Request

	shared table // kong.ctx.shared
	nginx  table // ngx.ctx
}

// Request is the live request of an Exchange.
type Request struct {
	Method, Host, Path, RawQuery string
	Port                         int
	Body                         []byte
	ClientIP                     string
	UpstreamHeaders              http.Header // of the buffered response, for kong.service.response
}

// SetShared puts a value into kong.ctx.shared, as a Lua plugin on the same route would: a string, float64, bool, nil,
// []any or map[string]any.
func (e *Exchange) SetShared(key string, value any) { e.shared.set(key, value) }

// Shared returns a value of kong.ctx.shared.
func (e *Exchange) Shared(key string) any { return e.shared.get(key) }

// table is a Lua table that several events may use.
type table struct {
	mu sync.Mutex
	m  map[string]any
}

func (t *table) get(key string) any {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[key]
}

func (t *table) set(key string, value any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[string]any{}
	}
	t.m[key] = value
}
