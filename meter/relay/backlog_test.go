package relay

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"kafka-metering/meter/spool"
)

// TestABatchThatIsFullByItsBytesDoesNotLinger has a backlog. Each batch of it once waited for max_coalescing_delay all the same.
func TestABatchThatIsFullByItsBytesDoesNotLinger(t *testing.T) {
	c := newCluster(t)
	s := newSpool(t)
	var list []Record
	for range 320 {
		list = append(list, Record{Topic: topic, Key: []byte("k"), Value: make([]byte, 4000)})
	}
	appendRecords(t, s, list...) // 1.3 MB: 20 batches
	r := start(t, Settings{Brokers: c.ListenAddrs(), MaxBatchRecords: 500, MaxBatchBytes: 1 << 16, Linger: time.Second}, s)
	began := time.Now()
	eventually(t, "published", func() bool { return r.Stats().Published == 320 })
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a backlog of 20 full batches took %v, with max_coalescing_delay 1 s", took)
	}
}

// counting counts what is read.
type counting struct {
	*spool.Spool
	read atomic.Int64
}

func (c *counting) Peek(dst []spool.Entry, n, b int) ([]spool.Entry, error) {
	e, err := c.Spool.Peek(dst, n, b)
	c.read.Add(int64(len(e)))
	return e, err
}

func TestABlockedBacklogThatIsEvictedIsNotReadAgainAndAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for six seconds")
	}
	c := newCluster(t)
	s, err := spool.Open(t.TempDir(), spool.Options{MaxBytes: 2 << 20, WhenFull: spool.DropOldest})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	q := &counting{Spool: s}
	r, err := New(Settings{Brokers: c.ListenAddrs(), MaxRetryDelay: 400 * time.Millisecond}, q)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = r.Run(t.Context()) }()
	rec := func(i int) Record {
		return Record{Topic: "missing", Key: []byte("k"), Value: fmt.Appendf(make([]byte, 300), "%d", i)}
	}
	var list []Record
	for i := range 6500 {
		list = append(list, rec(i))
	}
	for len(list) > 0 {
		appendRecords(t, s, list[:500]...)
		list = list[500:]
	}
	time.Sleep(2 * time.Second)
	q.read.Store(0)
	began, n := time.Now(), 0
	for time.Since(began) < 4*time.Second {
		appendRecords(t, s, rec(n))
		n++
		time.Sleep(20 * time.Millisecond)
	}
	if q.read.Load() > int64(10*n) {
		t.Errorf("%d records are read while %d came", q.read.Load(), n)
	}
	if r.Stats().ConsecutiveFailures == 0 {
		t.Error("nothing could be published, and it counts as a success")
	}
}
