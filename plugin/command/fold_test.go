package command

import (
	"testing"

	"github.com/tidwall/gjson"

	"kafka-metering/meter"
)

// TestACountCountsEvents has a meter that counts, and names a value all the same.
func TestACountCountsEvents(t *testing.T) {
	f := folds{}
	declared := map[[2]string]meter.Aggregation{{"acme.x", "value"}: meter.Count}
	for range 3 {
		f.add(declared, nil, "acme.x", "cust", "2026-11-01T00:00:00.000Z", gjson.Parse(`{"value":1234567}`))
	}
	for key, fold := range f {
		if fold.value != 3 {
			t.Errorf("%v: %v", key, fold.value)
		}
	}
	s := newTotals(map[[2]string]string{{"acme.x", "value"}: "COUNT"})
	for _, id := range []string{"1", "2", "2"} {
		s.add(event{id: id, eventType: "acme.x", subject: "cust", data: gjson.Parse(`{"value":1234567}`)})
	}
	for key, sum := range s.sums {
		if sum.value != 2 {
			t.Errorf("%v: %v", key, sum.value)
		}
	}
}

// TestWhatIsNoNumberIsNotAdded has values in a foreign producer's events that no meter of ours makes.
func TestWhatIsNoNumberIsNotAdded(t *testing.T) {
	for _, aggregation := range []meter.Aggregation{meter.Sum, meter.Min, meter.Max, meter.Avg, meter.Latest} {
		f, invalid := folds{}, 0
		declared := map[[2]string]meter.Aggregation{{"acme.x", "value"}: aggregation}
		for _, value := range []string{`7`, `"abc"`, `"9"`, `null`, `true`, `{}`, `1e400`} {
			invalid += f.add(declared, nil, "acme.x", "cust", "2026-11-01T00:00:00Z", gjson.Parse(`{"value":`+value+`}`))
		}
		if got := f[foldKey{"acme.x value", "cust", ""}]; invalid != 6 || got == nil || got.n != 1 || got.value != 7 {
			t.Errorf("%s: %d are left out, the total is %+v", aggregation, invalid, got)
		}
	}
	f := folds{}
	if f.add(map[[2]string]meter.Aggregation{{"acme.x", "value"}: meter.Sum}, nil, "acme.x", "cust", "", gjson.Parse(`{"value":"x"}`)); len(f) != 0 {
		t.Errorf("a total of nothing: %v", f)
	}
}

// TestTheLatestIsToldByTime has times that do not sort as text.
func TestTheLatestIsToldByTime(t *testing.T) {
	f := folds{}
	for value, at := range map[string]string{"1": "2026-11-01T09:00:00Z", "3": "2026-11-01T09:00:00.500Z", "2": "2026-11-01T10:00:00+02:00"} {
		f.add(map[[2]string]meter.Aggregation{{"acme.x", "value"}: meter.Latest}, nil, "acme.x", "cust", at, gjson.Parse(`{"value":`+value+`}`))
	}
	if got := f[foldKey{"acme.x value", "cust", ""}].value; got != 3 {
		t.Errorf("the latest is %v, want 3", got)
	}
}

// TestSplitsThatReadAlikeAreTwo has commas in what totals are split by.
func TestSplitsThatReadAlikeAreTwo(t *testing.T) {
	f := folds{}
	declared := map[[2]string]meter.Aggregation{{"acme.x", "value"}: meter.Sum}
	for _, data := range []string{`{"value":1,"a":"x, y","b":"z"}`, `{"value":1,"a":"x","b":"y, z"}`} {
		f.add(declared, dimensions("a, b"), "acme.x", "cust", "t", gjson.Parse(data))
	}
	if len(f) != 2 {
		t.Errorf("%d totals: %v", len(f), f)
	}
}

// TestThePluginThatKongRuns follows the order in which Kong looks for a plugin's configuration.
func TestThePluginThatKongRuns(t *testing.T) {
	const log = `{"consumer":{"username":"alice"},"route":{"name":"r","id":"r-1"},"service":{"name":"s"}}`
	for want, uses := range map[string][]pluginUse{
		"on route and service before the consumer": {{consumer: "alice", line: 2}, {route: "r", service: "s", line: 1}},
		"on the consumer before the route":         {{route: "r", line: 2}, {consumer: "alice", line: 1}},
		"on the route before the service":          {{service: "s", line: 2}, {route: "r", line: 1}},
		"on an entity that no log names":           {{route: unnamed, line: 2}, {line: 1}},
	} {
		if got := choose(uses, []byte(log)); got == nil || got.line != 1 {
			t.Errorf("%s: got %v", want, got)
		}
	}
}
