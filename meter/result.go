package meter

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"kafka-metering/meter/scan"
)

// Result is what a program made of an exchange.
type Result struct {
	Events  []Event // in the order of their ids
	Dropped bool    // there are no events, because no source named a customer: [MissingDrop]
	Failure error   // the first of the errors that Notes counts, with its meter: for a log
	Notes

	x evaluation
}

// Notes are what is to be counted of an exchange beside its events.
type Notes struct {
	SubjectMissing       bool // no source named a customer
	MeterErrors          int  // values that are not a finite number of at least zero: published nowhere
	ExpressionErrors     int  // filters, values and lists that could not be evaluated: their meters do not apply
	ExpressionsTooCostly int  // the same, because they cost too much for this exchange
	RowsSkipped          int  // rows of for_each behind the thousandth: published nowhere
	DimensionErrors      int  // dimensions that are objects, or could not be evaluated: left out
	DimensionsTruncated  int  // dimensions of more than 256 bytes: cut
	NoRequestID          bool // the ids are a hash of the log
	NoStartTime          bool // Time is for the caller to set
	UsageInconsistent    bool // the declared cached tokens exceed the declared input
}

// Reset forgets the exchange. What Events held may not be used any more.
func (r *Result) Reset() {
	clear(r.Events)
	r.x.reset()
	*r = Result{Events: r.Events[:0], x: r.x}
}

// SetTime sets the time of events whose exchange had no start time.
func (r *Result) SetTime(t time.Time) {
	text := FormatTime(t)
	for i := range r.Events {
		r.Events[i].Time = text
	}
}

// maxRows bounds the events of one type that one exchange may become.
const maxRows = 1000

// events appends t's events for one exchange to r.
func (t *eventType) events(base *Event, id string, r *Result) {
	x := &r.x
	x.passed = slices.Grow(x.passed[:0], len(t.meters))[:len(t.meters)]
	passed, any := x.passed, false
	for i := range t.meters {
		m := &t.meters[i]
		passed[i] = m.always
		if !m.always {
			raw := r.evaluate(&m.filter, x, m.slug, "filter")
			passed[i] = raw == "true"
			if raw != "" && raw != "true" && raw != "false" {
				r.ExpressionErrors++
				r.fail(m.slug, "filter", errNotBool)
			}
		}
		any = any || passed[i]
	}
	if !any {
		return
	}
	if t.row == nil {
		if data := t.data(x, passed, r); data != nil {
			e := *base
			e.ID, e.Data = id+"/"+t.name, data
			r.Events = append(r.Events, e)
		}
		return
	}
	list := r.evaluate(&t.each, x, t.meters[0].slug, "for_each")
	if list == "" || list[0] != '[' {
		if list != "" {
			r.ExpressionErrors++
			r.fail(t.meters[0].slug, "for_each", errNotList)
		}
		return
	}
	for index := range t.rows(list, x) {
		if index >= maxRows {
			r.RowsSkipped++
			r.fail(t.meters[0].slug, "for_each", errTooManyRows)
			continue
		}
		x.applies = append(x.applies[:0], passed...)
		if data := t.data(x, x.applies, r); data != nil {
			e := *base
			e.ID, e.Data = id+"/"+t.name+"/"+strconv.Itoa(index), data
			r.Events = append(r.Events, e)
		}
	}
}

// rows has x be at each row of a list in turn.
func (t *eventType) rows(list string, x *evaluation) iter.Seq[int] {
	return func(yield func(index int) bool) {
		x.row = slices.Grow(x.row[:0], t.row.slots+1)[:t.row.slots+1]
		rows := scan.Scanner[string]{Unescape: true}
		rows.Open(list)
		for index := 0; ; index++ {
			clear(x.row)
			element, _ := rows.Next(&t.row.shape, x.row) // no error: the list has been scanned before
			if element == "" {
				return
			}
			if x.row[0] = element; element == "null" {
				x.row[0] = "" // as good as absent, as everywhere
			}
			if !yield(index) {
				return
			}
		}
	}
}

var (
	errNotBool     = errors.New("is neither true nor false")
	errNotList     = errors.New("is not a list")
	errTooManyRows = fmt.Errorf("has more than %d rows", maxRows)
	errNotCount    = errors.New("is not a finite number of at least 0")
)

// evaluate returns an expression's value as raw JSON, "" where it has none, and counts a failure.
func (r *Result) evaluate(e *expr, x *evaluation, meter, field string) string {
	raw, err := e.eval(x)
	if err == nil {
		return raw
	}
	r.fail(meter, field, err)
	if errors.Is(err, ErrCost) {
		r.ExpressionsTooCostly++
	} else {
		r.ExpressionErrors++
	}
	return ""
}

