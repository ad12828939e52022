package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"kafka-metering/meter/spool"
)

func TestATopicThatCannotBeWrittenDoesNotHoldUpTheOthers(t *testing.T) {
	c := newCluster(t)
	s := newSpool(t)
	var records []Record
	for i := range 300 {
		records = append(records,
			Record{Topic: "later", Key: fmt.Appendf(nil, "k%d", i%7), Value: fmt.Append(nil, i)},
			Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", i%7), Value: fmt.Append(nil, i)})
	}
	appendRecords(t, s, records...)
	r := start(t, Settings{Brokers: c.ListenAddrs(), MaxBatchRecords: 50}, s)
	eventually(t, "the other topic's records", func() bool { return r.Stats().Published == 300 })
	eventually(t, "failures", func() bool { return r.Stats().ConsecutiveFailures >= 3 })
	contains(t, r.Stats().LastError, `topic "later" does not exist`)
	if st := r.Stats(); st.Blocked != 1 || !st.Connected || s.Stats().Pending != 300 {
		t.Errorf("%+v", st)
	}
	appendRecords(t, s, numbered(300, 310)...)
	eventually(t, "what came later", func() bool { return r.Stats().Published == 310 })
	checkOrder(t, consume(t, c, topic, 310))
	createTopic(t, c, "later", nil)
	if st := drained(t, r, s); st.Blocked != 0 || st.ConsecutiveFailures != 0 {
		t.Errorf("%+v", st)
	}
	checkOrder(t, consume(t, c, "later", 300))
}

func TestAPartitionThatCannotBeWrittenDoesNotHoldUpTheOthers(t *testing.T) {
	c := newCluster(t)
	var mu sync.Mutex
	refused := true
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		if !refused {
			return nil, nil, false
		}
		// What is for another partition than 1 is the broker's.
		r := req.(*kmsg.ProduceRequest)
		if !slices.ContainsFunc(r.Topics[0].Partitions, func(p kmsg.ProduceRequestTopicPartition) bool { return p.Partition == 1 }) {
			return nil, nil, false
		}
		return refusal(req, kerr.NotEnoughReplicas.Code), nil, true
	})
	s := newSpool(t)
	r := start(t, Settings{Brokers: c.ListenAddrs(), MaxBatchRecords: 50}, s)
	appendRecords(t, s, numbered(0, 400)...)
	eventually(t, "the other partitions' records", func() bool { return r.Stats().Published > 200 && r.Stats().Blocked == 1 })
	mu.Lock()
	refused = false
	mu.Unlock()
	if st := drained(t, r, s); st.Published != 400 || st.Blocked != 0 {
		t.Errorf("%+v", st)
	}
	checkOrder(t, consume(t, c, topic, 400))
}

// fickle is a cluster whose partitions fail as they like, whose topics come, go
// and grow, and that sometimes cannot be reached or does not say what it took.
type fickle struct {
	t      *testing.T
	mu     sync.Mutex
	random *rand.Rand
	calm   bool
	topics map[string]int // partitions; 0: it does not exist
	down   map[lane]bool
	took   []message
	calls  int
}

func (f *fickle) publish(_ context.Context, messages []message, closed func(string, int, int) bool) ([]result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if !f.calm {
		f.change()
		if f.random.IntN(8) == 0 {
			return nil, errors.New("away")
		}
	}
	results := make([]result, len(messages))
	failed := map[lane]error{}
	for i, m := range messages {
		n := f.topics[m.topic]
		if n == 0 {
			results[i] = result{kafka.UnknownTopicOrPartition, 0, wholeTopic}
			if closed(m.topic, 0, wholeTopic) {
				results[i].err = errClosed
			}
			continue
		}
		at := lane{m.topic, kafka.Murmur2Balancer{}.Balance(kafka.Message{Key: m.key}, ids(n)...)}
		results[i] = result{nil, n, at.partition}
		switch {
		case closed(m.topic, n, at.partition):
			results[i].err = errClosed
		case failed[at] != nil:
			results[i].err = errBehind
		case string(m.value) == "poison" && m.topic != "dead":
			results[i].err = kafka.InvalidRecord
		case f.down[at]:
			failed[at] = kafka.NotEnoughReplicas
			results[i].err = failed[at]
		case !f.calm && f.random.IntN(60) == 0: // taken, and nobody told
			f.took = append(f.took, m)
			failed[at] = context.DeadlineExceeded
			results[i].err = failed[at]
		default:
			f.took = append(f.took, m)
		}
	}
	return results, nil
}

// change changes something.
func (f *fickle) change() {
	name := []string{"a", "b", "c", "dead"}[f.random.IntN(4)]
	switch f.random.IntN(6) {
	case 0:
		f.topics[name] = 0
	case 1:
		f.topics[name] = 1 + f.random.IntN(5)
	case 2, 3:
		f.down[lane{name, f.random.IntN(5)}] = true
	default:
		clear(f.down)
	}
}

func (f *fickle) throttled() time.Duration { return 0 }
func (f *fickle) reset()                   {}
func (f *fickle) close()                   {}

