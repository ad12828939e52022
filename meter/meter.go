package meter

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"kafka-metering/meter/scan"
)

// Aggregation says how a consumer folds a meter's values, in OpenMeter's words. It decides what a value may be; the
// folding itself is the consumer's.
type Aggregation string

// The aggregations.
const (
	Count       Aggregation = "COUNT"
	Sum         Aggregation = "SUM"
	Min         Aggregation = "MIN"
	Max         Aggregation = "MAX"
	Avg         Aggregation = "AVG"
	UniqueCount Aggregation = "UNIQUE_COUNT"
	Latest      Aggregation = "LATEST"
)

// Defaults of a meter that leaves them out.
const (
	DefaultEventType     = "kong.meter"
	DefaultValueProperty = "value"
)

// Meter is one declared meter: when it applies, what it counts and how the count is split. Filter, Value, ForEach and
// the values of GroupBy are expressions over the [Observation].
type Meter struct {
	Slug          string
	EventType     string            // CloudEvents type; empty is [DefaultEventType]
	Aggregation   Aggregation       //
	Filter        string            // the meter applies when it is true; empty is always
	Value         string            // what is counted; empty for Count, which counts 1
	ValueProperty string            // the value's key in the event's data; empty is [DefaultValueProperty]
	GroupBy       map[string]string // dimension name to expression
	ForEach       string            // a list: one event for each element, bound to `each`
}

// eachRoot is the name that a row of for_each is bound to.
const eachRoot = "each"

// member is one key of an event's data. Several meters of an event type may own it, with one meaning.
type member struct {
	key    string
	source string // the expression as declared, to tell two meanings apart
	value  bool   // a counted value rather than a dimension
	agg    Aggregation
	expr   expr
	one    bool  // the value is the constant 1 of a COUNT
	row    bool  // read from the row rather than from the observation
	owners []int // meters of the event type
}

// eventType is everything that meters of one event type say, compiled.
type eventType struct {
	name     string
	meters   []compiledMeter
	members  []member // by key
	forEach  string
	each     expr
	row      scan.Shape // paths into a row, in a numbering of its own
	rowSlots int
}

type compiledMeter struct {
	slug   string
	filter expr
	always bool
}

// add compiles m into t. On an error t is unchanged but for paths that nobody reads.
func (t *eventType) add(m Meter, p *paths) error {
	if len(t.meters) > 0 && m.ForEach != t.forEach {
		return fmt.Errorf("for_each %q differs from %q of meter %q of the same event type %q", m.ForEach, t.forEach, t.meters[0].slug, t.name)
	}
	compiled := compiledMeter{slug: m.Slug, always: m.Filter == ""}
	if m.Filter != "" {
		fn, _, err := splitCall(m.Filter)
		if err == nil && fn != "" && fn != "has" {
			err = fmt.Errorf("expression %q is not true or false", m.Filter)
		}
		if err == nil {
			compiled.filter, err = compileExpr(m.Filter, p.add)
		}
		if err != nil {
			return fmt.Errorf("filter: %w", err)
		}
	}
	index := len(t.meters)
	var fresh []member
	property := m.ValueProperty
	if property == "" {
		property = DefaultValueProperty
	}
	declare := func(candidate member) error {
		if i := slices.IndexFunc(t.members, func(o member) bool { return o.key == candidate.key }); i >= 0 {
			other := &t.members[i]
			if other.source != candidate.source || other.value != candidate.value || candidate.value && other.agg != candidate.agg {
				return fmt.Errorf("gives %q of event type %q another meaning than meter %q does", candidate.key, t.name, t.meters[other.owners[0]].slug)
			}
		}
		if slices.ContainsFunc(fresh, func(o member) bool { return o.key == candidate.key }) {
			return fmt.Errorf("uses %q for its value and for a dimension", candidate.key)
		}
		var err error
		if !candidate.one {
			candidate.expr, candidate.row, err = t.compileMember(candidate.source, m.ForEach, p)
		}
		candidate.owners = []int{index}
		fresh = append(fresh, candidate)
		return err
	}
	switch {
	case m.Value == "" && m.Aggregation != Count:
		return fmt.Errorf("value: aggregation %s needs one", m.Aggregation)
	case m.Value == "":
		if err := declare(member{key: property, value: true, one: true, agg: Count}); err != nil {
			return err
		}
	default:
		if err := declare(member{key: property, value: true, source: strings.TrimSpace(m.Value), agg: m.Aggregation}); err != nil {
			return fmt.Errorf("value: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.GroupBy)) {
		if err := declare(member{key: name, source: strings.TrimSpace(m.GroupBy[name])}); err != nil {
			return fmt.Errorf("group_by %q: %w", name, err)
		}
	}
	if m.ForEach != "" && len(t.meters) == 0 {
		each, err := compileExpr(m.ForEach, p.add)
		if err == nil && each.fn != nil {
			err = fmt.Errorf("expression %q is not a list", m.ForEach)
		}
		if err != nil {
			return fmt.Errorf("for_each: %w", err)
		}
		t.each = each
	}
	t.forEach = m.ForEach
	t.meters = append(t.meters, compiled)
	for _, f := range fresh {
		if i := slices.IndexFunc(t.members, func(o member) bool { return o.key == f.key }); i >= 0 {
			t.members[i].owners = append(t.members[i].owners, index)
			continue
		}
		t.members = append(t.members, f)
	}
	slices.SortFunc(t.members, func(a, b member) int { return strings.Compare(a.key, b.key) })
	return nil
}

// compileMember compiles source against the row where it starts with each, else against the observation.
func (t *eventType) compileMember(source, forEach string, p *paths) (_ expr, row bool, err error) {
	add := func(keys []string) (int, error) {
		if keys[0] != eachRoot {
			return p.add(keys)
		}
		if forEach == "" {
			return 0, errors.New("each has a meaning only with for_each")
		}
		row = true
		if len(keys) == 1 {
			return 0, nil // the row itself
		}
		return addPath(&t.row, keys[1:], &t.rowSlots)
	}
	e, err := compileExpr(source, add)
	return e, row, err
}

// validate checks what does not depend on other meters.
func (m *Meter) validate() error {
	var errs []error
	if !validName(m.Slug) {
		errs = append(errs, fmt.Errorf("slug %q: must be 1 to 63 of a-z, 0-9 and _, and start with a letter", m.Slug))
	}
	switch m.Aggregation {
	case Count, Sum, Min, Max, Avg, UniqueCount, Latest:
	default:
		errs = append(errs, fmt.Errorf("aggregation %q: must be COUNT, SUM, MIN, MAX, AVG, UNIQUE_COUNT or LATEST", m.Aggregation))
	}
	if m.EventType != "" && !validEventType(m.EventType) {
		errs = append(errs, fmt.Errorf("event_type %q: must be 1 to 255 of a-z, A-Z, 0-9, '.', '_' and '-'", m.EventType))
	}
	for name := range m.GroupBy {
		if !validName(name) {
			errs = append(errs, fmt.Errorf("group_by %q: must be 1 to 63 of a-z, 0-9 and _, and start with a letter", name))
		}
	}
	if m.ValueProperty != "" && !validName(m.ValueProperty) {
		errs = append(errs, fmt.Errorf("value_property %q: must be 1 to 63 of a-z, 0-9 and _, and start with a letter", m.ValueProperty))
	}
	return errors.Join(errs...)
}

// validName reports whether s is a slug or a data key: OpenMeter's rule ^[a-z][a-z0-9_]{0,62}$.
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 63
}

func validEventType(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return len(s) <= 255
}
