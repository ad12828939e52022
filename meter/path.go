package meter

import (
	"slices"

	"kafka-metering/meter/scan"
)

// paths holds every path of a program, so that one pass over a document finds them all: those into Kong's log, and those
// into what a front or this package adds to it. They share one numbering of slots, which starts at 1, so that a member
// that another plugin wrote into Kong's log under one of our names is never read for ours.
type paths struct {
	log, added scan.Shape
	slots      int
	asked      map[int]bool // slots that an expression reads, beside what every program reads
	valued     map[int]bool // slots of which an expression reads more than the size
}

// addedRoots are the members of the observation that are not Kong's.
var addedRoots = []string{"llm", "body", "outcome", "subject", "capture"}

// add returns the slot of a path.
func (p *paths) add(keys []string) (int, error) {
	if slices.Contains(addedRoots, keys[0]) {
		return addPath(&p.added, keys, &p.slots)
	}
	if len(keys) > 2 && keys[1] == "headers" && (keys[0] == "request" || keys[0] == "response") {
		keys = slices.Clone(keys)
		keys[2] = lower(keys[2])
	}
	slot, err := addPath(&p.log, keys, &p.slots)
	if p.asked != nil {
		p.asked[slot] = true
	}
	return slot, err
}

// rowPaths holds the paths into a row of for_each, in a numbering of their own. Slot 0 is the row itself.
type rowPaths struct {
	shape scan.Shape
	slots int
}

func (p *rowPaths) add(keys []string) (int, error) {
	if len(keys) == 0 {
		return 0, nil
	}
	return addPath(&p.shape, keys, &p.slots)
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
