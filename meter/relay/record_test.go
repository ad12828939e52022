package relay

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	for _, r := range []Record{
		{},
		{Topic: "t", Key: []byte{}, Value: []byte{}},
		{Topic: "t", Key: []byte("k"), Value: []byte("v"), Dead: "no subject"},
		{Topic: "t", Headers: []Header{{"a", nil}, {"", []byte{}}, {"a", bytes.Repeat([]byte{0}, 300)}}, Value: bytes.Repeat([]byte{255}, 70_000)},
	} {
		got, err := ParseRecord(r.AppendTo([]byte("before"))[len("before"):])
		if err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(r, got); d != "" {
			t.Error(d)
		}
	}
}

func TestAShortenedOrLengthenedRecordIsNone(t *testing.T) {
	whole := Record{Topic: "topic", Key: []byte("key"), Headers: []Header{{"h", []byte("v")}}, Value: []byte("value")}.AppendTo(nil)
	for n := range whole {
		if r, err := ParseRecord(whole[:n]); err == nil {
			t.Errorf("%d of %d bytes are read as %+v", n, len(whole), r)
		}
	}
	if r, err := ParseRecord(append(whole, 0)); err == nil {
		t.Errorf("one byte too many is read as %+v", r)
	}
	whole[0] = 9
	if _, err := ParseRecord(whole); err == nil || err.Error() != "parse record: version 9, want 1" {
		t.Error(err)
	}
}

// FuzzParseRecord reads what a damaged spool may give: no panic, no memory beyond the input's, and what is read is what
// was written.
func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(Record{}.AppendTo(nil))
	f.Add(Record{Topic: "t", Key: []byte("k"), Headers: []Header{{"h", nil}, {"", []byte("v")}}, Value: []byte("v"), Dead: "d"}.AppendTo(nil))
	f.Add([]byte{recordVersion, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			return
		}
		again, err := ParseRecord(r.AppendTo(nil)) // lengths may be written longer than needed
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r, again); d != "" {
			t.Error(d)
		}
	})
}
