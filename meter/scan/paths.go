package scan

import "slices"

// Paths calls yield for each path that s reads through objects, as keys, with its slot, in the order in which they were
// added. What is read of a list's elements is the list's path, with the slot [Nowhere].
func (s *Shape) Paths(yield func(keys []string, slot int) bool) { s.paths(nil, yield) }

func (s *Shape) paths(before []string, yield func([]string, int) bool) bool {
	for i := range s.members {
		m := &s.members[i]
		keys := append(slices.Clip(before), m.name)
		if (m.slot != Nowhere || m.each != nil) && !yield(keys, m.slot) {
			return false
		}
		if m.sub != nil && !m.sub.paths(keys, yield) {
			return false
		}
	}
	return true
}

// Flat reports whether no path of s leads through the value of another one, or into a list.
func (s *Shape) Flat() bool {
	for i := range s.members {
		m := &s.members[i]
		if m.each != nil || m.sub != nil && (m.slot != Nowhere || !m.sub.Flat()) {
			return false
		}
	}
	return true
}
