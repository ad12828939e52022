package relay

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/meter/spool"
)

// aged is a queue whose records were spooled at different times. Settle remembers what was rejected.
type aged struct {
	entries []spool.Entry
	rejects []spool.Reject
	ready   chan struct{}
}

// newAged returns a queue with one record for each age; their values are the ages.
func newAged(ages ...time.Duration) *aged {
	q := &aged{ready: make(chan struct{}, 1)}
	for _, age := range ages {
		r := Record{Topic: "t", Key: []byte("k"), Value: fmt.Append(nil, age)}
		q.entries = append(q.entries, spool.Entry{Time: time.Now().Add(-age), Record: r.AppendTo(nil)})
	}
	return q
}

func (q *aged) Peek(dst []spool.Entry, _, _ int) ([]spool.Entry, error) {
	return append(dst, q.entries...), nil
}

func (q *aged) PeekFrom(_ spool.Pos, dst []spool.Entry, _, _ int) ([]spool.Entry, error) {
	return append(dst, q.entries[:min(1, len(q.entries))]...), nil
}

// Settle forgets as many of the oldest as have found a place: those are rejected first.
func (q *aged) Settle(_ spool.Pos, placed []spool.Pos, rejects []spool.Reject) (wait func() error) {
	q.entries, q.rejects = q.entries[len(placed)+len(rejects):], append(q.rejects, rejects...)
	return func() error { return nil }
}

func (q *aged) Rewind(spool.Pos) {}

func (q *aged) Ready() <-chan struct{} { return q.ready }

// TestWhatIsTooOldIsNotPublished includes a record from the future, of a clock that was put back.
func TestWhatIsTooOldIsNotPublished(t *testing.T) {
	ages := []time.Duration{48 * time.Hour, 24*time.Hour + time.Millisecond, 24 * time.Hour, time.Minute, -time.Hour}
	for _, test := range []struct {
		name  string
		limit time.Duration
		dead  string
		sent  []int // the sizes of the attempts
		want  Stats
	}{
		{"no bound", 0, "", []int{5}, Stats{Published: 5}},
		{"no dead-letter topic", 24 * time.Hour, "", []int{3}, Stats{Published: 3, Expired: 2}},
		{"a dead-letter topic", 24 * time.Hour, "dead", []int{5}, Stats{Published: 3, Expired: 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, p := newAged(ages...), &script{}
				var got Stats
				scripted(t, Settings{MaxEventAge: test.limit, DeadLetterTopic: test.dead}, q, p, func(r *Relay) {
					synctest.Wait()
					got = r.Stats()
				})
				if diff := cmp.Diff(test.sent, p.sizes); diff != "" {
					t.Errorf("sent (-want +got):\n%s", diff)
				}
				got = Stats{Published: got.Published, DeadLettered: got.DeadLettered, Rejected: got.Rejected, Expired: got.Expired}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if want := test.want.Expired > 0 && test.dead == ""; want != (len(q.rejects) == 2) {
					t.Errorf("%d are kept in the spool", len(q.rejects))
				}
				for _, r := range q.rejects {
					if !strings.HasPrefix(r.Reason, "expired: spooled ") || !strings.Contains(r.Reason, "max_event_age is 24h0m0s") {
						t.Errorf("the reason is %q", r.Reason)
					}
				}
			})
		})
	}
}

// TestABatchThatIsTriedForLongExpires keeps the broker away for longer than the bound.
func TestABatchThatIsTriedForLongExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := make([]error, 1000)
		for i := range away {
			away[i] = fmt.Errorf("nobody listens")
		}
		q, p := newAged(50*time.Minute, 0), &script{answers: away}
		scripted(t, Settings{MaxEventAge: time.Hour, MaxRetryDelay: time.Minute}, q, p, func(r *Relay) {
			time.Sleep(30 * time.Minute)
			synctest.Wait()
			if st := r.Stats(); st.Expired != 1 {
				t.Errorf("of two records %d have expired after half an hour, want the older", st.Expired)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if st := r.Stats(); st.Expired != 2 || st.Published != 0 || len(q.rejects) != 2 {
				t.Errorf("%+v, %d kept", st, len(q.rejects))
			}
		})
		if first, last := p.sizes[0], p.sizes[len(p.sizes)-1]; first != 2 || last != 1 {
			t.Errorf("of two records the first attempt had %d, the last %d", first, last)
		}
	})
}
