package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
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
	"kafka-metering/meter/relay/kafkatest"
	"kafka-metering/meter/spool/disktest"
	"kafka-metering/plugin/devkong"
	"kafka-metering/plugin/lane"
)

// pdkLoad hands exchanges over through Kong's plugin protocol until it is stopped, and knows which were acknowledged.
type pdkLoad struct {
	kong    *devkong.Workers
	taken   atomic.Int64
	ids     sync.Map // acknowledged request ids
	next    atomic.Int64
	stop    atomic.Bool
	running sync.WaitGroup
}

// startPDKLoad starts that many clients. What a process that is away does not take is not tried again: it is Kong that loses it.
func startPDKLoad(t *testing.T, conf *devkong.Configuration, clients int) *pdkLoad {
	const workers = 4
	l := &pdkLoad{kong: devkong.NewWorkers(workers, devkong.WorkersOptions{})}
	x := newExchanges(t)
	for i := range clients {
		l.running.Go(func() {
			for !l.stop.Load() {
				id := int(l.next.Add(1))
				if l.kong.Worker(i%workers).Log(t.Context(), conf, x.exchange(id)) == nil {
					l.ids.Store(requestID(id), true)
					l.taken.Add(1)
				} else {
					pause(t)
				}
			}
		})
	}
	t.Cleanup(func() { l.end(); l.kong.Close() })
	return l
}

func (l *pdkLoad) end() {
	l.stop.Store(true)
	l.running.Wait()
}

// more waits for so many more acknowledged exchanges.
func (l *pdkLoad) more(t *testing.T, n int64) {
	t.Helper()
	want := l.taken.Load() + n
	await(t, "the load goes on", func() bool { return l.taken.Load() >= want })
}

// check compares the topic with what was acknowledged: nothing of it is missing, and what stands there twice is the same.
func (l *pdkLoad) check(t *testing.T, broker string) {
	t.Helper()
	seen, lost, doubled := onTopic(t, broker, meter.TypeAPIRequest), 0, 0
	l.ids.Range(func(id, _ any) bool {
		if seen[id.(string)] == 0 {
			lost++
		}
		return true
	})
	for _, n := range seen {
		if n > 1 {
			doubled++
		}
	}
	t.Logf("%d acknowledged, %d on the topic, %d of them more than once, the same", l.taken.Load(), len(seen), doubled)
	if lost > 0 {
		t.Errorf("%d exchanges were acknowledged and are not on the topic", lost)
	}
}

// TestAProcessThatIsKilledAtRandomLosesNothing kills the server with -9, again and again, at moments that nobody has chosen; every
// other time as Kong does it, 20 ms after SIGTERM.
func TestAProcessThatIsKilledAtRandomLosesNothing(t *testing.T) {
	kills := 50
	if testing.Short() {
		kills = 5
	}
	broker := startBroker(t)
	s := startServer(t)
	l := startPDKLoad(t, s.configuration(broker, requestOnly), 16)
	l.more(t, 50)
	for n := range kills {
		within(time.Duration(rand.IntN(60)) * time.Millisecond)
		if n%2 == 1 {
			s.signal(syscall.SIGTERM)
			within(20 * time.Millisecond)
		}
		s.kill()
		s.start()
		l.more(t, 20)
	}
	l.end()
	s.awaitPublished()
	s.checkBalances()
	l.check(t, broker)
	s.checkProven(broker)
}

// within lets something happen for a while.
func within(d time.Duration) { <-time.NewTimer(d).C }

// TestRealKafkaAndTheProcessAreKilledInTurn kills the server and a real broker, alone and together, while exchanges are handed over.
func TestRealKafkaAndTheProcessAreKilledInTurn(t *testing.T) {
	kafka := kafkatest.Start(t, kafkatest.Options{})
	kafka.CreateTopic(t, defaultTopic, 6)
	broker := kafka.Brokers(t, kafkatest.Plaintext)[0]
	s := startServer(t)
	l := startPDKLoad(t, s.configuration(broker, `{"meter_ai_token_usage":false,"meter_ai_calls":false,"timeout":1000,"queue":{"max_retry_delay":0.2}}`), 16)
	l.more(t, 100)
	s.kill()
	s.start()
	l.more(t, 100)
	kafka.Kill(t, 1)
	l.more(t, 500) // the spool takes them
	s.kill()
	s.start()
	l.more(t, 500)
	kafka.Restart(t, 1)
	l.more(t, 500)
	l.end()
	s.awaitPublished()
	s.checkBalances()
	l.check(t, broker)
}

