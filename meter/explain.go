package meter

import (
	"cmp"
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

// Part is an expression, or a part of one, and its value for one exchange. What reads the rows of for_each has a value for each
// row: a list, unless they are all the same.
type Part struct {
	Name       string // of a dimension
	Expression string
	Depth      int    // of a part, 0 is the whole
	Decides    bool   // a part of a filter made the whole what it is, and it is this one
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
	v := Verdict{Meter: m.declared}
	v.Meter.EventType = t.name
	x := &evaluation{values: o.values}
	part := func(source string) Part {
		return explainPart(source, &scope{paths: &p.paths, row: t.row}, &evaluation{values: o.values}, "")
	}
	if !m.always {
		parts := filterParts(m.declared.Filter)
		for _, f := range parts {
			shown := part(f.source)
			shown.Depth = f.depth
			v.Filter = append(v.Filter, shown)
		}
		decisive := &v.Filter[decider(parts, v.Filter)]
		decisive.Decides = decisive != &v.Filter[0]
		if v.Filter[0].Value != "true" {
			v.Why = "its filter " + decisive.verdict()
			if decisive.Decides {
				v.Why = decisive.Expression + " " + decisive.verdict()
			}
			return v
		}
	}
	list := ""
	if t.row != nil {
		each := part(m.declared.ForEach)
		v.ForEach = &each
		if each.Value == "" || each.Value[0] != '[' {
			v.Why = "its list " + each.verdict()
			return v
		}
		list, v.Rows = each.Value, countRows(each.Value)
		if v.Rows == 0 {
			v.Why = "its list is empty"
			return v
		}
	}
	events := min(max(v.Rows, 1), maxRows)
	for i := range t.members {
		member := &t.members[i]
		if !slices.Contains(member.owners, index) || member.one || member.source == "" {
			continue
		}
		shown := explainPart(member.source, &scope{paths: &p.paths, row: t.row}, &evaluation{values: o.values}, list)
		shown.Name = member.key
		if !member.value {
			v.GroupBy = append(v.GroupBy, shown)
			continue
		}
		v.Value = &shown
		values := []string{shown.Value}
		if list != "" {
			values = t.rowValues(&member.expr, x, list)
		}
		events = 0
		for row, value := range values {
			if row < maxRows && value != "" && member.publishable(value) {
				events++
			}
		}
		switch {
		case events > 0 || t.row != nil && v.Rows > 1:
		case shown.Value == "":
			v.Why = "its value " + shown.verdict()
		default:
			v.Why = "its value is no finite number of at least 0; it is counted as invalid"
			if member.agg == UniqueCount {
				v.Why = fmt.Sprintf("its value is no scalar of at most %d bytes; it is counted as invalid", maxText)
			}
		}
	}
	v.Applies = events > 0
	if t.row != nil && v.Why == "" {
		v.Why = fmt.Sprintf("one event for each of %d rows", v.Rows)
		if events < v.Rows {
			v.Why = fmt.Sprintf("%d of %d rows have a value that can be published", events, v.Rows)
		}
	}
	return v
}

// rowValues returns an expression's value for each row.
func (t *eventType) rowValues(e *expr, x *evaluation, list string) (values []string) {
	for range t.rows(list, x) {
		value, _ := e.eval(x) // explained where it is evaluated by itself
		values = append(values, value)
	}
	return values
}

// decider returns the part of a filter that made the whole what it is: of what is joined by && the first that is false, of
// what is joined by || the first that is true, or else what is absent or has failed.
func decider(parts []filterPart, values []Part) int {
	at := 0
	for parts[at].operator != "" {
		decisive := "false"
		if parts[at].operator == operators.LogicalOr {
			decisive = "true"
		}
		next := -1
		for i := at + 1; i < len(parts) && parts[i].depth > parts[at].depth; i++ {
			if parts[i].depth != parts[at].depth+1 {
				continue
			}
			switch v := values[i].Value; {
			case v == decisive && values[at].Value == decisive:
				next = i
			case next < 0 && v != "true" && v != "false" && values[at].Value != decisive:
				next = i
			}
			if next >= 0 && values[next].Value == decisive {
				break
			}
		}
		if next < 0 {
			break // all of them together
		}
		at = next
	}
	return at
}

// verdict says in words why a value is not the one that was hoped for.
func (p *Part) verdict() string {
	switch {
	case p.Err != nil:
		return "failed: " + p.Err.Error()
	case p.Value != "":
		return "is " + p.Value
	}
	for _, r := range p.Reads {
		if r.Value == "" {
			return "is absent, because " + r.Path + " is"
		}
	}
	return "is absent"
}

// explainPart evaluates an expression, for each row of list where that is one.
func explainPart(source string, s *scope, x *evaluation, list string) Part {
	part := Part{Expression: source}
	e, err := compileExpr(source, s)
	if err != nil {
		part.Err = err
		return part
	}
	readsRow := e.at.row
	if e.cel != nil {
		readsRow = slices.ContainsFunc(e.cel.refs, func(at slotRef) bool { return at.row })
	}
	if !readsRow || list == "" {
		if part.Value, part.Err = e.eval(x); e.cel != nil {
			for i, at := range e.cel.refs {
				part.Reads = append(part.Reads, Read{Path: e.cel.paths[i], Value: x.at(at)})
			}
		}
		return part
	}
	t := eventType{row: s.row}
	values, failed := []string{}, error(nil)
	for range t.rows(list, x) {
		value, err := e.eval(x)
		if failed == nil {
			failed = err
		}
		values = append(values, cmp.Or(value, "null"))
	}
	part.Value, part.Err = "["+strings.Join(values, ",")+"]", failed
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
	source   string
	depth    int
	operator string // && or ||, which joins the parts below; empty where there are none
}

// filterParts returns a filter, and what it joins by && and ||, each behind what it is part of.
func filterParts(source string) []filterPart {
	parsed, issues := explained().Parse(source)
	if issues.Err() != nil {
		return []filterPart{{source: source}}
	}
	var parts []filterPart
	var walk func(e ast.Expr, depth int)
	walk = func(e ast.Expr, depth int) {
		text, err := parser.Unparse(e, parsed.NativeRep().SourceInfo())
		if err != nil {
			return
		}
		if depth == 0 {
			text = source
		}
		operator := logical(e)
		parts = append(parts, filterPart{text, depth, operator})
		var operands func(e ast.Expr)
		operands = func(e ast.Expr) {
			for _, arg := range e.AsCall().Args() {
				if logical(arg) == operator {
					operands(arg)
				} else {
					walk(arg, depth+1)
				}
			}
		}
		if operator != "" {
			operands(e)
		}
	}
	walk(parsed.NativeRep().Expr(), 0)
	return parts
}

// logical returns && or || where e is one of them.
func logical(e ast.Expr) string {
	if e.Kind() == ast.CallKind {
		if name := e.AsCall().FunctionName(); name == operators.LogicalAnd || name == operators.LogicalOr {
			return name
		}
	}
	return ""
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
