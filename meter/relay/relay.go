package relay

import (
	"context"
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
	PeekFrom(from spool.Pos, dst []spool.Entry, maxRecords, maxBytes int) ([]spool.Entry, error)
	Settle(last spool.Pos, placed []spool.Pos, rejects []spool.Reject) (wait func() error)
	Rewind(to spool.Pos)
	Ready() <-chan struct{}
}

// publisher is what client does; another one stands in where a test needs the
// clock of synctest.
type publisher interface {
	publish(ctx context.Context, messages []message, closed func(topic string, partitions, partition int) bool) ([]result, error)
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
	Expired      int64 // records older than Settings.MaxEventAge, moved to either: not among those two
	Retried      int64 // records sent again after a failure
	Batches      int64 // taken out of the spool

	Throttled time.Duration // for which the brokers have asked the relay to wait

	Connected           bool      // a broker answered the last attempt
	LastPublish         time.Time // zero: none yet
	ConsecutiveFailures int64     // failed attempts since everything could be written
	Blocked             int       // partitions, and topics as a whole, that cannot be written; the rest goes on
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

// delay before the attempt that follows n failures: doubled each time, and
// between half and the whole of that, so that relays do not march in step.
func delay(n int, limit time.Duration) time.Duration {
	d := limit
	if n-1 < 20 {
		d = min(limit, minRetryDelay<<(n-1))
	}
	return d/2 + rand.N(d/2+1)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
