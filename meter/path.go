package meter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// maxMembers bounds the members of one object that a configuration may read, so that a scan needs no memory of its own.
const maxMembers = 256

// parsePath splits a plain path into its keys: response.headers['content-type'], consumer.username. It is the subset of
// CEL's member selection that needs no evaluation. A list element is no plain path: lists are read by for_each.
func parsePath(expr string) ([]string, error) {
	var keys []string
	rest := strings.TrimSpace(expr)
	for first := true; rest != ""; first = false {
		switch {
		case first || rest[0] == '.':
			if !first {
				rest = rest[1:]
			}
			n := identifierLen(rest)
			if n == 0 {
				return nil, fmt.Errorf("expression %q is not a plain path such as consumer.username or request.headers['x-team']", expr)
			}
			keys, rest = append(keys, rest[:n]), rest[n:]
		case strings.HasPrefix(rest, "['") || strings.HasPrefix(rest, `["`):
			end := strings.Index(rest[2:], rest[1:2]+"]")
			if end <= 0 || strings.Contains(rest[2:2+end], `\`) {
				return nil, fmt.Errorf("expression %q has an index that is not a quoted name such as ['x-team']", expr)
			}
			keys, rest = append(keys, rest[2:2+end]), rest[2+end+2:]
		default:
			return nil, fmt.Errorf("expression %q is not a plain path such as consumer.username or request.headers['x-team']", expr)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("an expression is empty")
	}
	return keys, nil
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

// pathTree holds every path that a program reads, so that one pass over a document finds them all. The zero value is an
// empty tree. A tree is built once and then only read.
type pathTree struct {
	key      string
	slot     int // where the value goes; 0 is nowhere
	children []*pathTree
}

// add returns the slot of a path, which it takes from next when the path is new.
func (t *pathTree) add(keys []string, next *int) (int, error) {
	for _, key := range keys {
		child := t.child(key)
		if child == nil {
			if len(t.children) == maxMembers {
				return 0, fmt.Errorf("more than %d members of one object are read", maxMembers)
			}
			child = &pathTree{key: key}
			t.children = append(t.children, child)
		}
		t = child
	}
	if t.slot == 0 {
		*next++
		t.slot = *next
	}
	return t.slot, nil
}

func (t *pathTree) child(key string) *pathTree {
	for _, c := range t.children {
		if c.key == key {
			return c
		}
	}
	return nil
}

// scan stores the raw JSON of each path of the tree that object has, by slot; null counts as absent. Of a member that
// stands twice the first counts: which of the two a reader takes is undefined in JSON (RFC 8259, section 4), and the
// first cannot be overridden by what is appended behind it.
func (t *pathTree) scan(object gjson.Result, values []string) {
	var seen [maxMembers / 64]uint64
	object.ForEach(func(key, value gjson.Result) bool {
		for i, c := range t.children {
			if c.key != key.Str {
				continue
			}
			if seen[i/64]&(1<<(i%64)) != 0 {
				return true
			}
			seen[i/64] |= 1 << (i % 64)
			if c.slot != 0 && value.Type != gjson.Null {
				values[c.slot] = value.Raw
			}
			if len(c.children) > 0 && value.IsObject() {
				c.scan(value, values)
			}
			return true
		}
		return true
	})
}

// paths holds every path of a program: those into Kong's log, and those into what a front or this package adds to it.
// They share one numbering of slots, so that a member that another plugin wrote into Kong's log under one of our names
// is never read for ours.
type paths struct {
	log, added pathTree
	slots      int
}

// addedRoots are the members of the observation that are not Kong's.
var addedRoots = []string{"llm", "body", "outcome", "subject", "capture"}

func (p *paths) add(keys []string) (int, error) {
	if slices.Contains(addedRoots, keys[0]) {
		return p.added.add(keys, &p.slots)
	}
	return p.log.add(keys, &p.slots)
}
