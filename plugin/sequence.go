package main

import (
	"slices"
	"strconv"
	"strings"
	"sync"

	"kafka-metering/meter"
)

// sequence numbers events: <run>-<number>, contiguous within one run, so that a gap is a lost event. Text order is numeric
// order. A run is one start of the process, one source and one topic, as one pipeline publishes them.
type sequence struct {
	prefix string

	mu   sync.Mutex
	last uint64
	free []uint64 // numbers of events that were not spooled, and will be: see giveBack
}

// sequence returns the counter of the events that one source sends to one topic through one pipeline; of those that go to
// the dead-letter topic instead a second one, because on the topic they would be gaps.
func (p *process) sequence(pipeline, topic, source string, dead bool) *sequence {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := strings.Join([]string{pipeline, topic, source, strconv.FormatBool(dead)}, "\x00")
	if p.sequences[key] == nil {
		run := strconv.FormatInt(p.started.UnixMilli(), 10)
		if n := len(p.sequences); n > 0 {
			run += "." + strconv.Itoa(n)
		}
		p.sequences[key] = &sequence{prefix: run + "-"}
	}
	return p.sequences[key]
}

// number gives each event its number.
func (s *sequence) number(events []meter.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range events {
		if n := len(s.free); n > 0 {
			events[i].Sequence = s.format(s.free[n-1])
			s.free = s.free[:n-1]
			continue
		}
		s.last++
		events[i].Sequence = s.format(s.last)
	}
}

// giveBack takes the numbers of events back that could not be spooled and are not lost: whoever has them hands them over
// again, and then they get numbers anew.
func (s *sequence) giveBack(events []meter.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range events {
		if n, err := strconv.ParseUint(strings.TrimPrefix(events[i].Sequence, s.prefix), 10, 64); err == nil {
			s.free = append(s.free, n)
		}
		events[i].Sequence = ""
	}
}

func (s *sequence) format(number uint64) string {
	const digits = 12
	var space [64]byte
	text := strconv.AppendUint(append(space[:0], s.prefix...), number, 10)
	if missing := digits - (len(text) - len(s.prefix)); missing > 0 {
		text = slices.Insert(text, len(s.prefix), zeros[:missing]...)
	}
	return string(text)
}

// zeros fill a number up.
var zeros = []byte("000000000000")
