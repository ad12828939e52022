package replay

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// stream sends the events of an answer one by one, each in a chunk of its own, and stops when the client has gone.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, c *call, events []event) {
	kind := "text/event-stream; charset=utf-8"
	if c.array {
		kind = "application/json; charset=utf-8"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	out, flush := io.Writer(w), func() error { return nil }
	if acceptsGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		zip := gzip.NewWriter(w)
		defer func() { _ = zip.Close() }() // fails only where the client has gone
		out, flush = zip, zip.Flush
	}
	s.record(r, c)
	delay := s.Delay
	if delay == 0 {
		delay = DefaultDelay
	}
	for i, e := range events {
		if i > 0 && delay > 0 {
			select {
			case <-time.After(delay):
			case <-r.Context().Done():
				return
			}
		}
		if e.declares {
			c.Declared, c.Usage = true, c.tokens
			s.record(r, c)
		}
		if _, err := out.Write(e.text); err != nil || flush() != nil {
			return
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
	}
}

// sse frames one event. The name may be empty.
func sse(name string, data any, newline string) []byte {
	var b []byte
	if name != "" {
		b = append(b, "event: "+name+newline...)
	}
	b = append(append(b, "data: "...), encode(data)...)
	return append(b, newline+newline...)
}

func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	body := encode(v)
	if acceptsGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(status)
		zip := gzip.NewWriter(w)
		_, _ = zip.Write(body) // a client that has gone is not news
		_ = zip.Close()
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// acceptsGzip reads Accept-Encoding: gzip is wanted where it is named without q=0.
func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, parameter, _ := strings.Cut(part, ";")
		if strings.TrimSpace(name) == "gzip" {
			weight, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(parameter), "q="), 64)
			return err != nil || weight > 0
		}
	}
	return false
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("bug: encode an answer: " + err.Error())
	}
	return b
}
