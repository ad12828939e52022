package spool_test

import (
	"context"
	"fmt"
	"os"

	"kafka-metering/meter/spool"
)

func ExampleOpen() {
	dir, _ := os.MkdirTemp("", "spool")
	defer os.RemoveAll(dir)

	s, err := spool.Open(dir, spool.Options{MaxBytes: 1 << 30})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	if _, err := s.Adopt(); err != nil { // what a dead process left behind
		fmt.Println(err)
	}

	// nil means: on disk, both or none.
	if err := s.Append(context.Background(), []byte("first"), []byte("second")); err != nil {
		fmt.Println(err)
	}

	entries, err := s.Peek(nil, 100, 1<<20)
	if err != nil {
		fmt.Println(err)
	}
	for _, e := range entries {
		fmt.Println(string(e.Record))
	}
	// Published: forget the batch, but keep the second record for a human.
	last := entries[len(entries)-1].Pos
	if err := s.Ack(last, spool.Reject{Pos: last, Reason: "message too large"}); err != nil {
		fmt.Println(err)
	}
	for r, err := range s.Rejected() {
		fmt.Println(string(r.Record), r.Reason, err)
	}
	fmt.Println(s.Stats().Pending, "pending")
	// Output:
	// first
	// second
	// second message too large <nil>
	// 0 pending
}
