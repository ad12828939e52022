package command

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/tidwall/gjson"

	"kafka-metering/meter"
)

const simulateAbout = `Says what meters would have made of past exchanges: a dry run before a change of pricing. The exchanges are those that the
plugin has kept where config.record is true.

  kafka-metering simulate -old kong.yml -new kong-new.yml /usr/local/kong/kafka-metering.spool/observations
  kafka-metering simulate -new kong.yml -by model -format csv observations/2026-11-23T*.jsonl > november.csv

It prints a total for each meter and customer, of the old and the new configuration side by side. Without -old it prints the
new one's alone. An observation holds of a response's body only what the meters read that were in force when it was kept, and
no header or query argument that may be a secret: a new meter that reads more finds it absent.`

// simulation is one run of the command.
type simulation struct {
	by     []string
	sides  [2]*simulated // old, nil without one, and new
	ids    map[uint64]struct{}
	seed   maphash.Seed
	count  int
	twice  int
	broken int
}

// simulated is one configuration's part of it.
type simulated struct {
	evaluators   *evaluators
	aggregations map[Evaluator]map[[2]string]meter.Aggregation // by event type and property
	totals       folds
	events       int
	unmetered    int // exchanges that the plugin is not enabled for
	failed       int // values and expressions
	nobody       int // exchanges without a customer, whose events go to the dead-letter topic
}

