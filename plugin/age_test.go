package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"kafka-metering/meter"
	"kafka-metering/plugin/devkong"
)

// TestEventsThatAreTooOldAreKeptForWhoeverBills has Kafka away for longer than queue.max_event_age.
func TestEventsThatAreTooOldAreKeptForWhoeverBills(t *testing.T) {
	const old, fresh = 20, 10
	x, address := newExchanges(t), freeAddress(t)
	s := startServer(t)
	kong := devkong.NewWorkers(1, devkong.WorkersOptions{})
	defer kong.Close()
	conf := s.configuration(address, `{"meter_ai_token_usage":false,"meter_ai_calls":false,"queue":{"max_event_age":2,"max_retry_delay":0.1}}`)
	hand := func(from, to int) {
		t.Helper()
		for id := from; id < to; id++ {
			if err := kong.Worker(0).Log(t.Context(), conf, x.exchange(id)); err != nil {
				t.Fatal(err)
			}
		}
	}
	hand(0, old)
	await(t, "the events expire", func() bool { return s.metric(`kong_meter_records_total{outcome="expired"}`) == old })
	startBrokerAt(t, address)
	hand(old, old+fresh)
	s.awaitPublished()
	s.checkBalances()
	check := func(want int) {
		t.Helper()
		seen := onTopic(t, address, meter.TypeAPIRequest)
		for id, times := range seen {
			if times != 1 {
				t.Errorf("%s is on the topic %d times", id, times)
			}
		}
		if len(seen) != want {
			t.Errorf("%d exchanges are on the topic, want %d", len(seen), want)
		}
	}
	check(fresh)
	expect(t, "the status page", sections(t, httpGet(t, "http://"+s.metrics+"/"))["pipelines"], "20 records were not published because they were older than queue.max_event_age")
	s.kill()
	dir := filepath.Join(s.prefix, pluginName+".spool")
	out, err := exec.Command(s.path, "spool", "export", "-rejected", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	expect(t, "spool export -rejected", string(out), "expired: spooled ", "queue.max_event_age is 2s")
	out, err = exec.Command(s.path, "spool", "replay", "-rejected", "-brokers", address, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// One is the checkpoint of the process that was killed.
	expect(t, "spool replay", string(out), "21 records published", "0 left in the spool")
	check(old + fresh)
}