// TestATopicIsCreatedWhereThatIsAsked sends events to a topic that is not there.
func TestATopicIsCreatedWhereThatIsAsked(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := startServer(t)
	kong := devkong.NewWorkers(1, devkong.WorkersOptions{})
	defer kong.Close()
	conf := s.configuration(c.ListenAddrs()[0], `{"create_topics":true,"meter_ai_token_usage":false,"meter_ai_calls":false}`)
	if err := kong.Worker(0).Log(t.Context(), conf, newExchanges(t).exchange(1)); err != nil {
		t.Fatal(err)
	}
	s.awaitPublished()
	if seen := onTopic(t, c.ListenAddrs()[0], meter.TypeAPIRequest); len(seen) != 1 {
		t.Errorf("%d exchanges are on the topic", len(seen))
	}
}

// TestTwoProcessesServeAtOnce starts a second server in the same prefix while the first has work, as kong reload does, and
// stops the first in the middle of it.
func TestTwoProcessesServeAtOnce(t *testing.T) {
	broker := startBroker(t)
	first := startServer(t)
	l := startPDKLoad(t, first.configuration(broker, requestOnly), 8)
	l.more(t, 300)
	second := &testServer{t: t, prefix: first.prefix, path: first.path, metrics: freeAddress(t)}
	second.flags = []string{"-kong-prefix", first.prefix, "-metrics", second.metrics}
	if err := os.Remove(first.socket()); err != nil { // Kong does, before it starts the next
		t.Fatal(err)
	}
	second.start()
	t.Cleanup(second.kill)
	l.more(t, 300)
	if err := first.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.more(t, 300)
	if err := <-first.exited; err != nil {
		t.Errorf("the first process: %v", err)
	}
	first.exited <- nil // for its kill
	l.more(t, 300)
	l.end()
	second.awaitPublished()
	second.checkBalances()
	l.check(t, broker)
	if files, _ := filepath.Glob(filepath.Join(first.prefix, pluginName+".spool", "*", "*.spool")); len(files) != 1 {
		t.Errorf("the spool's files are %v", files)
	}
}

// TestADiskThatIsFullIsWaitedFor fills the spool's disk while batches come from the Lua front: they are not acknowledged, so that
// the workers keep them, and when there is room again they are taken. Nothing is lost or doubled.
func TestADiskThatIsFullIsWaitedFor(t *testing.T) {
	dir, address := disktest.New(t, 24<<20), freeAddress(t) // there is no broker: everything stays on the disk
	s := startServer(t, "-spool-dir", dir)
	config, err := json.Marshal(s.configuration(address, `{"meter_ai_token_usage":false,"meter_ai_calls":false,"queue":{"max_retry_delay":0.1}}`).Config)
	if err != nil {
		t.Fatal(err)
	}
	var number, sent int64
	w := dialLane(t, s.prefix, "w", 0)
	w.register(1, string(config))
	hand := func(again bool) bool {
		var exchanges []lane.Exchange
		for i := range int64(500) {
			exchanges = append(exchanges, plain(sent+i+1))
		}
		if w.ask(batch(number+1, again, nil, exchanges...)) != fmt.Sprintf("OK %d", number+1) {
			return false
		}
		number, sent = number+1, sent+500
		return true
	}
	for range 3 {
		if !hand(false) {
			t.Fatal("a batch is not taken while there is room")
		}
	}
	filler := filepath.Join(dir, "filler")
	disktest.Fill(t, filler)
	refused := false
	for range 40 { // what the spool's file has room for is taken
		if refused = !hand(false); refused {
			break
		}
	}
	if !refused {
		t.Fatal("batches are taken without a disk")
	}
	if n := s.metric("kong_meter_exchanges_observed_total"); n != float64(sent) {
		t.Errorf("%v exchanges are observed, %d were acknowledged", n, sent)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	await(t, "the batch is taken", func() bool {
		w = dialLane(t, s.prefix, "w", sent)
		w.register(1, string(config))
		return hand(true)
	})
	if !hand(false) {
		t.Error("the next batch is not taken")
	}
	s.checkBalances()
	startBrokerAt(t, address)
	s.awaitPublished()
	seen := onTopic(t, address, meter.TypeAPIRequest)
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s is on the topic %d times", id, n)
		}
	}
	if int64(len(seen)) != sent {
		t.Errorf("%d exchanges are on the topic, %d were acknowledged", len(seen), sent)
	}
}

