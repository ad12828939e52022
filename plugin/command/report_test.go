package command

import (
	"hash/maphash"
	"testing"

	"kafka-metering/meter"
	"kafka-metering/meter/relay"
)

// TestAReportCountsAnEventOnce folds events that stand on the topic twice, of one source and of another.
func TestAReportCountsAnEventOnce(t *testing.T) {
	x := reporting{
		seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}, totals: folds{}, types: map[string]bool{"acme.x": true},
		properties: map[[2]string]meter.Aggregation{{"acme.x", "n"}: meter.Sum, {"acme.x", "most"}: meter.Max, {"acme.x", "who"}: meter.UniqueCount, {"acme.x", "last"}: meter.Latest, {"acme.x", "mean"}: meter.Avg},
	}
	event := func(id, source, at, data string) relay.Message {
		return relay.Message{Value: []byte(`{"specversion":"1.0","id":"` + id + `","source":"` + source + `","type":"acme.x","subject":"s","time":"` + at + `","data":` + data + `}`)}
	}
	a := event("1", "/kong/a/n", "2026-11-23T10:00:02Z", `{"n":2,"most":5,"who":"p","last":7,"mean":1}`)
	for _, m := range []relay.Message{
		a, a, event("1", "/kong/a/other", "2026-11-23T10:00:01Z", `{"n":3,"most":4,"who":"p","last":8,"mean":2}`),
		{Value: []byte("no event")},
		{Value: []byte(`{"specversion":"1.0","id":"9","source":"/x","type":"acme.y","subject":"s","data":{}}`)},
	} {
		x.add(m)
	}
	for property, want := range map[string]float64{"n": 5, "most": 5, "who": 1, "last": 7, "mean": 1.5} {
		if got := x.totals[foldKey{"acme.x " + property, "s", ""}]; got == nil || got.value != want {
			t.Errorf("%s is %+v, want %v", property, got, want)
		}
	}
	if x.events != 2 || x.repeated != 1 || x.foreign != 1 || x.unknown != 1 {
		t.Errorf("%d events, %d repeated, %d foreign, %d unknown", x.events, x.repeated, x.foreign, x.unknown)
	}
}
