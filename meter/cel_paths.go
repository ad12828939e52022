package meter

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"
)

// celPaths rewrites a parsed expression for the observation, before CEL checks its types:
//
//   - the longest plain path from each name on becomes a variable, whose value is found in a slot: an expression that reads
//     three members decodes no document. has() of a path becomes a variable too;
//   - numbers are one kind, doubles, as in JSON: literals, and the results of functions that return CEL's integers. Where a
//     function takes an integer it gets one.
type celPaths struct {
	source string
	scope  *scope
	info   *ast.SourceInfo
	nextID int64
	refs   []slotRef
	paths  []string // by ref
	uses   []PathUse
	bound  []string // names that a macro has bound
	loops  bool     // the cost depends on the exchange
	adds   int      // how often something is added
	err    error    // the first
}

var factory = ast.NewExprFactory()

// hasCall is what has() becomes in the parser. Unlike CEL's own it takes request.headers['x-team'], too.
const hasCall = "@has"

var hasMacro = parser.NewGlobalMacro(operators.Has, 1, func(eh parser.ExprHelper, _ ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
	return eh.NewCall(hasCall, args[0]), nil
})

// freeAdds is how often an expression may add without its cost being counted: what is added may be texts, which grow.
const freeAdds = 8

// integerResults are functions whose result is CEL's int, integerArguments those that take ints, from an argument on.
var (
	integerResults = []string{
		"size", "int", "uint", "indexOf", "lastIndexOf", "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek",
		"getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds",
	}
	integerArguments = map[string]int{"charAt": 0, "substring": 0, "indexOf": 1, "lastIndexOf": 1, "split": 1, "replace": 2}
	// longFunctions are those whose cost depends on how long a text or a list is.
	longFunctions = []string{
		"matches", "extract", "contains", "split", "join", "replace", "substring", "indexOf", "lastIndexOf", "lowerAscii",
		"upperAscii", "lower", "trim", "hash", "sum", operators.In, "@max", "@min", "math.@max", "math.@min",
	}
	// namespaces are names before a dot that are part of a function's name.
	namespaces = []string{"math", "optional"}
	// typeNames are what type(…) is compared with, where no path goes on behind them.
	typeNames = []string{"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"}
)

func maxID(parsed *cel.Ast) int64 { return ast.MaxID(parsed.NativeRep()) }

// fail notes an error at an expression.
func (p *celPaths) fail(e ast.Expr, message string) {
	if p.err != nil {
		return
	}
	p.err = &syntaxError{source: p.source, message: message, offset: callOffset(p.source, p.offset(e))}
}

// offset returns where e stands in the source, in bytes.
func (p *celPaths) offset(e ast.Expr) int {
	at, ok := p.info.GetOffsetRange(e.ID())
	if !ok {
		return 0
	}
	offset := 0
	for range at.Start {
		_, size := utf8.DecodeRuneInString(p.source[offset:])
		offset += size
	}
	return offset
}

// child returns a new expression's id, at the place of e.
func (p *celPaths) child(e ast.Expr) int64 {
	id := p.nextID
	p.nextID++
	if at, ok := p.info.GetOffsetRange(e.ID()); ok {
		p.info.SetOffsetRange(id, at)
	}
	return id
}

// wrap makes e a call of function with what e was.
func (p *celPaths) wrap(e ast.Expr, function string) {
	inner := factory.NewUnspecifiedExpr(p.child(e))
	inner.SetKindCase(e)
	e.SetKindCase(factory.NewCall(e.ID(), function, inner))
}

// keys returns the plain path that e is.
func (p *celPaths) keys(e ast.Expr) ([]string, bool) {
	switch e.Kind() {
	case ast.IdentKind:
		name := strings.TrimPrefix(e.AsIdent(), ".")
		return []string{name}, !slices.Contains(p.bound, name)
	case ast.SelectKind:
		s := e.AsSelect()
		keys, ok := p.keys(s.Operand())
		return append(keys, s.FieldName()), ok && !s.IsTestOnly()
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != operators.Index || call.Args()[1].Kind() != ast.LiteralKind {
			return nil, false
		}
		key, isText := call.Args()[1].AsLiteral().(types.String)
		keys, ok := p.keys(call.Args()[0])
		return append(keys, string(key)), ok && isText
	default:
		return nil, false
	}
}

// optionalKeys returns the plain path that e is where it asks for one of its members with a question mark: request.headers[?'x-team'].
func (p *celPaths) optionalKeys(e ast.Expr) ([]string, bool) {
	var operand ast.Expr
	var key string
	asks := false
	switch e.Kind() {
	case ast.SelectKind:
		s := e.AsSelect()
		operand, key = s.Operand(), s.FieldName()
		if s.IsTestOnly() {
			return nil, false
		}
	case ast.CallKind:
		call := e.AsCall()
		name := call.FunctionName()
		asks = name == operators.OptSelect || name == operators.OptIndex
		if !asks && name != operators.Index || call.Args()[1].Kind() != ast.LiteralKind {
			return nil, false
		}
		text, isText := call.Args()[1].AsLiteral().(types.String)
		if !isText {
			return nil, false
		}
		operand, key = call.Args()[0], string(text)
	default:
		return nil, false
	}
	keys, ok := p.optionalKeys(operand)
	if !ok && asks {
		keys, ok = p.keys(operand)
	}
	return append(keys, key), ok
}

