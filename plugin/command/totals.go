package command

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"kafka-metering/plugin/record"
)

// event is a metering event as a consumer of the topic reads it.
type event struct {
	id, source, eventType, subject, time string
	data                                 gjson.Result
}

// parseEvent reads a record's value in CloudEvents' structured mode.
func parseEvent(value []byte) (event, bool) {
	if !gjson.ValidBytes(value) {
		return event{}, false
	}
	v := gjson.ParseBytes(value)
	e := event{
		id: v.Get("id").Str, source: v.Get("source").Str, eventType: v.Get("type").Str, subject: v.Get("subject").Str,
		time: v.Get("time").Str, data: v.Get("data"),
	}
	return e, v.Get("specversion").Str == "1.0" && e.id != "" && e.data.IsObject()
}

// ofMetering reports whether the event is about the metering itself: nobody is billed for it.
func (e event) ofMetering() bool { return strings.HasPrefix(e.eventType, "kong.metering_") }

// line is the event for a reader: what happened, to whom, how much.
func (e event) line() string {
	at := e.time
	if len(at) == len("2026-11-23T10:03:38.594Z") {
		at = at[11:23]
	}
	return printable(fmt.Sprintf("%s  %-16s  %-10s  %s", at, e.eventType, e.subject, e.text()))
}

// printable makes of a text, which may be a client's own words, one that is safe in a line on a terminal: what would
// end the line, move the cursor or turn the direction becomes U+FFFD.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}

func (e event) text() string {
	d := func(name string) string { return e.data.Get(name).String() }
	switch e.eventType {
	case "kong.api_request":
		return fmt.Sprintf("%-4s %-10s %s %s, %s ms", d("request_method"), cmp.Or(d("route_name"), "(no route)"), d("status"), d("outcome"), d("duration_ms"))
	case "kong.llm_request":
		return fmt.Sprintf("%5s %s tokens of %s", d("tokens"), d("type"), d("model"))
	case "kong.llm_usage":
		text := cmp.Or(d("model"), d("request_model"), "(no model)")
		if e.data.Get("stream").Bool() {
			text += ", streamed"
		}
		return fmt.Sprintf("%s: usage %s, %s in, %s out", text, d("usage_status"), cmp.Or(d("input_tokens"), "?"), cmp.Or(d("output_tokens"), "?"))
	case record.TypeCheckpoint:
		return fmt.Sprintf("%s events from %s to %s (%s)", d("events"), d("first_sequence"), d("last_sequence"), d("reason"))
	}
	var parts []string
	e.data.ForEach(func(k, v gjson.Result) bool {
		parts = append(parts, k.Str+"="+v.String())
		return true
	})
	return strings.Join(parts, " ")
}

// totals folds events by meter, customer and model, each event once however often it stands on the topic.
type totals struct {
	seen map[string]bool // source + id
	sums map[total]*sum
	// aggregations says how declared meters fold a property: by event type and property. Others are sums.
	aggregations map[[2]string]string
	// duplicates counts the records whose event was seen before.
	duplicates int
}

type total struct{ meter, subject, model, kind string }

type sum struct {
	aggregation string
	events      int
	value       float64
	unique      map[string]bool
}

func newTotals(aggregations map[[2]string]string) *totals {
	return &totals{seen: map[string]bool{}, sums: map[total]*sum{}, aggregations: aggregations}
}

// add folds e in and reports whether it is new.
func (t *totals) add(e event) bool {
	key := e.source + "\x00" + e.id
	if t.seen[key] {
		t.duplicates++
		return false
	}
	t.seen[key] = true
	data := func(name string) string { return e.data.Get(name).String() }
	switch e.eventType {
	case "kong.api_request":
		t.fold(total{e.eventType, e.subject, "", "requests " + data("status_class")}, 1)
	case "kong.llm_request":
		t.fold(total{e.eventType, e.subject, data("model"), data("type") + " tokens"}, e.data.Get("tokens").Num)
	case "kong.llm_usage":
		t.fold(total{e.eventType, e.subject, cmp.Or(data("model"), data("request_model"), "(unknown)"), "calls, usage " + data("usage_status")}, 1)
	default:
		e.data.ForEach(func(k, v gjson.Result) bool {
			if t.aggregations[[2]string{e.eventType, k.Str}] == "UNIQUE_COUNT" {
				t.distinct(total{e.eventType, e.subject, data("model"), k.Str}, v.String())
			} else if v.Type == gjson.Number {
				t.fold(total{e.eventType, e.subject, data("model"), k.Str}, v.Num)
			}
			return true
		})
	}
	return true
}

// fold folds value into the total of key, which is declared as a meter's property, or sums up.
func (t *totals) fold(key total, value float64) {
	s := t.sums[key]
	if s == nil {
		s = &sum{aggregation: cmp.Or(t.aggregations[[2]string{key.meter, key.kind}], "SUM")}
		t.sums[key] = s
		if s.aggregation == "MIN" {
			s.value = value
		}
	}
	s.events++
	switch s.aggregation {
	case "MIN":
		s.value = min(s.value, value)
	case "MAX":
		s.value = max(s.value, value)
	case "COUNT":
		s.value++
	case "LATEST":
		s.value = value
	case "AVG":
		s.value += (value - s.value) / float64(s.events)
	default:
		s.value += value
	}
}

// distinct counts a value once.
func (t *totals) distinct(key total, value string) {
	s := t.sums[key]
	if s == nil {
		s = &sum{aggregation: "UNIQUE_COUNT", unique: map[string]bool{}}
		t.sums[key] = s
	}
	s.events++
	s.unique[value] = true
	s.value = float64(len(s.unique))
}

// print writes the table of totals.
func (t *totals) print(w io.Writer) error {
	keys := make([]total, 0, len(t.sums))
	for key := range t.sums {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b total) int {
		return cmp.Or(strings.Compare(a.meter, b.meter), strings.Compare(a.subject, b.subject), strings.Compare(a.model, b.model), strings.Compare(a.kind, b.kind))
	})
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "EVENT TYPE\tCUSTOMER\tMODEL\tWHAT\tEVENTS\tTOTAL")
	previous := ""
	for _, key := range keys {
		name := key.meter
		if name == previous {
			name = ""
		}
		previous = key.meter
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\n", printable(name), printable(key.subject), printable(cmp.Or(key.model, "-")), printable(key.kind), t.sums[key].events, t.sums[key])
	}
	return table.Flush()
}

// String is the total as a reader wants it: whole numbers whole, and how it was folded unless by adding up.
func (s *sum) String() string {
	text := strconv.FormatFloat(s.value, 'f', -1, 64)
	if s.value != math.Trunc(s.value) {
		text = strconv.FormatFloat(math.Round(s.value*1e6)/1e6, 'f', -1, 64)
	}
	if s.aggregation != "SUM" && s.aggregation != "COUNT" {
		text += " " + strings.ToLower(s.aggregation)
	}
	return text
}
