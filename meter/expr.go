package meter

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// expr is a compiled expression: one path, as it stands or under one function. The whole of CEL reads the same paths.
type expr struct {
	slot int
	fn   function
}

// function turns the raw JSON found at a path into the raw JSON of the result; "" is absent.
type function func(raw string) string

// functions are the few that plain paths need. has and size are CEL's own.
var functions = map[string]function{
	"has":          hasValue,
	"size":         size,
	"status":       status,
	"status_class": statusClass,
}

// splitCall splits fn(path) into its parts; fn is empty for a plain path.
func splitCall(source string) (fn, path string, err error) {
	source = strings.TrimSpace(source)
	n := identifierLen(source)
	if n == 0 || n == len(source) || source[n] != '(' {
		return "", source, nil
	}
	if _, known := functions[source[:n]]; !known || !strings.HasSuffix(source, ")") {
		return "", "", fmt.Errorf("expression %q is neither a plain path nor has, size, status or status_class of one", source)
	}
	return source[:n], source[n+1 : len(source)-1], nil
}

// compileExpr compiles source, whose path add turns into a slot.
func compileExpr(source string, add func(keys []string) (int, error)) (expr, error) {
	name, path, err := splitCall(source)
	if err != nil {
		return expr{}, err
	}
	keys, err := parsePath(path)
	if err != nil {
		return expr{}, err
	}
	slot, err := add(keys)
	if err != nil {
		return expr{}, fmt.Errorf("expression %q: %w", source, err)
	}
	return expr{slot: slot, fn: functions[name]}, nil
}

// eval returns the raw JSON of the expression's value, "" where it has none.
func (e expr) eval(values []string) string {
	raw := values[e.slot]
	if e.fn != nil {
		raw = e.fn(raw)
	}
	return raw
}

func hasValue(raw string) string {
	if raw == "" {
		return "false"
	}
	return "true"
}

// size counts the elements of a list, the members of an object or the bytes of a string.
func size(raw string) string {
	if raw == "" {
		return ""
	}
	if s, ok := text(raw); ok {
		return strconv.Itoa(len(s))
	}
	if raw[0] != '[' && raw[0] != '{' {
		return ""
	}
	n := 0
	gjson.Parse(raw).ForEach(func(_, _ gjson.Result) bool { n++; return true })
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
