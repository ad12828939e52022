package devkong

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// match is a route that fits a request.
type match struct {
	route   *Route
	prefix  string // the part of the path that the route matched
	postfix string // the rest
}

// candidate is one route with one of its paths, compiled.
type candidate struct {
	route *Route
	path  string
	re    *regexp.Regexp // for a path that starts with ~
	order int
}

// router finds the route of a request as Kong's default flavour does: more kinds of conditions come first, then regular
// expressions by priority, then the longer path, then the older route.
type router struct{ candidates []candidate }

func checkPath(path string) error {
	if pattern, isRegexp := strings.CutPrefix(path, "~"); isRegexp {
		if _, err := regexp.Compile(pattern); err != nil {
			return fmt.Errorf("invalid regex: %w", err)
		}
		return nil
	}
	if !strings.HasPrefix(path, "/") {
		return errors.New("should start with: / (fixed path) or ~/ (regex path)")
	}
	return nil
}

func newRouter(routes []*Route) *router {
	rt := &router{}
	for i, r := range routes {
		paths := r.Paths
		if len(paths) == 0 {
			paths = []string{""}
		}
		for _, p := range paths {
			c := candidate{route: r, path: p, order: i}
			if pattern, isRegexp := strings.CutPrefix(p, "~"); isRegexp {
				c.re = regexp.MustCompile("^(?:" + pattern + ")") // checked when the file was read
			}
			rt.candidates = append(rt.candidates, c)
		}
	}
	slices.SortStableFunc(rt.candidates, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(b.route.weight(), a.route.weight()),
			cmp.Compare(len(b.route.Headers), len(a.route.Headers)),
			cmp.Compare(b.route.plainHost(), a.route.plainHost()),
			cmp.Compare(b.regexp(), a.regexp()),
			cmp.Compare(b.route.RegexPriority*b.regexp(), a.route.RegexPriority*a.regexp()),
			cmp.Compare(len(b.path), len(a.path)),
			cmp.Compare(a.order, b.order),
		)
	})
	return rt
}

func (c candidate) regexp() int {
	if c.re != nil {
		return 1
	}
	return 0
}

// weight is the number of kinds of conditions of a route.
func (r *Route) weight() int {
	n := 0
	for _, has := range []bool{len(r.Methods) > 0, len(r.Hosts) > 0, len(r.Paths) > 0, len(r.Headers) > 0} {
		if has {
			n++
		}
	}
	return n
}

func (r *Route) plainHost() int {
	if len(r.Hosts) > 0 && !slices.ContainsFunc(r.Hosts, func(h string) bool { return strings.Contains(h, "*") }) {
		return 1
	}
	return 0
}

// find returns the match of a request, or nil. The host has no port.
func (rt *router) find(r *http.Request, host string) *match {
	path := r.URL.EscapedPath()
	for _, c := range rt.candidates {
		route := c.route
		if len(route.Methods) > 0 && !slices.Contains(route.Methods, r.Method) ||
			len(route.Hosts) > 0 && !slices.ContainsFunc(route.Hosts, func(h string) bool { return matchHost(h, host) }) ||
			!matchHeaders(route.Headers, r.Header) {
			continue
		}
		switch {
		case c.path == "":
			return &match{route: route, postfix: path}
		case c.re != nil:
			if prefix := c.re.FindString(path); prefix != "" {
				return &match{route: route, prefix: prefix, postfix: path[len(prefix):]}
			}
		case strings.HasPrefix(path, c.path):
			return &match{route: route, prefix: c.path, postfix: path[len(c.path):]}
		}
	}
	return nil
}

func matchHost(pattern, host string) bool {
	pattern, _, _ = strings.Cut(strings.ToLower(pattern), ":")
	host = strings.ToLower(host)
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(host, suffix)
	}
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(host, prefix)
	}
	return pattern == host
}

func matchHeaders(wanted map[string][]string, h http.Header) bool {
	for name, values := range wanted {
		if !slices.ContainsFunc(h.Values(name), func(v string) bool {
			return slices.ContainsFunc(values, func(w string) bool { return strings.EqualFold(v, w) })
		}) {
			return false
		}
	}
	return true
}

// upstreamPath returns the path to ask the upstream for: Kong's path handling v0.
func (m *match) upstreamPath(path string) string {
	base := "/"
	if m.route.service != nil && m.route.service.Path != "" {
		base = m.route.service.Path
	}
	rest := path
	if m.route.stripPath() {
		rest = m.postfix
	}
	if trimmed, hadSlash := strings.CutSuffix(base, "/"); hadSlash {
		switch {
		case rest == "" && base == "/":
			return "/"
		case rest == "" && strings.HasSuffix(path, "/"):
			return base
		case rest == "":
			return trimmed
		case rest[0] == '/':
			return trimmed + rest
		default:
			return base + rest
		}
	}
	switch {
	case rest == "" && len(path) > 1 && strings.HasSuffix(path, "/"):
		return base + "/"
	case rest == "" || !m.route.stripPath() && rest == "/":
		return base
	case rest[0] == '/':
		return base + rest
	default:
		return base + "/" + rest
	}
}
