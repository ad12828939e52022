package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"kafka-metering/meter/spool"
)

const topic = "kong.metering"

// patience is how long a test waits for what must come: machines may be busy.
const patience = time.Minute

func newCluster(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(3, topic)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newSpool(t testing.TB) *spool.Spool {
	t.Helper()
	s, err := spool.Open(t.TempDir(), spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func appendRecords(t testing.TB, s *spool.Spool, records ...Record) {
	t.Helper()
	var encoded [][]byte
	for _, r := range records {
		encoded = append(encoded, r.AppendTo(nil))
	}
	if err := s.Append(t.Context(), encoded...); err != nil {
		t.Fatal(err)
	}
}

// numbered returns records whose values are their numbers and whose keys are
// shared by every seventh.
func numbered(from, to int) []Record {
	var records []Record
	for i := from; i < to; i++ {
		records = append(records, Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", i%7), Value: fmt.Append(nil, i)})
	}
	return records
}

// start runs a relay until the test ends.
func start(t testing.TB, s Settings, q queue) *Relay {
	t.Helper()
	if s.MaxRetryDelay == 0 {
		s.MaxRetryDelay = 50 * time.Millisecond
	}
	if s.Timeout == 0 {
		s.Timeout = 5 * time.Second
	}
	r, err := New(s, q)
	if err != nil {
		t.Fatal(err)
	}
	run(t, r)
	return r
}

func run(t testing.TB, r *Relay) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, spool.ErrClosed) {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	return stop
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not happen", what)
		}
		wait, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		<-wait.Done()
		cancel()
	}
}

// drained waits until the relay has emptied the spool, and checks that every
// record is in exactly one place.
func drained(t testing.TB, r *Relay, s *spool.Spool) Stats {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience+*outage)
	defer cancel()
	if err := r.Drain(ctx); err != nil {
		t.Fatal(err, r.Stats().LastError)
	}
	checkBalance(t, r.Stats(), s.Stats())
	return r.Stats()
}

func checkBalance(t testing.TB, rs Stats, ss spool.Stats) {
	t.Helper()
	if in, out := ss.Appended+ss.Adopted, rs.Published+rs.DeadLettered+rs.Rejected+ss.Evicted+ss.SetAside+ss.Pending; in != out {
		t.Errorf("spooled %d, but published+dead-lettered+rejected+evicted+set aside+pending = %d\n%+v\n%+v", in, out, rs, ss)
	}
	if ss.Rejected != rs.Rejected || ss.Acked != rs.Published+rs.DeadLettered {
		t.Errorf("the relay's counts differ from the spool's:\n%+v\n%+v", rs, ss)
	}
}

// consume reads n records of a topic from the beginning, and makes sure that
// there are no more.
func consume(t testing.TB, c *kfake.Cluster, topic string, n int, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var records []*kgo.Record
	for timeout := patience; ; {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		fetches := cl.PollFetches(ctx)
		late := ctx.Err() != nil
		cancel()
		records = append(records, fetches.Records()...)
		if late {
			break
		}
		if len(records) >= n {
			timeout = 200 * time.Millisecond // are there more?
		}
	}
	if len(records) != n {
		t.Fatalf("topic %q has %d records, want %d", topic, len(records), n)
	}
	return records
}

// checkOrder checks that the values of each key ascend.
func checkOrder(t testing.TB, records []*kgo.Record) {
	t.Helper()
	last := map[string]int{}
	for _, r := range records {
		var n int
		if _, err := fmt.Sscan(string(r.Value), &n); err != nil {
			t.Fatal(err)
		}
		if before, ok := last[string(r.Key)]; ok && before >= n {
			t.Errorf("key %s: %d after %d", r.Key, n, before)
		}
		last[string(r.Key)] = n
	}
}

// freePort returns a port on which nobody listens.
func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// logged collects log lines.
func logged() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}

func contains(t testing.TB, err error, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

func mechanismOf(name, user, pass string) sasl.Mechanism {
	switch name {
	case "SCRAM-SHA-256":
		return scram.Auth{User: user, Pass: pass}.AsSha256Mechanism()
	case "SCRAM-SHA-512":
		return scram.Auth{User: user, Pass: pass}.AsSha512Mechanism()
	default:
		return plain.Auth{User: user, Pass: pass}.AsMechanism()
	}
}
