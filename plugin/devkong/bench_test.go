package devkong

import "testing"

// BenchmarkLog measures one event of the Log phase on the socket, with a plugin server made with go-pdk that does
// nothing, and with one that asks for the serialized log: what the stand-in and go-pdk themselves cost in a benchmark
// of a plugin.
func BenchmarkLog(b *testing.B) {
	log := readRecording(b, "2-log-only-authenticated/conn1").Turns[1].Asked[0].Answer[3:]
	for _, plugin := range []string{"empty", "serialize"} {
		w := startWorkers(b, 8, plugin, nil)
		run := func(b *testing.B, worker *Worker) {
			if err := worker.Log(b.Context(), w.conf, &Exchange{Log: log}); err != nil {
				b.Error(err) // also from other goroutines
			}
		}
		b.Run(plugin+"/one after the other", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				run(b, w.Worker(0))
			}
		})
		b.Run(plugin+"/8 workers", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for n := 0; pb.Next(); n++ {
					run(b, w.Worker(n%w.Len()))
				}
			})
		})
	}
}