// TestADiskThatIsReadOnlyIsReplacedByMemory starts the server on a read-only disk, without a broker. What nobody else keeps is
// in memory, and on the disk when that can be written; the Lua front's workers keep theirs. Nothing is lost or doubled.
func TestADiskThatIsReadOnlyIsReplacedByMemory(t *testing.T) {
	const requests = 50
	dir, address := disktest.New(t, 24<<20), freeAddress(t)
	disktest.ReadOnly(t, dir, true)
	s := startServer(t, "-spool-dir", filepath.Join(dir, "spool"))
	conf := s.configuration(address, `{"meter_ai_token_usage":false,"meter_ai_calls":false,"queue":{"max_retry_delay":0.1}}`)
	var errorLog bytes.Buffer // of one worker, which handles one exchange after the other
	kong := devkong.NewWorkers(1, devkong.WorkersOptions{Log: slog.New(slog.NewTextHandler(&errorLog, nil))})
	defer kong.Close()
	x := newExchanges(t)
	for id := range requests {
		if err := kong.Worker(0).Log(t.Context(), conf, x.exchange(id)); err != nil {
			t.Fatal(err)
		}
	}
	if got := errorLog.String(); strings.Count(got, "the spool's disk cannot be written") != 1 {
		t.Errorf("Kong's error log: %s", got)
	}
	inMemory := func() float64 { return s.metric("kong_meter_spool_memory_records") }
	if n := inMemory(); n != requests || s.metric("kong_meter_spool_degraded") != 1 {
		t.Errorf("%v records are in memory, want %d", n, requests)
	}
	if n := s.metric(`kong_meter_exchanges_total{outcome="spooled",reason="memory"}`); n != requests {
		t.Errorf("%v exchanges are counted as in memory, want %d", n, requests)
	}
	expect(t, "the status page", sections(t, httpGet(t, "http://"+s.metrics+"/"))["pipelines"], "the spool's disk cannot be written", "50 records are in memory alone", "read-only file system")
	config, err := json.Marshal(conf.Config)
	if err != nil {
		t.Fatal(err)
	}
	w := dialLane(t, s.prefix, "w", requests)
	w.register(1, string(config))
	if got := w.ask(batch(1, false, nil, plain(requests+1), plain(requests+2))); !strings.HasPrefix(got, "LATER ") {
		t.Errorf("a worker is told %q while there is no disk", got)
	}
	s.checkBalances()

	disktest.ReadOnly(t, dir, false)
	await(t, "the disk is used", func() bool { return s.metric("kong_meter_spool_degraded") == 0 && inMemory() == 0 })
	w = dialLane(t, s.prefix, "w", requests)
	w.register(1, string(config))
	if got := w.ask(batch(1, true, nil, plain(requests+1), plain(requests+2))); got != "OK 1" {
		t.Errorf("a worker is told %q", got)
	}
	s.checkBalances()
	s.kill()
	startBrokerAt(t, address)
	s.start()
	if err := kong.Worker(0).Log(t.Context(), conf, x.exchange(requests)); err != nil { // so that the pipeline begins
		t.Fatal(err)
	}
	// With the checkpoint of the process that was killed.
	await(t, "what was left is adopted", func() bool { return s.metric(`kong_meter_records_total{outcome="spooled"}`) == requests+4 })
	s.awaitPublished()
	seen := onTopic(t, address, meter.TypeAPIRequest)
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s is on the topic %d times", id, n)
		}
	}
	if len(seen) != requests+3 {
		t.Errorf("%d exchanges are on the topic, %d were handed over", len(seen), requests+3)
	}
}

// startBrokerAt starts a broker at an address that was free.
func startBrokerAt(t *testing.T, address string) {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	c, err := kfake.NewCluster(kfake.Ports(number), kfake.NumBrokers(1), kfake.SeedTopics(6, defaultTopic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
}
