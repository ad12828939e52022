package meter

import (
	"slices"
	"strings"

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
				out.Aggregation, out.Always = m.agg, len(t.meters) == 1
			}
			all = append(all, out)
		}
	}
	return all
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

// pathKind returns what kind of value Kong, or this package, puts at a path: [KindAny] of one that it does not know.
func pathKind(source string) Kind {
	fn, path := splitCall(source)
	switch fn {
	case "has":
		return KindBoolean
	case "size", "status":
		return KindNumber
	case "status_class":
		return KindString
	}
	keys, ok := parsePath(path)
	if !ok {
		return KindAny
	}
	last := keys[len(keys)-1]
	switch {
	case keys[0] == "llm" && (strings.HasSuffix(last, "_tokens") || slices.Contains(amountNames[:], last)):
		return KindNumber
	case len(keys) == 2 && keys[0] == "llm" && last == "stream":
		return KindBoolean
	case len(keys) == 2 && keys[0] == "llm" && slices.Contains(llmScalars, last):
		return KindString
	case len(keys) == 2 && keys[0] == "latencies", slices.Contains([]string{"request.size", "response.size", "response.status", "service.port", "started_at"}, path):
		return KindNumber
	case len(keys) == 2 && slices.Contains([]string{"route", "service", "consumer"}, keys[0]) && slices.Contains([]string{"id", "name", "username", "custom_id", "host", "protocol"}, last),
		slices.Contains([]string{"request.id", "request.method", "request.uri", "request.url", "upstream_uri", "client_ip", "source", "workspace", "workspace_name", "outcome", "subject", "capture.mode"}, path),
		len(keys) == 3 && (keys[1] == "headers" || keys[1] == "querystring"):
		return KindString
	default:
		return KindAny
	}
}

// Measured reports whether an expression's value is measured for each exchange, or is each exchange's own, such as a size, a
// latency or an id: as a dimension it splits a count into as many as there are exchanges.
func Measured(expression string) bool {
	_, path := splitCall(expression)
	keys, ok := parsePath(path)
	if !ok {
		return false
	}
	path = written(keys)
	switch keys[0] {
	case "latencies", "tries", "capture":
		return path != "capture.mode" && path != "capture.complete" && path != "capture.truncated"
	case "llm":
		return pathKind(path) == KindNumber || path == "llm.response_id"
	}
	return slices.Contains([]string{
		"request.id", "request.uri", "request.url", "request.size", "request.querystring", "response.size", "upstream_uri", "client_ip", "started_at",
	}, path)
}
