package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"kafka-metering/meter/spool"
)

const (
	minRetryDelay = 100 * time.Millisecond
	// deadAttempts is how often the dead-letter topic is tried before a poison
	// record stays in the spool. A topic that was just created needs a few.
	deadAttempts = 4
	logInterval  = time.Minute
)

// queue is the part of a spool that a relay uses.
type queue interface {
	Peek(dst []spool.Entry, maxRecords, maxBytes int) ([]spool.Entry, error)
	Ack(upTo spool.Pos, rejects ...spool.Reject) error
	Ready() <-chan struct{}
}

// publisher is what client does; another one stands in where a test needs the
// clock of synctest.
type publisher interface {
	publish(ctx context.Context, messages []message) []error
	throttled() time.Duration
	reset()
	close()
}

// Relay publishes one spool. Run does the work; the other methods may be called
// from any goroutine.
type Relay struct {
	queue queue
	open  func(Settings) publisher

	wake    chan struct{} // cap 1: the settings changed or a drain began
	drained chan struct{} // cap 1: the queue was empty during a drain

	mu       sync.Mutex
	settings Settings
	version  int // of settings
	draining int
	stats    Stats
	logged   time.Time
}

// Stats is a snapshot of what a Relay has done and how it is.
type Stats struct {
	Published    int64 // records acknowledged by the brokers and taken out of the spool
	DeadLettered int64 // of the same, those that went to the dead-letter topic instead
	Rejected     int64 // records moved to the spool's rejected bucket
	Retried      int64 // records sent again after a failure
	Batches      int64 // taken out of the spool

	Throttled time.Duration // for which the brokers have asked the relay to wait

	Connected           bool      // a broker answered the last attempt
	LastPublish         time.Time // zero: none yet
	ConsecutiveFailures int64     // attempts since the last one without a failure
	LastError           error     // stays after recovery; nil: none yet
	LastErrorTime       time.Time
}

// New returns a relay that publishes q. It does not connect to anything. The
// error names everything that is wrong with s.
func New(s Settings, q queue) (*Relay, error) {
	r := &Relay{
		queue: q, wake: make(chan struct{}, 1), drained: make(chan struct{}, 1),
		open: func(s Settings) publisher { return newClient(s) },
	}
	if err := r.Update(s); err != nil {
		return nil, err
	}
	<-r.wake // there is nothing to hurry yet
	return r, nil
}

// Update replaces the settings. The next attempt uses them, also when that is
// the retry of a batch under way. The error names everything that is wrong with
// s; the old settings then stay.
func (r *Relay) Update(s Settings) error {
	s, err := s.withDefaults()
	if err != nil {
		return fmt.Errorf("relay settings: %w", err)
	}
	r.mu.Lock()
	r.settings = s
	r.version++
	r.mu.Unlock()
	signal(r.wake)
	return nil
}

// Stats returns a snapshot.
func (r *Relay) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

// Drain waits until everything pending was published or ctx ends; then it
// returns ctx's error. It only hurries Run, which must be running: no lingering,
// and a delay between attempts is cut short once.
func (r *Relay) Drain(ctx context.Context) error {
	select {
	case <-r.drained: // left over
	default:
	}
	r.mu.Lock()
	r.draining++
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.draining--
		r.mu.Unlock()
	}()
	signal(r.wake)
	select {
	case <-r.drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain: %w", ctx.Err())
	}
}

// Run publishes until ctx ends or the spool is closed, and returns that as an
// error. When ctx ends a request under way is still waited for, at most
// Settings.Timeout: what the brokers acknowledge must leave the spool. Call it
// once.
func (r *Relay) Run(ctx context.Context) error {
	var (
		p       publisher
		version int
	)
	current := func() (publisher, Settings) {
		r.mu.Lock()
		s, v := r.settings, r.version
		r.mu.Unlock()
		if v != version {
			if p != nil {
				p.close()
			}
			p, version = r.open(s), v
		}
		return p, s
	}
	defer func() {
		if p != nil {
			p.close()
		}
	}()
	failures := 0
	for ctx.Err() == nil {
		_, s := current()
		entries, err := r.queue.Peek(nil, s.MaxBatchRecords, s.MaxBatchBytes)
		if errors.Is(err, spool.ErrClosed) {
			return fmt.Errorf("relay: %w", err)
		}
		if err != nil {
			// A damaged file was set aside, or the disk does not answer.
			r.failed(fmt.Errorf("read spool: %w", err), &s)
			failures++
			r.pause(ctx, delay(failures, s.MaxRetryDelay))
			continue
		}
		failures = 0
		if len(entries) == 0 {
			r.idle(ctx)
			continue
		}
		if len(entries) < s.MaxBatchRecords && s.Linger > 0 && !r.isDraining() {
			r.pause(ctx, s.Linger)
			if more, err := r.queue.Peek(nil, s.MaxBatchRecords, s.MaxBatchBytes); err == nil && len(more) > 0 {
				entries = more
			}
		}
		r.publish(ctx, current, entries)
	}
	return fmt.Errorf("relay: %w", ctx.Err())
}

