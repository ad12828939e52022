package main

import (
	"testing"

	"kafka-metering/plugin/lane"
)

// hung is a spool whose disk does not answer, until it is closed.
type hung chan struct{}

func (h hung) Enqueue(_ [][]byte, done func(error)) error {
	go func() { <-h; done(nil) }()
	return nil
}
func (h hung) Hold(r [][]byte, done func(error)) error { return h.Enqueue(r, done) }

// TestADiskThatHangsDoesNotFillMemory has a worker that comes again and again on new connections, as one does every five seconds for
// as long as the disk hangs: no attempt stays with its batch.
func TestADiskThatHangsDoesNotFillMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds; .ci/run runs it without the race detector")
	}
	p, l := laneProcess(t)
	disk := make(hung)
	var exchanges []lane.Exchange
	for n := range int64(2000) {
		exchanges = append(exchanges, plain(n+1))
	}
	first, again := batch(1, false, nil, exchanges...), batch(1, true, nil, exchanges...)
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	l.mu.Lock()
	for _, in := range l.instances {
		in.sink = disk
	}
	l.mu.Unlock()
	w.send(first)
	await(t, "the batch is under way", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.workers["w"] != nil && len(l.workers["w"].commits) == 1
	})
	_ = w.conn.Close()
	for range 20 {
		w := dialLane(t, l.prefix, "w", 0)
		w.register(1, apiOnly)
		w.send(again)
		pause(t)
		_ = w.conn.Close()
	}
	await(t, "all but one attempt have ended", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.sessions) <= 1
	})
	close(disk)
	w = dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	if got := w.ask(again); got != "OK 1" {
		t.Error(got)
	}
	p.ended(t, map[place]uint64{placeSpooled: 2000})
}
