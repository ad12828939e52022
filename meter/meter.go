package meter

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/common/types"
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

func (a Aggregation) valid() bool {
	return slices.Contains([]Aggregation{Count, Sum, Min, Max, Avg, UniqueCount, Latest}, a)
}

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
	label  string // the key as it stands in an event's data
	source string // the expression as declared, to tell two meanings apart
	value  bool   // a counted value rather than a dimension
	agg    Aggregation
	expr   expr
	one    bool  // the value is the constant 1 of a COUNT
	owners []int // meters of the event type
}

// eventType is everything that meters of one event type say, compiled.
type eventType struct {
	name    string
	meters  []compiledMeter
	members []member // by key
	forEach string
	each    expr
	row     *rowPaths // nil without for_each
}

type compiledMeter struct {
	slug     string
	filter   expr
	always   bool
	declared Meter
}

// add compiles m into t and returns what is wrong with m. If anything is, t is unchanged but for paths that nobody reads.
func (t *eventType) add(m Meter, p *paths) []error {
	wrong := problems{meter: m.Slug}
	if len(t.meters) > 0 && m.ForEach != t.forEach {
		wrong.add("for_each", conflict(t.meters[0].slug, "%q differs from %q, which meter %q of event type %q has", m.ForEach, t.forEach, t.meters[0].slug, t.name))
		return wrong.list
	}
	observation := &scope{paths: p}
	each, row := t.each, t.row
	if m.ForEach != "" && row == nil {
		var err error
		row = &rowPaths{}
		each, err = compileExpr(m.ForEach, observation)
		if err == nil && each.fn != nil {
			err = fmt.Errorf("the expression %q is not a list", m.ForEach)
		}
		if err == nil && each.cel != nil {
			err = each.cel.mayBe(m.ForEach, "a list", types.ListKind)
		}
		wrong.add("for_each", err)
	}
	compiled := compiledMeter{slug: m.Slug, always: m.Filter == "", declared: m}
	if m.Filter != "" {
		var err error
		compiled.filter, err = compileExpr(m.Filter, observation)
		switch fn, _ := splitCall(m.Filter); {
		case err != nil:
		case compiled.filter.cel != nil:
			err = compiled.filter.cel.mayBe(m.Filter, "true or false", types.BoolKind)
		case fn != "" && fn != "has":
			err = fmt.Errorf("the expression %q is not true or false", m.Filter)
		}
		wrong.add("filter", err)
	}
	data := scope{paths: p, row: row}
	index := len(t.meters)
	var fresh []member
	declare := func(field string, m member) {
		if i := slices.IndexFunc(t.members, func(o member) bool { return o.key == m.key }); i >= 0 {
			other := &t.members[i]
			if other.source != m.source || other.value != m.value || m.value && other.agg != m.agg {
				first := t.meters[other.owners[0]].slug
				wrong.add(field, conflict(first, "gives %q of event type %q another meaning than meter %q does", m.key, t.name, first))
				return
			}
		}
		if slices.ContainsFunc(fresh, func(o member) bool { return o.key == m.key }) {
			wrong.add(field, fmt.Errorf("%q is the key of the value too", m.key))
			return
		}
		if !m.one {
			var err error
			if m.expr, err = compileExpr(m.source, &data); err == nil && m.value && m.expr.cel != nil && m.agg != UniqueCount {
				err = m.expr.cel.mayBe(m.source, "a number", types.DoubleKind)
			}
			wrong.add(field, err)
		}
		m.owners = []int{index}
		fresh = append(fresh, m)
	}
	property := m.ValueProperty
	if property == "" {
		property = DefaultValueProperty
	}
	switch {
	case m.Value != "":
		declare("value", member{key: property, value: true, source: strings.TrimSpace(m.Value), agg: m.Aggregation})
	case m.Aggregation == Count || !m.Aggregation.valid():
		declare("value_property", member{key: property, value: true, one: true, agg: Count})
	default:
		wrong.add("value", fmt.Errorf("aggregation %s needs one", m.Aggregation))
	}
	for _, name := range slices.Sorted(maps.Keys(m.GroupBy)) {
		declare("group_by."+name, member{key: name, source: strings.TrimSpace(m.GroupBy[name])})
	}
	if len(wrong.list) > 0 {
		return wrong.list
	}
	t.forEach, t.each, t.row = m.ForEach, each, row
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

// reservedType is how event types begin that this project publishes about the metering itself.
const reservedType = "kong.metering_"

// validate checks what does not depend on other meters.
func (m *Meter) validate() []error {
	const name = "must be 1 to 63 of a-z, 0-9 and _, and start with a letter"
	wrong := problems{meter: m.Slug}
	if !validName(m.Slug) {
		wrong.add("slug", fmt.Errorf("%q: %s", m.Slug, name))
	}
	if !m.Aggregation.valid() {
		wrong.add("aggregation", fmt.Errorf("%q: must be COUNT, SUM, MIN, MAX, AVG, UNIQUE_COUNT or LATEST", m.Aggregation))
	}
	if m.EventType != "" && !validEventType(m.EventType) {
		wrong.add("event_type", fmt.Errorf("%q: must be 1 to 255 of a-z, A-Z, 0-9, '.', '_' and '-'", m.EventType))
	}
	if strings.HasPrefix(m.EventType, reservedType) {
		wrong.add("event_type", fmt.Errorf("%q: %s… is taken by events about the metering itself", m.EventType, reservedType))
	}
	for _, key := range slices.Sorted(maps.Keys(m.GroupBy)) {
		if !validName(key) {
			wrong.add("group_by."+key, errors.New("the name "+name))
		}
	}
	if m.ValueProperty != "" && !validName(m.ValueProperty) {
		wrong.add("value_property", fmt.Errorf("%q: %s", m.ValueProperty, name))
	}
	return wrong.list
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
