package scan

import "slices"

// Paths returns the paths that s reads through objects, as keys, in the order in which they were added.
func (s *Shape) Paths() [][]string { return s.paths(nil, nil) }

func (s *Shape) paths(all [][]string, before []string) [][]string {
	for i := range s.members {
		m := &s.members[i]
		keys := append(slices.Clip(before), m.name)
		if m.slot != Nowhere || m.each != nil {
			all = append(all, keys)
		}
		if m.sub != nil {
			all = m.sub.paths(all, keys)
		}
	}
	return all
}
