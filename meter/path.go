package meter

import (
	"fmt"
	"slices"
	"strings"

	"kafka-metering/meter/scan"
)

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

// paths holds every path of a program, so that one pass over a document finds them all: those into Kong's log, and those
// into what a front or this package adds to it. They share one numbering of slots, which starts at 1, so that a member
// that another plugin wrote into Kong's log under one of our names is never read for ours.
type paths struct {
	log, added scan.Shape
	slots      int
	asked      map[int]bool // slots that an expression reads, beside what every program reads
}

// addedRoots are the members of the observation that are not Kong's.
var addedRoots = []string{"llm", "body", "outcome", "subject", "capture"}

// add returns the slot of a path.
func (p *paths) add(keys []string) (int, error) {
	if slices.Contains(addedRoots, keys[0]) {
		return addPath(&p.added, keys, &p.slots)
	}
	slot, err := addPath(&p.log, keys, &p.slots)
	if p.asked != nil {
		p.asked[slot] = true
	}
	return slot, err
}

// addPath returns the slot of a path of shape: the one behind last when the path is new.
func addPath(shape *scan.Shape, keys []string, last *int) (int, error) {
	slot, err := shape.AddKeys(keys, *last+1)
	*last = max(*last, slot)
	return slot, err
}

// reads reports whether a member of the observation that is not Kong's is read.
func (p *paths) reads(root string) bool {
	_, _, ok := p.added.Sub(root)
	return ok
}
