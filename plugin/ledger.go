package main

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"kafka-metering/meter"
)

// place is where an exchange ends. Each exchange ends in exactly one, so that
// observed = spooled + skipped + dropped + failed holds at every quiet moment.
type place struct{ outcome, reason string }

// The places.
var (
	placeSpooled = place{"spooled", ""}       // its events are on disk
	placeMemory  = place{"spooled", "memory"} // the disk cannot be written: its events are in memory, until they are published or it can

	placeNoMeter   = place{"skipped", "no_meter"}   // no meter applies
	placeNoSubject = place{"skipped", "no_subject"} // no customer, and the configuration says drop
	placeDryRun    = place{"skipped", "dry_run"}
	placeRepeated  = place{"skipped", "repeated"} // Kong handed the same exchange over again

	placeSpoolFull = place{"dropped", "spool_full"} // queue.max_bytes reached
	placeBusy      = place{"dropped", "busy"}       // the disk does not keep up
	placeStopping  = place{"dropped", "stopping"}   // the process is on its way out

	placeDisk      = place{"failed", "disk"}      // the spool could not be written
	placeSerialize = place{"failed", "serialize"} // Kong gave no log
	placeBadLog    = place{"failed", "bad_log"}   // Kong's log is not a JSON object
	placePanic     = place{"failed", "panic"}     // a defect of ours
)

var places = [...]place{
	placeSpooled, placeMemory, placeNoMeter, placeNoSubject, placeDryRun, placeRepeated, placeSpoolFull, placeBusy, placeStopping,
	placeDisk, placeSerialize, placeBadLog, placePanic,
	placeWorkerQueueFull, placeWorkerLog, placeWorkerError, placeWorkerRefused, placeWorkerExit, placeGap,
}

// extraction is how reading the usage of an exchange ended. Each exchange that may be an LLM call ends in exactly one.
type extraction string

// The extractions.
const (
	extractionOK         extraction = "ok"
	extractionAIProxy    extraction = "ai_proxy" // Kong's statistics instead of the body
	extractionNotLLM     extraction = "not_llm"
	extractionNoUsage    extraction = "no_usage"
	extractionNoBody     extraction = "no_body"
	extractionUnparsable extraction = "unparsable"
	extractionTruncated  extraction = "truncated"
	extractionTooLarge   extraction = "too_large"
	extractionEncoding   extraction = "encoding"
)

var extractions = [...]extraction{
	extractionOK, extractionAIProxy, extractionNotLLM, extractionNoUsage, extractionNoBody, extractionUnparsable,
	extractionTruncated, extractionTooLarge, extractionEncoding,
}

// ledger counts exchanges, and what happened to them on the way.
type ledger struct {
	set         *metrics.Set
	observed    *metrics.Counter
	ends        map[place]*metrics.Counter
	extractions map[extraction]*metrics.Counter

	handOvers           *metrics.PrometheusHistogram // seconds until the events of an exchange were on disk
	batchHandOvers      *metrics.PrometheusHistogram // likewise, of a batch of the Lua front
	bodiesUnread        *metrics.Counter             // Kong said that it had buffered a body, and could not give it
	handOversLate       *metrics.Counter             // the front did not wait until its exchange was on disk
	configProblems      *metrics.Counter
	valuesInvalid       *metrics.Counter
	expressionsFailed   *metrics.Counter
	expressionsCostly   *metrics.Counter
	rowsSkipped         *metrics.Counter
	dimensionsInvalid   *metrics.Counter
	dimensionsTruncated *metrics.Counter
	withoutRequestID    *metrics.Counter
	withoutStartTime    *metrics.Counter
	withoutSubject      *metrics.Counter
	usagesInconsistent  *metrics.Counter

	observationsKept    *metrics.Counter
	observationsDropped *metrics.Counter

	batchesTaken    *metrics.Counter // of the Lua front: whose events are in the spool
	batchesRepeated *metrics.Counter // that had been taken before
	batchesLater    *metrics.Counter // that the spool could not take
	workersLost     *metrics.Counter // of Kong, that are gone without goodbye

	tickets atomic.Pointer[generation] // new ones are of this generation
	aging   sync.Mutex
	aged    []*generation // those before, oldest first, that still have tickets
}

// generation is the tickets that were opened at about the same time. It tells an exchange that is under way from one that
// nobody will end.
type generation struct {
	under  atomic.Int64 // tickets that have no end yet
	closed time.Time    // when the next generation began
}

const (
	generationTime = 10 * time.Second
	// overdue is the age from which an exchange without an end is missing in the sums.
	overdue = time.Minute
)

// handOverBounds are those of the histograms of hand-overs, in seconds: from a disk that flushes at once to [handOverLimit].
var handOverBounds = []float64{.001, .002, .003, .004, .005, .01, .02, .05, .1, .5, handOverLimit.Seconds()}

