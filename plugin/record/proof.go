package record

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kafka-metering/meter"
)

// Kind is what was found.
type Kind string

// The kinds.
const (
	KindMissing    Kind = "missing"     // numbers that stand nowhere
	KindTampered   Kind = "tampered"    // a hash that does not match
	KindConflict   Kind = "conflict"    // two contents under one number, or two data under one id
	KindCheckpoint Kind = "checkpoint"  // a checkpoint that contradicts itself or the one before
	KindUnproven   Kind = "unproven"    // events that no checkpoint covers, though one is overdue
	KindDead       Kind = "dead_letter" // numbers that stand on the dead-letter topic
	KindExpired    Kind = "expired"     // numbers that the topic's retention may have removed
)

// Finding is one of them.
type Finding struct {
	Kind    Kind   `json:"kind"`
	Source  string `json:"source"`
	First   string `json:"first_sequence"`
	Last    string `json:"last_sequence"`
	Events  uint64 `json:"events"`
	Problem bool   `json:"problem"` // the topic is not what was recorded, or not proven to be
	Text    string `json:"text"`
}

type finding struct {
	run *evidence
	Finding
}

// State is how a run has ended.
type State string

// The states.
const (
	StateComplete State = "complete" // the last event is its last checkpoint
	StateKilled   State = "killed"   // the same, written by the process that took over
	StateOpen     State = "open"     // no last checkpoint: the process runs, or it is gone and nobody has its spool yet
)

// Run is what the topic has of one run.
type Run struct {
	Source      string `json:"source"`
	Started     string `json:"started"`
	Start       int64  `json:"start"` // as in its sequences
	State       State  `json:"state"`
	Events      int    `json:"events"`
	Proven      uint64 `json:"proven"` // of them, those that a checkpoint's hash covers
	Checkpoints int    `json:"checkpoints"`
	Redelivered int    `json:"redelivered"` // records that stood there before, the same to the byte
	Problems    int    `json:"problems"`
}

// GapSum is what a source's kong.metering_gap events add up to: exchanges that have no events at all.
type GapSum struct {
	Source    string `json:"source"`
	Reason    string `json:"reason"`
	Events    int    `json:"events"`
	Exchanges int64  `json:"exchanges"` // of those that tell
}

type gapKey struct{ source, reason string }

// Proof is the result.
type Proof struct {
	Topic    string    `json:"topic"`
	Events   int       `json:"events"`
	Repeated int       `json:"repeated"` // events under a second number, with the same id and data
	Foreign  int       `json:"foreign"`  // records that are no events of this plugin
	Problems int       `json:"problems"`
	Runs     []Run     `json:"runs"`
	Findings []Finding `json:"findings"`
	Gaps     []GapSum  `json:"gaps"`
}

// overdue is how long after an event its checkpoint should stand on the topic.
const overdue = 5 * time.Minute

// Proof returns what the records prove, at the time now.
func (v *Verifier) Proof(now time.Time) *Proof {
	p := &Proof{Topic: v.topic, Foreign: v.foreign, Runs: []Run{}, Findings: []Finding{}, Gaps: []GapSum{}}
	all := slices.Clone(v.found)
	p.Repeated, all = v.sameID(all)
	slices.SortFunc(v.list, func(a, b *evidence) int {
		return cmp.Or(strings.Compare(a.source, b.source), cmp.Compare(a.start, b.start))
	})
	for _, r := range v.list {
		run, found := r.judge(now, v.horizon)
		for _, f := range all {
			if f.run == r {
				found = append(found, f.Finding)
			}
		}
		slices.SortStableFunc(found, func(a, b Finding) int { return strings.Compare(a.First, b.First) })
		for i := range found {
			found[i].Source = r.source
			if found[i].Problem {
				run.Problems++
			}
		}
		p.Events += run.Events
		p.Problems += run.Problems
		p.Runs, p.Findings = append(p.Runs, run), append(p.Findings, found...)
	}
	for _, key := range slices.SortedFunc(maps.Keys(v.gaps), func(a, b gapKey) int {
		return cmp.Or(strings.Compare(a.source, b.source), strings.Compare(a.reason, b.reason))
	}) {
		p.Gaps = append(p.Gaps, *v.gaps[key])
	}
	return p
}

// gap takes in a kong.metering_gap.
func (v *Verifier) gap(p *parsed) {
	var data struct {
		Exchanges int64  `json:"exchanges"`
		Reason    string `json:"reason"`
	}
	if json.Unmarshal(p.data, &data) != nil {
		return
	}
	key := gapKey{p.source, data.Reason}
	if v.gaps[key] == nil {
		v.gaps[key] = &GapSum{Source: p.source, Reason: data.Reason}
	}
	v.gaps[key].Events++
	v.gaps[key].Exchanges += data.Exchanges
}

// sameID finds events that have one id under two numbers: Kong had handed the exchange over again. Their data must be the same.
func (v *Verifier) sameID(found []finding) (repeated int, _ []finding) {
	slices.SortFunc(v.ids, func(a, b identity) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.run.start, b.run.start), cmp.Compare(a.number, b.number))
	})
	for i := 1; i < len(v.ids); i++ {
		a, b := &v.ids[i-1], &v.ids[i]
		switch {
		case a.id != b.id:
		case a.data == b.data:
			repeated++
		default:
			found = append(found, finding{b.run, Finding{
				Kind: KindConflict, First: b.run.sequence(b.number), Last: b.run.sequence(b.number), Events: 1, Problem: true,
				Text: "its id is that of " + a.run.sequence(a.number) + ", its data is not: who deduplicates by source and id keeps either",
			}})
		}
	}
	return repeated, found
}

