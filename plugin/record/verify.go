package record

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/tidwall/gjson"

	"kafka-metering/meter/relay"
)

// Verifier proves from a topic's records that it has all events of every run, unchanged. Add it every record, in any order
// of partitions; each as often as it stands there. It takes some 60 bytes of memory for each event, and is for one goroutine.
type Verifier struct {
	topic   string
	seed    maphash.Seed
	runs    map[string]*evidence // by source and start
	list    []*evidence
	ids     []identity
	heads   map[int]bool // partitions that were begun
	unknown map[int]bool // of these, those whose beginning is gone, and since when is not known yet
	horizon time.Time    // what was recorded before this may have been removed from the topic
	gaps    map[gapKey]*GapSum
	memory  []byte

	foreign int
	found   []finding // by the record, not by the run
}

// NewVerifier returns a verifier of a topic.
func NewVerifier(topic string) *Verifier {
	return &Verifier{topic: topic, seed: maphash.MakeSeed(), runs: map[string]*evidence{}, heads: map[int]bool{}, unknown: map[int]bool{}, gaps: map[gapKey]*GapSum{}}
}

// From leaves out of judgement what was recorded before a time.
func (v *Verifier) From(t time.Time) {
	if t.After(v.horizon) {
		v.horizon = t
	}
}

// evidence is what a topic has of one run.
type evidence struct {
	source      string
	start       int64
	chunks      map[uint64]*chunk // by number / chunkSize
	checkpoints map[uint64]checkpoint
	proven      map[uint64]bool // checkpoints, by their number
	events      int
	dead        int // on the dead-letter topic
	redelivered int
	last        uint64
	newest      time.Time
}

// checkpoint is one that was read, with the number that it has itself.
type checkpoint struct {
	Checkpoint
	first, last uint64
}

const chunkSize = 64

// chunk is the evidence of neighbouring numbers.
type chunk struct {
	seen     uint64             // a bit for each number
	oldest   int64              // recorded, in ms
	digests  *[chunkSize]digest // nil when they are proven
	prefixes *[chunkSize]uint64 // of proven digests, for what comes again
}

// identity is where an id was seen, by hashes: two numbers may have one id if their data is the same.
type identity struct {
	id, data uint64
	run      *evidence
	number   uint64
}

// parsed is a record as a consumer reads it.
type parsed struct {
	id, source, eventType, subject, at, sequence, recorded string
	data                                                   []byte
	binary                                                 bool
}

func parse(m *relay.Message) (p parsed, ok bool) {
	headers := map[string]string{}
	for _, h := range m.Headers {
		headers[h.Key] = string(h.Value)
	}
	structured := headers["ce_specversion"] == "" || !isBinary([]byte(headers["content-type"]))
	if !structured {
		return parsed{
			id: headers["ce_id"], source: headers["ce_source"], eventType: headers["ce_type"], subject: headers["ce_subject"], at: headers["ce_time"],
			sequence: headers["ce_sequence"], recorded: headers["ce_recordedtime"], data: m.Value, binary: true,
		}, gjson.ValidBytes(m.Value)
	}
	if !gjson.ValidBytes(m.Value) {
		return p, false
	}
	gjson.ParseBytes(m.Value).ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "id":
			p.id = v.Str
		case "source":
			p.source = v.Str
		case "type":
			p.eventType = v.Str
		case "subject":
			p.subject = v.Str
		case "time":
			p.at = v.Str
		case "sequence":
			p.sequence = v.Str
		case "recordedtime":
			p.recorded = v.Str
		case "data":
			p.data = []byte(v.Raw)
		}
		return true
	})
	return p, true
}

// Add takes a record of the topic.
func (v *Verifier) Add(m relay.Message) { v.add(&m, false) }

// AddDead takes a record of the dead-letter topic: one that should stand on the topic accounts for its number.
func (v *Verifier) AddDead(m relay.Message) {
	topic, reason := "", ""
	for _, h := range m.Headers {
		switch h.Key {
		case "dead_letter_topic":
			topic = string(h.Value)
		case "dead_letter_reason":
			reason = string(h.Value)
		}
	}
	if topic == v.topic && reason != DeadSubject {
		v.add(&m, true)
	}
}

// DeadSubject is why an event without a customer is meant for the dead-letter topic. Such events have numbers of their own.
const DeadSubject = "no subject"

