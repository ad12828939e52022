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

func TestARecordOfTheVersionBeforeIsRead(t *testing.T) {
	b := []byte("\x01\x01t\x04dead\x02k\x03\x01a\x02v\x04none\x00\x05empty\x01\x06value")
	want := Record{Topic: "t", Dead: "dead", Key: []byte("k"), Headers: []Header{{"a", []byte("v")}, {"none", nil}, {"empty", []byte{}}}, Value: []byte("value")}
	got, err := ParseRecord(b)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for n := range b {
		if r, err := ParseRecord(b[:n]); err == nil {
			t.Errorf("%d of %d bytes are read as %+v", n, len(b), r)
		}
	}
}

func TestAHeaderThatIsAPartOfTheValueIsNotWrittenTwice(t *testing.T) {
	value := []byte(`{"id":"0af3","source":"/kong","data":{}}`)
	apart := Record{Topic: "t", Value: value, Headers: []Header{
		{"ce_id", []byte("0af3")}, {"ce_source", []byte("/kong")}, {"all", bytes.Clone(value)}, {"end", []byte("}")}, {"none", nil}, {"empty", []byte{}},
	}}
	inside := apart
	inside.Headers = []Header{
		{"ce_id", value[7:11]}, {"ce_source", value[23:28]}, {"all", value}, {"end", value[len(value)-1:]}, {"none", nil}, {"empty", value[3:3]},
	}
	long, short := apart.AppendTo(nil), inside.AppendTo(nil)
	if want := len(long) - len("0af3") - len("/kong") - len(value) - len("}") + 4; len(short) != want {
		t.Errorf("%d bytes instead of %d, want %d", len(short), len(long), want)
	}
	got, err := ParseRecord(short)
	if diff := cmp.Diff(apart, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	var headers []Header
	f, ok := Scan(short, func(key, value []byte) { headers = append(headers, Header{string(key), value}) })
	if diff := cmp.Diff(apart.Headers, headers); diff != "" || !ok || !bytes.Equal(f.Value, value) {
		t.Errorf("%v\n%s", ok, diff)
	}
	for _, at := range []byte{byte(len(value)) - 3, byte(len(value)), 127} { // of four bytes
		if r, err := ParseRecord(bytes.Replace(short, []byte{4<<1 | partOfValue, 7}, []byte{4<<1 | partOfValue, at}, 1)); err == nil {
			t.Errorf("four bytes at %d of %d are %q", at, len(value), r.Headers[0].Value)
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
	if _, err := ParseRecord(whole); err == nil || err.Error() != "parse record: version 9, want 2" {
		t.Error(err)
	}
}

// FuzzParseRecord reads what a damaged spool may give: no panic, no memory beyond the input's, and what is read is what
// was written.
func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(Record{}.AppendTo(nil))
	f.Add(Record{Topic: "t", Key: []byte("k"), Headers: []Header{{"h", nil}, {"", []byte("v")}}, Value: []byte("v"), Dead: "d"}.AppendTo(nil))
	f.Add([]byte{recordVersion, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{recordVersion, 0, 0, 0, 4, 'a', 'b', 'c', 1, 1, 'h', 2<<1 | partOfValue, 2})
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
