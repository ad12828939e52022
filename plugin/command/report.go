package command

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/maphash"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"kafka-metering/meter"
	"kafka-metering/meter/relay"
)

const reportAbout = `Adds up what stands on a topic, as the meters declare it: each event once, by source and id, however often it stands there.

  kafka-metering report -brokers kafka:9092 -meters kong.yml
  kafka-metering report -config /etc/kong/kafka-metering.yml -meters kong.yml -from 2026-11-01 -to 2026-12-01 -by model -format csv

It needs some 100 bytes of memory for each event, and 200 MB beside. For invoices use a store; this is for a look, and for a second opinion.`

// reporting is one run of the command.
type reporting struct {
	by         []string
	from, to   time.Time
	properties map[[2]string]meter.Aggregation
	types      map[string]bool // that the meters declare
	seed       maphash.Seed
	seen       map[uint64]struct{}
	totals     folds

	events, repeated, outside, unknown, foreign, invalid int
}

// runReport runs the command report.
func runReport(args []string, out, errs io.Writer, host Host) error {
	x := reporting{seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}, totals: folds{}, properties: map[[2]string]meter.Aggregation{}, types: map[string]bool{}}
	var f replayFlags
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	flags.SetOutput(errs)
	f.register(flags)
	topic := flags.String("topic", "", topicUsage)
	meters := flags.String("meters", "", "`file` that declares the meters: kong.yml, decK, or the plugin's config alone (default: the presets)")
	by := flags.String("by", "", "`dimensions` by which totals are split beside the customer, with commas between them")
	flags.Func("from", "only events from this `time` on, such as 2026-11-01 or 2026-11-01T12:00:00Z", parseTime(&x.from))
	flags.Func("to", "only events before this `time`", parseTime(&x.to))
	format := flags.String("format", "table", "table, csv or json")
	if err := parse(flags, args, reportAbout); err != nil {
		return err
	}
	if !slices.Contains([]string{"table", "csv", "json"}, *format) {
		return fmt.Errorf("-format %q: must be table, csv or json", *format)
	}
	if *by != "" {
		x.by = dimensions(*by)
	}
	all, err := newEvaluators(host, *meters, "")
	if err != nil {
		return err
	}
	for _, warning := range all.warns {
		fmt.Fprintf(errs, "kafka-metering report: %v\n", warning)
	}
	for _, e := range all.made {
		for key, aggregation := range properties(e) {
			if other, known := x.properties[key]; known && other != aggregation {
				return fmt.Errorf("-meters %s: %q of %s is declared as %s and as %s, in two configurations: nobody can tell which of them an event is of; "+
					"give one of the meters an event_type of its own", *meters, key[1], key[0], other, aggregation)
			}
			x.properties[key], x.types[key[0]] = aggregation, true
		}
	}
	if !x.to.IsZero() && !x.from.Before(x.to) {
		return errors.New("-to is not after -from: no event can be between them")
	}
	settings, _, err := f.settings(host.ReadConnection)
	if err != nil {
		return err
	}
	*topic = f.topicOr(*topic)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	p, n, start := newPace(errs), int64(0), time.Now()
	err = relay.ReadAll(ctx, settings, *topic, func(m relay.Message) {
		x.add(m)
		n++
		p.say(func() string {
			return fmt.Sprintf("%s, %.0f a second", count(n, "record"), float64(n)/time.Since(start).Seconds())
		})
	})
	p.end()
	if err != nil {
		return err
	}
	if err := x.print(out, *format); err != nil {
		return err
	}
	fmt.Fprintf(errs, "%s; %d repeated, %d outside the time, %d of types that no meter declares, %d records that are no events",
		count(int64(x.events), "event"), x.repeated, x.outside, x.unknown, x.foreign)
	if x.invalid > 0 {
		fmt.Fprintf(errs, "; NOT ADDED: %s that are no numbers", count(int64(x.invalid), "value"))
	}
	fmt.Fprintln(errs)
	return nil
}

// parseTime reads a flag's time: a day, or RFC 3339.
func parseTime(into *time.Time) func(string) error {
	return func(s string) error {
		for _, layout := range []string{time.DateOnly, time.RFC3339} {
			if t, err := time.Parse(layout, s); err == nil {
				*into = t
				return nil
			}
		}
		return fmt.Errorf("%q is no time: write 2026-11-01, or 2026-11-01T12:00:00Z", s)
	}
}

func (x *reporting) add(m relay.Message) {
	e, _, ok := eventOf(m)
	if !ok {
		x.foreign++
		return
	}
	key := maphash.String(x.seed, e.source+"\x00"+e.id)
	if _, known := x.seen[key]; known {
		x.repeated++
		return
	}
	x.seen[key] = struct{}{}
	if e.ofMetering() {
		return // nobody is billed for it
	}
	at, err := time.Parse(time.RFC3339, e.time)
	bounded := !x.from.IsZero() || !x.to.IsZero()
	if bounded && (err != nil || at.Before(x.from) || !x.to.IsZero() && !at.Before(x.to)) { // one without a time is in no month
		x.outside++
		return
	}
	if !x.types[e.eventType] {
		x.unknown++
		return
	}
	x.events++
	x.invalid += x.totals.add(x.properties, x.by, e.eventType, e.subject, e.time, e.data)
}

// reportRow is a line of the report.
type reportRow struct {
	EventType   string            `json:"event_type"`
	Property    string            `json:"property"`
	Aggregation meter.Aggregation `json:"aggregation"`
	Subject     string            `json:"subject"`
	By          string            `json:"by,omitempty"`
	Events      int               `json:"events"`
	Total       float64           `json:"total"`
}

func (x *reporting) print(out io.Writer, format string) error {
	var rows []reportRow
	for key, total := range x.totals {
		eventType, property, _ := strings.Cut(key.meter, " ")
		rows = append(rows, reportRow{eventType, property, total.aggregation, key.subject, key.by, total.n, total.value})
	}
	slices.SortFunc(rows, func(a, b reportRow) int {
		return cmp.Or(strings.Compare(a.EventType, b.EventType), strings.Compare(a.Property, b.Property), strings.Compare(a.Subject, b.Subject), strings.Compare(a.By, b.By))
	})
	switch format {
	case "json":
		encoder := json.NewEncoder(out)
		for _, r := range rows {
			if err := encoder.Encode(r); err != nil {
				return err
			}
		}
		return nil
	case "csv":
		w := csv.NewWriter(out)
		_ = w.Write([]string{"event_type", "property", "aggregation", "subject", strings.Join(x.by, " "), "events", "total"}) // an error comes back from Error
		for i := range rows {
			r := &rows[i]
			_ = w.Write([]string{r.EventType, r.Property, string(r.Aggregation), r.Subject, r.By, fmt.Sprint(r.Events), amount(&r.Total, "")})
		}
		w.Flush()
		return w.Error()
	default:
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprint(table, "EVENT TYPE\tWHAT\tCUSTOMER\t")
		if len(x.by) > 0 {
			fmt.Fprint(table, strings.ToUpper(strings.Join(x.by, ", "))+"\t")
		}
		fmt.Fprintln(table, "EVENTS\tTOTAL")
		for i := range rows {
			r := &rows[i]
			fmt.Fprintf(table, "%s\t%s %s\t%s\t", r.EventType, strings.ToLower(string(r.Aggregation)), r.Property, printable(r.Subject))
			if len(x.by) > 0 {
				fmt.Fprint(table, printable(r.By)+"\t")
			}
			fmt.Fprintf(table, "%d\t%s\n", r.Events, amount(&r.Total, ""))
		}
		return table.Flush()
	}
}
