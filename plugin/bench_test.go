package main

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"kafka-metering/plugin/devkong"
)

// nowhere is a sink that takes everything at once.
type nowhere struct{}

func (n nowhere) Hold(records [][]byte, done func(error)) error { return n.Enqueue(records, done) }

func (nowhere) Enqueue(_ [][]byte, done func(error)) error {
	done(nil)
	return nil
}

func chatAnswer() []byte {
	return []byte(`{"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion","created":1741570283,"model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"` +
		strings.Repeat("The sky looks blue because air scatters short waves. ", 28) +
		`","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1117,"completion_tokens":46,"total_tokens":1163,"prompt_tokens_details":{"cached_tokens":1024,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":32,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_fc9f1d7035"}`)
}

func chatStream() []byte {
	const head = `data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_fc9f1d7035",`
	var b strings.Builder
	for i := 0; b.Len() < 60<<10; i++ {
		fmt.Fprintf(&b, head+`"choices":[{"index":0,"delta":{"content":" word%d"},"finish_reason":null}],"usage":null}`+"\n\n", i)
	}
	b.WriteString(head + `"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}` + "\n\n")
	b.WriteString(head + `"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":400,"total_tokens":411}}` + "\n\ndata: [DONE]\n\n")
	return []byte(b.String())
}

// BenchmarkExchange is the whole path of an exchange but for Kong's socket and the disk: from the serialized log (and
// the body) to the records of its events, with the default presets.
func BenchmarkExchange(b *testing.B) {
	api := saved{log: newExchanges(b).exchange(0).Log}
	for _, bench := range []struct {
		name string
		x    saved
	}{
		{"api", api},
		{"chat-2KB", buffered(b, "/v1/chat/completions", "application/json", chatAnswer())},
		{"chat-stream-60KB", buffered(b, "/v1/chat/completions", "text/event-stream", chatStream())},
	} {
		b.Run(bench.name, func(b *testing.B) {
			p := testProcess(b)
			in, _ := testInstance(b, p, `{}`)
			in.sink = nowhere{}
			at := strings.Index(string(bench.x.log), `"request":{"id":"`) + len(`"request":{"id":"`)
			copy(bench.x.log[at:], strings.Repeat("0", 32))
			n := 0
			b.SetBytes(int64(len(bench.x.log) + len(bench.x.body)))
			b.ReportAllocs()
			for b.Loop() {
				n++ // another request id: a repeat would be recognised
				for i, rest := at+31, n; rest > 0; i, rest = i-1, rest>>4 {
					bench.x.log[i] = "0123456789abcdef"[rest&15]
				}
				in.handle(bench.x, p.ledger.open())
			}
			if p.ledger.ends[placeSpooled].Get() != uint64(n) {
				b.Error("not every exchange came through")
			}
		})
	}
}

// TestAnAPIExchangeIsCheap holds the allocations of an exchange, which the garbage collector has to clean up behind it.
func TestAnAPIExchangeIsCheap(t *testing.T) {
	if raceDetector() {
		t.Skip("the race detector allocates")
	}
	p := testProcess(t)
	in, _ := testInstance(t, p, `{}`)
	in.sink = nowhere{}
	x, n := newExchanges(t), 0
	logs := make([]saved, 1001)
	for i := range logs {
		logs[i].log = x.exchange(i).Log
	}
	allocations := testing.AllocsPerRun(len(logs)-1, func() {
		in.handle(logs[n], p.ledger.open())
		n++
	})
	const budget = 25
	if allocations > budget {
		t.Errorf("%v allocations, the budget is %d", allocations, budget)
	}
}

// BenchmarkServer is an exchange over the unix socket, as Kong hands it over, into the spool of a server in a process of
// its own: the stand-in for Kong and its workers take a part of the time.
func BenchmarkServer(b *testing.B) {
	for _, parallelism := range []int{1, 64} {
		b.Run(fmt.Sprintf("workers=%d", parallelism), func(b *testing.B) {
			broker, x := startBroker(b), newExchanges(b)
			s := startServer(b)
			kong := devkong.NewWorkers(8, devkong.WorkersOptions{})
			defer kong.Close()
			conf := s.configuration(broker, requestOnly)
			var next atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(parallelism)
			if parallelism == 1 {
				for b.Loop() {
					if err := kong.Worker(0).Log(b.Context(), conf, x.exchange(int(next.Add(1)))); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					n := int(next.Add(1))
					if err := kong.Worker(n%8).Log(b.Context(), conf, x.exchange(n)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
