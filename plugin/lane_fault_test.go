package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"kafka-metering/meter"
	"kafka-metering/plugin/lane"
)

// load sends requests until it is stopped, and counts the answers.
type load struct {
	t        *testing.T
	answered atomic.Int64
	failed   atomic.Int64
	slowest  atomic.Int64 // nanoseconds
	stop     context.CancelFunc
	running  sync.WaitGroup
}

// loadInterval is the least time between two requests of a client: with four of them a worker's queue lasts for ten seconds
// even if all of them happen upon the same worker.
const loadInterval = 2 * time.Millisecond

// startLoad starts that many clients, each of which sends its next request when it has the answer, and a little later.
func startLoad(t *testing.T, n *testNginx, clients int) *load {
	ctx, stop := context.WithCancel(t.Context())
	l := &load{t: t, stop: stop}
	for range clients {
		l.running.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			pace := time.NewTicker(loadInterval)
			defer pace.Stop()
			for ctx.Err() == nil {
				l.request(transport, "http://"+n.Front+"/orders?case=load")
				<-pace.C
			}
		})
	}
	t.Cleanup(func() { stop(); l.running.Wait() })
	return l
}

func (l *load) request(transport *http.Transport, url string) {
	// Not the load's context: what is sent is answered.
	r, err := http.NewRequestWithContext(context.WithoutCancel(l.t.Context()), "GET", url, nil)
	if err != nil {
		l.t.Error(err)
		return
	}
	start := time.Now()
	response, err := transport.RoundTrip(r)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(response.Body)
		response.Body.Close()
	}
	if err != nil || response.StatusCode != http.StatusOK || string(body) != `{"ok":true}` {
		l.failed.Add(1)
		l.t.Errorf("a client got %q: %v", body, err)
		return
	}
	l.answered.Add(1)
	l.slowest.Store(max(l.slowest.Load(), int64(time.Since(start))))
}

// more waits until so many more requests have been answered.
func (l *load) more(n int64) {
	l.t.Helper()
	want := l.answered.Load() + n
	await(l.t, "the load goes on", func() bool { return l.answered.Load() >= want || l.t.Failed() })
}

// during lets the load run for a while: that long something is away.
func (l *load) during(d time.Duration) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), d)
	defer cancel()
	before := l.answered.Load()
	<-ctx.Done()
	if l.answered.Load() == before {
		l.t.Errorf("in %v no request was answered", d)
	}
}

// end stops the load and returns how many requests were answered.
func (l *load) end() int64 {
	l.stop()
	l.running.Wait()
	return l.answered.Load()
}

// tally is what is on the topic.
type tally struct {
	exchanges int64            // request ids
	again     int              // records that were published again, with the same bytes
	doubled   int              // ids that two different records have
	missing   map[string]int64 // by reason, of the gap events
}

func (c *tally) lost() (n int64) {
	for _, count := range c.missing {
		n += count
	}
	return n
}

// count reads the topic.
func count(t testing.TB, broker string) *tally {
	t.Helper()
	c := &tally{missing: map[string]int64{}}
	first := map[string]string{}
	for _, e := range events(t, broker) {
		id := e.Get("source").Str + " " + e.Get("id").Str
		if before, ok := first[id]; ok {
			if before == e.Raw {
				c.again++
			} else {
				c.doubled++
				t.Logf("doubled: %s", e)
			}
			continue
		}
		first[id] = e.Raw
		switch e.Get("type").Str {
		case meter.TypeAPIRequest:
			c.exchanges++
		case typeGap:
			c.missing[e.Get("data.reason").Str] += e.Get("data.exchanges").Int()
		}
	}
	return c
}

// check compares the topic with what was answered: nothing is doubled, and what is missing is said.
func (c *tally) check(t *testing.T, answered int64) {
	t.Helper()
	t.Logf("%d answered, %d on the topic, missing %v; published again %d", answered, c.exchanges, c.missing, c.again)
	if c.exchanges+c.lost() != answered {
		t.Errorf("%d exchanges are neither on the topic nor said to be missing", answered-c.exchanges-c.lost())
	}
	if c.doubled > 0 {
		t.Errorf("%d events are doubled", c.doubled)
	}
}

// signal sends the plugin server a signal.
func (s *testServer) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// TestWhateverHappensToTheProcessClientsSeeNothing kills, stops and hides the process, and reloads and quits nginx, under
// load. Every exchange is on the topic.
func TestWhateverHappensToTheProcessClientsSeeNothing(t *testing.T) {
	kills, stopped := 20, 5*time.Second
	if testing.Short() {
		kills, stopped = 3, time.Second
	}
	broker := startBroker(t)
	s := startServer(t)
	n := startNginx(t, s, 2, &frontUpstream{}, s.configuration(broker, requestOnly).Config)
	l := startLoad(t, n, 4)
	l.more(200)

	for range kills {
		s.kill()
		s.start()
		l.more(100)
	}
	s.signal(syscall.SIGSTOP)
	l.during(stopped)
	s.signal(syscall.SIGCONT)
	l.more(200)

	if err := os.Remove(filepath.Join(s.prefix, laneSocket)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		n.signal(syscall.SIGHUP)
		l.more(500)
	}
	answered := l.end()
	n.quit()
	s.awaitPublished()
	s.checkBalances()
	c := count(t, broker)
	c.check(t, answered)
	if c.lost() > 0 {
		t.Errorf("exchanges are missing though the queue had room: %v", c.missing)
	}
	log := n.errors()
	if lines := strings.Count(log, "\n"); int64(lines) > answered/10 {
		t.Errorf("nginx has written %d lines for %d exchanges", lines, answered)
	}
	t.Logf("slowest answer %v; %d lines in nginx's log", time.Duration(l.slowest.Load()), strings.Count(log, "\n"))
}

