package meter

import (
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/parser"
)

// PathUse is a path that an expression reads.
type PathUse struct {
	Keys   []string
	Offset int // where it begins in the expression, in bytes
}

// ExpressionPaths returns the paths that an expression reads, each once; forEach says whether it may read a row. An expression
// that does not compile has none.
func ExpressionPaths(source string, forEach bool) []PathUse {
	s := &scope{paths: &paths{}}
	if forEach {
		s.row = &rowPaths{}
	}
	if _, path := splitCall(source); path != "" {
		if keys, ok := parsePath(path); ok {
			return []PathUse{{Keys: keys, Offset: strings.Index(source, strings.TrimSpace(path))}}
		}
	}
	env, err := environment()
	if err != nil {
		return nil
	}
	parsed, issues := env.Parse(source)
	if issues.Err() != nil {
		return nil
	}
	p := &celPaths{source: source, scope: s, info: parsed.NativeRep().SourceInfo(), nextID: maxID(parsed) + 1}
	p.rewrite(parsed.NativeRep().Expr())
	return p.uses
}

// Conjuncts returns the conditions that a filter joins by &&, as written anew, or the filter itself.
func Conjuncts(filter string) []string {
	parsed, issues := explained().Parse(filter)
	if issues.Err() != nil {
		return []string{filter}
	}
	var all []string
	var walk func(e ast.Expr)
	walk = func(e ast.Expr) {
		if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.LogicalAnd {
			for _, arg := range e.AsCall().Args() {
				walk(arg)
			}
			return
		}
		if text, err := parser.Unparse(e, parsed.NativeRep().SourceInfo()); err == nil {
			all = append(all, text)
		}
	}
	walk(parsed.NativeRep().Expr())
	return all
}
