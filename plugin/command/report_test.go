package command

import (
	"hash/maphash"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// TestAnEventWithoutATimeIsInNoMonth has bounds on one side or the other.
func TestAnEventWithoutATimeIsInNoMonth(t *testing.T) {
	november := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for name, x := range map[string]reporting{"from": {from: november}, "to": {to: november}, "all": {}} {
		x.seed, x.seen, x.totals, x.types = maphash.MakeSeed(), map[uint64]struct{}{}, folds{}, map[string]bool{"acme.x": true}
		x.add(relay.Message{Value: []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"acme.x","subject":"s","time":"soon","data":{}}`)})
		if bounded := name != "all"; x.outside == 1 != bounded || x.events == 1 == bounded {
			t.Errorf("%s: %d outside, %d events", name, x.outside, x.events)
		}
	}
}

// TestWhatAClientWroteIsSafeOnATerminal has a line that forges another one, and turns the operator's terminal red.
func TestWhatAClientWroteIsSafeOnATerminal(t *testing.T) {
	for text, want := range map[string]string{
		"cust-1 Ärger 顧客":    "cust-1 Ärger 顧客",
		"a\x1b[31mRED\nb":    "a\uFFFD[31mRED\uFFFDb",
		"a\u202eb\u2066\xff": "a\uFFFDb\uFFFD\uFFFD",
		"a\u0085b\u2028c":    "a\uFFFDb\uFFFDc",
	} {
		if got := printable(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	e := event{id: "1", eventType: "acme.x", subject: "a\n12:00:00.000  kong.llm_request  b"}
	if line := e.line(); strings.ContainsAny(line, "\n\x1b") {
		t.Errorf("a line of tail: %q", line)
	}
}

// TestLongFilesOfObservationsAreReadToTheirEnd reads more than one document may have, under a name that does not tell.
func TestLongFilesOfObservationsAreReadToTheirEnd(t *testing.T) {
	line := `{"request":{"id":"` + strings.Repeat("a", 1<<20) + `"}}` + "\n"
	path := filepath.Join(t.TempDir(), "observations.log")
	const lines = 2 * maxDocument >> 20
	if err := os.WriteFile(path, []byte(strings.Repeat(line, lines)), 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := eachDocument(path, nil, func([]byte) error { n++; return nil }); err != nil || n != lines {
		t.Errorf("%d documents of %d are read, %v", n, lines, err)
	}
	if err := eachDocument("-", strings.NewReader("no JSON"), func([]byte) error { return nil }); err == nil || !strings.Contains(err.Error(), "no JSON document") {
		t.Errorf("a file that is no JSON: %v", err)
	}
}
