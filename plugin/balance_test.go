package main

import (
	"sync"
	"testing"
	"time"

	"kafka-metering/meter/relay"
	"kafka-metering/meter/spool"
)

// minute samples p as its listener does for two minutes from a time on, and returns the time.
func minute(p *process, from time.Time) time.Time {
	for range 12 {
		from = from.Add(sampleInterval)
		p.sample(from)
	}
	return from
}

func TestAnExchangeThatNobodyEndsIsMissingAtLast(t *testing.T) {
	p := testProcess(t)
	now := minute(p, p.now())
	lost := p.ledger.open()
	p.sample(now.Add(sampleInterval))
	p.sample(now.Add(2 * sampleInterval))
	if n, _ := p.watch.imbalance(); n != 0 {
		t.Errorf("%d exchanges are missing, want 0: it may be under way", n)
	}
	now = minute(p, minute(p, now))
	p.ledger.open() // this one is new
	p.sample(now)
	if n, _ := p.watch.imbalance(); n != 1 {
		t.Errorf("%d exchanges are missing, want the 1 that has had no end for minutes", n)
	}
	lost.end(placeDisk)
	p.sample(now.Add(sampleInterval))
	if n, _ := p.watch.imbalance(); n != 0 {
		t.Errorf("%d exchanges are missing after the late one ended", n)
	}
}

func TestAnExchangeThatIsCountedTwiceIsAnImbalance(t *testing.T) {
	p := testProcess(t)
	p.ledger.open().end(placeSpooled)
	p.ledger.lose(placeGap, 3)
	now := minute(p, p.now())
	if n, _ := p.watch.imbalance(); n != 0 {
		t.Fatalf("the sums miss %d", n)
	}
	p.ledger.ends[placeSpooled].Inc()
	minute(p, now)
	if n, _ := p.watch.imbalance(); n != -1 {
		t.Errorf("the sums miss %d, want -1", n)
	}
}

func TestExchangesUnderLoadAreNoImbalance(t *testing.T) {
	p := testProcess(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					p.ledger.open().end(placeSpooled)
				}
			}
		})
	}
	now := p.now()
	for range 100 {
		now = minute(p, now)
	}
	close(stop)
	wg.Wait()
	minute(p, now)
	if n, _ := p.watch.imbalance(); n != 0 {
		t.Errorf("the sums miss %d", n)
	}
	if p.ledger.balance() != 0 || len(p.ledger.aged) > 8 {
		t.Errorf("balance %d, %d generations of tickets are kept", p.ledger.balance(), len(p.ledger.aged))
	}
}

func TestWhatIsMissingForAMomentIsNoImbalance(t *testing.T) {
	for _, test := range []struct {
		name   string
		values []int64
		want   int64
	}{
		{"nothing was sampled", nil, 0},
		{"one moment", []int64{5}, 0},
		{"a batch on its way", []int64{0, 500, 0}, 0},
		{"read while it changes", []int64{1, -1, 1}, 0},
		{"missing, with batches on their way", []int64{7, 507, 8}, 7},
		{"counted twice", []int64{-9, -2, -3}, -2},
		{"missing since a while, balanced before", []int64{0, 0, 0, 2, 2, 2, 2, 2, 2, 2}, 2},
	} {
		var w watch
		for _, v := range test.values {
			w.add(sample{records: v})
		}
		if _, got := w.imbalance(); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

func TestEveryPlaceOfARecordCountsInItsBalance(t *testing.T) {
	s := spool.Stats{Adopted: 1, Appended: 1000, Evicted: 4, SetAside: 8, Pending: 16 + 128, Settled: 128}
	r := relay.Stats{Published: 1001 - 2 - 4 - 8 - 16 - 32 - 64, DeadLettered: 32, Rejected: 2, Expired: 64}
	if n := recordImbalance(s, r); n != 0 {
		t.Errorf("the sums miss %d", n)
	}
	s.Pending--
	if n := recordImbalance(s, r); n != 1 {
		t.Errorf("the sums miss %d, want 1", n)
	}
}
