package record

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	"kafka-metering/meter/relay"
)

const (
	// checkpointInterval is how long after an event the checkpoint follows that covers it.
	checkpointInterval = time.Minute
	// checkpointEvents bounds how many events one covers, give or take a transaction, so that a consumer knows its window.
	checkpointEvents = 100_000
)

// Numbers numbers the records of one spool, as its journal, and writes the checkpoints of their runs.
type Numbers struct {
	now   func() time.Time
	start func() int64 // of a new run, in ms since 1970: no two runs of a process have the same

	runs    map[string]*run // by topic, dead or not, and source
	touched []*run          // by the transaction under way
	closing map[string]left // by topic, source and start: of processes that are gone
	told    []string        // the keys of those that the transaction under way closes

	numbered    [][]byte // the places of the sequences that the transaction under way has given
	key, memory []byte
	buffer      Buffer
}

// NewNumbers returns a journal. now is the time; start returns the start of a new run, and never the same twice.
func NewNumbers(now func() time.Time, start func() int64) *Numbers {
	return &Numbers{now: now, start: start, runs: map[string]*run{}, closing: map[string]left{}}
}

// run is the events of one source to one topic. What is said of its last transaction is in next until that is stored.
type run struct {
	topic, source string
	dead          bool // for the dead-letter topic: it is numbered, and has no checkpoints
	start         int64
	hash          *chain // of next's interval

	stored, next account
	touched      bool
}

// account is how far a run is.
type account struct {
	last     uint64 // the number that was given last
	first    uint64 // of the interval
	fresh    uint64 // how many events of the interval no checkpoint is
	since    time.Time
	recorded time.Time // when the last event was
	binary   bool      // the mode of the last event: its checkpoint has the same
	closed   bool      // the last event is a checkpoint behind which nothing was expected
	sum      []byte    // the state of the hash
}

// left is a run whose process is gone without its last checkpoint.
type left struct {
	topic, source         string
	start                 int64
	binary                bool
	first, last, recorded uint64
	sum                   []byte
}

// Append numbers a record.
func (n *Numbers) Append(record []byte) {
	var source, sequence, contentType, id, subject, at []byte
	f, ok := relay.Scan(record, func(key, value []byte) {
		switch string(key) {
		case "content-type":
			contentType = value
		case "ce_source":
			source = value
		case "ce_sequence":
			sequence = value
		case "ce_id":
			id = value
		case "ce_subject":
			subject = value
		case "ce_time":
			at = value
		}
	})
	if !ok || string(sequence) != Unnumbered {
		return // it has a number: it was in a spool before
	}
	r := n.run(f.Topic, source, len(f.Dead) > 0)
	a := &r.next
	a.last++
	n.write(sequence, r.start, a.last)
	binary := isBinary(contentType)
	if !binary {
		// A quotation mark within a member has a backslash before it: this is the attribute.
		const member = `,"sequence":"`
		if i := bytes.Index(f.Value, []byte(member)); i >= 0 && len(f.Value)-i > len(member)+len(sequence) {
			n.write(f.Value[i+len(member):][:len(sequence)], r.start, a.last)
		}
	}
	if r.dead {
		return
	}
	var d digest
	d, n.memory = digestOf(binary, id, subject, at, f.Value, n.memory)
	r.add(n.now(), &d, binary)
}

// write writes a sequence to its place.
func (n *Numbers) write(place []byte, start int64, number uint64) {
	appendSequence(place[:0], start, number)
	n.numbered = append(n.numbered, place)
}

// run returns the run of a record, which belongs to the transaction under way from now on.
func (n *Numbers) run(topic, source []byte, dead bool) *run {
	n.key = append(append(append(n.key[:0], topic...), 0), source...)
	if dead {
		n.key = append(n.key, 0)
	}
	r := n.runs[string(n.key)]
	if r == nil || r.next.last >= maxNumber {
		r = &run{topic: string(topic), source: string(source), dead: dead, start: n.start(), hash: newChain()}
		r.next.first = 1
		r.next.sum = r.hash.appendState(nil)
		r.stored = r.next
		r.stored.sum = slices.Clone(r.next.sum)
		n.runs[string(n.key)] = r
	}
	n.touch(r)
	return r
}

func (n *Numbers) touch(r *run) {
	if !r.touched {
		r.touched = true
		n.touched = append(n.touched, r)
	}
}

// add adds an event that is no checkpoint to the run's interval.
func (r *run) add(now time.Time, d *digest, binary bool) {
	a := &r.next
	if a.fresh == 0 {
		a.since = now
	}
	a.fresh++
	a.recorded, a.binary, a.closed = now, binary, false
	r.hash.add(d)
}

