package relay

import (
	"time"

	"kafka-metering/meter/spool"
)

// lane is what keeps its order: one partition of a topic.
type lane struct {
	topic     string
	partition int
}

// wholeTopic stands for all partitions of a topic: they are not known, or their
// number has changed while one of them could not be written.
const wholeTopic = -1

// lanes are the partitions and topics that cannot be written at the moment. What
// is for them stays in the spool, and the rest goes on.
type lanes struct {
	held map[lane]*held
	// layouts has the number of partitions of each topic of which one is blocked.
	layouts map[string]int
	blocked int
}

// held is what is known of a lane that failed, until it is written again.
type held struct {
	blocked  bool
	first    spool.Pos // the oldest record that was left behind; when blocked
	failures int       // in a row
	due      time.Time // when it is tried again; when blocked
}

func newLanes() *lanes { return &lanes{held: map[lane]*held{}, layouts: map[string]int{}} }

// closed reports whether a record has to stay behind others for one of a topic's
// partitions.
func (l *lanes) closed(topic string, partitions, partition int) bool {
	if l.blocked == 0 {
		return false
	}
	n, ok := l.layouts[topic]
	if !ok {
		return false
	}
	// With another number of partitions keys have moved: what is left behind for
	// one partition may have to come before this record in another.
	if n != partitions {
		return true
	}
	h := l.held[lane{topic, partition}]
	return h != nil && h.blocked
}

// leave notes that a record stays in the spool, and returns the lane that it
// waits for.
func (l *lanes) leave(topic string, partitions, partition int, pos spool.Pos) lane {
	n, blocked := l.layouts[topic]
	at := lane{topic, partition}
	if partition == wholeTopic || blocked && n != partitions {
		at.partition, partitions = wholeTopic, 0
	}
	h := l.held[at]
	if h == nil {
		h = &held{}
		l.held[at] = h
	}
	if !h.blocked {
		h.blocked, h.first = true, pos
		l.blocked++
	}
	if pos.Compare(h.first) < 0 {
		h.first = pos
	}
	if at.partition == wholeTopic && n != 0 {
		l.merge(topic, n, h)
	}
	l.layouts[topic] = partitions
	return at
}

// merge makes the blocked partitions of a topic part of the topic as a whole.
func (l *lanes) merge(topic string, partitions int, whole *held) {
	for partition := range partitions {
		at := lane{topic, partition}
		h := l.held[at]
		if h == nil {
			continue
		}
		if h.blocked {
			l.blocked--
			if h.first.Compare(whole.first) < 0 {
				whole.first = h.first
			}
			whole.failures = max(whole.failures, h.failures)
		}
		delete(l.held, at)
	}
}

// fail notes that a lane was tried and could not be written.
func (l *lanes) fail(at lane, now time.Time, limit time.Duration) {
	h := l.held[at]
	h.failures++
	h.due = now.Add(delay(h.failures, limit))
}

// failures returns how often in a row a lane could not be written.
func (l *lanes) failures(at lane) int {
	if h := l.held[at]; h != nil {
		return h.failures
	}
	return 0
}

// wrote notes that a lane could be written.
func (l *lanes) wrote(at lane) {
	if h := l.held[at]; h != nil && !h.blocked {
		delete(l.held, at)
	}
}

// release opens a lane and returns from where on its records are to be read
// again. Its failures are forgotten by wrote. It reports false when the lane is
// not blocked: it may have become part of the topic as a whole.
func (l *lanes) release(at lane) (first spool.Pos, ok bool) {
	opened := l.held[at]
	if opened == nil || !opened.blocked {
		return first, false
	}
	opened.blocked = false
	l.blocked--
	for other, h := range l.held {
		if other.topic == at.topic && h.blocked {
			return opened.first, true
		}
	}
	delete(l.layouts, at.topic)
	return opened.first, true
}

// due returns at most limit blocked lanes that are to be tried now, and how long
// it is until the next one is; negative when there is none.
func (l *lanes) due(now time.Time, limit int) (list []lane, next time.Duration) {
	next = -1
	if l.blocked == 0 {
		return nil, next
	}
	for at, h := range l.held {
		switch wait := h.due.Sub(now); {
		case !h.blocked:
		case wait > 0:
			if next < 0 || wait < next {
				next = wait
			}
		case len(list) < limit:
			list = append(list, at)
		default:
			next = 0
		}
	}
	return list, next
}

// hurry makes all blocked lanes due.
func (l *lanes) hurry() {
	for _, h := range l.held {
		h.due = time.Time{}
	}
}
