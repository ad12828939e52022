package meter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/common/types/ref"
	"github.com/tidwall/gjson"
)

// expr is a compiled expression: a plain path, as it stands or under one function, or else a CEL program. Both read the
// same slots, so that one pass over a document serves them all.
type expr struct {
	at  slotRef
	fn  function
	cel *celProgram // nil for a plain path
}

// slotRef is where the value of a path is found.
type slotRef struct {
	slot int
	row  bool // in the row of for_each rather than in the observation
}

// scope is what an expression may read.
type scope struct {
	paths *paths
	row   *rowPaths // nil without for_each
}

// ref returns the place of a path's value, of which fn is read.
func (s *scope) ref(keys []string, fn string) (slotRef, error) {
	if keys[0] != eachRoot {
		slot, err := s.paths.add(keys)
		if fn != sizeName && s.paths.valued != nil {
			s.paths.valued[slot] = true
		}
		return slotRef{slot: slot}, err
	}
	if s.row == nil {
		return slotRef{}, fmt.Errorf("%s has a meaning only with for_each", eachRoot)
	}
	slot, err := s.row.add(keys[1:])
	return slotRef{slot: slot, row: true}, err
}

// evaluation is one exchange, and one row of it, as expressions read it.
type evaluation struct {
	values []string               // raw JSON by slot, of the observation
	row    []string               // likewise, of the row
	shared map[int]ref.Val        // lists and objects of the observation, by slot
	cost   uint64                 // what the exchange's CEL programs have cost
	small  map[*celProgram]uint64 // and each of them since that was too much; nil before
	read   int                    // and what they have read of lists and objects, in bytes

	// Memory that the next exchange uses again.
	passed, applies []bool // by meter
	data            []byte // of the events
}

// overdraw notes what a program has cost when the exchange's budget was spent.
func (x *evaluation) overdraw(p *celProgram, cost uint64) {
	if x.small == nil {
		x.small = map[*celProgram]uint64{}
	}
	x.small[p] += cost
}

// reset forgets the exchange, and keeps its memory for the next one.
func (x *evaluation) reset() {
	const keptData = 64 << 10 // bytes; few exchanges have more
	clear(x.row[:cap(x.row)])
	if cap(x.data) > keptData {
		x.data = nil
	}
	*x = evaluation{row: x.row[:0], passed: x.passed, applies: x.applies, data: x.data[:0]}
}

func (x *evaluation) at(r slotRef) string {
	values := x.values
	if r.row {
		values = x.row
	}
	if r.slot >= len(values) {
		return "" // a path that was compiled after the exchange was observed: Explain's
	}
	return values[r.slot]
}

// eval returns the raw JSON of the expression's value, "" where it has none. Only a CEL program can fail.
func (e *expr) eval(x *evaluation) (string, error) {
	if e.cel != nil {
		return e.cel.eval(x)
	}
	raw := x.at(e.at)
	if e.fn != nil {
		raw = e.fn(raw)
	}
	return raw, nil
}

// compileExpr compiles source.
func compileExpr(source string, s *scope) (expr, error) {
	if strings.TrimSpace(source) == "" {
		return expr{}, &syntaxError{source: source, message: "the expression is empty"}
	}
	name, path := splitCall(source)
	if keys, ok := parsePath(path); ok {
		at, err := s.ref(keys, name)
		if err != nil {
			err = &syntaxError{source: source, message: err.Error()}
		}
		return expr{at: at, fn: functions[name]}, err
	}
	program, err := compileCEL(source, s)
	return expr{cel: program}, err
}

// function turns the raw JSON found at a path into the raw JSON of the result; "" is absent.
type function func(raw string) string

const sizeName = "size"

// functions are those that a plain path may stand under. CEL has the same.
var functions = map[string]function{
	"has":          hasValue,
	sizeName:       size,
	"status":       status,
	"status_class": statusClass,
}

// splitCall splits fn(path) into its parts; fn is empty for anything else.
func splitCall(source string) (fn, path string) {
	source = strings.TrimSpace(source)
	n := identifierLen(source)
	if n == 0 || n == len(source) || source[n] != '(' || functions[source[:n]] == nil || !strings.HasSuffix(source, ")") {
		return "", source
	}
	return source[:n], source[n+1 : len(source)-1]
}

// parsePath splits a plain path into its keys: response.headers['content-type'], consumer.username. It is the subset of
// CEL's member selection that needs no evaluation; an element of a list is none.
func parsePath(source string) (keys []string, ok bool) {
	rest := strings.TrimSpace(source)
	for first := true; rest != ""; first = false {
		switch {
		case first || rest[0] == '.':
			if !first {
				rest = rest[1:]
			}
			n := identifierLen(rest)
			if n == 0 || slices.Contains(celWords, rest[:n]) {
				return nil, false
			}
			keys, rest = append(keys, rest[:n]), rest[n:]
		case strings.HasPrefix(rest, "['") || strings.HasPrefix(rest, `["`):
			end := strings.Index(rest[2:], rest[1:2]+"]")
			if end <= 0 || strings.ContainsAny(rest[2:2+end], "\\'\"\n") {
				return nil, false
			}
			keys, rest = append(keys, rest[2:2+end]), rest[2+end+2:]
		default:
			return nil, false
		}
	}
	return keys, len(keys) > 0
}

// celWords are words that are no names in CEL (its specification, section "Syntax").
var celWords = []string{
	"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
	"loop", "package", "namespace", "return", "var", "void", "while",
}

func identifierLen(s string) int {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}

func hasValue(raw string) string {
	if raw == "" {
		return "false"
	}
	return "true"
}

// size counts the elements of a list, the members of an object or the characters of a text.
func size(raw string) string {
	if raw == "" {
		return ""
	}
	if s, ok := text(raw); ok {
		return strconv.Itoa(utf8.RuneCountInString(s))
	}
	n := 0
	switch raw[0] {
	case '[':
		gjson.Parse(raw).ForEach(func(_, _ gjson.Result) bool { n++; return true })
	case '{': // as everywhere the first of a name counts, and a null is as good as absent
		seen := map[string]bool{}
		gjson.Parse(raw).ForEach(func(k, v gjson.Result) bool {
			if !seen[k.Str] && v.Type != gjson.Null {
				n++
			}
			seen[k.Str] = true
			return true
		})
	default:
		return ""
	}
	return strconv.Itoa(n)
}

// status reads an HTTP status as Kong logs it: a number when the response was buffered, else nginx's $upstream_status,
// which lists one status for each try ("502, 200"): the last is the one that was answered. "" when nothing was asked.
func status(raw string) string {
	s, isText := text(raw)
	if !isText {
		s = raw
	}
	if i := strings.LastIndexAny(s, ", :"); i >= 0 {
		s = s[i+1:]
	}
	if len(s) != 3 || s[0] < '1' || s[0] > '9' || s[1] < '0' || s[1] > '9' || s[2] < '0' || s[2] > '9' {
		return ""
	}
	return s
}

// statusClass is 2xx for 200 to 299, and so on.
func statusClass(raw string) string {
	switch s := status(raw); {
	case s == "":
		return ""
	case s[0] <= '5':
		return statusClasses[s[0]-'1']
	default:
		return ""
	}
}

var statusClasses = [...]string{`"1xx"`, `"2xx"`, `"3xx"`, `"4xx"`, `"5xx"`}
