package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kafka-metering/meter/spool"
)

// memory is a queue without a disk: synctest's clock stands still while a goroutine waits for a file.
type memory struct {
	records [][]byte
	ready   chan struct{}
}

func newMemory(records ...Record) *memory {
	m := &memory{ready: make(chan struct{}, 1)}
	for _, r := range records {
		m.records = append(m.records, r.AppendTo(nil))
	}
	return m
}

func (m *memory) Peek(dst []spool.Entry, maxRecords, _ int) ([]spool.Entry, error) {
	for _, r := range m.records[:min(maxRecords, len(m.records))] {
		dst = append(dst, spool.Entry{Time: time.Now(), Record: r})
	}
	return dst, nil
}

func (m *memory) PeekFrom(_ spool.Pos, dst []spool.Entry, maxRecords, maxBytes int) ([]spool.Entry, error) {
	return m.Peek(dst, maxRecords, maxBytes)
}

// Settle forgets everything that was placed: these tests publish one batch.
func (m *memory) Settle(_ spool.Pos, placed []spool.Pos, _ []spool.Reject) (wait func() error) {
	m.records = m.records[len(placed):]
	return func() error { return nil }
}

func (m *memory) Rewind(spool.Pos) {}

func (m *memory) Ready() <-chan struct{} { return m.ready }

// script is a publisher that cannot reach a broker, with the errors of a list, and then takes everything.
type script struct {
	answers []error
	at      []time.Time // when each attempt came
	sizes   []int
	resets  int
}

func (p *script) publish(_ context.Context, messages []message, _ func(string, int, int) bool) ([]result, error) {
	p.at = append(p.at, time.Now())
	p.sizes = append(p.sizes, len(messages))
	if n := len(p.at) - 1; n < len(p.answers) {
		return nil, p.answers[n]
	}
	return make([]result, len(messages)), nil
}

func (p *script) throttled() time.Duration { return 0 }
func (p *script) reset()                   { p.resets++ }
func (p *script) close()                   {}

// scripted runs a relay with p in the bubble of synctest until f returns.
func scripted(t *testing.T, s Settings, q queue, p publisher, f func(*Relay)) {
	t.Helper()
	s.Brokers = []string{"kafka:9092"}
	r, err := New(s, q)
	if err != nil {
		t.Fatal(err)
	}
	r.open = func(Settings) publisher { return p }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	f(r)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestTheDelayDoublesUpToItsLimitAndNeverEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const attempts = 200
		p := &script{}
		for range attempts {
			p.answers = append(p.answers, errors.New("away"))
		}
		scripted(t, Settings{MaxRetryDelay: 30 * time.Second}, newMemory(Record{Topic: topic}), p, func(r *Relay) {
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if st := r.Stats(); st.Published != 1 || st.Retried != attempts || p.resets != attempts {
				t.Errorf("%+v, %d resets", st, p.resets)
			}
		})
		for n := 1; n <= attempts; n++ {
			whole := 30 * time.Second
			if n <= 9 { // 100 ms * 2^8 is 25.6 s
				whole = 100 * time.Millisecond << (n - 1)
			}
			if d := p.at[n].Sub(p.at[n-1]); d < whole/2 || d > whole {
				t.Errorf("delay %d is %v, want %v to %v", n, d, whole/2, whole)
			}
		}
	})
}

func TestALongFailureIsLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{}
		for range 10_000 {
			p.answers = append(p.answers, errors.New("away"))
		}
		logger, lines := logged()
		scripted(t, Settings{MaxRetryDelay: time.Second, Logger: logger}, newMemory(Record{Topic: topic}), p, func(*Relay) {
			time.Sleep(10*time.Minute + 30*time.Second)
			synctest.Wait()
		})
		if n := strings.Count(lines.String(), "publishing fails"); n != 11 {
			t.Errorf("%d lines in ten and a half minutes, want 11", n)
		}
	})
}

func TestABatchThatIsNotFullWaitsForMoreUnlessItIsToBeDrained(t *testing.T) {
	tests := []struct {
		name       string
		batch      int
		drain      bool
		wait, took time.Duration
	}{
		{"not full", 10, false, 5 * time.Second, 3 * time.Second},
		{"full", 2, false, 5 * time.Second, 0},
		{"drained", 10, true, 0, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, q := &script{}, newMemory(Record{Topic: topic}, Record{Topic: topic})
				begin := time.Now()
				scripted(t, Settings{Linger: 3 * time.Second, MaxBatchRecords: test.batch}, q, p, func(r *Relay) {
					if test.drain {
						if err := r.Drain(t.Context()); err != nil {
							t.Error(err)
						}
					}
					time.Sleep(test.wait)
					synctest.Wait()
				})
				if len(p.at) != 1 || p.at[0].Sub(begin) != test.took || p.sizes[0] != 2 {
					t.Errorf("attempts after %v with %v records, want one after %v with 2", p.at, p.sizes, test.took)
				}
			})
		})
	}
}

func TestADrainEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{}
		for range 10_000 {
			p.answers = append(p.answers, errors.New("away"))
		}
		scripted(t, Settings{}, newMemory(Record{Topic: topic}), p, func(r *Relay) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := r.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want the deadline", err)
			}
		})
	})
}

func TestSettingsSayAllThatIsWrongWithThem(t *testing.T) {
	_, err := New(Settings{Brokers: []string{"a:1,b:2"}, Compression: "rar", Mechanism: "GSSAPI"}, newMemory())
	contains(t, err, `"a:1,b:2" is not host:port`, `"rar" is not none`, `"GSSAPI" is not PLAIN`)
	_, err = New(Settings{Mechanism: "SCRAM-SHA-512", User: "kong", Password: "secret\x00"}, newMemory())
	contains(t, err, "at least one is needed", "RFC 4013")
	if strings.Contains(fmt.Sprint(err), "secret") {
		t.Errorf("the error has the password: %v", err)
	}
}
