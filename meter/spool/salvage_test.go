package spool

import (
	"testing"
	"time"
)

// TestASalvagedRecordKeepsItsAge sets its file aside: queue.max_event_age is for the event, not for the copy.
func TestASalvagedRecordKeepsItsAge(t *testing.T) {
	s := openSpool(t, t.TempDir(), Options{})
	appendNumbers(t, s, 0, 1)
	before, err := s.Peek(nil, 1, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Millisecond)
	f := before[0].Pos.file
	_ = s.do(task{after: func() error { return s.setAside(f, ErrCorrupt) }})
	after, err := s.Peek(nil, 1, 1<<20)
	if err != nil || len(after) != 1 {
		t.Fatal(after, err)
	}
	if d := after[0].Time.Sub(before[0].Time); d > 0 {
		t.Errorf("the record is %v younger than it was", d)
	}
}
