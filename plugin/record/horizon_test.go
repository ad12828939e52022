package record

import (
	"testing"
	"time"

	"kafka-metering/meter/relay"
)

// TestTheHorizonIsThatOfTheTopicAlone has a partition whose beginning is gone, and that begins with a foreign record now: since when it
// has all events its first event tells, and not one of the partition of that number on the dead-letter topic.
func TestTheHorizonIsThatOfTheTopicAlone(t *testing.T) {
	event := func(number, recorded string) []byte {
		return []byte(`{"specversion":"1.0","id":"` + number + `","source":"` + testSource + `","type":"kong.api_request","subject":"c","time":"` + recorded +
			`","sequence":"1795428217000-00000000000` + number + `","recordedtime":"` + recorded + `","data":{}}`)
	}
	v := NewVerifier(testTopic)
	v.Add(relay.Message{Offset: 5, Value: []byte("no event")})
	v.AddDead(relay.Message{
		Offset: 7, Value: event("1", "2026-11-23T10:00:09.000Z"),
		Headers: []relay.Header{{Key: "dead_letter_topic", Value: []byte(testTopic)}, {Key: "dead_letter_reason", Value: []byte("too large")}},
	})
	if !v.horizon.IsZero() {
		t.Errorf("a dead letter sets the horizon to %v", v.horizon)
	}
	v.Add(relay.Message{Offset: 6, Value: event("2", "2026-11-23T10:00:02.000Z")})
	if want := time.Date(2026, 11, 23, 10, 0, 2, 0, time.UTC); !v.horizon.Equal(want) {
		t.Errorf("the horizon is %v, want %v", v.horizon, want)
	}
}
