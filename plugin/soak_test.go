package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kafka-metering/meter/relay/kafkatest"
	"kafka-metering/plugin/devkong"
)

var soak = flag.Duration("soak", 0, "how long TestSoak runs; it writes docs/soak.svg then")

// soakSample is what the server uses at a moment.
type soakSample struct {
	at                           float64 // seconds since the start
	exchanges                    float64 // taken so far
	resident, spool              float64 // MiB
	goroutines, files, published float64
}

// TestSoak runs the real server at full speed against a real Kafka, and plots what it uses:
//
//	go test ./plugin -run TestSoak -soak 20m -timeout 30m
//
// Every tenth exchange is a call of a language model with its body. Memory, goroutines and open files must not grow from the
// second quarter to the last, and every event must be on the topic.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("a soak takes long: -soak 20m")
	}
	const workers, perWorker = 4, 8
	kafka := kafkatest.Start(t, kafkatest.Options{})
	kafka.CreateTopic(t, defaultTopic, 6, "retention.bytes", "67108864", "segment.bytes", "16777216")
	broker := kafka.Brokers(t, kafkatest.Plaintext)[0]
	s := startServer(t)
	kong := devkong.NewWorkers(workers, devkong.WorkersOptions{})
	defer kong.Close()
	conf, plain, call := s.configuration(broker, ""), newExchanges(t), plantedExchange(t, 0)

	ctx, stop := context.WithTimeout(t.Context(), *soak)
	defer stop()
	var taken atomic.Int64
	var wg sync.WaitGroup
	for i := range workers * perWorker {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := int(taken.Add(1))
				x := plain.exchange(n)
				if n%10 == 0 {
					log := []byte(strings.Replace(string(call.Log), requestID(0), requestID(n), 1))
					x = &devkong.Exchange{Log: log, Body: call.Body, Buffered: true}
				}
				if err := kong.Worker(i%workers).Log(context.WithoutCancel(ctx), conf, x); err != nil {
					t.Errorf("exchange %d: %v", n, err)
					return
				}
			}
		})
	}
	start := time.Now()
	var samples []soakSample
	for tick := time.NewTicker(time.Second); ctx.Err() == nil; {
		select {
		case <-tick.C:
			samples = append(samples, s.sample(t, time.Since(start).Seconds(), float64(taken.Load())))
		case <-ctx.Done():
		}
	}
	wg.Wait()
	took := time.Since(start)
	s.awaitPublished()
	s.checkBalances()
	published := s.metric(`kong_meter_records_total{outcome="published"}`)
	if onTopic := float64(kafka.Records(t, defaultTopic)); onTopic < published {
		t.Errorf("%v records are published, %v on the topic", published, onTopic)
	}
	early, late := samples[len(samples)/4:len(samples)/2], samples[len(samples)*3/4:]
	for _, grows := range []struct {
		what  string
		of    func(soakSample) float64
		allow float64
	}{
		{"resident memory (MiB)", func(x soakSample) float64 { return x.resident }, 1.25},
		{"goroutines", func(x soakSample) float64 { return x.goroutines }, 1.25},
		{"open files", func(x soakSample) float64 { return x.files }, 1.25},
		{"the spool's files (MiB)", func(x soakSample) float64 { return x.spool }, 2},
	} {
		before, after := most(early, grows.of), most(late, grows.of)
		t.Logf("%s: at most %.0f in the second quarter, %.0f in the last", grows.what, before, after)
		if after > before*grows.allow+8 {
			t.Errorf("%s has grown from %.0f to %.0f", grows.what, before, after)
		}
	}
	text := fmt.Sprintf("%.0f minutes at full speed: %.1f million exchanges (%.0f/s), %.1f million events on the topic",
		took.Minutes(), float64(taken.Load())/1e6, float64(taken.Load())/took.Seconds(), published/1e6)
	t.Log(text)
	if err := os.WriteFile(filepath.Join("..", "docs", "soak.svg"), plot(text, samples), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sample looks at the server.
func (s *testServer) sample(t *testing.T, at, taken float64) soakSample {
	t.Helper()
	x := soakSample{at: at, exchanges: taken, published: s.metric(`kong_meter_records_total{outcome="published"}`)}
	proc := filepath.Join("/proc", strconv.Itoa(s.cmd.Process.Pid))
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmRSS:" {
			kib, _ := strconv.ParseFloat(fields[1], 64)
			x.resident = kib / 1024
		}
	}
	x.goroutines = s.metric("go_goroutines")
	open, _ := os.ReadDir(filepath.Join(proc, "fd"))
	x.files = float64(len(open))
	_ = filepath.Walk(filepath.Join(s.prefix, pluginName+".spool"), func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			x.spool += float64(info.Size()) / (1 << 20)
		}
		return nil
	})
	return x
}

func most(samples []soakSample, of func(soakSample) float64) float64 {
	m := 0.0
	for _, x := range samples {
		m = max(m, of(x))
	}
	return m
}

// plot draws the samples: one panel for each quantity, over minutes.
func plot(title string, samples []soakSample) []byte {
	const width, height, left, top, gap = 900, 130, 70, 50, 30
	rate := make([]float64, len(samples))
	for i := range samples {
		back := max(0, i-5)
		if seconds := samples[i].at - samples[back].at; seconds > 0 {
			rate[i] = (samples[i].exchanges - samples[back].exchanges) / seconds
		}
	}
	panels := []struct {
		name string
		of   func(i int) float64
	}{
		{"exchanges a second", func(i int) float64 { return rate[i] }},
		{"resident memory, MiB", func(i int) float64 { return samples[i].resident }},
		{"goroutines", func(i int) float64 { return samples[i].goroutines }},
		{"open files", func(i int) float64 { return samples[i].files }},
		{"the spool's files, MiB", func(i int) float64 { return samples[i].spool }},
	}
	end := samples[len(samples)-1].at
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, top+len(panels)*(height+gap))
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="24" font-size="15">%s</text>`+"\n", left, title)
	for p, panel := range panels {
		y0, highest := top+p*(height+gap), 0.0
		for i := range samples {
			highest = max(highest, panel.of(i))
		}
		step := math.Pow(10, math.Floor(math.Log10(max(highest, 1))))
		highest = math.Ceil(max(highest, 1)/step) * step
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text><rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#bbb"/>`+"\n", left, y0-4, panel.name, left, y0, width-left-20, height)
		for _, part := range []float64{0, 0.5, 1} {
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="#666">%.4g</text>`+"\n", left-6, y0+int(float64(height)*(1-part))+4, highest*part)
		}
		b.WriteString(`<polyline fill="none" stroke="#1f6feb" stroke-width="1" points="`)
		for i := range samples {
			fmt.Fprintf(&b, "%.1f,%.1f ", left+samples[i].at/end*float64(width-left-20), float64(y0)+height*(1-panel.of(i)/highest))
		}
		b.WriteString(`"/>` + "\n")
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="#666">%.0f minutes</text></svg>`+"\n", width-20, top+len(panels)*(height+gap)-gap+16, end/60)
	return []byte(b.String())
}
