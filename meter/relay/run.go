package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"kafka-metering/meter/spool"
)

// Run publishes until ctx ends or the spool is closed, and returns that as an
// error. When ctx ends a request under way is still waited for, at most
// Settings.Timeout: what the brokers acknowledge must leave the spool. Call it
// once.
func (r *Relay) Run(ctx context.Context) error {
	w := &loop{Relay: r, lanes: newLanes(), settled: make(chan struct{})}
	close(w.settled)
	defer w.end()
	for ctx.Err() == nil {
		if err := w.step(ctx); err != nil {
			return fmt.Errorf("relay: %w", err)
		}
	}
	return fmt.Errorf("relay: %w", ctx.Err())
}

// probeRest is how much longer than a probe took the rest is published before the
// next one: a broker that does not answer takes Timeout each time.
const probeRest = 4

// loop is the state of Run.
type loop struct {
	*Relay
	publisher publisher
	settings  Settings
	version   int // of settings
	lanes     *lanes
	rested    time.Time     // until then what is blocked is not tried
	failures  int           // in a row, to reach a broker or to read the spool
	settled   chan struct{} // closed when the batch before has left the spool
}

func (w *loop) end() {
	if w.publisher != nil {
		w.publisher.close()
	}
	<-w.settled
}

// step tries what is blocked and due, or publishes the next batch, or waits for
// one of both. Its error ends the run.
func (w *loop) step(ctx context.Context) error {
	w.renew()
	due, next := w.lanes.due(time.Now(), w.settings.MaxBatchRecords)
	switch wait := time.Until(w.rested); {
	case len(due) > 0 && wait <= 0:
		w.probe(ctx, due)
		return nil
	case len(due) > 0:
		next = wait
	case next >= 0:
		next = max(next, wait)
	}
	s, draining := &w.settings, w.isDraining()
	entries, err := w.queue.Peek(nil, s.MaxBatchRecords, s.MaxBatchBytes)
	switch {
	case errors.Is(err, spool.ErrClosed):
		return err
	case err != nil:
		// A damaged file was set aside, or the disk does not answer.
		w.failed(fmt.Errorf("read spool: %w", err), s)
		w.retreat(ctx)
		return nil
	case len(entries) == 0:
		w.idle(ctx, next, draining)
		return nil
	}
	if len(entries) < s.MaxBatchRecords && !fullByBytes(entries, s.MaxBatchBytes) && s.Linger > 0 && !w.isDraining() {
		w.pause(ctx, s.Linger)
		if more, err := w.queue.Peek(nil, s.MaxBatchRecords, s.MaxBatchBytes); err == nil && len(more) > 0 {
			entries = more
		}
		w.renew()
	}
	b := newBatch(entries, s)
	reached := w.attempt(ctx, b, w.lanes.closed)
	w.settle(entries[len(entries)-1].Pos, b)
	if !reached {
		w.retreat(ctx)
	}
	return nil
}

// fullByBytes reports whether a record as large as the largest would not go with the others.
func fullByBytes(entries []spool.Entry, limit int) bool {
	total, largest := 0, 0
	for i := range entries {
		n := len(entries[i].Record)
		total, largest = total+n, max(largest, n)
	}
	return total+largest > limit
}

// renew puts new settings in force.
func (w *loop) renew() {
	w.mu.Lock()
	s, version := w.Relay.settings, w.Relay.version
	w.mu.Unlock()
	if version == w.version {
		return
	}
	if w.publisher != nil {
		w.publisher.close()
	}
	w.publisher, w.settings, w.version = w.open(s), s, version
}

// idle waits for something to do, for d at most unless that is negative. draining
// is whether that was so before the spool was found empty.
func (w *loop) idle(ctx context.Context, d time.Duration, draining bool) {
	<-w.settled
	if draining && w.lanes.blocked == 0 {
		signal(w.drained)
	}
	var elapsed <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		elapsed = timer.C
	}
	select {
	case <-ctx.Done():
	case <-w.queue.Ready():
	case <-w.wake:
		w.hurry()
	case <-elapsed:
	}
}

// hurry has what is blocked tried now.
func (w *loop) hurry() {
	w.rested = time.Time{}
	w.lanes.hurry()
}

