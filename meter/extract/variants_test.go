package extract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf16"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/google/go-cmp/cmp"
)

// The same answer can be written in many ways: by another server, another library, a proxy between. Each way gives the same
// numbers. Recorded responses are tried too, where there are any.
func TestTheSameAnswerWrittenOtherwiseGivesTheSame(t *testing.T) {
	tried := 0
	for name, r := range answers(t) {
		want := reportOf(Extract(r))
		for _, v := range rewritings {
			for _, w := range v.rewrite(r) {
				tried++
				got := reportOf(Extract(w))
				want := want
				if w.Host != r.Host { // which told the provider, and that it is a call
					want, got = report{Usage: want.Usage}, report{Usage: got.Usage}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s, %s: %s", name, v.name, diff)
				}
			}
		}
	}
	t.Logf("%d rewritings", tried)
}

// A stream that is cut between two events declares what the events before the cut declare, told that it is cut or not.
func TestACutStreamDeclaresWhatItsWholeEventsDeclare(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 3))
	for name, r := range answers(t) {
		ends := eventEnds(r.Body)
		if f := framingOf(r); f != "events" && f != "lines" || len(ends) < 4 || r.Estimate {
			continue
		}
		for range 8 {
			i := 1 + random.IntN(len(ends)-2)
			whole, cut, untold := *r, *r, *r
			whole.Body, whole.Complete = r.Body[:ends[i]], false
			length := len(bytes.TrimRight(r.Body[ends[i]:ends[i+1]], "\r\n")) // without its last byte no event is whole
			cut.Body, cut.Complete = r.Body[:ends[i]+random.IntN(max(1, length))], false
			untold.Body, untold.Complete = cut.Body, true
			want := reportOf(Extract(&whole))
			if diff := cmp.Diff(want, reportOf(Extract(&cut))); diff != "" {
				t.Errorf("%s, cut in event %d: %s", name, i+1, diff)
			}
			if diff := cmp.Diff(want.Usage, reportOf(Extract(&untold)).Usage); diff != "" {
				t.Errorf("%s, cut in event %d, which nobody tells: %s", name, i+1, diff)
			}
		}
	}
}

// answers are the golden cases and the recorded ones, decoded.
func answers(t *testing.T) map[string]*Response {
	all := map[string]*Response{}
	for _, g := range goldens(t) {
		all[g.name] = g.response
	}
	if testing.Short() {
		return all
	}
	for _, c := range recorded(t) {
		r := c.response()
		r.Body, r.ContentEncoding = decoded(t, r), ""
		all[c.Name] = r
	}
	return all
}

func decoded(t *testing.T, r *Response) []byte {
	codings, err := codingsOf(r.ContentEncoding, r.Body)
	if err != nil || len(codings) == 0 {
		return r.Body
	}
	var out bytes.Buffer
	d := newDecoder(codings, func(b []byte) error {
		out.Write(b)
		return nil
	})
	if err := errors.Join(d.Write(r.Body), d.Close()); err != nil && !errors.Is(err, ErrTruncated) {
		t.Fatal(err)
	}
	return out.Bytes()
}

// framingOf tells what the body is, as far as the rewritings care.
func framingOf(r *Response) string {
	body := bytes.TrimSpace(r.Body)
	switch {
	case len(body) == 0:
		return ""
	case r.ContentType == eventStreamType || body[0] == 0:
		return "binary"
	case json.Valid(body) && body[0] == '{':
		return "document"
	case json.Valid(body) && body[0] == '[':
		return "array"
	case body[0] == '{' && slices.ContainsFunc(bytes.Split(body, []byte("\n")), json.Valid):
		return "lines"
	case bytes.Contains(body, []byte("data:")):
		return "events"
	}
	return ""
}

// eventEnds are the offsets behind the events, or lines, of a stream.
func eventEnds(body []byte) (ends []int) {
	blank := []byte("\n\n")
	if bytes.Contains(body, []byte("\r\n\r\n")) {
		blank = []byte("\r\n\r\n")
	} else if trimmed := bytes.TrimSpace(body); len(trimmed) > 0 && trimmed[0] == '{' {
		blank = []byte("\n")
	}
	for from := 0; ; {
		i := bytes.Index(body[from:], blank)
		if i < 0 {
			return ends
		}
		from += i + len(blank)
		ends = append(ends, from)
	}
}

