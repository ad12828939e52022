package meter

import (
	"errors"
	"fmt"
	"strconv"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"
)

const (
	// maxExpression bounds an expression, in characters.
	maxExpression = 8192
	// maxDepth bounds how deep an expression may nest.
	maxDepth = 64
	// maxPaths bounds the paths that one expression reads.
	maxPaths = 64
	// maxCost bounds what one evaluation of an expression may cost, and maxExchangeCost all evaluations for one exchange, in
	// CEL's units: about one for each step of a loop and each operation in it, and one for ten bytes of text that are
	// worked on. A unit takes some tens of nanoseconds.
	maxCost, maxExchangeCost = 200_000, 500_000
	// maxSmallCost is what each expression may cost still, of all its rows, when the exchange's budget is spent: a meter that reads
	// a header must not suffer from another one's list.
	maxSmallCost = 1000
	// maxRead bounds what expressions read of the lists and objects of one exchange, in bytes: CEL's costs do not count it.
	maxRead = 4 << 20
	// maxRegexp bounds a compiled regular expression, in instructions, and maxMatch what it may do with one text: the product of its
	// instructions and the text's bytes, which is what it takes at worst. That is 50 ms.
	maxRegexp, maxMatch = 2000, 2_000_000
)

// errAbsent says that an expression reads something that the exchange has not.
var errAbsent = errors.New("absent")

// ErrCost says that an expression has cost more than one may: the exchange is larger than it was written for.
var ErrCost = errors.New("the expression costs too much for this exchange")

// celProgram is a compiled CEL expression.
type celProgram struct {
	program cel.Program
	small   cel.Program // the same, for an exchange whose budget is spent; nil where the cost is not limited
	refs    []slotRef
	paths   []string // as they are written, by ref
	limited bool     // its cost depends on the exchange
	kind    types.Kind
}

// environment is what expressions are compiled in: CEL's standard library and macros, its extensions for text and numbers,
// and functions. Variables stand for paths, see celPaths.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(maxDepth),
		cel.EnableHiddenAccumulatorName(true), cel.CrossTypeNumericComparisons(true),
		ext.Strings(ext.StringsVersion(0)), ext.Math(ext.MathVersion(1)), ext.Bindings(), cel.OptionalTypes(),
		cel.Macros(hasMacro),
	}
	for i := range maxPaths {
		options = append(options, cel.Variable(pathVariable(i), cel.DynType), cel.Variable(hasVariable(i), cel.BoolType))
	}
	return cel.NewEnv(append(options, celFunctions...)...)
})

// compileCEL compiles an expression that is no plain path.
func compileCEL(source string, s *scope) (*celProgram, error) {
	env, err := environment()
	if err != nil {
		panic("bug: " + err.Error())
	}
	parsed, issues := env.Parse(source)
	if issues.Err() != nil {
		return nil, celError(source, issues.Errors())
	}
	p := &celPaths{source: source, scope: s, info: parsed.NativeRep().SourceInfo(), nextID: maxID(parsed) + 1}
	p.rewrite(parsed.NativeRep().Expr())
	if p.err != nil {
		return nil, p.err
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, celError(source, issues.Errors())
	}
	if kind := checked.OutputType(); kind.Kind() == types.TypeKind || kind.Kind() == types.BytesKind {
		return nil, &syntaxError{source: source, message: "the expression is a " + cel.FormatCELType(kind) + ", which no event can hold"}
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize), cel.OptimizeRegex(matchesPattern.compiledOnce(), extractPattern.compiledOnce())}
	if p.loops {
		options = append(options, cel.CostLimit(maxCost), cel.CostTracking(functionCost{}))
	}
	program, err := env.Program(checked, options...)
	if err != nil {
		return nil, &syntaxError{source: source, message: err.Error()}
	}
	var small cel.Program
	if p.loops {
		if small, err = env.Program(checked, append(options, cel.CostLimit(maxSmallCost))...); err != nil {
			return nil, &syntaxError{source: source, message: err.Error()}
		}
	}
	return &celProgram{program: program, small: small, refs: p.refs, paths: p.paths, limited: p.loops, kind: checked.OutputType().Kind()}, nil
}

