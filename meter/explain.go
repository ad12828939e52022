package meter

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/parser"
	"github.com/tidwall/gjson"
)

// Verdict is what became of one meter for one exchange.
type Verdict struct {
	Meter   Meter
	Applies bool
	Why     string // in words
	Filter  []Part // the filter, and then its parts, each deeper one below what it is part of
	Value   *Part  // nil where it was not asked for
	GroupBy []Part // by name
	ForEach *Part  // nil without for_each
	Rows    int    // of for_each
}

// Part is an expression, or a part of one, and its value for one exchange.
type Part struct {
	Name       string // of a dimension
	Expression string
	Depth      int    // of a part, 0 is the whole
	Value      string // raw JSON; "" is absent
	Err        error  // the expression failed
	Reads      []Read // what it reads, when it is more than a path
}

// Read is a path and its value.
type Read struct {
	Path  string
	Value string // raw JSON; "" is absent
}

// Explain says of each declared meter whether it applies to an exchange, and what decided. The meters are those that p was
// compiled from; those with problems are not among them.
func (p *Program) Explain(o *Observation) []Verdict {
	p.fill(o, p.subjectOf(o))
	var all []Verdict
	for _, t := range p.types {
		for i := range t.meters {
			all = append(all, t.explain(&t.meters[i], i, p, o))
		}
	}
	slices.SortStableFunc(all, func(a, b Verdict) int { return strings.Compare(a.Meter.EventType, b.Meter.EventType) })
	return all
}

func (t *eventType) explain(m *compiledMeter, index int, p *Program, o *Observation) Verdict {
	v := Verdict{Meter: m.declared, Applies: true}
	v.Meter.EventType = t.name
	x := &evaluation{values: o.values}
	part := func(source string, depth int) Part {
		return explainPart(source, depth, &scope{paths: &p.paths, row: t.row}, x)
	}
	if !m.always {
		for _, s := range filterParts(m.declared.Filter) {
			v.Filter = append(v.Filter, part(s.source, s.depth))
		}
		if whole := v.Filter[0]; whole.Value != "true" {
			v.Applies, v.Why = false, "its filter "+whole.verdict()
			return v
		}
	}
	if t.row != nil {
		each := part(m.declared.ForEach, 0)
		v.ForEach = &each
		if each.Value == "" || each.Value[0] != '[' {
			v.Applies, v.Why = false, "its list "+each.verdict()
			return v
		}
		v.Rows = countRows(each.Value)
		if v.Rows == 0 {
			v.Applies, v.Why = false, "its list is empty"
			return v
		}
		v.Why = fmt.Sprintf("one event for each of %d rows that have a value", v.Rows)
		return v
	}
	for i := range t.members {
		member := &t.members[i]
		if !slices.Contains(member.owners, index) || member.one || member.source == "" {
			continue
		}
		shown := part(member.source, 0)
		shown.Name = member.key
		if !member.value {
			v.GroupBy = append(v.GroupBy, shown)
			continue
		}
		v.Value = &shown
		switch {
		case shown.Value == "":
			v.Applies, v.Why = false, "its value "+shown.verdict()
		case !member.publishable(shown.Value):
			v.Applies, v.Why = false, "its value is no finite number of at least 0; it is counted as invalid"
		}
	}
	return v
}

// verdict says in words why a value is not the one that was hoped for.
func (p *Part) verdict() string {
	switch {
	case p.Err != nil:
		return "failed: " + p.Err.Error()
	case p.Value == "":
		return "reads something that this exchange has not"
	default:
		return "is " + p.Value
	}
}

func explainPart(source string, depth int, s *scope, x *evaluation) Part {
	part := Part{Expression: source, Depth: depth}
	e, err := compileExpr(source, s)
	if err != nil {
		part.Err = err
		return part
	}
	if part.Value, part.Err = e.eval(x); e.cel != nil {
		for i, at := range e.cel.refs {
			part.Reads = append(part.Reads, Read{Path: e.cel.paths[i], Value: x.at(at)})
		}
	}
	return part
}

func countRows(list string) int {
	n := 0
	gjson.Parse(list).ForEach(func(_, _ gjson.Result) bool { n++; return true })
	return n
}

// explained is what parts are found in: macros are kept, so that a part can be written out again.
func explained() *cel.Env {
	env, err := environment()
	if err == nil {
		env, err = env.Extend(cel.EnableMacroCallTracking())
	}
	if err != nil {
		panic("bug: " + err.Error())
	}
	return env
}

type filterPart struct {
	source string
	depth  int
}

// filterParts returns a filter, and what it joins by && and ||.
func filterParts(source string) []filterPart {
	whole := filterPart{source: source}
	parsed, issues := explained().Parse(source)
	if issues.Err() != nil {
		return []filterPart{whole}
	}
	parts := []filterPart{whole}
	var walk func(e ast.Expr, operator string, depth int)
	walk = func(e ast.Expr, operator string, depth int) {
		joined := ""
		if e.Kind() == ast.CallKind {
			if name := e.AsCall().FunctionName(); name == operators.LogicalAnd || name == operators.LogicalOr {
				joined = name
			}
		}
		if joined == "" || joined != operator {
			text, err := parser.Unparse(e, parsed.NativeRep().SourceInfo())
			if err != nil || depth == 0 && joined == "" {
				return
			}
			if depth > 0 {
				parts = append(parts, filterPart{source: text, depth: depth})
			}
			depth++
		}
		if joined != "" {
			for _, arg := range e.AsCall().Args() {
				walk(arg, joined, depth)
			}
		}
	}
	walk(parsed.NativeRep().Expr(), "", 0)
	return parts
}

// Declared returns the meters that p was compiled from, without those that had problems, by event type and slug.
func (p *Program) Declared() []Meter {
	var all []Meter
	for _, t := range p.types {
		for _, m := range t.meters {
			d := m.declared
			d.EventType, d.GroupBy = t.name, maps.Clone(d.GroupBy)
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b Meter) int {
		return strings.Compare(a.EventType+"\x00"+a.Slug, b.EventType+"\x00"+b.Slug)
	})
	return all
}
