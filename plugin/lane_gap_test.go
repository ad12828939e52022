package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"kafka-metering/meter/relay"
	"kafka-metering/plugin/lane"
)

func TestDropsAndGapsAreCountedAndTold(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "812.1", 0)
	w.register(1, apiOnly)
	w.register(2, `{"topic":"other","meter_ai_token_usage":false,"meter_ai_calls":false,"__plugin_id":"p-2"}`)
	w.register(3, `{"topic":"dry","dry_run":true,"__plugin_id":"p-3"}`)
	drops := []lane.Drop{{Plugin: "p-2", Reason: "worker_queue_full", Count: 5}, {Plugin: "-", Reason: "a_later_version's"[:15], Count: 1}}
	if got := w.ask(batch(1, false, drops, plain(1), plain(12))); got != "OK 1" { // 1, 12, and six of those in between
		t.Fatalf("the answer is %q", got)
	}
	p.ended(t, map[place]uint64{placeSpooled: 2, placeWorkerQueueFull: 5, placeWorkerError: 1, placeGap: 4})
	got := map[string]int64{}
	schemas := eventSchemas(t)
	for _, l := range p.running() {
		entries, err := l.spool.Peek(nil, 100, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			r, err := relay.ParseRecord(entry.Record)
			if err != nil {
				t.Fatal(err)
			}
			checkRecord(t, schemas, r)
			if e := gjson.ParseBytes(r.Value); e.Get("type").Str == typeGap {
				got[r.Topic+" "+e.Get("data.reason").Str+" "+e.Get("data.plugin_id").Str] += e.Get("data.exchanges").Int()
				if e.Get("data.worker").Str != "812.1" {
					t.Errorf("the worker is %s", e.Get("data.worker"))
				}
			}
		}
	}
	want := map[string]int64{
		"other worker_queue_full p-2": 5,
		"kong.metering worker_error ": 1,
		"other worker_error ":         1,
		"kong.metering gap ":          4,
		"other gap ":                  4,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("gaps on topics (-want +got):\n%s", diff)
	}
}

