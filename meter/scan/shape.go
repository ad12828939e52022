package scan

import (
	"fmt"
	"strings"
)

// maxMembers bounds the members that one object of a shape may name, so that a scan needs no memory of its own.
const maxMembers = 256

// Nowhere is the slot of what is found but not kept.
const Nowhere = -1

// Shape is what is read of a JSON object: some of its members, by name, each into a slot. The zero value reads nothing. A
// shape is built once and then only read, by any number of scanners.
type Shape struct {
	members []member
}

type member struct {
	name string
	slot int     // where the raw value goes, or Nowhere
	sub  *Shape  // of the value, when it is an object; nil when nothing inside is read
	each *member // of its elements, when it is a list; nil likewise
}

// Add makes s read a path into slot: names joined by dots. A name that ends in [] is a list: the path goes on in each of
// its elements, and the first that has a value wins. Add is for paths in source code, and panics when an object would have
// more than 256 members to read.
func (s *Shape) Add(path string, slot int) {
	name, rest, more := strings.Cut(path, ".")
	name, list := strings.CutSuffix(name, "[]")
	m := s.member(name)
	switch {
	case m == nil:
		panic(fmt.Sprintf("bug: there is no room for path %q in the shape", path))
	case !more:
		m.slot = slot
	case list:
		if m.each == nil {
			m.each = &member{slot: Nowhere}
		}
		m.each.sub = m.each.sub.with(rest, slot)
	default:
		m.sub = m.sub.with(rest, slot)
	}
}

// with returns s, or a new shape for nil, reading path into slot.
func (s *Shape) with(path string, slot int) *Shape {
	if s == nil {
		s = new(Shape)
	}
	s.Add(path, slot)
	return s
}

// AddKeys makes s read the member that keys lead to, through objects, into slot. A path that s reads already keeps its
// slot. It returns the path's slot, and an error when an object would have more than 256 members to read.
func (s *Shape) AddKeys(keys []string, slot int) (int, error) {
	for i, key := range keys {
		m := s.member(key)
		if m == nil {
			return 0, fmt.Errorf("more than %d members of one object are read", maxMembers)
		}
		if i == len(keys)-1 {
			if m.slot == Nowhere {
				m.slot = slot
			}
			return m.slot, nil
		}
		if m.sub == nil {
			m.sub = new(Shape)
		}
		s = m.sub
	}
	return Nowhere, nil
}

// Sub returns the shape of a member that is read, and nil when nothing inside it is. slot is the member's own, or
// [Nowhere]; ok is false when the member is not read at all.
func (s *Shape) Sub(key string) (sub *Shape, slot int, ok bool) {
	if i := s.find([]byte(key)); i >= 0 {
		return s.members[i].sub, s.members[i].slot, true
	}
	return nil, Nowhere, false
}

// member returns the member called name, which it adds when it is new; nil when there is no room for it.
func (s *Shape) member(name string) *member {
	i := s.find([]byte(name))
	if i < 0 {
		if len(s.members) == maxMembers {
			return nil
		}
		i = len(s.members)
		s.members = append(s.members, member{name: name, slot: Nowhere})
	}
	return &s.members[i]
}

func (s *Shape) find(name []byte) int {
	for i := range s.members {
		if s.members[i].name == string(name) {
			return i
		}
	}
	return -1
}
