package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"kafka-metering/meter/relay"
	"kafka-metering/plugin/lane"
)

// failing is a spool that fails as often as it says, with what a disk says.
type failing struct{ times *int }

func (f failing) Enqueue(records [][]byte, done func(error)) error {
	if *f.times > 0 {
		*f.times--
		go done(errors.New("input/output error"))
		return nil
	}
	go done(nil)
	return nil
}
func (f failing) Hold(records [][]byte, done func(error)) error { return f.Enqueue(records, done) }

// TestABatchOfTwoSpoolsOfWhichOneFailsIsCountedOnce has exchanges for two spools in a batch, which comes again because one of them
// failed.
func TestABatchOfTwoSpoolsOfWhichOneFailsIsCountedOnce(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, `{"__plugin_id":"p-1"}`)
	w.register(2, `{"__plugin_id":"p-2"}`)
	one := 1
	never := 0
	l.mu.Lock()
	for _, in := range l.instances {
		if in.plugin == "p-2" {
			in.sink = failing{&one}
		} else {
			in.sink = failing{&never}
		}
	}
	l.mu.Unlock()
	a, b := plain(1), plain(2)
	b.Config = 2
	if got := w.ask(batch(1, false, nil, a, b)); !strings.HasPrefix(got, "LATER ") {
		t.Error(got)
	}
	w = dialLane(t, l.prefix, "w", 0)
	w.register(1, `{"__plugin_id":"p-1"}`)
	w.register(2, `{"__plugin_id":"p-2"}`)
	if got := w.ask(batch(1, true, nil, a, b)); got != "OK 1" {
		t.Error(got)
	}
	p.ended(t, map[place]uint64{placeSpooled: 2})
	if n := p.ledger.extractions[extractionNotLLM].Get(); n != 2 {
		t.Errorf("%d extractions are counted", n)
	}
}

// TestAGapGoesToTheTopicInForce has a plugin whose topic was changed, twenty times: the order of a map must not decide.
func TestAGapGoesToTheTopicInForce(t *testing.T) {
	told := 0
	for range 20 {
		p, l := laneProcess(t)
		w := dialLane(t, l.prefix, "w", 0)
		for i, topic := range []string{"old", "new"} {
			w.register(int64(i+1), fmt.Sprintf(`{"meter_ai_token_usage":false,"meter_ai_calls":false,"__plugin_id":"p-1","__seq__":%d,"topic":%q}`, i+1, topic))
		}
		x := plain(6)
		x.Config = 2
		if got := w.ask(batch(1, false, []lane.Drop{{Plugin: "p-1", Reason: "worker_queue_full", Count: 5}}, x)); got != "OK 1" {
			t.Fatal(got)
		}
		for _, pl := range p.running() {
			entries, err := pl.spool.Peek(nil, 100, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				r, err := relay.ParseRecord(e.Record)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(string(r.Value), typeGap) {
					continue
				}
				if told++; r.Topic != "new" {
					t.Fatalf("a gap is told on topic %q, which nobody reads any more", r.Topic)
				}
			}
		}
	}
	if told != 20 {
		t.Errorf("%d gaps of 20 are told", told)
	}
}

// TestAWorkerThatComesBackHasNoGap has a worker whose batches went to this process, then to another one, which is gone.
func TestAWorkerThatComesBackHasNoGap(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	if got := w.ask(batch(1, false, nil, plain(1))); got != "OK 1" {
		t.Error(got)
	}
	_ = w.conn.Close()
	w = dialLane(t, l.prefix, "w", 11) // ten were acknowledged by the other process
	w.register(1, apiOnly)
	if got := w.ask(batch(12, false, nil, plain(12))); got != "OK 12" {
		t.Error(got)
	}
	p.ended(t, map[place]uint64{placeSpooled: 2})
}
