package lane

import (
	"encoding/json"
	"slices"
)

// Document says how a worker writes the part of Kong's log that is read: for each member the text before it and then its
// value, as JSON, or null where there is none; and the text behind the last one.
type Document struct {
	Members []Member `json:"members"`
	After   string   `json:"after"`
}

// Member is a value in Kong's log.
type Member struct {
	Before string   `json:"before"`
	Path   []string `json:"path"` // its keys
	// Count says that it is a list of which only the length is read: zeros will do for its elements.
	Count bool `json:"count,omitempty"`
}

// NewDocument returns the document of the values at paths, under the names that they have in Kong's log. Of two paths of
// which one is the beginning of the other it has the value at the shorter one.
func NewDocument(paths [][]string) *Document {
	paths = slices.Clone(paths)
	slices.SortFunc(paths, slices.Compare[[]string]) // so that what is in one object stands together, and behind its beginning
	d := &Document{After: "}"}
	text := []byte("{")
	var last []string
	for _, path := range paths {
		shared := 0
		for shared < len(last) && shared < len(path) && last[shared] == path[shared] {
			shared++
		}
		if last != nil && shared == len(last) {
			continue
		}
		for range len(last) - shared - 1 {
			text = append(text, '}')
		}
		if last != nil {
			text = append(text, ',')
		}
		for i, key := range path[shared:] {
			if i > 0 {
				text = append(text, '{')
			}
			quoted, err := json.Marshal(key)
			if err != nil {
				panic("bug: " + err.Error())
			}
			text = append(append(text, quoted...), ':')
		}
		d.Members = append(d.Members, Member{Before: string(text), Path: path})
		text, last = text[:0], path
	}
	for range len(last) - 1 {
		d.After += "}"
	}
	return d
}