func (r *evidence) sequence(number uint64) string {
	return string(appendSequence(nil, r.start, number))
}

// judge says what the evidence of a run proves.
func (r *evidence) judge(now, horizon time.Time) (run Run, found []Finding) {
	r.settle()
	run = Run{
		Source: r.source, Start: r.start, Started: meter.FormatTime(time.UnixMilli(r.start)), State: StateOpen,
		Events: r.events, Checkpoints: len(r.checkpoints), Redelivered: r.redelivered,
	}
	note := func(kind Kind, problem bool, first, last uint64, format string, args ...any) {
		found = append(found, Finding{
			Kind: kind, First: r.sequence(first), Last: r.sequence(last), Events: last - first + 1, Problem: problem, Text: fmt.Sprintf(format, args...),
		})
	}
	times := r.clock()
	for _, m := range r.missing() {
		if since := times.since(m[0]); since.Before(horizon) {
			note(KindExpired, false, m[0], m[1], "not on the topic, whose older records may have been removed: not judged")
		} else {
			note(KindMissing, true, m[0], m[1], "recorded after %s, and on no partition", meter.FormatTime(since))
		}
	}
	if r.dead > 0 {
		found = append(found, Finding{
			Kind: KindDead, First: r.sequence(1), Last: r.sequence(r.last), Events: uint64(r.dead), Text: "on the dead-letter topic: publish again what is to be billed",
		})
	}
	covered := uint64(0) // by a checkpoint, up to here
	for _, number := range slices.Sorted(maps.Keys(r.checkpoints)) {
		c := r.checkpoints[number]
		switch gap := c.first - max(covered+1, 1); {
		case c.first <= covered:
			note(KindCheckpoint, true, number, number, "it covers numbers that the checkpoint before it covers, too")
		case gap > 0 && !times.since(covered+1).Before(horizon):
			note(KindUnproven, true, covered+1, c.first-1, "the checkpoint that covers them is missing")
		}
		switch {
		case r.proven[number]:
			run.Proven += c.Events
		case r.complete(c):
			note(KindTampered, true, c.first, c.last, "the hash of what stands on the topic is not that of what was recorded: an event among them was changed")
		}
		covered = max(covered, c.last)
		if number == r.last {
			run.Proven++ // itself
			switch c.Reason {
			case ReasonStop:
				run.State = StateComplete
			case ReasonKilled:
				run.State = StateKilled
			}
		}
	}
	last, ok := r.checkpoints[covered+1]
	switch {
	case ok && covered+1 == r.last:
	case r.newest.Before(horizon):
	case ok && last.Reason == ReasonKilled:
		note(KindUnproven, true, covered+2, r.last, "they stand behind the checkpoint that a killed process's successor wrote")
	case now.Sub(r.newest) > overdue:
		from := covered + 1
		if ok {
			from++
		}
		note(KindUnproven, true, from, r.last, "no checkpoint covers them: their process was killed and nobody has its spool, or its checkpoint is lost; more events may be")
	}
	return run, found
}

// clock tells from the events that were seen since when, at the earliest, a number that was not may have been recorded.
type clock struct {
	chunks []uint64
	times  []int64 // the latest beginning of these chunks so far, in ms
	start  int64
}

func (r *evidence) clock() clock {
	c := clock{chunks: slices.Sorted(maps.Keys(r.chunks)), start: r.start}
	latest := r.start
	for _, key := range c.chunks {
		latest = max(latest, r.chunks[key].oldest)
		c.times = append(c.times, latest)
	}
	return c
}

func (c clock) since(number uint64) time.Time {
	i, found := slices.BinarySearch(c.chunks, number/chunkSize)
	if !found {
		i--
	}
	if i < 0 {
		return time.UnixMilli(c.start)
	}
	return time.UnixMilli(c.times[i])
}

// missing returns the ranges of numbers that were not seen, up to the last that was.
func (r *evidence) missing() (ranges [][2]uint64) {
	next := uint64(1)
	for _, key := range slices.Sorted(maps.Keys(r.chunks)) {
		c := r.chunks[key]
		for i := range uint64(chunkSize) {
			if c.seen&(1<<i) == 0 {
				continue
			}
			n := key*chunkSize + i
			if n > next {
				ranges = append(ranges, [2]uint64{next, n - 1})
			}
			next = n + 1
		}
	}
	return ranges
}

// complete reports whether all numbers of a checkpoint were seen.
func (r *evidence) complete(c checkpoint) bool {
	if c.Events > uint64(r.events) {
		return false
	}
	for n := c.first; n <= c.last; n++ {
		if !r.has(n) {
			return false
		}
	}
	return true
}

// settle proves what can be proven, and keeps of its digests what tells an equal record from another.
func (r *evidence) settle() {
	for number, c := range r.checkpoints {
		if _, tried := r.proven[number]; tried || !r.complete(c) {
			continue
		}
		h := newChain()
		for n := c.first; n <= c.last; n++ {
			if ch := r.chunks[n/chunkSize]; ch.digests != nil {
				h.add(&ch.digests[n%chunkSize])
			}
		}
		r.proven[number] = h.sum() == c.Hash
		for key := (c.first + chunkSize - 1) / chunkSize; (key+1)*chunkSize <= c.last+1; key++ {
			if ch := r.chunks[key]; ch.digests != nil {
				ch.prefixes = new([chunkSize]uint64)
				for i := range ch.digests {
					ch.prefixes[i] = binary.BigEndian.Uint64(ch.digests[i][:])
				}
				ch.digests = nil
			}
		}
	}
}