// pause waits for d, or until ctx ends, the settings change or a drain begins.
func (w *loop) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-w.wake:
		w.hurry()
	case <-timer.C:
	}
}

// retreat waits before the next attempt to reach a broker, or to read the spool.
// What is blocked is tried first then: all of it may be for the same reason.
func (w *loop) retreat(ctx context.Context) {
	w.failures++
	w.pause(ctx, delay(w.failures, w.settings.MaxRetryDelay))
	w.hurry()
}

// attempt publishes what of b can be, and leaves the rest behind. It reports
// false when no broker could be asked, or ctx has ended; some items are then
// still waiting.
func (w *loop) attempt(ctx context.Context, b *batch, closed func(topic string, partitions, partition int) bool) bool {
	worst := error(nil)
	for {
		waiting, messages := b.waiting()
		if len(waiting) == 0 {
			break
		}
		if !w.unthrottled(ctx) {
			return false
		}
		// Not ctx: cancelling does not stop kafka-go's delivery, it only hides
		// what became of it. Timeout bounds the call.
		results, err := w.publisher.publish(context.WithoutCancel(ctx), messages, closed)
		if err != nil {
			w.publisher.reset()
			w.mu.Lock()
			w.stats.Connected = reached(err)
			w.stats.Retried += int64(len(waiting))
			w.mu.Unlock()
			w.failed(explain(err, messages[0].topic, &w.settings), &w.settings)
			return false
		}
		w.failures = 0
		worst = worse(worst, w.judge(b, waiting, results))
	}
	w.conclude(worst)
	return true
}

// unthrottled waits until the brokers take requests. It reports false when ctx has
// ended.
func (w *loop) unthrottled(ctx context.Context) bool {
	for {
		d := w.publisher.throttled()
		if d <= 0 {
			return true
		}
		began := time.Now()
		w.pause(ctx, d)
		w.mu.Lock()
		w.stats.Throttled += time.Since(began)
		w.mu.Unlock()
		if ctx.Err() != nil {
			return false
		}
	}
}

// judge records the results of one attempt, and returns the worst error of those
// that are to be tried again.
func (w *loop) judge(b *batch, waiting []int, results []result) (worst error) {
	s := &w.settings
	failed := map[lane]bool{}
	connected, retried := false, int64(0)
	for k, i := range waiting {
		r, it := results[k], &b.items[i]
		topic := it.message.topic
		connected = connected || r.err == nil || reached(r.err)
		switch {
		case r.err == nil:
			it.done()
			w.lanes.wrote(lane{topic, r.partition})
			w.lanes.wrote(lane{topic, wholeTopic})
			continue
		case classify(r.err) == reject:
			it.poison(explain(r.err, topic, s).Error(), s)
			continue
		case it.dead && topicTrouble(r.err) && w.lanes.failures(lane{topic, r.partition}) >= deadAttempts-1:
			it.reject("dead-letter topic: " + explain(r.err, topic, s).Error())
			continue
		}
		it.state = left
		it.lane = w.lanes.leave(topic, r.partitions, r.partition, it.pos)
		if errors.Is(r.err, errClosed) {
			continue
		}
		failed[it.lane] = true
		retried++
		if !errors.Is(r.err, errBehind) {
			worst = worse(worst, explain(r.err, topic, s))
		}
	}
	now := time.Now()
	for at := range failed {
		w.lanes.fail(at, now, s.MaxRetryDelay)
	}
	w.mu.Lock()
	w.stats.Connected = connected || worst == nil && w.stats.Connected
	w.stats.Retried += retried
	w.mu.Unlock()
	if worst != nil {
		// Leaders may have moved.
		w.publisher.reset()
	}
	return worst
}

// worse returns the one of two errors that has more need of somebody.
func worse(a, b error) error {
	if a == nil || b != nil && classify(b) > classify(a) {
		return b
	}
	return a
}

// conclude reports how an attempt went.
func (w *loop) conclude(worst error) {
	w.mu.Lock()
	w.stats.Blocked = w.lanes.blocked
	failures := w.stats.ConsecutiveFailures
	recovered := worst == nil && w.lanes.blocked == 0 && failures > 0
	if recovered {
		w.stats.ConsecutiveFailures = 0
	}
	w.mu.Unlock()
	switch {
	case worst != nil:
		w.failed(worst, &w.settings)
	case recovered:
		w.settings.Logger.Info("publishing again", "failed_attempts", failures)
	}
}

