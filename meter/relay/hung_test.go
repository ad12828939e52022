package relay

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// hung is a cluster of 3 brokers with 60 partitions, one of whose brokers cannot be reached: a firewall drops what is sent to it. As with
// client, the brokers are asked side by side, and the request to that one takes Timeout.
type hung struct {
	timeout time.Duration
	sent    *atomic.Int64
	probes  *atomic.Int64
}

func (h hung) publish(_ context.Context, messages []message, closed func(string, int, int) bool) ([]result, error) {
	results := make([]result, len(messages))
	away := false
	for i, m := range messages {
		n, err := strconv.Atoi(string(m.key))
		if err != nil {
			return nil, err
		}
		at := n % 60
		results[i].partitions, results[i].partition = 60, at
		switch {
		case closed(m.topic, 60, at):
			results[i].err = errClosed
		case at%3 == 0:
			away = true
			results[i].err = context.DeadlineExceeded
		default:
			h.sent.Add(1)
		}
	}
	if away {
		h.probes.Add(1)
		time.Sleep(h.timeout)
	}
	return results, nil
}
func (hung) throttled() time.Duration { return 0 }
func (hung) reset()                   {}
func (hung) close()                   {}

func TestABrokerThatDoesNotAnswerDoesNotHoldUpTheOthers(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for seven seconds")
	}
	s := newSpool(t)
	const timeout = 50 * time.Millisecond // with max_retry_delay as the defaults: 10 s and 30 s
	r, err := New(Settings{Brokers: []string{"x:1"}, Timeout: timeout, MaxRetryDelay: 3 * timeout}, s)
	if err != nil {
		t.Fatal(err)
	}
	h := hung{timeout, new(atomic.Int64), new(atomic.Int64)}
	r.open = func(Settings) publisher { return h }
	go func() { _ = r.Run(t.Context()) }()
	n := 0
	add := func() {
		var list []Record
		for range 300 {
			list = append(list, Record{Topic: topic, Key: fmt.Append(nil, n), Value: make([]byte, 100)})
			n++
		}
		appendRecords(t, s, list...)
	}
	add()
	time.Sleep(2 * time.Second) // the delays have grown
	sent, probes, began, first := h.sent.Load(), h.probes.Load(), time.Now(), n
	var slowest time.Duration
	for time.Since(began) < 5*time.Second {
		add()
		want, at := int64(n/3*2), time.Now()
		for h.sent.Load() < want && time.Since(began) < 20*time.Second {
			time.Sleep(time.Millisecond)
		}
		slowest = max(slowest, time.Since(at))
	}
	t.Logf("%d of %d for the other brokers in %v, the slowest batch took %v = %.0f timeouts; %d requests to the one", h.sent.Load()-sent, (n-first)/3*2, time.Since(began), slowest, float64(slowest)/float64(timeout), h.probes.Load()-probes)
	if slowest > 6*timeout {
		t.Errorf("a batch for the other brokers waited for %.0f timeouts, which is %v with the defaults", float64(slowest)/float64(timeout), slowest*200)
	}
}