// fail keeps the first failure.
func (r *Result) fail(meter, field string, err error) {
	if r.Failure == nil {
		r.Failure = &Problem{Meter: meter, Field: field, Offset: -1, Err: err}
	}
}

// data returns the event's data, or nil when no meter applies. It changes passed.
func (t *eventType) data(x *evaluation, passed []bool, r *Result) []byte {
	applies := false
	var space [2]string
	values := space[:0] // of the members that are values, in their order
	for i := range t.members {
		m := &t.members[i]
		if !m.value {
			continue
		}
		if !m.applies(passed) {
			values = append(values, "")
			continue
		}
		raw, valid := "1", true
		if !m.one {
			raw = r.evaluate(&m.expr, x, t.meters[m.owners[0]].slug, "value")
			valid = raw == "" || m.publishable(raw)
		}
		values = append(values, raw)
		for _, owner := range m.owners {
			if !passed[owner] {
				continue
			}
			if !valid {
				r.MeterErrors++
				r.fail(t.meters[owner].slug, "value", errNotCount)
			}
			passed[owner] = raw != "" && valid
			applies = applies || passed[owner]
		}
	}
	if !applies {
		return nil
	}
	x.data = append(slices.Grow(x.data, 64+16*len(t.members)), '{')
	begin, b := len(x.data)-1, x.data
	for i := range t.members {
		m := &t.members[i]
		raw := ""
		if m.value {
			raw, values = values[0], values[1:]
		}
		if !m.applies(passed) {
			continue
		}
		if !m.value {
			var err error
			if raw, err = m.expr.eval(x); err != nil {
				r.DimensionErrors++
				r.fail(t.meters[m.owners[0]].slug, "group_by."+m.key, err)
			}
		}
		mark := len(b)
		b = append(b, m.label...)
		start := len(b)
		b = appendScalar(b, raw, r)
		if len(b) == start {
			b = b[:mark]
			continue
		}
		b = append(b, ',')
	}
	b[len(b)-1] = '}'
	x.data = b // where that has moved, the data before stay where they are
	return b[begin:len(b):len(b)]
}

// applies reports whether a meter that the member belongs to does.
func (m *member) applies(passed []bool) bool {
	for _, owner := range m.owners {
		if passed[owner] {
			return true
		}
	}
	return false
}

// publishable reports whether a value may be published. A text that is longer than an event can carry is no value of a
// UNIQUE_COUNT: cut short it might be another one's.
func (m *member) publishable(raw string) bool {
	if m.agg == UniqueCount {
		switch raw[0] {
		case '{', '[':
			return false
		case 't', 'f':
			return true
		case '"':
			s, _ := text(raw)
			return len(s) <= maxText
		}
		_, ok := number(raw) // 1e999 is none
		return ok
	}
	if isCount(raw) {
		return true
	}
	f, ok := number(raw)
	return ok && f >= 0
}

// appendScalar appends a raw JSON value as an event's data may hold it; nothing when it may not. A list of scalars, as
// Kong logs a repeated header, becomes the comma-separated text that HTTP makes of it.
func appendScalar(b []byte, raw string, r *Result) []byte {
	if raw == "" {
		return b
	}
	switch raw[0] {
	case 't', 'f':
		return append(b, raw...)
	case '"':
		if len(raw) <= maxText && scan.Plain(raw[1:len(raw)-1]) {
			return append(b, raw...)
		}
		s, _ := text(raw)
		return appendString(b, r.cut(s))
	case '{':
		r.DimensionErrors++
		return b
	case '[':
		var parts []string
		scalars := true
		gjson.Parse(raw).ForEach(func(_, v gjson.Result) bool {
			parts = append(parts, v.String())
			scalars = v.Type != gjson.JSON
			return scalars
		})
		if !scalars {
			r.DimensionErrors++
			return b
		}
		return appendString(b, r.cut(strings.Join(parts, ", ")))
	default:
		if isCount(raw) {
			return append(b, raw...)
		}
		if isLongInteger(raw) {
			return append(b, raw...) // an id, of which a double would make another one's
		}
		if f, ok := number(raw); ok {
			return appendNumber(b, f)
		}
		r.DimensionErrors++
		return b
	}
}

// cut bounds a dimension to maxText bytes.
func (r *Result) cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	r.DimensionsTruncated++
	end := maxText
	for end > maxText-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}