// rewritings write an answer in other ways; none where one does not apply.
var rewritings = []struct {
	name    string
	rewrite func(r *Response) []*Response
}{
	{"gzip", encoded("gzip", gzipped)},
	{"brotli", encoded("br", brotlied)},
	{"zstd", encoded("zstd", zstandard)},
	{"deflate", encoded("deflate", zlibbed)},
	{"events with CRLF", events(func(b []byte) []byte {
		return bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
	})},
	{"events with CR", events(func(b []byte) []byte {
		return bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r"))
	})},
	{"events with comments, ids and names", events(func(b []byte) []byte {
		name := "event: usage\n"
		if bytes.Contains(b, []byte("event:error")) {
			name = "" // the one name that tells something
		}
		return bytes.ReplaceAll(b, []byte("data:"), []byte(": {\"usage\":{\"total_tokens\":9}}\nid: 1\nretry: 3\n"+name+"data:"))
	})},
	{"events without the last blank line", whole(events(func(b []byte) []byte { return bytes.TrimRight(b, "\r\n") }))},
	{"a byte order mark", events(func(b []byte) []byte { return append([]byte("\ufeff"), b...) })},
	{"members in reverse", documents(func(v value) string { return v.text(layout{reverse: true}) })},
	{"indented", documents(func(v value) string { return v.text(layout{indent: true}) })},
	{"indented, in reverse", documents(func(v value) string { return v.text(layout{indent: true, reverse: true}) })},
	{"white space around everything", documents(func(v value) string { return v.text(layout{spaced: true}) })},
	{"texts escaped", documents(func(v value) string { return v.text(layout{escaped: true}) })},
	{"counts as floats", documents(func(v value) string { return v.text(layout{floats: true}) })},
	{"padding", func(r *Response) []*Response {
		if f := framingOf(r); f != "document" && f != "array" && f != "lines" {
			return nil
		}
		return []*Response{
			with(r, append([]byte(" \r\n\n\n\t   \n"), r.Body...)), with(r, append([]byte("\ufeff"), r.Body...)), with(r, append(bytes.TrimRight(r.Body, "\r\n"), "\n \n"...)),
		}
	}},
	{"behind a gateway of one's own", func(r *Response) []*Response {
		w := *r
		w.Host, w.Path = "gateway.internal:8443", "/team-a"+r.Path
		return []*Response{&w}
	}},
	{"a content type that is wrong", func(r *Response) []*Response {
		if framingOf(r) == "" || r.Status < 200 || r.Status > 299 {
			return nil
		}
		var all []*Response
		types := []string{"", "text/plain", "application/octet-stream", "Text/Event-Stream;Charset=UTF-8"}
		if f := framingOf(r); f == "events" || f == "array" || f == "document" {
			types = append(types, "application/json; charset=utf-8")
		}
		for _, kind := range types {
			if isLines(r.ContentType) || r.Method == "GET" {
				break // the type alone tells a single line from a document
			}
			w := *r
			w.ContentType = kind
			all = append(all, &w)
		}
		return all
	}},
}

func with(r *Response, body []byte) *Response {
	w := *r
	w.Body = body
	return &w
}

// whole leaves out answers that are cut.
func whole(rewrite func(r *Response) []*Response) func(r *Response) []*Response {
	return func(r *Response) []*Response {
		if !r.Complete {
			return nil
		}
		return rewrite(r)
	}
}

func encoded(coding string, pack func([]byte) []byte) func(r *Response) []*Response {
	return func(r *Response) []*Response {
		w := with(r, pack(r.Body))
		w.ContentEncoding = coding
		return []*Response{w}
	}
}

// events rewrites a stream of events as a text.
func events(rewrite func([]byte) []byte) func(r *Response) []*Response {
	return func(r *Response) []*Response {
		if framingOf(r) != "events" {
			return nil
		}
		return []*Response{with(r, rewrite(bytes.Clone(r.Body)))}
	}
}