// mayBe returns an error when the program's value can only be of another kind than the one that is called name.
func (p *celProgram) mayBe(source, name string, kind types.Kind) error {
	if p.kind == kind || p.kind == types.DynKind || p.kind == types.AnyKind || p.kind == types.OpaqueKind { // an optional one
		return nil
	}
	return fmt.Errorf("the expression %q is not %s", source, name)
}

// eval returns the raw JSON of the value, "" where it has none because something that it reads is absent.
func (p *celProgram) eval(x *evaluation) (string, error) {
	program, spent := p.program, p.limited && x.cost >= maxExchangeCost
	if spent {
		if x.small[p] >= maxSmallCost {
			return "", ErrCost
		}
		program = p.small
	}
	out, details, err := program.Eval(&celVariables{p: p, x: x, values: make([]ref.Val, len(p.refs))})
	if p.limited && details != nil {
		if cost := details.ActualCost(); cost != nil {
			x.cost += *cost
			if spent {
				x.overdraw(p, *cost)
			}
		}
	}
	if err == nil {
		var raw string
		if raw, err = rawJSON(out); err == nil {
			return raw, nil
		}
	}
	if isAbsent(err) {
		return "", nil
	}
	cancelled, ok := errors.AsType[interpreter.EvalCancelledError](err)
	if ok && cancelled.Cause == interpreter.CostLimitExceeded || errors.Is(err, ErrCost) {
		if !p.limited || details == nil || details.ActualCost() == nil {
			x.cost += maxCost
		}
		return "", ErrCost
	}
	return "", errors.New(harmless(err))
}

// celVariables gives a program the values of its paths.
type celVariables struct {
	p      *celProgram
	x      *evaluation
	values []ref.Val // by variable, once they have been asked for: a loop asks often
}

var absentValue = types.WrapErr(errAbsent)

// ResolveName returns the value of a variable that stands for a path.
func (v *celVariables) ResolveName(name string) (any, bool) {
	kind, at, ok := parseVariable(name)
	if !ok || at >= len(v.p.refs) {
		return nil, false
	}
	raw := v.x.at(v.p.refs[at])
	if kind == hasPrefix {
		return types.Bool(raw != ""), true
	}
	if v.values[at] == nil {
		v.values[at] = v.x.celValue(v.p.refs[at], raw)
	}
	return v.values[at], true
}

// celValue returns the value of a path. Of lists and objects of the observation the expressions of an exchange share one, so
// that each is read once.
func (x *evaluation) celValue(at slotRef, raw string) ref.Val {
	switch {
	case raw == "":
		return absentValue
	case at.row || raw[0] != '[' && raw[0] != '{':
		return celValue(raw, x)
	}
	v, known := x.shared[at.slot]
	if !known {
		if x.shared == nil {
			x.shared = map[int]ref.Val{}
		}
		v = celValue(raw, x)
		x.shared[at.slot] = v
	}
	return v
}

// Parent returns nil: there is no other activation.
func (v *celVariables) Parent() cel.Activation { return nil }

// The variables of an expression are called by a sign that no name in an expression can begin with, and a number.
const pathPrefix, hasPrefix = '$', '?'

var pathVariables, hasVariables = func() (p, h [maxPaths]string) {
	for i := range maxPaths {
		p[i], h[i] = string(pathPrefix)+strconv.Itoa(i), string(hasPrefix)+strconv.Itoa(i)
	}
	return p, h
}()

func pathVariable(i int) string { return pathVariables[i] }
func hasVariable(i int) string  { return hasVariables[i] }

func parseVariable(name string) (kind rune, at int, ok bool) {
	if len(name) < 2 || len(name) > 3 || name[0] != pathPrefix && name[0] != hasPrefix {
		return 0, 0, false
	}
	at = int(name[1] - '0')
	if len(name) == 3 {
		at = at*10 + int(name[2]-'0')
	}
	return rune(name[0]), at, true
}
