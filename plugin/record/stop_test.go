package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kafka-metering/meter/relay"
	"kafka-metering/meter/spool"
	"kafka-metering/meter/spool/disktest"
)

// TestAStopOnAFullDiskKeepsTheProof stops a process while the disk is full and its only file there is drained: the next process ends
// its numbers, so that what is on the topic is proven.
func TestAStopOnAFullDiskKeepsTheProof(t *testing.T) {
	dir := disktest.New(t, 8<<20)
	start := testStart
	open := func() *spool.Spool {
		n := NewNumbers(time.Now, func() int64 { start++; return start })
		s, err := spool.Open(dir, spool.Options{MemoryBytes: 1 << 20, Journal: n})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	v := NewVerifier(testTopic)
	offset := int64(0)
	publish := func(s *spool.Spool) {
		for {
			entries, err := s.Peek(nil, 1000, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) == 0 {
				return
			}
			for _, e := range entries {
				r, err := relay.ParseRecord(e.Record)
				if err != nil {
					t.Fatal(err)
				}
				v.Add(relay.Message{Offset: offset, Key: r.Key, Value: r.Value, Headers: r.Headers})
				offset++
			}
			_ = s.Ack(entries[len(entries)-1].Pos)
		}
	}
	s := open()
	hold := func(id string) error {
		done := make(chan error, 1)
		if err := s.Hold(madeEvents(id), func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		return <-done
	}
	for n := range 10 {
		if err := hold(fmt.Sprint("r", n)); err != nil {
			t.Fatal(err)
		}
	}
	publish(s) // all of it is on the topic
	disktest.Fill(t, filepath.Join(dir, "filler"))
	big := strings.Repeat("x", 300<<10) // there is no room for it
	if err := hold(big); !errors.Is(err, spool.ErrMemory) {
		t.Fatal(err)
	}
	if err := s.Close(); err == nil { // Kafka is away now
		t.Error("what is in memory is lost, and nobody is told")
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	s = open()
	if _, err := s.Adopt(); err != nil {
		t.Fatal(err)
	}
	if err := hold("next"); err != nil {
		t.Fatal(err)
	}
	publish(s)
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	publish(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range v.Proof(time.Now().Add(time.Hour)).Findings {
		if f.Problem {
			t.Errorf("%+v", f)
		}
	}
}
