package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kafka-metering/meter"
	"kafka-metering/meter/relay"
	"kafka-metering/meter/spool"
	"kafka-metering/meter/spool/disktest"
)

func madeEvents(ids ...string) [][]byte {
	var b Buffer
	var events []meter.Event
	for _, id := range ids {
		at := meter.FormatTime(time.Now())
		events = append(events, meter.Event{
			ID: id, Source: testSource, Type: "kong.api_request", Subject: "c", Time: at, DataSchema: "urn:x",
			Sequence: Unnumbered, RecordedTime: at, Data: []byte(`{"value":1,"request_id":"` + id + `"}`),
		})
	}
	return b.Encode(events, testTopic, "", false)
}

// killedWithMemory publishes what is on a disk that is full and in memory, kills the process, and has the next one go on with the disk.
// It returns what the topic proves.
func killedWithMemory(t *testing.T, reject bool, later time.Duration) *Proof {
	dir := disktest.New(t, 8<<20)
	start := testStart
	open := func(dir string) *spool.Spool {
		n := NewNumbers(time.Now, func() int64 { start++; return start })
		s, err := spool.Open(dir, spool.Options{MemoryBytes: 1 << 20, Journal: n})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open(dir)
	hold := func(id string) error {
		done := make(chan error, 1)
		if err := s.Hold(madeEvents(id), func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		return <-done
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
			var last, first spool.Pos
			for _, e := range entries {
				r, err := relay.ParseRecord(e.Record)
				if err != nil {
					t.Fatal(err)
				}
				v.Add(relay.Message{Offset: offset, Key: r.Key, Value: r.Value, Headers: r.Headers})
				offset++
				last = e.Pos
				if first == (spool.Pos{}) {
					first = e.Pos
				}
			}
			// One that Kafka refused stays in the file (it is on the dead-letter topic for this test: v has it).
			if !reject {
				_ = s.Ack(last)
				continue
			}
			_ = s.Ack(last, spool.Reject{Pos: first, Reason: "x"})
		}
	}
	n := 0
	for ; n < 10; n++ {
		if err := hold(fmt.Sprint("r", n)); err != nil {
			t.Fatal(err)
		}
	}
	disktest.Fill(t, filepath.Join(dir, "filler"))
	inMemory := 0
	for ; inMemory < 5; n++ {
		if err := hold(fmt.Sprint("r", n)); errors.Is(err, spool.ErrMemory) {
			inMemory++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Log(n, "exchanges,", inMemory, "of them in memory")
	publish(s)
	// kill -9: what is on the disk is what the next process has.
	next := t.TempDir()
	files, _ := filepath.Glob(filepath.Join(dir, "*.spool"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(next, filepath.Base(f)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s2 := open(next)
	if _, err := s2.Adopt(); err != nil {
		t.Fatal(err)
	}
	publish(s2)
	_ = s2.Close()
	_ = s.Close()
	return v.Proof(time.Now().Add(later))
}

// TestWhatWasPublishedFromMemoryBeforeAKillIsProven: it has numbers that the checkpoint of the next process takes again.
func TestWhatWasPublishedFromMemoryBeforeAKillIsProven(t *testing.T) {
	if p := killedWithMemory(t, true, 0); p.Problems > 0 {
		t.Errorf("every event is on the topic, and verify finds %+v", p.Findings)
	}
}

// TestADrainedFileKeepsTheProofWhileThereIsOnlyMemory: the file that a full disk has made way for is removed when it is empty, and with it the state of the run.
func TestADrainedFileKeepsTheProofWhileThereIsOnlyMemory(t *testing.T) {
	p := killedWithMemory(t, false, time.Hour)
	for _, f := range p.Findings {
		if f.Problem && f.Events > 5 { // those 5 were in memory: nobody can prove them
			t.Errorf("%+v", f)
		}
	}
}
