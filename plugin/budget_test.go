package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"kafka-metering/meter/relay"
	"kafka-metering/meter/relay/kafkatest"
	"kafka-metering/meter/spool"
	"kafka-metering/plugin/devkong"
)

var (
	handOverTime = flag.Duration("hand-over", 0, "how long TestHandOverIsDurableInTime hands exchanges over")
	handOverRate = flag.Int("hand-over-rate", 2000, "how many a second")
	backlog      = flag.Int("backlog", 0, "how many records TestABacklogOpensAndDrains leaves in the spool")
	backlogBytes = flag.Int("backlog-bytes", 1000, "how large their values are")
)

// TestHandOverIsDurableInTime measures how long Kong's log phase takes until the events of an exchange are on disk, at a rate that
// does not wait for the answers, while they are published to a real Kafka:
//
//	go test ./plugin -run TestHandOverIsDurableInTime -hand-over 30s
func TestHandOverIsDurableInTime(t *testing.T) {
	if *handOverTime == 0 {
		t.Skip("a measurement: -hand-over 30s")
	}
	const workers, limit = 4, 5 * time.Millisecond
	kafka := kafkatest.Start(t, kafkatest.Options{})
	kafka.CreateTopic(t, defaultTopic, 6)
	s := startServer(t)
	kong := devkong.NewWorkers(workers, devkong.WorkersOptions{})
	defer kong.Close()
	conf, x := s.configuration(kafka.Brokers(t, kafkatest.Plaintext)[0], requestOnly), newExchanges(t)
	warm := 10 * *handOverRate // until the broker's code is compiled, and the connections are there
	took := make([]time.Duration, warm+int(handOverTime.Seconds())**handOverRate)
	counts := func() (all, inTime float64) {
		const name = "kong_meter_handover_duration_seconds"
		return s.metric(name + `_count{front="pdk"}`), s.metric(fmt.Sprintf(name+`_bucket{front="pdk",le="%v"}`, limit.Seconds()))
	}
	var before, inTimeBefore float64
	var wg sync.WaitGroup
	start := time.Now()
	for n := range took {
		if n == warm {
			wg.Go(func() { before, inTimeBefore = counts() })
		}
		due := start.Add(time.Duration(n) * time.Second / time.Duration(*handOverRate))
		if wait := time.Until(due); wait > 0 {
			timer := time.NewTimer(wait)
			<-timer.C
		}
		wg.Go(func() {
			if err := kong.Worker(n%workers).Log(context.WithoutCancel(t.Context()), conf, x.exchange(n)); err != nil {
				t.Errorf("exchange %d: %v", n, err)
			}
			took[n] = time.Since(due)
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	s.awaitPublished()
	s.checkBalances()
	took = took[warm:]
	slices.Sort(took)
	quantile := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(10 * time.Microsecond) }
	t.Logf("%d exchanges at %.0f/s until they were durable: p50 %v, p90 %v, p99 %v, p99.9 %v, at most %v",
		len(took), float64(warm+len(took))/elapsed.Seconds(), quantile(.5), quantile(.9), quantile(.99), quantile(.999), quantile(1))
	all, inTime := counts()
	in := 100 * (inTime - inTimeBefore) / (all - before)
	t.Logf("from the process's point of view %.2f %% of %.0f were durable within %v", in, all-before, limit)
	if in < 99 {
		t.Errorf("want 99 %% within %v", limit)
	}
}

// TestABacklogOpensAndDrains leaves a backlog in the spool, starts the server, and has it published to a real Kafka:
//
//	go test ./plugin -run TestABacklogOpensAndDrains -backlog 10000000 -backlog-bytes 300 -timeout 1h
func TestABacklogOpensAndDrains(t *testing.T) {
	if *backlog == 0 {
		t.Skip("a measurement: -backlog 10000000")
	}
	kafka := kafkatest.Start(t, kafkatest.Options{})
	kafka.CreateTopic(t, defaultTopic, 6, "retention.bytes", "67108864", "segment.bytes", "16777216")
	dir := t.TempDir()
	fillBacklog(t, filepath.Join(dir, "process"))
	config := filepath.Join(t.TempDir(), "kafka.yml")
	host, port, err := net.SplitHostPort(kafka.Brokers(t, kafkatest.Plaintext)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, fmt.Appendf(nil, "bootstrap_servers: [{host: %s, port: %s}]\nqueue: {max_bytes: %d}\n", host, port, 1<<40), 0o600); err != nil {
		t.Fatal(err)
	}
	executable(t, t.TempDir()) // so that it need not be built
	start := time.Now()
	s := startServer(t, "-config", config, "-spool-dir", dir)
	spooled := func() float64 { return s.metric(`kong_meter_records_total{outcome="spooled"}`) }
	for spooled() < float64(*backlog) {
		if time.Since(start) > 5*time.Minute {
			t.Fatalf("%v records are adopted", spooled())
		}
		pause(t)
	}
	opened := time.Since(start)
	resident, next := 0.0, start
	for s.metric("kong_meter_spool_pending_records") > 0 {
		x := s.sample(t, time.Since(start).Seconds(), 0)
		resident = max(resident, x.resident)
		if time.Now().After(next) {
			next = time.Now().Add(15 * time.Second)
			t.Logf("after %.0f s: %.0f published, %.0f MiB resident, %.0f files open, %.0f MiB of spool", x.at, x.published, x.resident, x.files, x.spool)
		}
		timer := time.NewTimer(200 * time.Millisecond)
		<-timer.C
	}
	drained := time.Since(start) - opened
	s.checkBalances()
	t.Logf("%d records of %d bytes: open and adopted %v after the start of the process, drained in %v: %.0f/s; at most %.0f MiB resident",
		*backlog, *backlogBytes, opened.Round(time.Millisecond), drained.Round(time.Second), float64(*backlog)/drained.Seconds(), resident)
	if published := s.metric(`kong_meter_records_total{outcome="published"}`); published != float64(*backlog) {
		t.Errorf("%v records are published", published)
	}
	if opened > 2*time.Second {
		t.Errorf("opening took %v, want less than 2 s", opened)
	}
	if resident > 200 {
		t.Errorf("%.0f MiB were resident, want less than 200", resident)
	}
}

// fillBacklog leaves the records of a process that is gone.
func fillBacklog(t *testing.T, dir string) {
	t.Helper()
	s, err := spool.Open(dir, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const group = 5000
	filler := make([]byte, *backlogBytes)
	for i := range filler {
		filler[i] = 'a' + byte(i*7%26)
	}
	start := time.Now()
	for n := 0; n < *backlog; {
		records := make([][]byte, 0, group)
		for ; len(records) < group && n < *backlog; n++ {
			id := fmt.Sprintf("%032x/kong.api_request", n)
			records = append(records, relay.Record{
				Topic: defaultTopic, Key: fmt.Appendf(nil, "cust-%04d", n%1000), Headers: []relay.Header{{Key: "ce_id", Value: []byte(id)}},
				Value: append([]byte(id), filler[:max(0, *backlogBytes-len(id))]...),
			}.AppendTo(nil))
		}
		if err := s.Append(t.Context(), records...); err != nil {
			t.Fatal(err)
		}
	}
	st := s.Stats()
	t.Logf("%d records in %d files: %d MiB of records, in %v", st.Pending, st.Files, st.PendingBytes>>20, time.Since(start).Round(time.Second))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
