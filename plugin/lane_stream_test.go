package main

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kafka-metering/meter"
)

// TestStreamsArriveAsTheyWouldWithoutTheFront sends pairs of streams through nginx at the same time, one with the front and
// one without, and compares how long each event took from the upstream to the client.
func TestStreamsArriveAsTheyWouldWithoutTheFront(t *testing.T) {
	const pairs, atOnce, words, every = 100, 20, 20, 20 // every in milliseconds
	broker := startBroker(t)
	s := startServer(t)
	upstream := &frontUpstream{}
	n := startNginx(t, s, 2, upstream, s.configuration(broker, "").Config)
	var mu sync.Mutex
	arrived := map[string][]time.Time{}
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range pairs {
		slots <- struct{}{}
		var pair sync.WaitGroup
		for _, to := range []struct{ name, address string }{{"front", n.Front}, {"bare", n.Bare}} {
			id := fmt.Sprintf("%s-%d", to.name, i)
			pair.Go(func() {
				times := readEvents(t, fmt.Sprintf("http://%s/v1/chat/completions?answer=stream&n=%d&every=%d&case=%s", to.address, words, every, id))
				mu.Lock()
				arrived[id] = times
				mu.Unlock()
			})
		}
		wg.Go(func() { pair.Wait(); <-slots })
	}
	wg.Wait()
	n.quit()
	s.awaitPublished()
	s.checkBalances()

	took := map[string][]time.Duration{}
	held := map[string]int{} // events that came when the next one had been sent
	for id, times := range arrived {
		name, _, _ := strings.Cut(id, "-")
		emitted := upstream.emitted[id]
		if len(times) != len(emitted) || len(times) != words+3 {
			t.Errorf("%s: %d events were sent, %d came", id, len(emitted), len(times))
			continue
		}
		for i, at := range times {
			took[name] = append(took[name], at.Sub(emitted[i]))
			if i+1 < len(emitted) && at.After(emitted[i+1]) {
				held[name]++
			}
		}
	}
	quantile := func(name string, q float64) time.Duration {
		slices.Sort(took[name])
		return took[name][int(q*float64(len(took[name])-1))]
	}
	for _, name := range []string{"bare", "front"} {
		t.Logf("%-5s %d events: median %v, 90 %% %v, 99 %% %v, longest %v; %d when the next one had been sent", name, len(took[name]),
			quantile(name, .5), quantile(name, .9), quantile(name, .99), quantile(name, 1), held[name])
	}
	// The bounds are wide, because the machine may be busy: a front that held anything back would be off by its whole length.
	if front, bare := quantile("front", .5), quantile("bare", .5); front > bare+3*time.Millisecond {
		t.Errorf("half the events take %v and more with the front, %v without it", front, bare)
	}
	if front, bare := quantile("front", .9), quantile("bare", .9); front > 2*bare+10*time.Millisecond {
		t.Errorf("a tenth of the events takes %v and more with the front, %v without it", front, bare)
	}
	if seen := onTopic(t, broker, meter.TypeLLMUsage); len(seen) != pairs {
		t.Errorf("%d streams were metered, want %d", len(seen), pairs)
	}
}

// TestStreamsThatOutliveTheirWorkersAreMetered reloads and quits nginx while streams are under way: a worker that exits lets
// them end.
func TestStreamsThatOutliveTheirWorkersAreMetered(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	upstream := &frontUpstream{}
	n := startNginx(t, s, 2, upstream, s.configuration(broker, "").Config)
	var wg sync.WaitGroup
	const streams = 6
	for i := range streams {
		id := fmt.Sprint("long-", i)
		wg.Go(func() {
			if got := len(readEvents(t, fmt.Sprintf("http://%s/v1/chat/completions?answer=stream&n=20&every=%d&case=%s", n.Front, 50+20*i, id))); got != 23 {
				t.Errorf("%s: %d events came", id, got)
			}
		})
		await(t, "the stream begins", func() bool {
			upstream.mu.Lock()
			defer upstream.mu.Unlock()
			return len(upstream.emitted[id]) > 0
		})
		if i == streams/2 {
			n.signal(syscall.SIGHUP)
		}
	}
	n.quit()
	wg.Wait()
	s.awaitPublished()
	s.checkBalances()
	if seen := onTopic(t, broker, meter.TypeLLMUsage); len(seen) != streams {
		t.Errorf("%d streams were metered, want %d", len(seen), streams)
	}
	count(t, broker).check(t, streams)
}

// readEvents returns when each event of a stream came.
func readEvents(t *testing.T, url string) (times []time.Time) {
	r, err := http.Post(url, "application/json", strings.NewReader(asks))
	if err != nil {
		t.Error(err)
		return nil
	}
	defer r.Body.Close()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data:") {
			times = append(times, time.Now())
		}
	}
	return times
}
