package main

import (
	"context"
	"sync"
	"time"

	"kafka-metering/meter/relay"
	"kafka-metering/meter/spool"
)

const (
	// sampleInterval is how often the counts are sampled, for rates and for the balance.
	sampleInterval = 10 * time.Second
	// samplesKept span the minute that rates and imbalances are of.
	samplesKept = 7
)

// sample is what was counted up to one moment.
type sample struct {
	at          time.Time
	ends        map[place]uint64
	extractions map[extraction]uint64

	exchanges int64 // that the ledger's sums miss: see ledger.imbalance
	records   int64 // that the pipelines' sums miss: see recordImbalance
}

// watch keeps the samples of the last minute. Counts are read one after the other while others change, and a batch is
// counted as published a moment after it left the spool: one moment's sums need not balance. What is missing in every
// sample of a minute is.
type watch struct {
	mu      sync.Mutex
	samples []sample // oldest first
}

func (w *watch) add(s sample) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.samples = append(w.samples, s)
	if len(w.samples) > samplesKept {
		w.samples = w.samples[1:]
	}
}

// oldest returns the sample that rates are counted from.
func (w *watch) oldest() (sample, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.samples) == 0 {
		return sample{}, false
	}
	return w.samples[0], true
}

// lasting returns the part of a value that every sample has, and 0 while there is but one sample.
func (w *watch) lasting(value func(sample) int64) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.samples) < 2 {
		return 0
	}
	least := value(w.samples[0])
	for _, s := range w.samples[1:] {
		switch v := value(s); {
		case v > 0 && least > 0:
			least = min(least, v)
		case v < 0 && least < 0:
			least = max(least, v)
		default:
			return 0
		}
	}
	return least
}

// imbalance returns the exchanges and the records that the sums have been missing for a minute: 0 and 0 when each has
// ended in exactly one counted place.
func (w *watch) imbalance() (exchanges, records int64) {
	return w.lasting(func(s sample) int64 { return s.exchanges }), w.lasting(func(s sample) int64 { return s.records })
}

// sample adds what is counted now to the watch.
func (p *process) sample(now time.Time) {
	p.ledger.age(now)
	s := sample{at: now, ends: map[place]uint64{}, extractions: map[extraction]uint64{}, exchanges: p.ledger.imbalance(now)}
	for place, c := range p.ledger.ends {
		s.ends[place] = c.Get()
	}
	for e, c := range p.ledger.extractions {
		s.extractions[e] = c.Get()
	}
	for _, l := range p.running() {
		s.records += recordImbalance(l.stats())
	}
	p.watch.add(s)
}

// keepSampling samples until ctx ends.
func (p *process) keepSampling(ctx context.Context) {
	tick := time.NewTicker(sampleInterval)
	defer tick.Stop()
	for {
		p.sample(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// recordImbalance returns what a pipeline took minus the sum of all places where a record can be.
func recordImbalance(s spool.Stats, r relay.Stats) int64 {
	settled := r.Published + r.DeadLettered + r.Rejected + r.Expired
	return s.Adopted + s.Appended - settled - s.Evicted - s.SetAside - (s.Pending - s.Settled)
}
