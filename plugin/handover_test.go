package main

import (
	"strings"
	"testing"
)

// TestHandOversAreTimedOnce hands over two exchanges of Kong's protocol and two batches of the lane, each of them again.
func TestHandOversAreTimedOnce(t *testing.T) {
	p, l := laneProcess(t)
	in, _ := testInstance(t, p, requestOnly)
	in.sink = nowhere{}
	x := newExchanges(t)
	for _, n := range []int{1, 2, 2} {
		in.handle(saved{log: x.exchange(n).Log}, p.ledger.open())
	}
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	for _, b := range [][]byte{batch(1, false, nil, plain(1)), batch(2, false, nil, plain(2)), batch(2, true, nil, plain(2))} {
		w.ask(b)
	}
	var metrics strings.Builder
	p.ledger.set.WritePrometheus(&metrics)
	for _, front := range []string{"pdk", "lua"} {
		const name = "kong_meter_handover_duration_seconds"
		for _, want := range []string{name + `_count{front="` + front + `"} 2`, name + `_bucket{front="` + front + `",le="+Inf"} 2`} {
			if !strings.Contains(metrics.String(), want+"\n") {
				t.Errorf("there is no %s in\n%s", want, metrics.String())
			}
		}
	}
}