func newLedger() *ledger {
	set := metrics.NewSet()
	l := &ledger{
		set:         set,
		observed:    set.NewCounter("kong_meter_exchanges_observed_total"),
		ends:        map[place]*metrics.Counter{},
		extractions: map[extraction]*metrics.Counter{},

		handOvers:           set.NewPrometheusHistogramExt(`kong_meter_handover_duration_seconds{front="pdk"}`, handOverBounds),
		batchHandOvers:      set.NewPrometheusHistogramExt(`kong_meter_handover_duration_seconds{front="lua"}`, handOverBounds),
		bodiesUnread:        set.NewCounter("kong_meter_bodies_unread_total"),
		handOversLate:       set.NewCounter("kong_meter_handovers_late_total"),
		configProblems:      set.NewCounter("kong_meter_config_problems_total"),
		expressionsFailed:   set.NewCounter("kong_meter_expressions_failed_total"),
		expressionsCostly:   set.NewCounter("kong_meter_expressions_too_costly_total"),
		rowsSkipped:         set.NewCounter("kong_meter_rows_skipped_total"),
		valuesInvalid:       set.NewCounter("kong_meter_values_invalid_total"),
		dimensionsInvalid:   set.NewCounter("kong_meter_dimensions_invalid_total"),
		dimensionsTruncated: set.NewCounter("kong_meter_dimensions_truncated_total"),
		withoutRequestID:    set.NewCounter("kong_meter_exchanges_without_request_id_total"),
		withoutStartTime:    set.NewCounter("kong_meter_exchanges_without_start_time_total"),
		withoutSubject:      set.NewCounter("kong_meter_exchanges_without_subject_total"),
		usagesInconsistent:  set.NewCounter("kong_meter_usages_inconsistent_total"),

		observationsKept:    set.NewCounter(`kong_meter_observations_total{result="kept"}`),
		observationsDropped: set.NewCounter(`kong_meter_observations_total{result="dropped"}`),

		batchesTaken:    set.NewCounter(`kong_meter_lane_batches_total{result="taken"}`),
		batchesRepeated: set.NewCounter(`kong_meter_lane_batches_total{result="repeated"}`),
		batchesLater:    set.NewCounter(`kong_meter_lane_batches_total{result="later"}`),
		workersLost:     set.NewCounter("kong_meter_lane_workers_lost_total"),
	}
	for _, p := range places {
		l.ends[p] = set.NewCounter(fmt.Sprintf("kong_meter_exchanges_total{outcome=%q,reason=%q}", p.outcome, p.reason))
	}
	for _, e := range extractions {
		l.extractions[e] = set.NewCounter(fmt.Sprintf("kong_meter_extractions_total{result=%q}", e))
	}
	l.tickets.Store(&generation{})
	set.NewGauge("kong_meter_exchanges_under_way", func() float64 { return float64(l.balance()) })
	return l
}

// tally counts how the extraction of an exchange ended, "" where there was none, and what the meters reported beside its events.
func (l *ledger) tally(e extraction, n *meter.Notes) {
	if e != "" {
		l.extractions[e].Inc()
	}
	l.valuesInvalid.Add(n.MeterErrors)
	l.expressionsFailed.Add(n.ExpressionErrors)
	l.expressionsCostly.Add(n.ExpressionsTooCostly)
	l.rowsSkipped.Add(n.RowsSkipped)
	l.dimensionsInvalid.Add(n.DimensionErrors)
	l.dimensionsTruncated.Add(n.DimensionsTruncated)
	for _, note := range [...]struct {
		happened bool
		counter  *metrics.Counter
	}{
		{n.NoRequestID, l.withoutRequestID},
		{n.NoStartTime, l.withoutStartTime},
		{n.SubjectMissing, l.withoutSubject},
		{n.UsageInconsistent, l.usagesInconsistent},
	} {
		if note.happened {
			note.counter.Inc()
		}
	}
}

// ticket is one exchange's place in the ledger. It ends once, whoever comes first: the handler, or the spool that
// finishes after the handler gave up waiting.
type ticket struct {
	ledger     *ledger
	generation *generation
	ended      atomic.Bool
}

// open counts an exchange as observed.
func (l *ledger) open() *ticket {
	g := l.tickets.Load()
	g.under.Add(1)
	l.observed.Inc()
	return &ticket{ledger: l, generation: g}
}

func (t *ticket) end(p place) {
	if t.ended.CompareAndSwap(false, true) {
		t.ledger.ends[p].Inc()
		t.generation.under.Add(-1)
	}
}

// balance returns observed minus the sum of all ends: the exchanges that are under way, 0 at every quiet moment.
func (l *ledger) balance() int64 {
	var ended uint64
	for _, c := range l.ends {
		ended += c.Get()
	}
	return int64(l.observed.Get()) - int64(ended)
}

// age begins a new generation when the one before has lasted, and forgets those whose tickets have all ended.
func (l *ledger) age(now time.Time) {
	l.aging.Lock()
	defer l.aging.Unlock()
	if n := len(l.aged); n == 0 || now.Sub(l.aged[n-1].closed) >= generationTime {
		old := l.tickets.Swap(&generation{})
		old.closed = now
		l.aged = append(l.aged, old)
	}
	l.aged = slices.DeleteFunc(l.aged, func(g *generation) bool { return now.Sub(g.closed) > overdue && g.under.Load() == 0 })
}

// imbalance returns how many exchanges the sums miss now: those that began more than a minute ago and have no end, and
// the difference between what is under way by the sums and by the tickets. Read while exchanges begin and end, it may be
// off by a few.
func (l *ledger) imbalance(now time.Time) int64 {
	l.aging.Lock()
	defer l.aging.Unlock()
	under, missing := l.tickets.Load().under.Load(), int64(0)
	for _, g := range l.aged {
		n := g.under.Load()
		under += n
		if now.Sub(g.closed) > overdue {
			missing += n
		}
	}
	return missing + l.balance() - under
}
