package command

import (
	"cmp"
	"strconv"
	"strings"

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
	latest      string
}

func (f *fold) add(v gjson.Result, time string) {
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
		if time >= f.latest {
			f.latest, f.value = time, x
		}
	case meter.Count:
		f.value++
	case meter.UniqueCount:
		f.unique[v.String()] = struct{}{}
		f.value = float64(len(f.unique))
	default:
		f.value += x
	}
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
// name. by are the dimensions that split a total, beside the subject.
func (f folds) add(properties map[[2]string]meter.Aggregation, by []string, eventType, subject, time string, data gjson.Result) {
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
			total = &fold{aggregation: aggregation, unique: map[string]struct{}{}}
			f[key] = total
		}
		total.add(v, time)
		return true
	})
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
