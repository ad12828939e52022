package extract

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// maxDepth bounds how deep a document may nest. RFC 8259, section 9, lets a parser set one; without it a few megabytes
// of brackets would exhaust the stack, which no recover can catch.
const maxDepth = 1000

// maxText bounds a text that is read from a response (a model, an id), in bytes. Longer ones are left out.
const maxText = 256

var (
	errSyntax = errors.New("invalid JSON")
	errEnd    = errors.New("JSON ends early")
)

// shape is what a format reads of an object: some members by their literal names, each into a slot. A name that is
// spelled with escapes ("\u0075sage") never matches: no serializer writes one, and a test for the literal key can then
// rule a message out before it is parsed.
type shape struct {
	members []shapeMember // at most 64
}

type shapeMember struct {
	name  string
	slot  int    // where the raw value goes; -1 is nowhere
	list  bool   // each element of the value has the shape sub, rather than the value itself
	sub   *shape // nil when nothing inside is read
	short bool   // reserved for none: see find
}

// add makes s read path into slot. A path is names joined by dots; a name that ends in [] stands for each element of a
// list, the first of which that has a value wins.
func (s *shape) add(path string, slot int) {
	name, rest, more := strings.Cut(path, ".")
	name, list := strings.CutSuffix(name, "[]")
	m := s.find([]byte(name))
	if m == nil {
		s.members = append(s.members, shapeMember{name: name, slot: -1})
		m = &s.members[len(s.members)-1]
	}
	if !more {
		m.slot = slot
		return
	}
	if m.sub == nil {
		m.sub, m.list = new(shape), list
	}
	if m.list != list || len(s.members) > 64 {
		panic(fmt.Sprintf("bug: path %q does not fit the shape", path))
	}
	m.sub.add(rest, slot)
}
