package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"kafka-metering/meter/spool"
)

// TestADiskThatDoesNotAnswerHoldsNobodyUp has the spool's disk hang when it is opened, and come back.
func TestADiskThatDoesNotAnswerHoldsNobodyUp(t *testing.T) {
	p := testProcess(t)
	p.now = time.Now
	back := make(chan struct{})
	p.openSpool = func(dir string, o spool.Options) (*spool.Spool, error) {
		<-back
		return spool.Open(dir, o)
	}
	start := time.Now()
	in := p.newInstance(parsed(t, p, requestOnly))
	if !strings.Contains(in.problems, "the disk does not answer") {
		t.Errorf("the problems are %q", in.problems)
	}
	handle := func(n int) {
		in.handle(saved{log: fmt.Appendf(nil, `{"request":{"id":"r%d"},"response":{"status":200}}`, n)}, p.ledger.open())
	}
	for n := range 100 {
		handle(n)
	}
	p.running() // as the metrics do
	if took := time.Since(start); took > 2*handOverLimit {
		t.Errorf("it took %v", took)
	}
	close(back)
	l := in.sink.(*pipeline)
	await(t, "opened", func() bool { s, _ := l.spoolOrOpening(); return s != nil })
	handle(100)
	p.ended(t, map[place]uint64{placeDisk: 100, placeSpooled: 1})
	if err := p.close(t.Context()); err != nil && !errors.Is(err, t.Context().Err()) {
		t.Error(err)
	}
}
