package extract

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzExtract holds for every body, from every API: no panic, no negative number, no usage beside an error, and the same
// result however the body is cut into pieces.
func FuzzExtract(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(g.response.Method, g.response.Host, g.response.Path, g.response.ContentType, g.response.Body, g.response.Complete, uint16(7))
	}
	f.Fuzz(func(t *testing.T, method, host, path, contentType string, body []byte, complete bool, size uint16) {
		r := &Response{
			Method: method, Host: host, Path: path, Status: 200, ContentType: contentType, Body: body, Seen: true, Complete: complete,
		}
		checkUsage(t, r)
		checkSplit(t, r, int(size)+1)
	})
}

// checkSplit fails when a body that comes in pieces gives another result than the whole.
func checkSplit(tb testing.TB, r *Response, size int) {
	tb.Helper()
	if diff := cmp.Diff(reportOf(Extract(r)), reportOf(extractSplit(r, size))); diff != "" {
		tb.Fatalf("in pieces of %d: %s", size, diff)
	}
}

// FuzzSSE compares the events of a stream that comes in pieces with those of a plain reading of the standard.
func FuzzSSE(f *testing.F) {
	for _, stream := range []string{
		"data: a\n\n", "data: a\r\rdata:b\r\n\r\n", ": c\nevent: e\ndata: a\ndata: b\n\n", "\ufeffdata\n\n", "data: a", "data: a\r", "id: 1\n\n\n\ndata:\n\n",
	} {
		f.Add(stream, uint8(1))
	}
	f.Fuzz(func(t *testing.T, stream string, size uint8) {
		var got eventLog
		s := sse{out: &got}
		for rest := []byte(stream); len(rest) > 0; {
			n := min(int(size)+1, len(rest))
			piece := bytes.Clone(rest[:n])
			s.Write(piece)
			clear(piece)
			rest = rest[n:]
		}
		s.Close()
		if diff := cmp.Diff(plainSSE(stream), got.events); diff != "" {
			t.Error(diff)
		}
	})
}

// eventLog keeps all events.
type eventLog struct {
	events []string
	lost   int
}

func (l *eventLog) event(name, data []byte) {
	l.events = append(l.events, string(name)+"|"+string(data))
}

func (l *eventLog) lose() { l.lost++ }

// plainSSE reads a whole stream the slow and obvious way.
func plainSSE(stream string) (events []string) {
	stream = strings.TrimPrefix(stream, "\ufeff")
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	name, data, some := "", "", false
	for _, line := range append(strings.Split(stream, "\n"), "") {
		if line == "" {
			if some {
				events = append(events, name+"|"+data)
			}
			name, data, some = "", "", false
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case field == "event":
			name = value
		case field == "data" && some:
			data += "\n" + value
		case field == "data":
			data, some = value, true
		}
	}
	return events
}
