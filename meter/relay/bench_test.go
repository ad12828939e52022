package relay

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"kafka-metering/meter/relay/kafkatest"
	"kafka-metering/meter/spool"
)

// benchmarkRecord has the size and the look of a kong.api_request event.
func benchmarkRecord(topic string, n int) Record {
	return Record{
		Topic: topic, Key: fmt.Appendf(nil, "customer-%d", n%1000),
		Headers: []Header{
			{"content-type", []byte("application/cloudevents+json; charset=UTF-8")},
			{"ce_id", fmt.Appendf(nil, "%032x/kong.api_request", n)},
			{"ce_source", []byte("/kong/prod-eu/node-1")},
			{"ce_type", []byte("kong.api_request")},
		},
		Value: fmt.Appendf(nil, `{"specversion":"1.0","id":"%032x/kong.api_request","source":"/kong/prod-eu/node-1","type":"kong.api_request",`+
			`"subject":"customer-%d","time":"2026-11-23T20:15:%02d.%03dZ","datacontenttype":"application/json","partitionkey":"customer-%d","sequence":"%020d",`+
			`"data":{"value":1,"request_id":"%032x","request_method":"GET","route_name":"orders","route_id":"0b2e4f0e-0000-4000-8000-000000000001",`+
			`"service_name":"orders","service_id":"0b2e4f0e-0000-4000-8000-000000000002","workspace":"default","consumer_id":"0b2e4f0e-0000-4000-8000-%012d",`+
			`"consumer_username":"customer-%d","status":200,"status_class":"2xx","upstream_status":200,"response_source":"service","request_bytes":%d,"response_bytes":%d,`+
			`"duration_ms":%d,"kong_latency_ms":%d,"upstream_latency_ms":%d,"tries":1,"outcome":"completed"}}`,
			n, n%1000, n/1000%60, n%1000, n%1000, n, n, n%1000, n%1000, 100+n%700, 200+n%9000, n%90, n%3, n%80),
	}
}

// BenchmarkRealKafkaDrain publishes a backlog of spooled events to a real broker,
// with zstd and the plugin's default settings.
func BenchmarkRealKafkaDrain(b *testing.B) {
	c := kafkatest.Start(b, kafkatest.Options{Java: []string{"-Xmx1g", "-XX:TieredStopAtLevel=4"}})
	topic := kafkatest.Topic(b)
	c.CreateTopic(b, topic, 6)
	const backlog = 200_000
	for b.Loop() {
		b.StopTimer()
		s, err := spool.Open(b.TempDir(), spool.Options{})
		if err != nil {
			b.Fatal(err)
		}
		bytes := 0
		for n := 0; n < backlog; n += 1000 {
			var records [][]byte
			for i := range 1000 {
				r := benchmarkRecord(topic, n+i).AppendTo(nil)
				bytes += len(r)
				records = append(records, r)
			}
			if err := s.Append(context.Background(), records...); err != nil {
				b.Fatal(err)
			}
		}
		r, err := New(Settings{Brokers: c.Brokers(b, kafkatest.Plaintext), Compression: "zstd", MaxBatchRecords: 500, MaxBatchBytes: 1 << 20, Linger: 50 * time.Millisecond}, s)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		b.StartTimer()
		began := time.Now()
		go func() { ended <- r.Run(ctx) }()
		for s.Stats().Pending > 0 {
			time.Sleep(time.Millisecond)
		}
		took := time.Since(began).Seconds()
		b.StopTimer()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			b.Error(err)
		}
		if st := r.Stats(); st.Published != backlog {
			b.Fatalf("%+v", st)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(backlog/took, "records/s")
		b.ReportMetric(float64(bytes)/took/1e6, "MB/s")
		b.StartTimer()
	}
}
