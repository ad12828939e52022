package main

import (
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

// encodeRecords encodes events as the spool keeps them. The records are the caller's, and share one piece of memory.
func encodeRecords(events []meter.Event, topic, dead string, binary bool) [][]byte {
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	size := 0
	for i := range events {
		size += len(events[i].Data) + 1536
	}
	records, all := make([][]byte, len(events)), make([]byte, 0, size)
	for i := range events {
		e.set(&events[i], topic, binary)
		e.record.Dead = dead
		start := len(all)
		all = e.record.AppendTo(all)
		records[i] = all[start:len(all):len(all)]
	}
	return records
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
	for name, value := range event.Headers {
		if name != "ce_datacontenttype" { // content-type says it
			e.header(name, value)
		}
	}
	e.record.Topic, e.record.Value = topic, e.value
	e.record.Key = append(e.record.Key[:0], event.Subject...)
}

func (e *encoder) header(name, value string) {
	start := len(e.values)
	e.values = append(e.values, value...)
	e.record.Headers = append(e.record.Headers, relay.Header{Key: name, Value: e.values[start:len(e.values):len(e.values)]})
}
