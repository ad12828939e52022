package command

import (
	"cmp"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"kafka-metering/meter"
)

// foldKey says what a total is of.
type foldKey struct{ meter, subject, by string }

// fold is an aggregation as OpenMeter does it.
type fold struct {
	aggregation meter.Aggregation
	n           int
	value       float64
	unique      map[string]struct{}
	latest      time.Time
}

// add folds a value in, and reports whether it could: all but different values are counted must be finite numbers.
func (f *fold) add(v gjson.Result, at time.Time) bool {
	if f.aggregation != meter.UniqueCount && f.aggregation != meter.Count && (v.Type != gjson.Number || math.IsInf(v.Num, 0)) {
		return false
	}
	f.n++
	x := v.Float()
	switch f.aggregation {
	case meter.Min:
		if f.n == 1 || x < f.value {
			f.value = x
		}
	case meter.Max:
		if f.n == 1 || x > f.value {
			f.value = x
		}
	case meter.Avg:
		f.value += (x - f.value) / float64(f.n)
	case meter.Latest:
		if !at.Before(f.latest) {
			f.latest, f.value = at, x
		}
	case meter.Count:
		f.value++
	case meter.UniqueCount:
		value := v.String()
		if _, known := f.unique[value]; !known {
			f.unique[strings.Clone(value)] = struct{}{} // else the whole event stays in memory
		}
		f.value = float64(len(f.unique))
	default:
		f.value += x
	}
	return true
}

// folds are totals, as the meters declare them.
type folds map[foldKey]*fold

// dimensions returns the names in a flag.
func dimensions(flag string) []string {
	names := strings.Split(flag, ",")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	return names
}

// add folds an event's values in. properties says which of its members are values, and how they are folded: by event type and
// name. by are the dimensions that split a total, beside the subject. It returns how many values are no numbers.
func (f folds) add(properties map[[2]string]meter.Aggregation, by []string, eventType, subject, at string, data gjson.Result) (invalid int) {
	moment, _ := time.Parse(time.RFC3339, at) // one without a time is the oldest
	parts := make([]string, len(by))
	for i, name := range by {
		if parts[i] = data.Get(gjson.Escape(name)).String(); len(by) > 1 && strings.ContainsAny(parts[i], `,"`) {
			parts[i] = strconv.Quote(parts[i]) // else two splits could read alike
		}
	}
	data.ForEach(func(k, v gjson.Result) bool {
		aggregation, counted := properties[[2]string{eventType, k.Str}]
		if !counted {
			return true
		}
		key := foldKey{eventType + " " + k.Str, subject, strings.Join(parts, ", ")}
		total := f[key]
		if total == nil {
			key.subject, key.by = strings.Clone(key.subject), strings.Clone(key.by) // else the whole event stays in memory
			total = &fold{aggregation: aggregation, unique: map[string]struct{}{}}
			f[key] = total
		}
		if !total.add(v, moment) {
			if invalid++; total.n == 0 {
				delete(f, key)
			}
		}
		return true
	})
	return invalid
}

// properties returns the values of an evaluator's events, by event type and name, and how they are folded.
func properties(e Evaluator) map[[2]string]meter.Aggregation {
	all := map[[2]string]meter.Aggregation{}
	for _, m := range e.Program().Declared() {
		all[counted(m)] = m.Aggregation
	}
	return all
}

// counted is where a meter's value stands: the event type and the property.
func counted(m meter.Meter) [2]string {
	return [2]string{m.EventType, cmp.Or(m.ValueProperty, meter.DefaultValueProperty)}
}
