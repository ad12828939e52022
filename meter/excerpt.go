package meter

import (
	"fmt"
	"slices"
	"strings"

	"kafka-metering/meter/scan"
)

// Excerpt makes observations of some members of Kong's log, whose paths are known beforehand: without looking for them.
type Excerpt struct {
	program *Program
	members []excerptMember
	flat    bool   // each value is what is read, as a whole
	end     string // closes the document
	size    int    // of all that is not the members' values, at most
}

// excerptMember is a member, and what stands between it and the one before it.
type excerptMember struct {
	closing string   // objects that the one before is in, and this one is not
	opening []string // names of those that this one is in, and the one before is not, as JSON with the brace
	name    string   // as JSON with the colon
	slot    int
}

// Excerpt returns the excerpt of members of Kong's log at these paths, which are not empty. Those that [Program.LogPaths]
// returns are read the quickest.
func (p *Program) Excerpt(paths [][]string) *Excerpt {
	slots := map[string]int{}
	for keys, slot := range p.paths.log.Paths {
		slots[written(keys)] = slot
	}
	e := &Excerpt{program: p, flat: p.paths.log.Flat(), size: len("{}")}
	var before []string
	for _, path := range paths {
		objects, same := path[:len(path)-1], 0
		for same < min(len(before), len(objects)) && before[same] == objects[same] {
			same++
		}
		m := excerptMember{
			closing: strings.Repeat("}", len(before)-same), name: string(appendString(nil, path[len(path)-1])) + ":", slot: slots[written(path)],
		}
		for _, name := range objects[same:] {
			m.opening = append(m.opening, string(appendString(nil, name))+":{")
		}
		e.members = append(e.members, m)
		e.size += len(m.closing) + len(strings.Join(m.opening, ",")) + len(m.name) + len(",,")
		e.flat = e.flat && m.slot != scan.Nowhere
		before = objects
	}
	e.end = strings.Repeat("}", len(before)+1)
	e.size += len(e.end)
	return e
}

// Observe makes o what [Program.Observe] returns of a log with these members, each a JSON value, or empty where the log has
// none. Those that are missing at the end have none. It keeps nothing of members. The memory of an observation that was made
// before is used again.
func (e *Excerpt) Observe(o *Observation, members [][]byte) error {
	if len(members) > len(e.members) {
		return fmt.Errorf("%d members of Kong's log where there can be %d", len(members), len(e.members))
	}
	size := e.size
	for _, m := range members {
		size += len(m)
	}
	var text strings.Builder
	text.Grow(size)
	text.WriteByte('{')
	first := true // nothing stands in the object yet
	var room [64]int
	starts := room[:0]
	for i := range e.members {
		m := &e.members[i]
		if m.closing != "" {
			text.WriteString(m.closing)
			first = false
		}
		for _, name := range m.opening {
			if !first {
				text.WriteByte(',')
			}
			text.WriteString(name)
			first = true
		}
		if i < len(members) && len(members[i]) > 0 {
			if !first {
				text.WriteByte(',')
			}
			text.WriteString(m.name)
			starts = append(starts, text.Len())
			text.Write(members[i])
			first = false
		} else {
			starts = append(starts, 0)
		}
	}
	text.WriteString(e.end)
	p := e.program
	if !e.flat {
		whole, err := p.Observe(text.String())
		if err == nil {
			*o = *whole
		}
		return err
	}
	values := slices.Grow(o.values[:0], p.paths.slots+1)[:p.paths.slots+1]
	clear(values)
	*o = Observation{log: text.String(), headers: p.headers, values: values}
	for i, m := range members {
		if len(m) > 0 && string(m) != "null" {
			o.values[e.members[i].slot] = o.log[starts[i] : starts[i]+len(m)]
		}
	}
	return nil
}