// Seal writes the checkpoints that are due, all of them when the spool is about to end.
func (n *Numbers) Seal(b []byte, last bool) (records [][]byte, state []byte) {
	now := n.now()
	n.buffer.Reset()
	n.told = n.told[:0]
	for _, key := range slices.Sorted(maps.Keys(n.closing)) {
		l := n.closing[key]
		records = append(records, n.close(&l))
		n.told = append(n.told, key)
	}
	for _, r := range n.runs {
		a := &r.next
		switch {
		case r.dead || a.closed || a.last == 0:
		case last:
			records = append(records, n.checkpoint(r, ReasonStop, now))
		case a.fresh >= checkpointEvents || a.fresh > 0 && now.Sub(a.since) >= checkpointInterval:
			records = append(records, n.checkpoint(r, ReasonInterval, now))
		}
	}
	for _, r := range n.touched {
		r.next.sum = r.hash.appendState(r.next.sum[:0])
	}
	return records, n.appendState(b)
}

// checkpoint ends the run's interval, and begins the next with its own record.
func (n *Numbers) checkpoint(r *run, reason string, now time.Time) []byte {
	n.touch(r)
	a := &r.next
	l := left{topic: r.topic, source: r.source, start: r.start, binary: a.binary, first: a.first, last: a.last}
	record, d := n.encode(&l, reason, r.hash.sum(), now)
	r.hash.Reset()
	r.hash.add(&d)
	a.last++
	a.first, a.fresh, a.closed, a.recorded = a.last, 0, reason == ReasonStop, now
	return record
}

// close returns the last checkpoint of a run whose process is gone. Whoever writes it, and however often: it is the same.
func (n *Numbers) close(l *left) []byte {
	h := newChain()
	if err := h.restore(l.sum); err != nil {
		panic("bug: " + err.Error()) // parseState has tried
	}
	record, _ := n.encode(l, ReasonKilled, h.sum(), time.UnixMilli(int64(l.recorded)))
	return record
}

func (n *Numbers) encode(l *left, reason, sum string, at time.Time) ([]byte, digest) {
	text := func(number uint64) string { return string(appendSequence(nil, l.start, number)) }
	c := Checkpoint{First: text(l.first), Last: text(l.last), Events: l.last - l.first + 1, Hash: sum, Reason: reason}
	e := c.event(l.source, text(l.last+1), at)
	kafka := Of(&e, l.topic, l.binary)
	var d digest
	d, n.memory = digestOf(l.binary, []byte(e.ID), []byte(e.Subject), []byte(e.Time), kafka.Value, n.memory)
	return kafka.AppendTo(nil), d
}

// End keeps what the transaction has changed, or takes it back.
func (n *Numbers) End(stored bool) {
	for _, r := range n.touched {
		from, to := &r.next, &r.stored
		if !stored {
			from, to = to, from
		}
		sum := append(to.sum[:0], from.sum...)
		*to = *from
		to.sum = sum
		if !stored {
			if err := r.hash.restore(r.stored.sum); err != nil {
				panic("bug: " + err.Error())
			}
		}
		r.touched = false
	}
	n.touched = n.touched[:0]
	if !stored {
		for _, place := range n.numbered {
			copy(place, Unnumbered)
		}
	}
	clear(n.numbered)
	n.numbered = n.numbered[:0]
	if stored {
		for _, key := range n.told {
			delete(n.closing, key)
		}
	}
}

// Split ends all runs as the next process would, to the byte: its checkpoints are those of the state that is on disk.
func (n *Numbers) Split() {
	for key, r := range n.runs {
		a := &r.stored
		if !r.dead && !a.closed && a.last > 0 {
			l := left{topic: r.topic, source: r.source, start: r.start, binary: a.binary, first: a.first, last: a.last, recorded: uint64(a.recorded.UnixMilli()), sum: slices.Clone(a.sum)}
			n.closing[closingKey(&l)] = l
		}
		delete(n.runs, key)
	}
}

func closingKey(l *left) string {
	return string(appendSequence([]byte(l.topic+"\x00"+l.source+"\x00"), l.start, 0))
}

// Adopt takes over the runs of processes that are gone. Of two states of one run that with more events is the newer.
func (n *Numbers) Adopt(states [][]byte) {
	for _, state := range states {
		for _, l := range parseState(state) {
			key := closingKey(&l)
			if known, ok := n.closing[key]; !ok || cmp.Compare(l.last, known.last) > 0 {
				n.closing[key] = l
			}
		}
	}
}

// Adopted reports whether the last checkpoints of all of them are stored.
func (n *Numbers) Adopted() bool { return len(n.closing) == 0 }
