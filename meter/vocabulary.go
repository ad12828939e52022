package meter

import (
	"slices"
	"strings"
)

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
	case keys[0] == "llm" && (slices.Contains(quantityNames[:], last) || slices.Contains(amountNames[:], last)):
		return KindNumber
	case len(keys) == 2 && keys[0] == "llm" && last == "stream":
		return KindBoolean
	case len(keys) == 2 && keys[0] == "llm" && slices.Contains(llmScalars, last):
		return KindString
	case len(keys) == 2 && keys[0] == "latencies", slices.Contains([]string{"request.size", "response.size", "response.status", "service.port", "started_at"}, path):
		return KindNumber
	case len(keys) == 2 && slices.Contains([]string{"route", "service", "consumer"}, keys[0]) && slices.Contains([]string{"id", "name", "username", "custom_id", "host", "protocol"}, last),
		slices.Contains([]string{"request.id", "request.method", "request.uri", "request.url", "upstream_uri", "client_ip", "source", "workspace", "workspace_name", "outcome", "subject", "capture.mode"}, path),
		len(keys) == 3 && keys[1] == "headers" && (keys[0] == "request" || keys[0] == "response"): // an argument without a value is true
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

// Nearest returns the one of names that is most like name, or "" where none is.
func Nearest(name string, names []string) string {
	best, distance := "", max(2, len(name)/3)+1
	for _, candidate := range names {
		if d := edits(name, candidate); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

// edits returns how many characters must be inserted, removed or replaced to make b of a (Levenshtein's distance).
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
