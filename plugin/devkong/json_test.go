package devkong

import (
	"bufio"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestJSONIsWrittenAsKongsEncoderDoes(t *testing.T) {
	for _, test := range []struct {
		value any
		want  string
	}{
		{nil, "null"},
		{true, "true"},
		{42, "42"},
		{int64(1795428217673), "1795428217673"},
		{1.795428217673231e18, "1.795428217673231e+18"}, // as recorded
		{0.04545454545454546, "0.04545454545454546"},    // as recorded
		{-0.5, "-0.5"},
		{"a/b\"\\\n\x01\x7f", `"a\/b\"\\\n\u0001\u007f"`},
		{"é\xff", "\"é\xff\""},
		{[]string{"a", "b"}, `["a","b"]`},
		{[]any{1, "a", []any{}}, `[1,"a",[]]`},
		{map[string]any{"b": 1, "a": map[string]any{}}, `{"a":{},"b":1}`},
	} {
		if got := string(appendJSON(nil, test.value)); got != test.want {
			t.Errorf("%#v: %s, want %s", test.value, got, test.want)
		}
	}
}

func TestAQueryIsReadAsNginxDoes(t *testing.T) {
	want := map[string]any{
		"a": []any{"1", "2", true}, "b": "x y+z", "c": "", "d": true, "e": "\xff", "f": "100%", "g h": "%zz é",
	}
	got := queryArgs("a=1&a=2&b=x+y%2Bz&c=&d&a&e=%ff&f=100%&g%20h=%zz%20%c3%a9&&=nameless")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, want := withoutArg("a=1&%61=2&b=a", "a"), "b=a"; got != want {
		t.Errorf("without a: %q, want %q", got, want)
	}
}

func TestAPoolKeepsTheConnectionsUsedLast(t *testing.T) {
	var p pool
	var others []net.Conn
	put := func() *conn {
		here, there := net.Pipe()
		others = append(others, there)
		c := &conn{Conn: here, r: bufio.NewReader(here)}
		p.put(c)
		return c
	}
	closed := func(i int) bool {
		_ = others[i].SetDeadline(time.Unix(1, 0)) // do not wait for a reader
		_, err := others[i].Write([]byte("x"))
		return errors.Is(err, io.ErrClosedPipe)
	}
	for range poolSize {
		put()
	}
	last := put()
	if !closed(0) {
		t.Error("the oldest connection did not make room")
	}
	if p.take() != last {
		t.Error("the connection used last is not the first one taken")
	}
	p.put(last)
	last.idle = last.idle.Add(-poolIdle - time.Second)
	if got := p.take(); got == last || got == nil {
		t.Error("a connection that was idle for too long is used")
	}
	p.close()
	if !closed(1) || !closed(len(others)-1) || p.take() != nil {
		t.Error("a closed pool keeps connections open")
	}
	p.put(last)
	if p.take() != nil {
		t.Error("a closed pool takes connections")
	}
}