// optional makes e an optional value: that of a path, where there is one.
func (p *celPaths) optional(e ast.Expr, keys []string) {
	found, value := factory.NewUnspecifiedExpr(p.child(e)), factory.NewUnspecifiedExpr(p.child(e))
	p.variable(found, keys, hasVariable)
	p.variable(value, keys, pathVariable)
	e.SetKindCase(factory.NewCall(e.ID(), operators.Conditional, found,
		factory.NewCall(p.child(e), "optional.of", value), factory.NewCall(p.child(e), "optional.none")))
}

// root returns what stands at the beginning of an expression: of a path its name.
func root(e ast.Expr) ast.Expr {
	for {
		switch e.Kind() {
		case ast.SelectKind:
			e = e.AsSelect().Operand()
		case ast.CallKind:
			switch call := e.AsCall(); {
			case call.IsMemberFunction():
				e = call.Target()
			case len(call.Args()) > 0:
				e = call.Args()[0] // of an index, an operator or has()
			default:
				return e
			}
		default:
			return e
		}
	}
}

// variable makes e the variable of a path.
func (p *celPaths) variable(e ast.Expr, keys []string, name func(int) string) {
	at, err := p.scope.ref(keys, "")
	if err != nil {
		p.fail(root(e), err.Error())
		return
	}
	i := slices.Index(p.refs, at)
	if i < 0 {
		if len(p.refs) == maxPaths {
			p.fail(e, fmt.Sprintf("one expression reads more than %d paths", maxPaths))
			return
		}
		i = len(p.refs)
		p.refs, p.paths = append(p.refs, at), append(p.paths, written(keys))
		p.uses = append(p.uses, PathUse{Keys: keys, Offset: p.offset(root(e))})
	}
	e.SetKindCase(factory.NewIdent(e.ID(), name(i)))
}

// written returns a path as it is written in an expression.
func written(keys []string) string {
	var b strings.Builder
	b.WriteString(keys[0])
	for _, key := range keys[1:] {
		if identifierLen(key) == len(key) {
			b.WriteString("." + key)
		} else {
			b.WriteString("['" + key + "']")
		}
	}
	return b.String()
}

// rewrite rewrites e in place.
func (p *celPaths) rewrite(e ast.Expr) {
	if p.err != nil {
		return
	}
	if e.Kind() == ast.IdentKind && slices.Contains(typeNames, e.AsIdent()) {
		return
	}
	if keys, ok := p.keys(e); ok {
		p.variable(e, keys, pathVariable)
		return
	}
	if keys, ok := p.optionalKeys(e); ok {
		p.optional(e, keys)
		return
	}
	switch e.Kind() {
	case ast.LiteralKind:
		switch v := e.AsLiteral().(type) {
		case types.Int:
			e.SetKindCase(factory.NewLiteral(e.ID(), types.Double(v)))
		case types.Uint:
			e.SetKindCase(factory.NewLiteral(e.ID(), types.Double(v)))
		}
	case ast.SelectKind:
		p.rewrite(e.AsSelect().Operand())
	case ast.CallKind:
		p.call(e)
	case ast.ListKind:
		for _, element := range e.AsList().Elements() {
			p.rewrite(element)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			p.rewrite(entry.AsMapEntry().Key())
			p.rewrite(entry.AsMapEntry().Value())
		}
	case ast.StructKind:
		p.fail(e, "there are no messages here")
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		p.loops = true
		p.rewrite(c.IterRange())
		p.rewrite(c.AccuInit())
		outer := p.bound
		p.bound = append(slices.Clip(outer), c.IterVar(), c.IterVar2(), c.AccuVar())
		p.rewrite(c.LoopCondition())
		p.rewrite(c.LoopStep())
		p.bound = append(slices.Clip(outer), c.AccuVar())
		p.rewrite(c.Result())
		p.bound = outer
	default: // a name that a macro has bound
	}
}