// probe tries lanes that are blocked with the oldest record of each, and opens
// those that can be written: their records are then read again.
func (w *loop) probe(ctx context.Context, due []lane) {
	var entries []spool.Entry
	var open []lane
	tried := map[lane]int{} // index of its record
	for _, at := range due {
		first := w.lanes.held[at].first
		found, err := w.queue.PeekFrom(first, nil, 1, w.settings.MaxBatchBytes)
		if err != nil || len(found) == 0 || found[0].Pos.Compare(first) != 0 && !isFor(found[0], at.topic, &w.settings) {
			open = append(open, at) // it was evicted, or the reader will meet the error
			continue
		}
		first = found[0].Pos // the one after it, where it was evicted
		// Two lanes have one record where its topic has got more partitions meanwhile.
		i := slices.IndexFunc(entries, func(e spool.Entry) bool { return e.Pos.Compare(first) == 0 })
		if i < 0 {
			i, entries = len(entries), append(entries, found[0])
		}
		tried[at] = i
	}
	b := newBatch(entries, &w.settings)
	began := time.Now()
	reached := w.attempt(ctx, b, func(string, int, int) bool { return false })
	w.rested = time.Now().Add(probeRest * min(time.Since(began), w.settings.Timeout))
	for _, at := range due {
		i, ok := tried[at]
		if !ok {
			continue
		}
		if it := &b.items[i]; it.state != alive && it.state != dead && (it.state != left || it.lane != at) {
			open = append(open, at)
		}
	}
	for i := range b.items {
		w.settle(spool.Pos{}, &batch{items: b.items[i : i+1]})
	}
	for _, at := range open {
		if first, ok := w.lanes.release(at); ok {
			w.queue.Rewind(first)
		}
	}
	if len(open) > 0 && w.lanes.blocked == 0 {
		w.queue.Rewind(spool.Pos{}) // whatever was left behind
	}
	if !reached {
		w.retreat(ctx)
	} else if len(entries) > 0 {
		w.conclude(nil)
	}
}

// isFor reports whether a record goes to a topic.
func isFor(e spool.Entry, topic string, s *Settings) bool {
	b := newBatch([]spool.Entry{e}, s)
	return b.items[0].message.topic == topic
}

// settle takes what of b has found its place out of the spool, counts it, and
// passes over the rest up to last; but what is still to be sent comes next. The
// disk is at work on one batch while the next is published.
func (w *loop) settle(last spool.Pos, b *batch) {
	placed, rejects, counts := b.places()
	if len(placed)+len(rejects) > 0 {
		<-w.settled
	}
	wait := w.queue.Settle(last, placed, rejects)
	if first, waits := b.waitsFrom(); waits && last != (spool.Pos{}) {
		w.queue.Rewind(first)
	}
	if len(placed)+len(rejects) == 0 {
		return
	}
	settled := make(chan struct{})
	w.settled = settled
	s := w.settings
	go func() {
		defer close(settled)
		err := wait()
		w.mu.Lock()
		w.stats.Published += counts[published]
		w.stats.DeadLettered += counts[deadLettered]
		w.stats.Rejected += counts[rejected]
		w.stats.Expired += counts[expired]
		w.stats.Batches++
		if len(placed) > 0 {
			w.stats.LastPublish = time.Now()
		}
		w.mu.Unlock()
		if err != nil {
			// The spool does not return these records again, and goes on trying to
			// delete them.
			w.failed(fmt.Errorf("delete published records from the spool: %w", err), &s)
		}
	}()
}

// failed remembers and logs a failure.
func (r *Relay) failed(err error, s *Settings) {
	r.mu.Lock()
	now := time.Now()
	r.stats.ConsecutiveFailures++
	r.stats.LastError, r.stats.LastErrorTime = err, now
	log := r.stats.ConsecutiveFailures == 1 || now.Sub(r.logged) >= logInterval
	if log {
		r.logged = now
	}
	failures := r.stats.ConsecutiveFailures
	r.mu.Unlock()
	if log {
		s.Logger.Warn("publishing fails, will be retried", "error", err, "failed_attempts", failures)
	}
}

func (r *Relay) isDraining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining > 0
}
