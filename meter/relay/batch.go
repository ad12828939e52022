package relay

import (
	"fmt"
	"time"

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
	left               // in the spool, for later
	published
	deadLettered
	rejected
	expired // in counts alone: dead-lettered or rejected because of its age
)

// batch is what one Peek returned, on its way.
type batch struct {
	items []item
}

type item struct {
	pos     spool.Pos
	message message
	state   state
	dead    bool   // it is, or was to be, dead-lettered
	expired bool   // that is why
	reason  string // why it is dead or rejected
	lane    lane   // that it waits for, when it is left
}

func newBatch(entries []spool.Entry, s *Settings) *batch {
	b, known := &batch{items: make([]item, len(entries))}, map[string]string{}
	var headers []kafka.Header // of all: records that were there before their memory moved keep theirs
	for i, e := range entries {
		it := &b.items[i]
		it.pos = e.Pos
		if e.Err != nil {
			it.reject(e.Err.Error())
			continue
		}
		rec, err := parseRecord(e.Record, known)
		if err != nil {
			it.reject(err.Error())
			continue
		}
		first := len(headers)
		for _, h := range rec.Headers {
			headers = append(headers, kafka.Header(h))
		}
		it.message = message{topic: rec.Topic, key: rec.Key, value: rec.Value, headers: headers[first:len(headers):len(headers)]}
		switch size, age := it.message.size(), time.Since(e.Time); {
		case rec.Dead != "":
			it.poison(rec.Dead, s)
		case s.MaxEventAge > 0 && age > s.MaxEventAge:
			it.expired = true
			it.poison(fmt.Sprintf("expired: spooled %v ago, queue.max_event_age is %v", age.Round(time.Second), s.MaxEventAge), s)
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

// places returns what of the items has found its place, and how many of each kind.
func (b *batch) places() (placed []spool.Pos, rejects []spool.Reject, counts [expired + 1]int64) {
	for i := range b.items {
		it := &b.items[i]
		switch {
		case it.expired && (it.state == deadLettered || it.state == rejected):
			counts[expired]++
		default:
			counts[it.state]++
		}
		switch it.state {
		case published, deadLettered:
			placed = append(placed, it.pos)
		case rejected:
			rejects = append(rejects, spool.Reject{Pos: it.pos, Reason: it.reason})
		default:
		}
	}
	return placed, rejects, counts
}

// waitsFrom returns the first item that is still to be sent.
func (b *batch) waitsFrom() (spool.Pos, bool) {
	for i := range b.items {
		if s := b.items[i].state; s == alive || s == dead {
			return b.items[i].pos, true
		}
	}
	return spool.Pos{}, false
}

// done marks an item that the brokers acknowledged.
func (it *item) done() {
	it.state = published
	if it.dead {
		it.state = deadLettered
	}
}

// poison sends an item to the dead-letter topic, or to the spool's rejected
// bucket when there is none or it was there already.
func (it *item) poison(reason string, s *Settings) {
	if it.dead {
		it.reject("dead-letter topic: " + reason)
		return
	}
	it.reason = reason
	if s.DeadLetterTopic == "" {
		it.reject(reason)
		return
	}
	it.state, it.dead = dead, true
	it.message.headers = append(it.message.headers,
		kafka.Header{Key: deadLetterReason, Value: []byte(reason)},
		kafka.Header{Key: deadLetterTopic, Value: []byte(it.message.topic)})
	it.message.topic = s.DeadLetterTopic
}

// reject leaves an item to the spool.
func (it *item) reject(reason string) {
	if it.dead {
		reason = it.reason + "; " + reason
	}
	it.state, it.reason = rejected, reason
}
