package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kafka-metering/plugin/lane"
)

// laneMembers are the members of Kong's log that the Lua front sends for an API exchange with the default meters, by their
// paths; the request's id is the benchmark's.
var laneMembers = map[string]string{
	"request.id": `"00000000000000000000000000000000"`, "request.method": `"GET"`, "request.size": "120", "response.status": "200", "response.size": "315",
	"upstream_status": `"200"`, "latencies.request": "4", "latencies.kong": "1", "latencies.proxy": "3", "tries": `[{"ip":"10.0.3.17","port":8080,"balancer_start":1795428217673,"balancer_latency":0}]`,
	"started_at": "1795428217672", "source": `"upstream"`, "workspace": `"0dc6f45b-8f8d-40d2-a504-473544ee190b"`,
	"route.id": `"2a1d7b1e-6f29-4c1c-9d2e-7b0f6c9a1b11"`, "route.name": `"orders"`,
	"service.id": `"9e1b6b0c-1df5-4a6e-8d7f-0d7f1f7f2c22"`, "service.name": `"orders"`,
	"consumer.id": `"c0a1d6a8-0f0e-4c3e-8c9b-5d3e7c1b9a33"`, "consumer.username": `"acme"`, "consumer.custom_id": `"cust-acme"`,
	"authenticated_entity.id": `"5d0f1f5e-53a1-4f7e-b5d1-0c2f8f7f1e44"`,
}

// BenchmarkLane is an API exchange from the lane's socket to its event in the spool on disk, in batches as a worker sends
// them: a hundred, or all that came while the last one was under way. cpu-µs/exchange is the processor time of the whole
// process, the kernel's and the benchmark's own end of the socket included.
func BenchmarkLane(b *testing.B) {
	for _, entries := range []int{10, 100, 1000} {
		b.Run("batch="+strconv.Itoa(entries), func(b *testing.B) {
			const before = 1_000_000_000 // exchanges of this worker: all numbers are of one length
			p, l := laneProcess(b)
			w := dialLane(b, l.prefix, "w", before)
			_ = w.conn.SetDeadline(time.Time{})
			needs := w.register(1, apiOnly)
			x := lane.Exchange{Config: 1, Number: before, Delivered: true, HasBody: true, Ended: true, FirstByte: 3, Bytes: 10, List: lane.ListLog}
			for _, path := range needs.Log {
				x.Members = append(x.Members, []byte(laneMembers[strings.Join(path, ".")]))
			}
			template := x.Append(nil)
			number := bytes.Index(template, binary.LittleEndian.AppendUint64(nil, math.Float64bits(before)))
			id := bytes.Index(template, bytes.Repeat([]byte("0"), 32))
			exchanges := bytes.Repeat(template, entries)
			sent, batches, message := int64(0), int64(0), []byte(nil)
			b.ReportAllocs()
			start := ownProcessorTime(b)
			for b.Loop() {
				for x := exchanges; len(x) > 0; x = x[len(template):] {
					sent++
					binary.LittleEndian.PutUint64(x[number:], math.Float64bits(float64(before+sent)))
					strconv.AppendInt(x[id:id], before+sent, 10)
				}
				batches++
				message = (&lane.Batch{Number: batches, Entries: entries}).Append(message[:0], exchanges)
				if got := w.ask(message); got != fmt.Sprintf("OK %d", batches) {
					b.Fatal(got)
				}
			}
			spent := ownProcessorTime(b) - start
			b.ReportMetric(float64(spent.Microseconds())/float64(sent), "cpu-µs/exchange")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(sent), "µs/exchange")
			if got := p.ledger.ends[placeSpooled].Get(); got != uint64(sent) {
				b.Errorf("%d of %d exchanges are in the spool", got, sent)
			}
		})
	}
}

// ownProcessorTime is what this process has used.
func ownProcessorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
