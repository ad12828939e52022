package relay

import (
	"fmt"

	"github.com/segmentio/kafka-go"

	"kafka-metering/meter/spool"
)

// Headers of a record on the dead-letter topic.
const (
	deadLetterReason = "dead_letter_reason"
	deadLetterTopic  = "dead_letter_topic"
)

// state is where a record stands.
type state int

const (
	alive state = iota // to be published
	dead               // to be dead-lettered
	published
	deadLettered
	rejected
)

// batch is what one Peek returned, on its way.
type batch struct {
	items []item
}

type item struct {
	pos      spool.Pos
	message  message
	state    state
	reason   string // why it is dead or rejected
	attempts int    // at the dead-letter topic
}

func newBatch(entries []spool.Entry, s *Settings) *batch {
	b := &batch{items: make([]item, len(entries))}
	for i, e := range entries {
		it := &b.items[i]
		it.pos = e.Pos
		if e.Err != nil {
			it.reject(e.Err.Error())
			continue
		}
		rec, err := ParseRecord(e.Record)
		if err != nil {
			it.reject(err.Error())
			continue
		}
		it.message = message{topic: rec.Topic, key: rec.Key, value: rec.Value}
		for _, h := range rec.Headers {
			it.message.headers = append(it.message.headers, kafka.Header{Key: h.Key, Value: h.Value})
		}
		switch size := it.message.size(); {
		case rec.Dead != "":
			it.poison(rec.Dead, s)
		case rec.Topic == "":
			it.poison("record names no topic", s)
		case !validTopic(rec.Topic):
			it.poison(fmt.Sprintf("no topic can be called %q", rec.Topic), s)
		case size > s.MaxMessageBytes:
			it.poison(fmt.Sprintf("record of %d bytes is larger than the limit of %d", size, s.MaxMessageBytes), s)
		}
	}
	return b
}

// validTopic reports whether a topic can have this name: Kafka's own rule.
// Brokers may also answer that such a topic does not exist, which would be
// waited for.
func validTopic(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return len(name) > 0 && len(name) <= 249 && name != "." && name != ".."
}

// waiting returns the indexes of the items that are still to be sent, and their
// messages.
func (b *batch) waiting() ([]int, []message) {
	var indexes []int
	var messages []message
	for i := range b.items {
		if it := &b.items[i]; it.state == alive || it.state == dead {
			indexes = append(indexes, i)
			messages = append(messages, it.message)
		}
	}
	return indexes, messages
}

// finished returns how many items, from the first on, have found their place.
func (b *batch) finished() int {
	for i := range b.items {
		if s := b.items[i].state; s == alive || s == dead {
			return i
		}
	}
	return len(b.items)
}

// done marks an item that the brokers acknowledged.
func (it *item) done() {
	if it.state == dead {
		it.state = deadLettered
	} else {
		it.state = published
	}
}

// poison sends an item to the dead-letter topic, or to the spool's rejected
// bucket when there is none or it was there already.
func (it *item) poison(reason string, s *Settings) {
	if it.state == dead {
		it.reject("dead-letter topic: " + reason)
		return
	}
	it.reason = reason
	if s.DeadLetterTopic == "" {
		it.reject(reason)
		return
	}
	it.state = dead
	it.message.headers = append(it.message.headers,
		kafka.Header{Key: deadLetterReason, Value: []byte(reason)},
		kafka.Header{Key: deadLetterTopic, Value: []byte(it.message.topic)})
	it.message.topic = s.DeadLetterTopic
}

// reject leaves an item to the spool.
func (it *item) reject(reason string) {
	if it.state == dead {
		reason = it.reason + "; " + reason
	}
	it.state, it.reason = rejected, reason
}
