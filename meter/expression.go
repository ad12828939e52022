package meter

import (
	"slices"
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

// PathNames returns the names that are known below a path of the observation, its roots for no keys, and whether there are no
// others: plugins may add to Kong's log, and a body holds anything.
func PathNames(keys ...string) (names []string, closed bool) {
	switch strings.Join(keys, ".") {
	case "":
		return append(slices.Clone(addedRoots), "request", "response", "route", "service", "consumer", "latencies", "tries", "client_ip", "started_at",
			"workspace", "workspace_name", "upstream_uri", "upstream_status", "source", "authenticated_entity", "ai"), false
	case "llm":
		names = append(slices.Clone(llmScalars), "tokens")
		for q := range numQuantities {
			names = append(names, q.String())
		}
		return append(names, amountNames[:]...), true
	case "capture":
		return []string{"mode", "truncated", "complete", "time_to_first_byte_ms", "bytes_delivered"}, true
	case "request":
		return []string{"id", "method", "uri", "url", "size", "headers", "querystring", "tls"}, true
	case "response":
		return []string{"status", "size", "headers"}, true
	case "latencies":
		return []string{"request", "kong", "proxy", "receive"}, true
	case "authenticated_entity":
		return []string{"id", "consumer_id"}, true
	case "consumer":
		return []string{"id", "username", "custom_id", "created_at", "updated_at", "tags", "username_lower", "type"}, true
	case "route", "service":
		return []string{"id", "name", "created_at", "updated_at", "tags", "ws_id"}, false
	default:
		return nil, false
	}
}