// idle waits for something to do.
func (r *Relay) idle(ctx context.Context) {
	if r.isDraining() {
		signal(r.drained)
	}
	select {
	case <-ctx.Done():
	case <-r.queue.Ready():
	case <-r.wake:
	}
}

func (r *Relay) isDraining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining > 0
}

// pause waits for d, or until ctx ends, the settings change or a drain begins.
func (r *Relay) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-r.wake:
	case <-timer.C:
	}
}

// delay before the attempt that follows n failures: doubled each time, and
// between half and the whole of that, so that relays do not march in step.
func delay(n int, limit time.Duration) time.Duration {
	d := limit
	if n-1 < 20 {
		d = min(limit, minRetryDelay<<(n-1))
	}
	return d/2 + rand.N(d/2+1)
}

// publish brings every entry to its place and takes the batch out of the spool.
// When ctx ends before that, it takes out what comes before the first entry that
// has no place yet.
func (r *Relay) publish(ctx context.Context, current func() (publisher, Settings), entries []spool.Entry) {
	_, s := current()
	b := newBatch(entries, &s)
	for failures := 0; ; {
		waiting, messages := b.waiting()
		if len(waiting) == 0 {
			break
		}
		p, s := current()
		if d := p.throttled(); d > 0 {
			began := time.Now()
			r.pause(ctx, d)
			r.mu.Lock()
			r.stats.Throttled += time.Since(began)
			r.mu.Unlock()
			if ctx.Err() != nil {
				break
			}
			continue
		}
		// Not ctx: cancelling does not stop kafka-go's delivery, it only hides
		// what became of it. Timeout bounds the call.
		results := p.publish(context.WithoutCancel(ctx), messages)
		if r.judge(b, waiting, results, &s) {
			failures = 0
			continue
		}
		failures++
		p.reset()
		if ctx.Err() == nil {
			r.pause(ctx, delay(failures, s.MaxRetryDelay))
		}
		if ctx.Err() != nil {
			break
		}
	}
	r.ack(b, &s)
}

// judge records the results of one attempt. It reports whether the rest can be
// sent at once.
func (r *Relay) judge(b *batch, waiting []int, results []error, s *Settings) bool {
	var worst error
	connected, retried := false, int64(0)
	for k, i := range waiting {
		err := results[k]
		if err == nil || reached(err) {
			connected = true
		}
		switch {
		case err == nil:
			b.items[i].done()
			continue
		case classify(err) == reject:
			b.items[i].poison(explain(err, b.items[i].message.topic, s).Error(), s)
			continue
		case b.items[i].state == dead && topicTrouble(err):
			if b.items[i].attempts++; b.items[i].attempts >= deadAttempts {
				b.items[i].reject("dead-letter topic: " + explain(err, b.items[i].message.topic, s).Error())
				continue
			}
		}
		retried++
		if worst == nil || errors.Is(worst, errBehind) || classify(err) > classify(worst) {
			worst = err
			if !errors.Is(err, errBehind) {
				worst = explain(err, b.items[i].message.topic, s)
			}
		}
	}
	r.mu.Lock()
	r.stats.Connected = connected
	r.stats.Retried += retried
	recovered := worst == nil && r.stats.ConsecutiveFailures > 0
	failures := r.stats.ConsecutiveFailures
	if worst == nil {
		r.stats.ConsecutiveFailures = 0
	}
	r.mu.Unlock()
	if recovered {
		s.Logger.Info("publishing again", "failed_attempts", failures)
	}
	if worst != nil {
		r.failed(worst, s)
	}
	return worst == nil
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

// ack takes what is finished out of the spool and counts it.
func (r *Relay) ack(b *batch, s *Settings) {
	n := b.finished()
	if n == 0 {
		return
	}
	var sent, buried int64
	var rejects []spool.Reject
	for i := range b.items[:n] {
		switch item := &b.items[i]; item.state {
		case published:
			sent++
		case deadLettered:
			buried++
		case rejected:
			rejects = append(rejects, spool.Reject{Pos: item.pos, Reason: item.reason})
		default: // the first n are finished
		}
	}
	err := r.queue.Ack(b.items[n-1].pos, rejects...)
	r.mu.Lock()
	r.stats.Published += sent
	r.stats.DeadLettered += buried
	r.stats.Rejected += int64(len(rejects))
	r.stats.Batches++
	if sent+buried > 0 {
		r.stats.LastPublish = time.Now()
	}
	r.mu.Unlock()
	if err != nil {
		// The spool does not return these records again, and goes on trying to
		// delete them.
		r.failed(fmt.Errorf("delete published records from the spool: %w", err), s)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
