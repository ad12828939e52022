package spool

import (
	"flag"
	"slices"
	"sync"
	"testing"
	"time"
)

var pace = flag.Duration("pace", 0, "how long TestAppendsAreDurableInTime appends")

// TestAppendsAreDurableInTime appends 2,000 records a second, each by itself, at a rate that does not wait for the disk, while a
// reader takes them out as a relay does:
//
//	go test ./meter/spool -run TestAppendsAreDurableInTime -pace 20s
func TestAppendsAreDurableInTime(t *testing.T) {
	if *pace == 0 {
		t.Skip("a measurement: -pace 20s")
	}
	const rate, limit = 2000, 5 * time.Millisecond
	s := openSpool(t, t.TempDir(), Options{})
	record := make([]byte, 1200)
	took := make([]time.Duration, int(pace.Seconds())*rate)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		for linger := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-linger.C:
			case <-stop:
				return
			}
			entries, err := s.Peek(nil, 500, 1<<20)
			if err != nil {
				t.Error(err)
			}
			placed := make([]Pos, len(entries))
			for i, e := range entries {
				placed[i] = e.Pos
			}
			if len(placed) > 0 {
				if err := s.Settle(placed[len(placed)-1], placed, nil)(); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	start := time.Now()
	for n := range took {
		due := start.Add(time.Duration(n) * time.Second / rate)
		if wait := time.Until(due); wait > 0 {
			timer := time.NewTimer(wait)
			<-timer.C
		}
		wg.Add(1)
		if err := s.Enqueue([][]byte{record}, func(err error) {
			if err != nil {
				t.Error(err)
			}
			took[n] = time.Since(due)
			wg.Done()
		}); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	close(stop)
	<-reader
	checkBalance(t, s)
	slices.Sort(took)
	quantile := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(10 * time.Microsecond) }
	t.Logf("%d appends at %d/s until they were durable, in %d transactions: p50 %v, p90 %v, p99 %v, p99.9 %v, at most %v",
		len(took), rate, s.Stats().Transactions, quantile(.5), quantile(.9), quantile(.99), quantile(.999), quantile(1))
	if quantile(.99) > limit {
		t.Errorf("the 99th percentile is %v, want less than %v", quantile(.99), limit)
	}
}