func TestWordOfWhatWorkersLostIsTakenInOnce(t *testing.T) {
	p, l := laneProcess(t)
	path := filepath.Join(l.prefix, laneLost)
	if err := os.WriteFile(path, []byte("HELLO 2 99.1 500\nDROP p-1 worker_exit 7\nDROP - worker_queue_full 2\nHELLO 2 99.2 3\nDROP p-1 worker_exit 1\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A process has taken this one over, and was killed.
	if err := os.WriteFile(path+".1795428217000-7", []byte("HELLO 2 99.0 4\nSENT 2\nLEFT p-1 -\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	await(t, "the files are gone", func() bool {
		left, err := filepath.Glob(path + "*")
		return err == nil && len(left) == 0 && p.ledger.balance() == 0 && p.ledger.observed.Get() == 11
	})
	p.ended(t, map[place]uint64{placeWorkerExit: 9, placeWorkerQueueFull: 2})
	workers := map[string]int64{}
	await(t, "four events", func() bool { return len(p.spooled(t)) == 4 })
	for _, e := range p.spooled(t) {
		workers[e.Get("data.worker").Str+" "+e.Get("data.reason").Str] = e.Get("data.exchanges").Int()
	}
	if diff := cmp.Diff(map[string]int64{"99.0 worker_exit": 1, "99.1 worker_exit": 7, "99.1 worker_queue_full": 2, "99.2 worker_exit": 1}, workers); diff != "" {
		t.Error(diff)
	}
}

// TestWhatWasSentAndTakenIsNotCountedAsLost reads word of a batch whose acknowledgement did not reach its worker: one that this
// process took, and one that a process which is gone had spooled, but for its last exchange.
func TestWhatWasSentAndTakenIsNotCountedAsLost(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	if got := w.ask(batch(1, false, nil, plain(1), plain(2))); got != "OK 1" {
		t.Fatal(got)
	}
	w.conn.Close()
	dialLane(t, l.prefix, "v", 0).register(1, apiOnly)
	p.recent.add(requestID(11))
	text := fmt.Sprintf("HELLO 2 w 2\nSENT 1\nLEFT p-1 %s\nLEFT p-1 %s\nSENT 2\nLEFT p-1 -\nHELLO 2 other 2\nSENT 9\nLEFT p-1 %s\nLEFT p-1 %s\n", requestID(1), requestID(2), requestID(11), requestID(12))
	if err := os.WriteFile(filepath.Join(l.prefix, laneLost), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "the word is taken in", func() bool { return p.ledger.ends[placeWorkerExit].Get() > 1 })
	p.ended(t, map[place]uint64{placeSpooled: 2, placeWorkerExit: 2})
}

// TestWordIsTakenInHoweverOften has a process that outlives Kong, whose workers leave word time and again, and faster than it is
// read.
func TestWordIsTakenInHoweverOften(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for several seconds")
	}
	p, l := laneProcess(t)
	dialLane(t, l.prefix, "w", 0).register(1, apiOnly)
	path := filepath.Join(l.prefix, laneLost)
	for i := range 4 {
		await(t, "the word before is being read", func() bool { _, err := os.Stat(path); return errors.Is(err, os.ErrNotExist) })
		if i == 3 {
			await(t, "all before is read", func() bool { return p.ledger.ends[placeWorkerExit].Get() == 3 })
		}
		if err := os.WriteFile(path, fmt.Appendf(nil, "HELLO 2 9.%d 1\nSENT 1\nLEFT p-1 -\n", i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "all is read", func() bool {
		left, err := filepath.Glob(path + "*")
		return err == nil && len(left) == 0
	})
	p.ended(t, map[place]uint64{placeWorkerExit: 4})
}

// TestWordOfAWorkerThatIsConnectedWaits has a process that hung: the last batch is still in its connection.
func TestWordOfAWorkerThatIsConnectedWaits(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for several seconds")
	}
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	dialLane(t, l.prefix, "v", 0).register(1, apiOnly)
	path := filepath.Join(l.prefix, laneLost)
	if err := os.WriteFile(path, []byte("HELLO 2 w 3\nSENT 1\nLEFT p-1 -\nLEFT p-1 -\nSENT 2\nLEFT p-1 -\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "the word is looked at", func() bool { _, err := os.Stat(path); return errors.Is(err, os.ErrNotExist) })
	time.Sleep(2 * laneInterval)
	if got := w.ask(batch(1, false, nil, plain(1), plain(2))); got != "OK 1" {
		t.Fatal(got)
	}
	w.conn.Close()
	await(t, "the word is taken in", func() bool { return p.ledger.ends[placeWorkerExit].Get() > 0 })
	p.ended(t, map[place]uint64{placeSpooled: 2, placeWorkerExit: 1})
}

// TestDropsOfABatchOfTheirOwnAreCountedOnce has word of a batch without exchanges, whose acknowledgement did not arrive.
func TestDropsOfABatchOfTheirOwnAreCountedOnce(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	if got := w.ask(batch(1, false, []lane.Drop{{Plugin: "p-1", Reason: "worker_log", Count: 1}})); got != "OK 1" {
		t.Fatal(got)
	}
	w.conn.Close()
	if err := os.WriteFile(filepath.Join(l.prefix, laneLost), []byte("HELLO 2 w 2\nSENT 1\nDROP p-1 worker_log 1\nSENT 2\nLEFT p-1 -\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dialLane(t, l.prefix, "v", 0).register(1, apiOnly)
	await(t, "the word is taken in", func() bool { return p.ledger.ends[placeWorkerExit].Get() > 0 })
	p.ended(t, map[place]uint64{placeWorkerLog: 1, placeWorkerExit: 1})
}

// TestWhatAProcessHadTakenBeforeItEndedIsNotCountedAsLost ends the process and a worker at once, as kong stop does, when the
// acknowledgement of the worker's batch is under way, and has nothing left in the spool by then. Of another worker, which said
// goodbye, and of one that is only named, nothing is known.
func TestWhatAProcessHadTakenBeforeItEndedIsNotCountedAsLost(t *testing.T) {
	_, before := laneProcess(t)
	w, polite := dialLane(t, before.prefix, "w", 0), dialLane(t, before.prefix, "polite", 0)
	for _, w := range []*laneWorkerEnd{w, polite} {
		w.register(1, apiOnly)
		if got := w.ask(batch(4, false, nil, plain(1), plain(2))); got != "OK 4" {
			t.Fatal(got)
		}
	}
	polite.send(lane.Bye{}.Append(nil))
	polite.conn.Close()
	await(t, "the goodbye is heard", func() bool {
		before.mu.Lock()
		defer before.mu.Unlock()
		p := before.workers["polite"]
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.parted
	})
	before.close()

	p, l := laneProcess(t)
	names, err := filepath.Glob(filepath.Join(before.prefix, laneTaken) + ".*")
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	word, err := os.ReadFile(names[0])
	if err != nil || string(word) != "TAKEN w 4\n" {
		t.Fatalf("%q %v", word, err)
	}
	old := filepath.Join(l.prefix, laneTaken+".1-1")
	for name, text := range map[string]string{
		filepath.Base(names[0]): string(word), filepath.Base(old): "TAKEN other 9\n",
		laneLost: "HELLO 2 w 9\nDROP p-1 worker_queue_full 1\nSENT 4\nLEFT p-1 -\nLEFT p-1 -\nDROP p-1 worker_queue_full 10\nSENT 5\nLEFT p-1 -\nDROP p-1 worker_queue_full 100\n" +
			"HELLO 2 other 9\nSENT 9\nLEFT p-1 -\n",
	} {
		if err := os.WriteFile(filepath.Join(l.prefix, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*laneMemory)); err != nil {
		t.Fatal(err)
	}
	dialLane(t, l.prefix, "next", 0).register(1, apiOnly)
	await(t, "the word is taken in", func() bool { return p.ledger.ends[placeWorkerExit].Get() > 1 })
	p.ended(t, map[place]uint64{placeWorkerExit: 2, placeWorkerQueueFull: 101})
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is old is there still: %v", err)
	}
}

func TestAWorkerThatEndsWithoutGoodbyeIsTold(t *testing.T) {
	p, l := laneProcess(t)
	l.grace = time.Millisecond
	polite := dialLane(t, l.prefix, "polite", 0)
	polite.register(1, apiOnly)
	polite.ask(batch(1, false, nil, plain(1)))
	polite.send(lane.Bye{}.Append(nil))
	polite.conn.Close()
	killed := dialLane(t, l.prefix, "killed", 0)
	killed.register(1, apiOnly)
	x := plain(2)
	x.Number = 1
	killed.ask(batch(1, false, nil, x))
	killed.conn.Close()
	await(t, "the killed worker is told", func() bool { return len(p.spooled(t)) == 3 })
	e := p.spooled(t)[2]
	if e.Get("type").Str != typeGap || e.Get("data").Raw != `{"reason":"worker_lost","worker":"killed"}` {
		t.Errorf("the event is %s", e)
	}
	if p.ledger.workersLost.Get() != 1 {
		t.Errorf("%d workers are lost", p.ledger.workersLost.Get())
	}
	p.ended(t, map[place]uint64{placeSpooled: 2})
}

// TestAGoodbyeStandsThoughAConnectionIsClosedAfterIt has a connection that failed before, and whose end comes late.
func TestAGoodbyeStandsThoughAConnectionIsClosedAfterIt(t *testing.T) {
	p, l := laneProcess(t)
	l.grace = time.Millisecond
	failed, w := dialLane(t, l.prefix, "w", 0), dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	w.ask(batch(1, true, nil, plain(1)))
	w.send(lane.Bye{}.Append(nil))
	w.conn.Close()
	connections := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.sessions)
	}
	await(t, "the goodbye is heard", func() bool { return connections() == 1 })
	failed.conn.Close()
	await(t, "both are closed", func() bool { return connections() == 0 })
	time.Sleep(100 * time.Millisecond)
	if n := p.ledger.workersLost.Get(); n != 0 {
		t.Errorf("%d workers are lost", n)
	}
}

func TestAWorkerThatComesBackIsNotLost(t *testing.T) {
	p, l := laneProcess(t)
	l.grace = time.Hour
	w := dialLane(t, l.prefix, "w", 0)
	w.conn.Close()
	l.mu.Lock()
	worker := l.workers["w"]
	l.mu.Unlock()
	gone := func() bool { worker.mu.Lock(); defer worker.mu.Unlock(); return worker.connections == 0 }
	await(t, "the connection has ended", gone)
	again := dialLane(t, l.prefix, "w", 0)
	again.register(1, apiOnly)
	worker.lose() // the timer was late
	worker.mu.Lock()
	defer worker.mu.Unlock()
	if p.ledger.workersLost.Get() != 0 || worker.away.Stop() {
		t.Error("the worker counts as lost, or soon will")
	}
}

// TestDropsAloneOnAFreshConnectionAreTold has a worker whose new connection has registered nothing yet.
func TestDropsAloneOnAFreshConnectionAreTold(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	if got := w.ask(batch(1, false, nil, plain(1))); got != "OK 1" {
		t.Fatal(got)
	}
	again := dialLane(t, l.prefix, "w", 1)
	if got := again.ask(batch(2, false, []lane.Drop{{Plugin: "p-1", Reason: "worker_queue_full", Count: 7}})); got != "OK 2" {
		t.Fatal(got)
	}
	p.ended(t, map[place]uint64{placeSpooled: 1, placeWorkerQueueFull: 7})
	if told := p.spooled(t)[1].Get("data.exchanges").Int(); told != 7 {
		t.Errorf("%d are told", told)
	}
}
