package main

import (
	"errors"
	"sync"
	"time"

	"kafka-metering/meter/spool"
	"kafka-metering/plugin/lane"
)

const (
	// laneGrace is how long a worker whose connection ended may take to come back, before it counts as lost.
	laneGrace = 5 * time.Second
	// laneMemory is how long a worker is remembered that has no connection.
	laneMemory = time.Hour
)

// laneWorker is what this process knows of one of Kong's workers.
type laneWorker struct {
	l    *laneServer
	name string

	commits chan struct{}       // cap 1: one batch at a time
	partly  map[string]struct{} // exchanges of one that comes again, whose events are in the spool; guarded by commits

	mu          sync.Mutex
	account     *lane.Account
	batch       int64 // the last that was taken
	number      int64 // the last exchange of it
	connections int
	parted      bool        // it has said goodbye
	away        *time.Timer // since the last connection ended
	sinks       []*instance // of its last connection: where word of a gap goes that has no plugin
}

// join returns the worker that says hello.
func (l *laneServer) join(h *lane.Hello) *laneWorker {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.workers[h.Worker]
	if w == nil {
		w = &laneWorker{l: l, name: h.Worker, account: lane.NewAccount(h), number: h.Counted, commits: make(chan struct{}, 1)}
		l.workers[h.Worker] = w
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connections, w.parted = w.connections+1, false
	w.account.Heard(h)
	if w.away != nil {
		w.away.Stop()
	}
	return w
}

// leave ends a connection. A worker that said goodbye, or that lost a process which stops, is expected to be away.
func (w *laneWorker) leave(bye, stopping bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parted = w.parted || bye // a connection that failed before may be noticed later
	if w.connections--; w.connections > 0 {
		return
	}
	if w.parted || stopping {
		w.away = time.AfterFunc(laneMemory, w.forget)
	} else {
		w.away = time.AfterFunc(w.l.grace, w.lose)
	}
}

// lose reports a worker that died, with what was in its queue.
func (w *laneWorker) lose() {
	w.mu.Lock()
	gone, sinks := w.connections == 0, w.sinks
	if gone {
		w.away = time.AfterFunc(laneMemory, w.forget)
	}
	w.mu.Unlock()
	if !gone || w.l.isStopping() {
		return
	}
	w.l.p.ledger.workersLost.Inc()
	w.l.p.log.Warn("a worker is gone without goodbye: what it had not handed over is lost", "worker", w.name)
	w.l.report(gap{Worker: w.name, Reason: reasonWorkerLost}, "lost", sinks)
}

// forget drops the worker.
func (w *laneWorker) forget() {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.connections == 0 {
		delete(w.l.workers, w.name)
	}
}

// has reports whether the worker's batch has been taken.
func (w *laneWorker) has(batch int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return batch <= w.batch
}

// errUnderWay says that a batch of the worker is being put into the spool still.
var errUnderWay = errors.New("a batch that came before is not on disk yet: the disk does not answer")

// begin returns when no other batch of the worker is under way, and none will be until end is called. A worker does not wait for
// as long as a disk may hang, and comes again on another connection: each attempt must not stay here with a batch.
func (w *laneWorker) begin() (end func(), err error) {
	limit := time.NewTimer(handOverLimit)
	defer limit.Stop()
	select {
	case w.commits <- struct{}{}:
		return func() { <-w.commits }, nil
	case <-limit.C:
		return nil, errUnderWay
	}
}

// laneBatch is a batch that was read to its end.
type laneBatch struct {
	session   *laneSession
	batch     *lane.Batch
	exchanges []laneExchange
	last      int64 // the highest number of its exchanges
}

// commit puts the batch's events into the spool, and returns when they are there and every exchange has its place in the
// ledger. An error leaves the batch to the worker, which sends it again: the spool cannot take it now. What of it was taken
// all the same is remembered by its ids. The caller has begun it.
func (w *laneWorker) commit(b *laneBatch) error {
	ledger := w.l.p.ledger
	if w.has(b.batch.Number) {
		ledger.batchesRepeated.Inc()
		return nil
	}
	if b.batch.Again {
		b.skipKnown(w)
	}
	var drops int64
	for _, d := range b.batch.Drops {
		drops += d.Count
	}
	w.mu.Lock()
	account := *w.account
	w.mu.Unlock()
	missing := account.Batch(int64(b.batch.Entries), drops, b.last)

	sinks := b.session.sinks()
	if len(sinks) == 0 { // drops alone, on a connection that has registered nothing yet
		w.mu.Lock()
		sinks = w.sinks
		w.mu.Unlock()
	}
	gaps := w.gaps(b, missing, sinks)
	places, err := b.spool(w, gaps)
	if err != nil {
		ledger.batchesLater.Inc()
		if w.l.p.reports.due("later "+w.name, w.l.p.now()) {
			w.l.p.log.Warn("a worker's batch cannot be taken now; the worker keeps it", "worker", w.name, "error", err)
		}
		return err
	}
	for i := range b.exchanges {
		e := &b.exchanges[i]
		ledger.open().end(places[i])
		if places[i] != placeRepeated {
			ledger.tally(e.extraction, &e.notes)
		}
	}
	for _, d := range b.batch.Drops {
		ledger.lose(placeOfDrop(d.Reason), d.Count)
	}
	ledger.lose(placeGap, missing)
	ledger.batchesTaken.Inc()
	w.mu.Lock()
	defer w.mu.Unlock()
	*w.account, w.batch, w.number, w.sinks = account, b.batch.Number, max(w.number, b.last), sinks
	return nil
}

// skipKnown finds the exchanges whose events this process has put into the spool, or one that is gone had before it could say so.
func (b *laneBatch) skipKnown(w *laneWorker) {
	adoptNow(b.session.sinks())
	for i := range b.exchanges {
		e := &b.exchanges[i]
		if e.id == "" {
			continue
		}
		if _, ours := w.partly[e.id]; ours {
			e.records = nil // of an exchange that is not counted yet
		} else if w.l.p.recent.has(e.id) {
			e.end = placeRepeated
		}
	}
}

// spool hands all events over and waits until they are durable. places are where the exchanges end.
func (b *laneBatch) spool(w *laneWorker, gaps []gapEvent) (places []place, err error) {
	places = make([]place, len(b.exchanges))
	var groups []*handOver
	groupOf := func(s sink) *handOver {
		for _, g := range groups {
			if g.sink == s {
				return g
			}
		}
		n := len(b.exchanges) + len(gaps)
		g := &handOver{sink: s, exchanges: make([]int, 0, n), records: make([][][]byte, 0, n)}
		groups = append(groups, g)
		return g
	}
	for i := range b.exchanges {
		e := &b.exchanges[i]
		places[i] = e.end
		if e.end == placeSpooled && e.records != nil {
			groupOf(e.in.sink).add(i, e.records)
		}
	}
	for i := range gaps {
		groupOf(gaps[i].in.sink).add(-1-i, gaps[i].records())
	}
	for _, g := range groups {
		g.start()
	}
	var errs []error
	for _, g := range groups {
		g.wait()
		for n, i := range g.exchanges {
			switch err := g.errs[n]; {
			case i < 0: // word of a gap; the metric has it
			case isForGood(err):
				places[i] = placeOf(err)
			default:
				errs = append(errs, err)
			}
		}
	}
	if len(errs) == 0 {
		w.partly = nil
		return places, nil
	}
	// The worker sends all of it again: what is in the spool already must be known by then.
	if w.partly == nil {
		w.partly = map[string]struct{}{}
	}
	for _, g := range groups {
		for n, i := range g.exchanges {
			if g.errs[n] == nil && i >= 0 && b.exchanges[i].id != "" {
				w.partly[b.exchanges[i].id] = struct{}{}
				w.l.p.recent.add(b.exchanges[i].id)
			}
		}
	}
	return nil, errs[0]
}

// isForGood reports whether a hand-over has ended, well or badly: the administrator's bound is not a passing trouble, as a
// full disk is, which the worker can wait out.
func isForGood(err error) bool {
	return err == nil || errors.Is(err, spool.ErrFull) || errors.Is(err, spool.ErrTooLarge)
}

// handOver is what one sink gets of a batch.
type handOver struct {
	sink      sink
	exchanges []int // indexes into the batch; -1-i is gap i
	records   [][][]byte
	errs      []error
	done      sync.WaitGroup
}

func (g *handOver) add(exchange int, records [][]byte) {
	g.exchanges, g.records = append(g.exchanges, exchange), append(g.records, records)
}

// start hands all records over at once, or, where they do not fit, exchange by exchange.
func (g *handOver) start() {
	g.errs = make([]error, len(g.exchanges))
	n := 0
	for _, r := range g.records {
		n += len(r)
	}
	all := make([][]byte, 0, n)
	for _, r := range g.records {
		all = append(all, r...)
	}
	err := g.enqueue(all, func(err error) {
		for i := range g.errs {
			g.errs[i] = err
		}
	})
	if err == nil {
		return
	}
	for i, r := range g.records {
		if errors.Is(err, spool.ErrFull) || errors.Is(err, spool.ErrTooLarge) {
			g.errs[i] = g.enqueue(r, func(err error) { g.errs[i] = err })
		} else {
			g.errs[i] = err
		}
	}
}

// enqueue calls done when the records are durable, or it is known that they will not be.
func (g *handOver) enqueue(records [][]byte, done func(error)) error {
	g.done.Add(1)
	err := g.sink.Enqueue(records, func(err error) {
		done(err)
		g.done.Done()
	})
	if err != nil {
		g.done.Done()
	}
	return err
}

func (g *handOver) wait() { g.done.Wait() }