// TestWhateverFailsNothingIsLostAndEveryKeyKeepsItsOrder publishes through a
// fickle cluster. Poison gets to the dead-letter topic or to the rejected ones.
func TestWhateverFailsNothingIsLostAndEveryKeyKeepsItsOrder(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			const n = 1500
			s, err := spool.Open(t.TempDir(), spool.Options{SegmentBytes: 64 << 10})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			f := &fickle{t: t, random: rand.New(rand.NewPCG(seed, 2)), topics: map[string]int{"a": 3, "b": 1, "c": 5, "dead": 2}, down: map[lane]bool{}}
			r, err := New(Settings{Brokers: []string{"kafka:9092"}, MaxBatchRecords: 17, MaxRetryDelay: time.Millisecond, DeadLetterTopic: "dead"}, s)
			if err != nil {
				t.Fatal(err)
			}
			r.open = func(Settings) publisher { return f }
			run(t, r)
			random, poison := rand.New(rand.NewPCG(seed, 3)), 0
			for i := 0; i < n; {
				var records []Record
				for range 1 + random.IntN(40) {
					value := fmt.Append(nil, i)
					if i%97 == 5 {
						value, poison = []byte("poison"), poison+1
					}
					records = append(records, Record{Topic: string(rune('a' + i%3)), Key: fmt.Appendf(nil, "k%d", random.IntN(9)), Value: value})
					i++
				}
				appendRecords(t, s, records...)
				wait, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				<-wait.Done()
				cancel()
			}
			f.mu.Lock()
			f.calm, f.topics, f.down = true, map[string]int{"a": 4, "b": 2, "c": 3, "dead": 1}, map[lane]bool{}
			f.mu.Unlock()
			st := drained(t, r, s)
			if st.Blocked != 0 || st.DeadLettered+st.Rejected != int64(poison) {
				t.Errorf("%d were poison: %+v", poison, st)
			}
			if placed := st.Published + st.DeadLettered + st.Rejected; placed != s.Stats().Appended {
				t.Errorf("%d of %d records have a place: %+v", placed, s.Stats().Appended, st)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			seen, last := map[string]bool{}, map[string]int{}
			for _, m := range f.took {
				if m.topic == "dead" {
					continue
				}
				var i int
				if _, err := fmt.Sscan(string(m.value), &i); err != nil {
					t.Fatal(err)
				}
				if seen[string(m.value)] {
					continue // again: the cluster did not say that it took it
				}
				seen[string(m.value)] = true
				key := m.topic + string(m.key)
				if before, ok := last[key]; ok && before > i {
					t.Errorf("topic %s, key %s: %d came after %d", m.topic, m.key, i, before)
				}
				last[key] = i
			}
			if want := int(s.Stats().Appended) - poison; len(seen) != want {
				t.Errorf("%d of %d records were taken", len(seen), want)
			}
			if st := s.Stats(); st.LastError != nil {
				t.Errorf("spool: %v", st.LastError)
			}
			t.Logf("%d records in %d calls, %d taken, %d sent again", s.Stats().Appended, f.calls, len(f.took), st.Retried)
		})
	}
}

// TestABlockedBacklogIsNotReadAgainAndAgain has a backlog for a topic that does
// not exist, and counts how many records are looked at while it stays away.
func TestABlockedBacklogIsNotReadAgainAndAgain(t *testing.T) {
	c := newCluster(t)
	q := &counted{Spool: newSpool(t)}
	const backlog = 20_000
	for n := 0; n < backlog; n += 1000 {
		var records []Record
		for i := range 1000 {
			records = append(records, Record{Topic: "later", Key: fmt.Append(nil, i%7), Value: fmt.Append(nil, n+i)})
		}
		appendRecords(t, q.Spool, records...)
	}
	r := start(t, Settings{Brokers: c.ListenAddrs(), MaxRetryDelay: time.Millisecond}, q)
	eventually(t, "many failures", func() bool { return r.Stats().ConsecutiveFailures >= 50 })
	q.mu.Lock()
	read := q.read
	q.mu.Unlock()
	if failures := r.Stats().ConsecutiveFailures; int64(read) > backlog+2*failures+1000 {
		t.Errorf("%d records of %d were read in %d attempts", read, backlog, failures)
	}
	createTopic(t, c, "later", nil)
	drained(t, r, q.Spool)
	checkOrder(t, consume(t, c, "later", backlog, kgo.FetchMaxBytes(1<<20)))
}

// counted counts the records that are read.
type counted struct {
	*spool.Spool
	mu   sync.Mutex
	read int
}

func (q *counted) Peek(dst []spool.Entry, maxRecords, maxBytes int) ([]spool.Entry, error) {
	entries, err := q.Spool.Peek(dst, maxRecords, maxBytes)
	q.mu.Lock()
	q.read += len(entries)
	q.mu.Unlock()
	return entries, err
}

func (q *counted) PeekFrom(from spool.Pos, dst []spool.Entry, maxRecords, maxBytes int) ([]spool.Entry, error) {
	entries, err := q.Spool.PeekFrom(from, dst, maxRecords, maxBytes)
	q.mu.Lock()
	q.read += len(entries)
	q.mu.Unlock()
	return entries, err
}
