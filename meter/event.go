package meter

import "time"

// SpecVersion is the version of CloudEvents that the events follow.
const SpecVersion = "1.0"

// Event is one CloudEvent. Program.Events fills in all but Sequence and RecordedTime, which belong to the moment of
// recording.
type Event struct {
	ID           string
	Source       string
	Type         string
	Subject      string // also the partition key
	Time         time.Time
	DataSchema   string
	TraceParent  string // empty when the request had none
	Sequence     string
	RecordedTime time.Time
	Data         []byte // a flat JSON object
}

// timeFormat is RFC 3339 with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// Attributes calls yield for each CloudEvents attribute and extension that e has, in the order in which they are
// written. The values are valid UTF-8.
func (e *Event) Attributes(yield func(name, value string) bool) {
	for _, a := range [...]struct{ name, value string }{
		{"specversion", SpecVersion},
		{"id", e.ID},
		{"source", e.Source},
		{"type", e.Type},
		{"subject", e.Subject},
		{"time", e.Time.UTC().Format(timeFormat)},
		{"datacontenttype", "application/json"},
		{"dataschema", e.DataSchema},
		{"partitionkey", e.Subject},
		{"sequence", e.Sequence},
		{"recordedtime", e.RecordedTime.UTC().Format(timeFormat)},
		{"traceparent", e.TraceParent},
	} {
		if a.value != "" && !yield(a.name, a.value) {
			return
		}
	}
}

// AppendStructured appends e in CloudEvents' structured mode (the JSON event format): one JSON object.
func (e *Event) AppendStructured(b []byte) []byte {
	b = append(b, '{')
	for name, value := range e.Attributes {
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, `":`...)
		b = append(appendString(b, value), ',')
	}
	b = append(b, `"data":`...)
	b = append(b, e.Data...)
	return append(b, '}')
}
