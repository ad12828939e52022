package record

import (
	"slices"
	"sync"

	"kafka-metering/meter"
	"kafka-metering/meter/relay"
)

// encoder makes Kafka records of events. Its memory is used again for the next exchange.
type encoder struct {
	record relay.Record
	value  []byte // of the record
	values []byte // of the record's headers
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

// Of returns an event's Kafka record.
func Of(event *meter.Event, topic string, binary bool) relay.Record {
	var e encoder
	e.set(event, topic, binary)
	return e.record
}

// Buffer holds the memory of records until the spool has them. Then it may be reset, and used again.
type Buffer struct {
	memory  []byte
	records [][]byte
}

// attributesSize is about what an event's attributes take in a record in structured mode, as members and as headers.
const attributesSize = 1536

// Encode encodes events as the spool keeps them. dead is why they are meant for the dead-letter topic; "" for topic.
func (b *Buffer) Encode(events []meter.Event, topic, dead string, binary bool) [][]byte {
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	first, size := len(b.records), 0
	for i := range events {
		size += len(events[i].Data) + attributesSize
	}
	b.memory = slices.Grow(b.memory, size)
	b.records = slices.Grow(b.records, len(events))
	for i := range events {
		e.set(&events[i], topic, binary)
		e.record.Dead = dead
		start := len(b.memory)
		b.memory = e.record.AppendTo(b.memory) // where that moves, the records before stay where they are
		b.records = append(b.records, b.memory[start:len(b.memory):len(b.memory)])
	}
	return b.records[first:]
}

// keptRecords is how much memory is kept for the next batch, in bytes: what a batch of a thousand exchanges needs.
const keptRecords = 4 << 20

// buffers are those of exchanges that come one by one.
var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// NewBuffer returns a buffer; see Release.
func NewBuffer() *Buffer { return buffers.Get().(*Buffer) }

// Release gives b back when the spool has its records, or does not want them.
func (b *Buffer) Release() {
	b.Reset()
	buffers.Put(b)
}

// Reset forgets the records.
func (b *Buffer) Reset() {
	if cap(b.memory) > keptRecords {
		*b = Buffer{}
		return
	}
	clear(b.records) // of memory that has moved
	b.memory, b.records = b.memory[:0], b.records[:0]
}

// set makes event the record, after CloudEvents' Kafka protocol binding: the whole event as the value (structured mode,
// with its attributes as headers beside it), or its data alone (binary mode).
func (e *encoder) set(event *meter.Event, topic string, binary bool) {
	contentType := "application/cloudevents+json; charset=UTF-8"
	if binary {
		contentType = "application/json"
		e.value = append(e.value[:0], event.Data...)
	} else {
		e.value = event.AppendStructured(e.value[:0])
	}
	e.values = e.values[:0]
	e.record.Headers = e.record.Headers[:0]
	e.header("content-type", contentType)
	at := len("{") // of the next attribute
	if binary {
		at = -1 // there is none in the data
	}
	for name, value := range event.Headers {
		inside := e.attribute(&at, name, value)
		switch {
		case name == "ce_datacontenttype": // content-type says it
		case inside == nil, name == "ce_sequence": // which is not known yet: it is written to both places later
			e.header(name, value)
		default:
			e.record.Headers = append(e.record.Headers, relay.Header{Key: name, Value: inside})
		}
	}
	e.record.Topic, e.record.Value = topic, e.value
	e.record.Key = append(e.record.Key[:0], event.Subject...)
}

// attribute returns where in the record's value an attribute's value stands, that begins at a place if it is in there as it
// is, and moves that place behind it. It returns nil for one that had to be escaped, and for all that follow.
func (e *encoder) attribute(at *int, name, value string) []byte {
	start := *at + len(`"`) + len(name) - len("ce_") + len(`":"`)
	end := start + len(value)
	if *at < 0 || end >= len(e.value) || e.value[start-1] != '"' || e.value[end] != '"' || string(e.value[start:end]) != value {
		*at = -1
		return nil
	}
	*at = end + len(`",`)
	return e.value[start:end]
}

func (e *encoder) header(name, value string) {
	start := len(e.values)
	e.values = append(e.values, value...)
	e.record.Headers = append(e.record.Headers, relay.Header{Key: name, Value: e.values[start:len(e.values):len(e.values)]})
}