// documents rewrites every JSON document of an answer: a whole one, lines, elements, data of events.
func documents(rewrite func(value) string) func(r *Response) []*Response {
	return func(r *Response) []*Response {
		var out bytes.Buffer
		switch framingOf(r) {
		case "document", "array":
			if v, ok := parseValue(r.Body); ok {
				out.WriteString(rewrite(v))
			}
		case "lines":
			for line := range bytes.Lines(r.Body) {
				v, ok := parseValue(bytes.TrimSpace(line))
				text := rewrite(v)
				if !ok {
					out.Write(line)
				} else if strings.Contains(text, "\n") {
					return nil // not lines any more
				} else {
					fmt.Fprintf(&out, "%s\n", text)
				}
			}
		case "events":
			for line := range bytes.Lines(r.Body) {
				data, isData := bytes.CutPrefix(line, []byte("data:"))
				if v, ok := parseValue(bytes.TrimSpace(data)); isData && ok {
					end := strings.TrimPrefix(string(line), strings.TrimRight(string(line), "\r\n"))
					fmt.Fprintf(&out, "data: %s%s", strings.ReplaceAll(rewrite(v), "\n", "\ndata: "), end)
				} else {
					out.Write(line)
				}
			}
		case "binary":
			d := eventstream.NewDecoder()
			for source := bytes.NewReader(r.Body); ; {
				m, err := d.Decode(source, nil)
				if err != nil {
					break
				}
				rewriteMessage(&m, rewrite)
				if eventstream.NewEncoder().Encode(&out, m) != nil {
					return nil
				}
			}
			if !r.Complete {
				return nil // what is cut is gone
			}
		}
		if out.Len() == 0 {
			return nil
		}
		return []*Response{with(r, out.Bytes())}
	}
}

// rewriteMessage rewrites the JSON of an event stream's message, and what a chunk wraps.
func rewriteMessage(m *eventstream.Message, rewrite func(value) string) {
	var chunk struct{ Bytes []byte }
	if json.Unmarshal(m.Payload, &chunk) == nil && len(chunk.Bytes) > 0 {
		if v, ok := parseValue(chunk.Bytes); ok {
			m.Payload, _ = json.Marshal(map[string]any{"bytes": []byte(rewrite(v)), "a": 1, "p": "abc"})
		}
		return
	}
	if v, ok := parseValue(m.Payload); ok {
		m.Payload = []byte(rewrite(v))
	}
}

// value is a JSON value that keeps the order of members, and numbers as they are written.
type value struct {
	scalar  any
	members []member
	list    []value
	kind    byte // { [ or 0
}

type member struct {
	name  string
	value value
}

func parseValue(data []byte) (value, bool) {
	if !json.Valid(data) {
		return value{}, false
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return readValue(d), true
}

func readValue(d *json.Decoder) value {
	token, err := d.Token()
	if err != nil {
		panic(err)
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return value{scalar: token}
	}
	v := value{kind: byte(delim)}
	for d.More() {
		if delim == '{' {
			name, _ := d.Token()
			v.members = append(v.members, member{name.(string), readValue(d)})
		} else {
			v.list = append(v.list, readValue(d))
		}
	}
	_, _ = d.Token()
	return v
}

// layout is a way to write a value.
type layout struct {
	reverse, indent, spaced, escaped, floats bool

	depth int
}

func (v value) text(l layout) string {
	space, line := "", ""
	if l.indent {
		space, line = " ", "\n"+strings.Repeat("  ", l.depth+1)
	}
	if l.spaced {
		space, line = " ", " "
	}
	below := l
	below.depth++
	var parts []string
	switch v.kind {
	case '{':
		for _, m := range v.members {
			name, _ := json.Marshal(m.name)
			before := ""
			if l.spaced {
				before = " "
			}
			parts = append(parts, string(name)+before+":"+space+m.value.text(below))
		}
		if l.reverse {
			slices.Reverse(parts)
		}
	case '[':
		for _, e := range v.list {
			parts = append(parts, e.text(below))
		}
	default:
		return l.scalar(v.scalar)
	}
	end := string(v.kind + 2)
	if len(parts) == 0 {
		return string(v.kind) + end
	}
	return string(v.kind) + line + strings.Join(parts, ","+line) + strings.TrimSuffix(line, "  ") + end
}

func (l layout) scalar(x any) string {
	switch x := x.(type) {
	case string:
		b, _ := json.Marshal(x)
		if !l.escaped {
			return string(b)
		}
		var s strings.Builder
		s.WriteByte('"')
		for _, r := range x {
			switch {
			case r == '/':
				s.WriteString(`\/`)
			case unicode.IsLetter(r) && r < 0x80 || unicode.IsDigit(r) || strings.ContainsRune("._-:", r):
				s.WriteRune(r) // nobody escapes these
			default:
				for _, unit := range utf16.Encode([]rune{r}) {
					fmt.Fprintf(&s, `\u%04x`, unit)
				}
			}
		}
		s.WriteByte('"')
		return s.String()
	case json.Number:
		if l.floats && !strings.ContainsAny(x.String(), ".eE-") {
			return x.String() + ".0"
		}
		return x.String()
	default:
		b, _ := json.Marshal(x)
		return string(b)
	}
}