// call rewrites a call.
func (p *celPaths) call(e ast.Expr) {
	call := e.AsCall()
	name, args := call.FunctionName(), call.Args()
	if name == hasCall {
		p.has(e, args[0])
		return
	}
	if name == operators.Add {
		p.adds++
	}
	p.loops = p.loops || slices.Contains(longFunctions, name) || p.adds > freeAdds
	if name == operators.Subtract {
		p.dash(e, args)
	}
	if name == operators.In && p.namesHeader(e, args) {
		return
	}
	switch {
	case !call.IsMemberFunction():
	case call.Target().Kind() != ast.IdentKind || !slices.Contains(namespaces, call.Target().AsIdent()):
		p.rewrite(call.Target())
	default:
		if qualified := call.Target().AsIdent() + "." + name; !strings.HasPrefix(name, "@") && !slices.Contains(functionNames(), qualified) {
			p.fail(call.Target(), noFunction(qualified, ""))
			return
		}
	}
	firstInteger, takesIntegers := integerArguments[name]
	for i, arg := range args {
		isInteger := arg.Kind() == ast.LiteralKind && arg.AsLiteral().Type() == types.IntType
		if wants := takesIntegers && i >= firstInteger || name == operators.Index && i == 1; wants && isInteger {
			continue
		}
		p.rewrite(arg)
		switch {
		case takesIntegers && i >= firstInteger:
			p.wrap(arg, "int")
		case name == operators.Index && i == 1 && arg.Kind() == ast.CallKind:
			p.wrap(arg, "dyn") // a double that is integral is an index, but the type check does not know
		}
	}
	if name == operators.Conditional && (isNull(args[1]) || isNull(args[2])) {
		p.wrap(args[1], "dyn") // CEL's types know no null beside a text or a number
		p.wrap(args[2], "dyn")
	}
	if ours := replaced[name]; ours != "" {
		args = slices.Clone(args)
		if call.IsMemberFunction() {
			args = slices.Insert(args, 0, call.Target())
		}
		if ours == matchesPattern.name || ours == extractPattern.name {
			if len(args) != 2 {
				p.fail(e, name+"(text, regexp) takes two arguments")
				return
			}
			args = append(args, factory.NewLiteral(p.child(e), types.Double(p.pattern(args[1]))))
		}
		e.SetKindCase(factory.NewCall(e.ID(), ours, args...))
	}
	if slices.Contains(integerResults, name) {
		p.wrap(e, "double")
	}
}

func isNull(e ast.Expr) bool { return e.Kind() == ast.LiteralKind && e.AsLiteral() == types.NullValue }

// namesHeader makes e a variable where it asks for a header by name: Kong's log has the names in lower case.
func (p *celPaths) namesHeader(e ast.Expr, args []ast.Expr) bool {
	keys, ok := p.keys(args[1])
	if !ok || len(keys) != 2 || keys[1] != "headers" || args[0].Kind() != ast.LiteralKind {
		return false
	}
	name, isText := args[0].AsLiteral().(types.String)
	if isText {
		p.variable(e, append(keys, string(name)), hasVariable)
	}
	return isText
}

// pattern checks a regular expression, and returns the number of its instructions.
func (p *celPaths) pattern(e ast.Expr) int {
	if e.Kind() != ast.LiteralKind || e.AsLiteral().Type() != types.StringType {
		p.fail(e, "a regular expression must be written out, not read from the exchange")
		return 0
	}
	parsed, err := syntax.Parse(string(e.AsLiteral().(types.String)), syntax.Perl)
	if err != nil {
		p.fail(e, err.Error())
		return 0
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(program.Inst) > maxRegexp {
		p.fail(e, fmt.Sprintf("the regular expression is too large: more than %d steps", maxRegexp))
		return 0
	}
	return len(program.Inst)
}

// has makes has(...) a variable where its argument is a plain path, and else CEL's own test.
func (p *celPaths) has(e, arg ast.Expr) {
	if keys, ok := p.keys(arg); ok {
		p.variable(e, keys, hasVariable)
		return
	}
	switch {
	case arg.Kind() == ast.SelectKind && !arg.AsSelect().IsTestOnly():
		s := arg.AsSelect()
		p.rewrite(s.Operand())
		e.SetKindCase(factory.NewPresenceTest(e.ID(), s.Operand(), s.FieldName()))
	case arg.Kind() == ast.CallKind && arg.AsCall().FunctionName() == operators.Index:
		operand, key := arg.AsCall().Args()[0], arg.AsCall().Args()[1]
		p.rewrite(operand)
		p.rewrite(key)
		e.SetKindCase(factory.NewCall(e.ID(), operators.In, key, operand))
	default:
		p.fail(arg, "has() takes a path such as consumer.username or request.headers['x-team']")
	}
}

// dash refuses what is read as a subtraction where a header's name is meant: request.headers.x-tenant-id. Headers and query
// arguments are texts, of which nothing can be subtracted.
func (p *celPaths) dash(e ast.Expr, args []ast.Expr) {
	rest := ""
	for {
		word := "…"
		if second := root(args[1]); second.Kind() == ast.IdentKind {
			word = second.AsIdent()
		}
		rest = "-" + word + rest
		first := args[0]
		if first.Kind() != ast.CallKind || first.AsCall().FunctionName() != operators.Subtract {
			break
		}
		args = first.AsCall().Args()
	}
	keys, ok := p.keys(args[0])
	if !ok || len(keys) != 3 || keys[1] != "headers" && keys[1] != "querystring" {
		return
	}
	p.fail(e, fmt.Sprintf("a name with a dash stands in brackets: %s['%s%s']", strings.Join(keys[:2], "."), keys[2], rest))
}
