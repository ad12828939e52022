package meter

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"kafka-metering/meter/scan"
)

// SpecVersion is the version of CloudEvents that the events follow.
const SpecVersion = "1.0"

// Event is one CloudEvent, its attributes as they are written. Program.Events fills in all but Sequence and RecordedTime,
// which belong to the moment of recording.
type Event struct {
	ID           string
	Source       string
	Type         string
	Subject      string // also the partition key
	Time         string // see [FormatTime]
	DataSchema   string
	TraceParent  string // empty when the request had none
	Sequence     string
	RecordedTime string
	Data         []byte // a flat JSON object
}

// FormatTime writes t as events do: RFC 3339 with milliseconds, in UTC.
func FormatTime(t time.Time) string {
	var space [len("2006-01-02T15:04:05.000Z")]byte
	b := t.UTC().AppendFormat(space[:0], time.RFC3339) // which has a fast path; a layout with milliseconds has none
	ms := t.Nanosecond() / 1e6
	return string(append(b[:len(b)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z'))
}

// attributeText returns s as an attribute of a CloudEvent may hold it: bytes that are not UTF-8, control characters and
// Unicode's noncharacters become U+FFFD.
func attributeText(s string) string {
	if scan.Plain(s) && strings.IndexByte(s, 0x7f) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r >= 0xfdd0 && r <= 0xfdef || r&0xfffe == 0xfffe {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}

// headerPrefix stands before an attribute's name where it is a header of a Kafka record (CloudEvents' Kafka protocol
// binding, section 3.2.4).
const headerPrefix = "ce_"

// Headers calls yield for each CloudEvents attribute and extension that e has, in the order in which they are written,
// with the name that it has as a header. The values are valid UTF-8.
func (e *Event) Headers(yield func(name, value string) bool) {
	for _, a := range [...]struct{ name, value string }{
		{headerPrefix + "specversion", SpecVersion},
		{headerPrefix + "id", e.ID},
		{headerPrefix + "source", e.Source},
		{headerPrefix + "type", e.Type},
		{headerPrefix + "subject", e.Subject},
		{headerPrefix + "time", e.Time},
		{headerPrefix + "datacontenttype", "application/json"},
		{headerPrefix + "dataschema", e.DataSchema},
		{headerPrefix + "partitionkey", e.Subject},
		{headerPrefix + "sequence", e.Sequence},
		{headerPrefix + "recordedtime", e.RecordedTime},
		{headerPrefix + "traceparent", e.TraceParent},
	} {
		if a.value != "" && !yield(a.name, a.value) {
			return
		}
	}
}

// AppendStructured appends e in CloudEvents' structured mode (the JSON event format): one JSON object. Its size is that of
// the data and some 700 bytes.
func (e *Event) AppendStructured(b []byte) []byte {
	b = append(b, '{')
	for name, value := range e.Headers {
		b = append(b, '"')
		b = append(b, name[len(headerPrefix):]...)
		b = append(b, `":`...)
		b = append(appendString(b, value), ',')
	}
	b = append(b, `"data":`...)
	b = append(b, e.Data...)
	return append(b, '}')
}