// TestWhatAFullQueueDropsIsCountedToTheUnit keeps the process away for longer than the workers' queues last.
func TestWhatAFullQueueDropsIsCountedToTheUnit(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	n := startNginx(t, s, 2, &frontUpstream{}, s.configuration(broker, requestOnly).Config, smallQueue)
	l := startLoad(t, n, 4)
	for range 3 {
		l.more(100)
		s.kill()
		l.more(2000)
		s.start()
		await(t, "the workers are back", func() bool { return s.metric(`kong_meter_lane_batches_total{result="taken"}`) > 0 })
	}
	l.more(1000)
	answered := l.end()
	n.quit()
	s.awaitPublished()
	s.checkBalances()
	c := count(t, broker)
	c.check(t, answered)
	if c.missing["worker_queue_full"] == 0 || len(c.missing) != 1 {
		t.Errorf("missing are %v", c.missing)
	}
}

// TestWhatAWorkerCannotHandOverBeforeItExitsIsCountedToTheUnit ends nginx while the process is away, and has the next
// nginx and the next process find out.
func TestWhatAWorkerCannotHandOverBeforeItExitsIsCountedToTheUnit(t *testing.T) {
	t.Run("quit", func(t *testing.T) { testWordOfWhatIsLost(t, (*testNginx).quit) })
	t.Run("stop", func(t *testing.T) { testWordOfWhatIsLost(t, (*testNginx).stop) })
}

func testWordOfWhatIsLost(t *testing.T, end func(*testNginx)) {
	broker := startBroker(t)
	s := startServer(t)
	n := startNginx(t, s, 2, &frontUpstream{}, s.configuration(broker, requestOnly).Config)
	l := startLoad(t, n, 4)
	l.more(500)
	s.kill()
	l.more(500)
	answered := l.end()
	end(n)
	if _, err := os.Stat(filepath.Join(s.prefix, laneLost)); err != nil {
		t.Errorf("the workers have left no word: %v", err)
	}

	s.start()
	n.start()
	l = startLoad(t, n, 1)
	l.more(10)
	answered += l.end()
	await(t, "the word is taken in", func() bool {
		left, err := filepath.Glob(filepath.Join(s.prefix, laneLost+"*"))
		return err == nil && len(left) == 0
	})
	n.quit()
	var c *tally
	await(t, "the topic says what is missing", func() bool {
		s.awaitPublished()
		c = count(t, broker)
		return c.exchanges+c.lost() >= answered
	})
	s.checkBalances()
	c.check(t, answered)
	if c.missing["worker_exit"] == 0 || len(c.missing) != 1 {
		t.Errorf("missing are %v", c.missing)
	}
	if got := s.metric(`kong_meter_exchanges_total{outcome="dropped",reason="worker_exit"}`); int64(got) != c.missing["worker_exit"] {
		t.Errorf("the metric says %v", got)
	}
}

// TestABatchThatADeadProcessHadSpooledIsNotDoubled kills the process when the batch is in its spool, and has the worker not
// know.
func TestABatchThatADeadProcessHadSpooledIsNotDoubled(t *testing.T) {
	address := freeAddress(t) // there is no broker yet: the events stay in the spool
	s := startServer(t)
	config, err := json.Marshal(s.configuration(address, `{"meter_ai_token_usage":false,"meter_ai_calls":false,"queue":{"max_retry_delay":0.1}}`).Config)
	if err != nil {
		t.Fatal(err)
	}
	var exchanges []lane.Exchange
	for n := range int64(100) {
		exchanges = append(exchanges, plain(n+1))
	}
	w := dialLane(t, s.prefix, "w", 0)
	w.register(1, string(config))
	if got := w.ask(batch(1, false, nil, exchanges[:50]...)); got != "OK 1" {
		t.Fatal(got)
	}
	drops := []lane.Drop{{Plugin: "-", Reason: "worker_queue_full", Count: 7}}
	if got := w.ask(batch(2, false, drops, exchanges[50:]...)); got != "OK 2" {
		t.Fatal(got)
	}
	s.kill()
	s.start()
	w = dialLane(t, s.prefix, "w", 50)
	w.register(1, string(config))
	if got := w.ask(batch(2, true, drops, exchanges[50:]...)); got != "OK 2" {
		t.Fatal(got)
	}
	if got := s.metric(`kong_meter_exchanges_total{outcome="skipped",reason="repeated"}`); got != 50 {
		t.Errorf("%v exchanges are recognised, want 50", got)
	}
	_, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	c, err := kfake.NewCluster(kfake.Ports(number), kfake.NumBrokers(1), kfake.SeedTopics(6, defaultTopic))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.awaitPublished()
	s.checkBalances()
	count(t, address).check(t, 107)
}

// TestAWorkerThatIsKilledIsTold kills a worker of nginx, which starts another.
func TestAWorkerThatIsKilledIsTold(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	n := startNginx(t, s, 1, &frontUpstream{}, s.configuration(broker, requestOnly).Config)
	l := startLoad(t, n, 1)
	l.more(200)
	l.end()
	await(t, "all is handed over", func() bool { return s.metric("kong_meter_exchanges_observed_total") >= float64(l.answered.Load()) })
	for _, pid := range n.workers() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the worker counts as lost", func() bool { return s.metric("kong_meter_lane_workers_lost_total") == 1 })
	s.awaitPublished()
	c := count(t, broker)
	c.check(t, l.answered.Load())
	if _, told := c.missing[reasonWorkerLost]; !told {
		t.Error("no event tells of the worker")
	}
}
