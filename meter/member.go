package meter

import (
	"slices"

	"cel.dev/cel-go/common/types"
)

// Kind is what kind of JSON value a member of an event's data holds.
type Kind string

// The kinds.
const (
	KindAny     Kind = "" // any scalar
	KindString  Kind = "string"
	KindNumber  Kind = "number"
	KindBoolean Kind = "boolean"
)

// Member is a member of the data of an event type, as the meters declare it.
type Member struct {
	EventType   string
	Name        string
	Expression  string      // empty for the constant 1 of a COUNT
	Aggregation Aggregation // of a value; empty for a dimension
	Kind        Kind
	Always      bool // every event of the type has it
}

// Members returns the members of the events' data, by event type and name.
func (p *Program) Members() []Member {
	var all []Member
	for _, t := range p.types {
		for i := range t.members {
			m := &t.members[i]
			out := Member{EventType: t.name, Name: m.key, Expression: m.source, Kind: m.kind()}
			if m.value {
				out.Aggregation, out.Always = m.agg, t.everyEventHas(m)
			}
			all = append(all, out)
		}
	}
	return all
}

// everyEventHas reports whether every event of the type has a value: it is that of the only meter, or the constant of one that
// applies whenever another one does.
func (t *eventType) everyEventHas(m *member) bool {
	if len(t.meters) == 1 {
		return true
	}
	return m.one && slices.ContainsFunc(m.owners, func(owner int) bool {
		filter := t.meters[owner].declared.Filter
		return filter == "" || !slices.ContainsFunc(t.meters, func(o compiledMeter) bool { return o.declared.Filter != filter })
	})
}

func (m *member) kind() Kind {
	switch {
	case m.value && m.agg != UniqueCount:
		return KindNumber
	case m.expr.cel == nil:
		return pathKind(m.source)
	case m.expr.cel.kind == types.StringKind:
		return KindString
	case m.expr.cel.kind == types.DoubleKind:
		return KindNumber
	case m.expr.cel.kind == types.BoolKind:
		return KindBoolean
	default:
		return KindAny
	}
}
