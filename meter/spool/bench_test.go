package spool

import (
	"fmt"
	"testing"
)

// The number in the name is how many goroutines append at once. B/s is what
// becomes durable; every record is one Append of its own.
func BenchmarkAppend(b *testing.B) {
	record := make([]byte, 700)
	for _, appenders := range []int{1, 64, 1000} {
		b.Run(fmt.Sprint(appenders), func(b *testing.B) {
			s := openSpool(b, b.TempDir(), Options{})
			b.ReportAllocs()
			b.SetBytes(int64(len(record)))
			b.SetParallelism(appenders) // times GOMAXPROCS
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := s.Append(b.Context(), record); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(s.Stats().Transactions)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}

// One iteration is a batch of 500 records taken from a backlog and acknowledged.
func BenchmarkDrain(b *testing.B) {
	record := make([]byte, 700)
	s := openSpool(b, b.TempDir(), Options{})
	var entries []Entry
	b.ReportAllocs()
	b.SetBytes(500 * 700)
	for b.Loop() {
		b.StopTimer()
		records := make([][]byte, 500)
		for i := range records {
			records[i] = record
		}
		if err := s.Append(b.Context(), records...); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		var err error
		if entries, err = s.Peek(entries[:0], 500, 1<<20); err != nil || len(entries) != 500 {
			b.Fatal(len(entries), err)
		}
		if err := s.Ack(entries[499].Pos); err != nil {
			b.Fatal(err)
		}
	}
}
