package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"text/tabwriter"

	"kafka-metering/plugin/devkong/replay"
)

// errDiffers is returned when the events do not say what the upstream declared.
var errDiffers = errors.New("the events on the topic are not what was sent and declared: see above")

// seen remembers which events have arrived: by type and request id.
type seen struct {
	mu     sync.Mutex
	events map[[2]string]bool
	more   chan struct{} // closed and replaced with each event
}

func newSeen() *seen { return &seen{events: map[[2]string]bool{}, more: make(chan struct{})} }

func (s *seen) add(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events[[2]string{e.eventType, e.data.Get("request_id").Str}] = true
	close(s.more)
	s.more = make(chan struct{})
}

// wait waits until every wanted event has arrived, or ctx ends.
func (s *seen) wait(ctx context.Context, wanted [][2]string) {
	for {
		s.mu.Lock()
		missing := false
		for _, key := range wanted {
			missing = missing || !s.events[key]
		}
		more := s.more
		s.mu.Unlock()
		if !missing {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

// expected returns the type and request id of the events that must come of what was sent.
func (s *stage) expected(sent []answer) [][2]string {
	declared := s.upstream.Declared()
	var all [][2]string
	for _, a := range sent {
		all = append(all, [2]string{"kong.api_request", a.requestID})
		if d, ok := declared[a.requestID]; ok && d.Declared {
			all = append(all, [2]string{"kong.llm_usage", a.requestID}, [2]string{"kong.llm_request", a.requestID})
		}
	}
	return all
}

// checks are the numbers of a call that must be on the topic as the upstream declared them: the property of
// kong.llm_usage, and the value.
var checks = []struct {
	property string
	declared func(replay.Usage) int64
}{
	{"input_tokens", func(u replay.Usage) int64 { return u.Input }},
	{"output_tokens", func(u replay.Usage) int64 { return u.Output }},
	{"total_tokens", replay.Usage.Total},
	{"cache_read_input_tokens", func(u replay.Usage) int64 { return u.CacheRead }},
	{"cache_write_input_tokens", func(u replay.Usage) int64 { return u.CacheWrite }},
	{"reasoning_output_tokens", func(u replay.Usage) int64 { return u.Reasoning }},
}

// check compares the events with what was sent and with what the upstream declared, call by call, and prints the sums.
func (s *stage) check(out io.Writer, sent []answer, events []event) error {
	requests, usages, rows := map[string]int{}, map[string]event{}, map[string]int64{}
	for _, e := range events {
		id := e.data.Get("request_id").Str
		switch e.eventType {
		case "kong.api_request":
			requests[id]++
		case "kong.llm_usage":
			usages[id] = e
		case "kong.llm_request":
			rows[id] += e.data.Get("tokens").Int()
		}
	}
	var wrong []string
	report := func(id, what string, want, got any) {
		wrong = append(wrong, fmt.Sprintf("request %s: %s is %v on the topic, want %v", id, what, got, want))
	}
	for _, a := range sent {
		if requests[a.requestID] != 1 {
			report(a.requestID, "its number of kong.api_request events", 1, requests[a.requestID])
		}
	}
	var line lines
	line.add("requests", int64(len(sent)), int64(len(requests)))
	var withUsage, without, metered, missing int64
	declared, found := make([]int64, len(checks)), make([]int64, len(checks))
	var tokens, summed int64
	for id, d := range s.upstream.Declared() {
		e, ok := usages[id]
		status := e.data.Get("usage_status").Str
		if !d.Declared {
			without++
			if ok && status == "missing" && rows[id] == 0 {
				missing++
			} else {
				report(id, "usage_status", "missing", strconv.Quote(status))
			}
			continue
		}
		withUsage++
		if ok && status == "final" {
			metered++
		} else {
			report(id, "usage_status", "final", strconv.Quote(status))
		}
		for i, c := range checks {
			want, got := c.declared(d.Usage), e.data.Get(c.property).Int()
			declared[i], found[i] = declared[i]+want, found[i]+got
			if want != got {
				report(id, c.property, want, got)
			}
		}
		tokens, summed = tokens+d.Usage.Total(), summed+rows[id]
		if rows[id] != d.Usage.Total() {
			report(id, "the sum of its kong.llm_request events", d.Usage.Total(), rows[id])
		}
	}
	line.add("LLM calls with usage", withUsage, metered)
	line.add("LLM calls without", without, missing)
	for i, c := range checks {
		line.add(c.property, declared[i], found[i])
	}
	line.add("tokens, by type", tokens, summed)
	fmt.Fprintln(out, "Compared with what was sent and what the upstream declared:")
	fmt.Fprintln(out)
	if err := line.print(out); err != nil {
		return err
	}
	const shown = 10
	for _, text := range wrong[:min(len(wrong), shown)] {
		fmt.Fprintln(out, text)
	}
	if len(wrong) > 0 || line.differ {
		return errDiffers
	}
	fmt.Fprintln(out, "\nEqual, call by call and to the token.")
	return nil
}

// lines is the table of a comparison.
type lines struct {
	rows   [][3]string
	differ bool
}

func (l *lines) add(what string, want, got int64) {
	row := [3]string{what, strconv.FormatInt(want, 10), strconv.FormatInt(got, 10)}
	if want != got {
		l.differ = true
		row[2] += "  DIFFERS"
	}
	l.rows = append(l.rows, row)
}

func (l *lines) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT\tSENT OR DECLARED\tON THE TOPIC")
	for _, r := range l.rows {
		fmt.Fprintf(table, "%s\t%s\t%s\n", r[0], r[1], r[2])
	}
	return table.Flush()
}
