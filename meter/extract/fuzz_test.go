package extract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzExtract holds for every body, from every API: no panic, no negative number, no usage beside an error, and the same
// result however the body is cut into pieces.
func FuzzExtract(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(g.response.Method, g.response.Host, g.response.Path, g.response.ContentType, "", g.response.Body, g.response.Complete, uint16(7))
	}
	f.Add("POST", "", "", "", "br", brotlied(chatJSON()), true, uint16(1))
	f.Add("POST", "", "", "", "zstd", zstandard(chatJSON()), true, uint16(1))
	f.Add("POST", "", "", "", "gzip, deflate", zlibbed(gzipped(chatJSON())), true, uint16(1))
	f.Fuzz(func(t *testing.T, method, host, path, contentType, encoding string, body []byte, complete bool, size uint16) {
		r := &Response{
			Method: method, Host: host, Path: path, Status: 200, ContentType: contentType, ContentEncoding: encoding,
			Body: body, Seen: true, Complete: complete, Stored: true, Estimate: size%2 == 0,
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

// valueLog keeps all values.
type valueLog struct {
	values []string
	strays int
}

func (l *valueLog) value(data []byte, element bool) {
	l.values = append(l.values, fmt.Sprint(element, " ", string(data)))
}
func (l *valueLog) lose()  {}
func (l *valueLog) stray() { l.strays++ }

// FuzzValues compares the values of a text that comes in pieces with those of the whole, and with what encoding/json finds
// in a valid one.
func FuzzValues(f *testing.F) {
	for _, text := range []string{
		`{"a":"}\\"}`, "{}\n{}\r\n\n{\"a\":[1,{}]}", `[{"a":1}, {"b":"\"]"} ,3,null,"x",[{}]]`, `"a" "b\\\""`, "{} x {\n{}", `[`, `{"a":"\`, `[[{}]]{}`,
	} {
		f.Add(text, uint8(0))
	}
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		read := func(size int) *valueLog {
			var log valueLog
			s := values{out: &log}
			for rest := []byte(text); len(rest) > 0; {
				n := min(size, len(rest))
				piece := bytes.Clone(rest[:n])
				s.Write(piece)
				clear(piece)
				rest = rest[n:]
			}
			rest, unended := s.Close()
			log.values = append(log.values, fmt.Sprint("rest ", string(rest), unended))
			return &log
		}
		whole := read(len(text) + 1)
		if diff := cmp.Diff(whole, read(int(size)+1), cmp.AllowUnexported(valueLog{})); diff != "" {
			t.Errorf("in pieces of %d: %s", size+1, diff)
		}
		if raw := strings.Trim(text, " \t\r\n"); json.Valid([]byte(text)) && raw[0] == '{' {
			if len(whole.values) != 2 || whole.values[0] != "false "+raw || whole.strays > 0 {
				t.Errorf("a document: got %q", whole.values)
			}
		}
		var list []json.RawMessage
		if json.Unmarshal([]byte(text), &list) == nil && list != nil {
			var want []string
			for _, element := range list {
				if strings.IndexByte("{[\"", element[0]) >= 0 {
					want = append(want, "true "+string(element))
				}
			}
			if diff := cmp.Diff(want, whole.values[:len(whole.values)-1], cmpopts.EquateEmpty()); diff != "" || whole.strays > 0 {
				t.Errorf("a list: %s", diff)
			}
		}
	})
}

// frameLog keeps all messages of an event stream.
type frameLog struct{ Messages []string }

func (l *frameLog) frame(h eventHeaders, payload []byte) {
	l.Messages = append(l.Messages, fmt.Sprintf("%s %s %s", h.messageType, h.eventType, payload))
}
func (l *frameLog) broken() {}

// FuzzEventStream compares the messages of a stream that comes in pieces with those that AWS's own library decodes.
func FuzzEventStream(f *testing.F) {
	for _, g := range goldens(f) {
		if g.framing == "eventstream" {
			f.Add(g.response.Body, uint8(0))
			f.Add(g.response.Body[:len(g.response.Body)-3], uint8(9))
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		var got, want frameLog
		s := eventStream{out: &got}
		for rest := stream; len(rest) > 0; {
			n := min(int(size)+1, len(rest))
			piece := bytes.Clone(rest[:n])
			s.Write(piece)
			clear(piece)
			rest = rest[n:]
		}
		source, decoder := bytes.NewReader(stream), eventstream.NewDecoder()
		for {
			message, err := decoder.Decode(source, nil)
			if err != nil {
				break
			}
			text := func(name string) string {
				if v, ok := message.Headers.Get(name).(eventstream.StringValue); ok {
					return string(v)
				}
				return ""
			}
			want.Messages = append(want.Messages, fmt.Sprintf("%s %s %s", text(":message-type"), text(":event-type"), message.Payload))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzDecode compares what a body that comes in pieces is decoded to with the whole's, and bounds it.
func FuzzDecode(f *testing.F) {
	body := chatJSON()
	f.Add("gzip", gzipped(body), uint8(1))
	f.Add("deflate", zlibbed(body), uint8(1))
	f.Add("deflate", deflated(body), uint8(1))
	f.Add("br", brotlied(body), uint8(1))
	f.Add("zstd", zstandard(body), uint8(1))
	f.Add("br, gzip", gzipped(brotlied(body)), uint8(1))
	f.Fuzz(func(t *testing.T, encoding string, body []byte, size uint8) {
		codings, err := codingsOf(encoding, body)
		if err != nil || len(codings) == 0 {
			return
		}
		decode := func(size int) (string, error) {
			total, sum := 0, fnv.New64a()
			d := newDecoder(codings, func(p []byte) error {
				total += len(p)
				sum.Write(p)
				return nil
			})
			for rest := body; len(rest) > 0; {
				n := min(size, len(rest))
				piece := bytes.Clone(rest[:n])
				if d.Write(piece) != nil {
					break
				}
				clear(piece)
				rest = rest[n:]
			}
			err := d.Close()
			if total > maxDecoded || total > freeSize && total/maxRatio > len(body) {
				t.Fatalf("%d bytes became %d", len(body), total)
			}
			return fmt.Sprint(total, sum.Sum64()), err
		}
		want, wantErr := decode(len(body) + 1)
		got, gotErr := decode(int(size) + 1)
		if got != want || !errors.Is(gotErr, wantErr) {
			t.Errorf("in pieces of %d: %s, %v; whole: %s, %v", size+1, got, gotErr, want, wantErr)
		}
	})
}
