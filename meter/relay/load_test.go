package relay

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"kafka-metering/meter/relay/kafkatest"
	"kafka-metering/meter/spool"
)

// load appends records to a spool until it is stopped and remembers each that
// the spool has taken.
type load struct {
	t     testing.TB
	spool *spool.Spool
	topic string

	mu    sync.Mutex
	taken map[string][]byte // id -> value
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// loadBacklog is the number of pending records at which a load waits; but not
// while brokers are away for long.
func loadBacklog() int64 {
	if *outage > time.Minute {
		return math.MaxInt64
	}
	return 20_000
}

// startLoad begins to append records for a topic, from several goroutines, each
// with keys of its own.
func startLoad(t testing.TB, s *spool.Spool, topic string) *load {
	l := &load{t: t, spool: s, topic: topic, taken: map[string][]byte{}}
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	for worker := range 4 {
		l.done.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for n := 0; ctx.Err() == nil; {
				if s.Stats().Pending > loadBacklog() {
					sleep(ctx, 10*time.Millisecond)
					continue
				}
				var records [][]byte
				ids, values := []string{}, [][]byte{}
				for range 1 + random.IntN(20) {
					r := loadRecord(topic, worker, n, random.IntN(300))
					n++
					records = append(records, r.AppendTo(nil))
					ids, values = append(ids, string(r.Headers[0].Value)), append(values, r.Value)
				}
				if err := s.Append(context.Background(), records...); err != nil {
					t.Errorf("the spool refuses records: %v", err)
					return
				}
				l.mu.Lock()
				for i, id := range ids {
					l.taken[id] = values[i]
				}
				l.mu.Unlock()
				sleep(ctx, 20*time.Millisecond)
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

// loadRecord is record n of a worker. Its key is shared by every seventh.
func loadRecord(topic string, worker, n, padding int) Record {
	return Record{
		Topic: topic, Key: fmt.Appendf(nil, "customer-%d-%d", worker, n%7),
		Headers: []Header{{"ce_id", fmt.Appendf(nil, "%d-%d", worker, n)}},
		Value:   fmt.Appendf(nil, `{"n":%d,"padding":"%s"}`, n, bytes.Repeat([]byte{'x'}, padding)),
	}
}

func sleep(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

// end ends the load; what it has remembered is then complete.
func (l *load) end() {
	l.stop()
	l.done.Wait()
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.taken)
}

// await waits until n more records were taken.
func (l *load) await(n int) {
	l.t.Helper()
	n += l.count()
	eventually(l.t, fmt.Sprintf("%d records", n), func() bool { return l.count() >= n || l.t.Failed() })
}

// check checks what is on the topic against what the spool has taken: every
// record is there, or among those that are elsewhere by right; what is there
// twice has the same bytes; nothing else is there; and each customer's records
// came in their order. It returns how many were there more than once.
func (l *load) check(records []*kgo.Record, elsewhere map[string]bool) (again int) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	type line struct {
		partition int32
		key       string
	}
	seen, last := map[string]bool{}, map[line]int{}
	for _, r := range records {
		id := header(r, "ce_id")
		value, ok := l.taken[id]
		switch {
		case !ok:
			l.t.Fatalf("record %q is on the topic, and the spool never had it", id)
		case !bytes.Equal(value, r.Value):
			l.t.Fatalf("record %q has other bytes: %q, want %q", id, r.Value, value)
		case seen[id]:
			again++
			continue
		}
		seen[id] = true
		_, number, _ := bytes.Cut([]byte(id), []byte("-"))
		n, err := strconv.Atoi(string(number))
		if err != nil {
			l.t.Fatal(err)
		}
		at := line{r.Partition, string(r.Key)}
		if before, ok := last[at]; ok && before > n {
			l.t.Fatalf("partition %d, %s: record %d came after %d", at.partition, at.key, n, before)
		}
		last[at] = n
	}
	lost := 0
	for id := range l.taken {
		if !seen[id] && !elsewhere[id] {
			lost++
		}
	}
	if lost > 0 {
		l.t.Errorf("%d of %d records are lost", lost, len(l.taken))
	}
	return again
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// finish ends the load, waits until the spool is empty, and checks the sums and
// the topic.
func (l *load) finish(c *kafkatest.Cluster, r *Relay) (again int) {
	l.t.Helper()
	l.end()
	st := drained(l.t, r, l.spool)
	records := c.Consume(l.t, l.topic)
	again = l.check(records, nil)
	if int(st.Published)+again != len(records) {
		l.t.Errorf("%d records are on the topic, %d of them again; the relay has counted %d", len(records), again, st.Published)
	}
	l.t.Logf("%d records, %d on the topic again, %d sent again", len(l.taken), again, st.Retried)
	return again
}