// runSimulate runs the command simulate.
func runSimulate(args []string, out, errs io.Writer, host Host) error {
	flags := flag.NewFlagSet("simulate", flag.ContinueOnError)
	flags.SetOutput(errs)
	before := flags.String("old", "", "`file` with the configuration in force: kong.yml, decK, or the plugin's config alone")
	after := flags.String("new", "", "`file` with the configuration to try")
	by := flags.String("by", "", "`dimensions` by which totals are split beside the customer: names in the events' data, with commas between them")
	format := flags.String("format", "table", "table, csv or json")
	if err := parseFiles(flags, args, simulateAbout, out); err != nil {
		return err
	}
	switch {
	case *after == "":
		return errors.New("-new: give the configuration to try")
	case flags.NArg() == 0:
		return errors.New("give the observations: files, or the directory in which the plugin keeps them where config.record is true")
	case !slices.Contains([]string{"table", "csv", "json"}, *format):
		return fmt.Errorf("-format %q: must be table, csv or json", *format)
	}
	s := &simulation{ids: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
	if *by != "" {
		s.by = dimensions(*by)
	}
	for i, path := range []string{*before, *after} {
		if path == "" {
			continue
		}
		all, err := newEvaluators(host, path, "")
		if err != nil {
			return err
		}
		for _, warning := range all.warns {
			fmt.Fprintf(errs, "kafka-metering simulate: %v\n", warning)
		}
		s.sides[i] = newSimulated(all)
	}
	files, err := observationFiles(flags.Args())
	if err != nil {
		return err
	}
	progress := newProgress(errs)
	progress.total = len(files)
	for _, name := range files {
		if err := eachDocument(name, strings.NewReader(""), func(document []byte) error { s.exchange(document); return nil }); err != nil {
			return err
		}
		progress.step()
	}
	progress.end()
	if s.count == 0 {
		return errors.New("there is no observation in these files")
	}
	return s.print(out, errs, *format)
}

func newSimulated(all *evaluators) *simulated {
	s := &simulated{evaluators: all, aggregations: map[Evaluator]map[[2]string]meter.Aggregation{}, totals: folds{}}
	for _, e := range all.made {
		s.aggregations[e] = properties(e)
	}
	return s
}

// exchange evaluates one observation. One that was kept twice, because a batch of Kong's was handed over twice, counts once.
func (s *simulation) exchange(document []byte) {
	if id := gjson.GetBytes(document, "request.id").Str; id != "" {
		key := maphash.String(s.seed, id)
		if _, known := s.ids[key]; known {
			s.twice++
			return
		}
		s.ids[key] = struct{}{}
	}
	s.count++
	text := string(document)
	for _, side := range s.sides {
		if side != nil && !side.exchange(text, s.by) {
			s.broken++
		}
	}
}

func (s *simulated) exchange(document string, by []string) (ok bool) {
	evaluator, _ := s.evaluators.find([]byte(document))
	if evaluator == nil {
		s.unmetered++
		return true
	}
	o, err := evaluator.Program().Replay(document)
	if err != nil {
		return false
	}
	r := evaluator.Program().Events(o)
	s.failed += r.MeterErrors + r.ExpressionErrors + r.ExpressionsTooCostly + r.RowsSkipped
	if r.SubjectMissing && evaluator.Program().DeadLetters() {
		s.nobody++
		return true
	}
	declared := s.aggregations[evaluator]
	for i := range r.Events {
		e := &r.Events[i]
		s.events++
		s.totals.add(declared, by, e.Type, e.Subject, e.Time, gjson.ParseBytes(e.Data))
	}
	return true
}

// simulatedRow is a line of the result.
type simulatedRow struct {
	Meter       string            `json:"meter"`
	Property    string            `json:"property"`
	Aggregation meter.Aggregation `json:"aggregation"`
	Subject     string            `json:"subject"`
	By          string            `json:"by,omitempty"`
	Old         *float64          `json:"old,omitempty"`
	New         *float64          `json:"new,omitempty"`
}

func (s *simulation) rows() []simulatedRow {
	keys := map[foldKey]bool{}
	for _, side := range s.sides {
		if side != nil {
			for key := range side.totals {
				keys[key] = true
			}
		}
	}
	var rows []simulatedRow
	for key := range keys {
		eventType, property, _ := strings.Cut(key.meter, " ")
		row := simulatedRow{Meter: eventType, Property: property, Subject: key.subject, By: key.by}
		for i, into := range []**float64{&row.Old, &row.New} {
			if s.sides[i] != nil && s.sides[i].totals[key] != nil {
				*into = &s.sides[i].totals[key].value
				row.Aggregation = s.sides[i].totals[key].aggregation
			}
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b simulatedRow) int {
		return cmp.Or(strings.Compare(a.Meter, b.Meter), strings.Compare(a.Property, b.Property), strings.Compare(a.Subject, b.Subject), strings.Compare(a.By, b.By))
	})
	return rows
}

// withTotals puts a total of all customers behind the rows of each meter that adds up, where there is more than one.
func withTotals(rows []simulatedRow) []simulatedRow {
	var out []simulatedRow
	for len(rows) > 0 {
		first, n := rows[0], 1
		for n < len(rows) && rows[n].Meter == first.Meter && rows[n].Property == first.Property {
			n++
		}
		out = append(out, rows[:n]...)
		if n > 1 && (first.Aggregation == meter.Sum || first.Aggregation == meter.Count) {
			total := simulatedRow{Meter: first.Meter, Property: first.Property, Aggregation: first.Aggregation, Subject: "all"}
			for _, r := range rows[:n] {
				total.Old, total.New = plus(total.Old, r.Old), plus(total.New, r.New)
			}
			out = append(out, total)
		}
		rows = rows[n:]
	}
	return out
}

// plus adds what is there.
func plus(a, b *float64) *float64 {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	sum := *a + *b
	return &sum
}

func (s *simulation) print(out, errs io.Writer, format string) error {
	rows := s.rows()
	switch format {
	case "json":
		encoder := json.NewEncoder(out)
		for _, row := range rows {
			if err := encoder.Encode(row); err != nil {
				return err
			}
		}
	case "csv":
		w := csv.NewWriter(out)
		_ = w.Write([]string{"event_type", "property", "aggregation", "subject", cmp.Or(strings.Join(s.by, " "), "by"), "old", "new", "difference"}) // an error comes back from Error
		for i := range rows {
			r := &rows[i]
			change := ""
			if s.sides[0] != nil {
				more, _ := difference(r.Old, r.New)
				change = amount(&more, "")
			}
			_ = w.Write([]string{r.Meter, r.Property, string(r.Aggregation), r.Subject, r.By, amount(r.Old, ""), amount(r.New, ""), change})
		}
		w.Flush()
		if err := w.Error(); err != nil {
			return err
		}
	default:
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		split := ""
		if len(s.by) > 0 {
			split = strings.ToUpper(strings.Join(s.by, ", ")) + "\t"
		}
		head := "NEW"
		if s.sides[0] != nil {
			head = "OLD\tNEW\tDIFFERENCE"
		}
		fmt.Fprintf(table, "EVENT TYPE\tWHAT\tCUSTOMER\t%s%s\n", split, head)
		rows = withTotals(rows)
		for i := range rows {
			r := &rows[i]
			fmt.Fprintf(table, "%s\t%s %s\t%s\t", r.Meter, strings.ToLower(string(r.Aggregation)), r.Property, printable(r.Subject))
			if len(s.by) > 0 {
				fmt.Fprint(table, printable(r.By)+"\t")
			}
			if s.sides[0] != nil {
				fmt.Fprintf(table, "%s\t%s\t%s\n", amount(r.Old, "–"), amount(r.New, "–"), differenceText(r.Old, r.New))
			} else {
				fmt.Fprintf(table, "%s\n", amount(r.New, "–"))
			}
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	s.summary(errs)
	return nil
}

// summary says what was read and what could not be counted.
func (s *simulation) summary(errs io.Writer) {
	fmt.Fprintf(errs, "%d exchanges", s.count)
	for i, name := range []string{"old", "new"} {
		side := s.sides[i]
		if side == nil {
			continue
		}
		fmt.Fprintf(errs, "; %s: %d events", name, side.events)
		if side.unmetered > 0 {
			fmt.Fprintf(errs, ", the plugin not enabled for %d", side.unmetered)
		}
		if side.nobody > 0 {
			fmt.Fprintf(errs, ", those of %d without a customer on the dead-letter topic", side.nobody)
		}
		if side.failed > 0 {
			fmt.Fprintf(errs, ", %d values that were invalid or could not be evaluated", side.failed)
		}
	}
	if s.twice > 0 {
		fmt.Fprintf(errs, "; %d were kept twice and count once", s.twice)
	}
	if s.broken > 0 {
		fmt.Fprintf(errs, "; %d could not be read", s.broken)
	}
	fmt.Fprintln(errs)
}

// amount writes a total: whole numbers whole, others without the noise of binary fractions.
func amount(v *float64, absent string) string {
	if v == nil {
		return absent
	}
	f := *v
	if f != math.Trunc(f) {
		f, _ = strconv.ParseFloat(strconv.FormatFloat(f, 'g', 15, 64), 64)
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// difference is what the new configuration counts more, and by how many percent; these are not finite where the old one counts
// nothing.
func difference(before, after *float64) (more, percent float64) {
	var a, b float64
	if before != nil {
		a = *before
	}
	if after != nil {
		b = *after
	}
	if more = b - a; math.Abs(more) <= 1e-12*max(math.Abs(a), math.Abs(b)) {
		more = 0
	}
	return more, 100 * more / a
}

// differenceText is a difference for people.
func differenceText(before, after *float64) string {
	more, percent := difference(before, after)
	switch text := fmt.Sprintf("%+.1f %%", percent); {
	case more == 0:
		return "0"
	case math.IsInf(percent, 0):
		return "+" + amount(&more, "")
	case more > 0:
		return "+" + amount(&more, "") + " (" + text + ")"
	default:
		return amount(&more, "") + " (" + text + ")"
	}
}