func (v *Verifier) add(m *relay.Message, dead bool) {
	first := !dead && !v.heads[m.Partition]
	if first {
		v.heads[m.Partition] = true
	}
	p, ok := parse(m)
	start, number, numbered := ParseSequence(p.sequence)
	if !ok || p.id == "" || p.source == "" || !numbered {
		if !dead {
			v.foreign++
		}
		if first && m.Offset > 0 {
			v.unknown[m.Partition] = true // until the first event there
		}
		return
	}
	recorded, err := time.Parse(time.RFC3339, p.recorded)
	if err != nil {
		recorded = time.UnixMilli(start)
	}
	if !dead && v.unknown[m.Partition] || first && m.Offset > 0 { // the records before it are gone
		delete(v.unknown, m.Partition)
		v.From(recorded)
	}
	r := v.run(p.source, start)
	var d digest
	d, v.memory = digestOf(p.binary, []byte(p.id), []byte(p.subject), []byte(p.at), m.Value, v.memory)
	at := func() string { return fmt.Sprintf("partition %d, offset %d", m.Partition, m.Offset) }
	switch r.put(number, &d, recorded) {
	case fresh:
	case again:
		r.redelivered++
		return
	case other:
		v.found = append(v.found, finding{r, Finding{
			Kind: KindConflict, First: p.sequence, Last: p.sequence, Events: 1, Problem: true,
			Text: fmt.Sprintf("%s, event %s: its sequence is that of a record with other content", at(), p.id),
		}})
		return
	}
	r.events++
	if dead {
		r.dead++
	}
	v.ids = append(v.ids, identity{
		id: maphash.String(v.seed, p.source+"\x00"+p.id), data: maphash.String(v.seed, p.subject+"\x00"+string(p.data)), run: r, number: number,
	})
	const settleEvery = 1 << 14
	if r.events%settleEvery == 0 {
		r.settle()
	}
	switch p.eventType {
	case TypeCheckpoint:
		c, err := readCheckpoint(p.data, start)
		if err != nil || c.last != number-1 {
			v.found = append(v.found, finding{r, Finding{
				Kind: KindCheckpoint, First: p.sequence, Last: p.sequence, Events: 1, Problem: true, Text: at() + ": a checkpoint that contradicts itself",
			}})
			return
		}
		r.checkpoints[number] = c
	case typeGap:
		v.gap(&p)
	}
}

const typeGap = "kong.metering_gap"

func (v *Verifier) run(source string, start int64) *evidence {
	v.memory = binary.AppendVarint(append(append(v.memory[:0], source...), 0), start)
	r := v.runs[string(v.memory)]
	if r == nil {
		r = &evidence{source: source, start: start, chunks: map[uint64]*chunk{}, checkpoints: map[uint64]checkpoint{}, proven: map[uint64]bool{}}
		v.runs[string(v.memory)] = r
		v.list = append(v.list, r)
	}
	return r
}

// readCheckpoint checks what can be checked of one alone.
func readCheckpoint(data []byte, start int64) (c checkpoint, err error) {
	if err := json.Unmarshal(data, &c.Checkpoint); err != nil {
		return c, err
	}
	first, number, ok := ParseSequence(c.First)
	last, end, valid := ParseSequence(c.Last)
	if !ok || !valid || first != start || last != start || end < number || c.Events != end-number+1 {
		return c, fmt.Errorf("checkpoint of %s to %s", c.First, c.Last)
	}
	c.first, c.last = number, end
	return c, nil
}

// sight is what a number was to a run.
type sight int

const (
	fresh sight = iota // not seen before
	again              // seen with the same content
	other              // seen with another
)

func (r *evidence) put(number uint64, d *digest, recorded time.Time) sight {
	c := r.chunks[number/chunkSize]
	if c == nil {
		c = &chunk{oldest: recorded.UnixMilli(), digests: new([chunkSize]digest)}
		r.chunks[number/chunkSize] = c
	}
	i := number % chunkSize
	if c.seen&(1<<i) != 0 {
		same := c.digests != nil && c.digests[i] == *d || c.digests == nil && c.prefixes[i] == binary.BigEndian.Uint64(d[:])
		if same {
			return again
		}
		return other
	}
	c.seen |= 1 << i
	c.digests[i] = *d
	c.oldest = min(c.oldest, recorded.UnixMilli())
	r.last = max(r.last, number)
	if recorded.After(r.newest) {
		r.newest = recorded
	}
	return fresh
}

func (r *evidence) has(number uint64) bool {
	c := r.chunks[number/chunkSize]
	return c != nil && c.seen&(1<<(number%chunkSize)) != 0
}
