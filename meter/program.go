package meter

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"kafka-metering/meter/scan"
)

// Settings is what a [Program] is compiled from.
type Settings struct {
	Meters         []Meter
	SubjectSources []SubjectSource // the first that yields a value wins
	OnMissing      OnMissing       // empty is [MissingAnonymous]
	Attributes     []Attribute
	Source         string                        // CloudEvents source
	Headers        []string                      // response headers, in lower case, that [Observation.ResponseHeader] shall know
	DataSchema     func(eventType string) string // CloudEvents dataschema; nil leaves it out
}

// Program is a compiled set of meters. It is safe for concurrent use.
type Program struct {
	paths    paths
	types    []*eventType    // by name
	slugs    map[string]bool // of all meters, those that are wrong included
	subjects []subjectPath
	missing  OnMissing
	source   string
	schemas  []string // by event type

	headers map[string]int // slots of response headers

	readsLLM, readsBody bool
}

// Compile compiles s. What is wrong is left out and reported, all problems at once, each with its place; the program is
// never nil and meters what it can: a configuration that was accepted must not stop the metering of a route.
func Compile(s Settings) (*Program, error) {
	p := &Program{missing: s.OnMissing, source: s.Source, slugs: map[string]bool{}, headers: make(map[string]int, len(s.Headers))}
	var wrong problems
	for slot, path := range factPaths {
		if slot == 0 {
			continue
		}
		keys, _ := parsePath(path)
		if _, err := p.paths.add(keys); err != nil {
			panic("bug: " + err.Error())
		}
	}
	for _, name := range s.Headers {
		slot, err := p.paths.add([]string{"response", "headers", name})
		if err != nil {
			panic("bug: " + err.Error())
		}
		p.headers[name] = slot
	}
	p.paths.asked, p.paths.valued = map[int]bool{}, map[int]bool{}
	for i, source := range s.SubjectSources {
		keys, err := source.path()
		var slot int
		if err == nil {
			slot, err = p.paths.add(keys)
		}
		if err != nil {
			wrong.add(fmt.Sprintf("subject.sources[%d]", i+1), err)
			continue
		}
		p.subjects = append(p.subjects, subjectPath{slot, written(keys)})
	}
	for _, m := range s.Meters {
		wrong.list = append(wrong.list, p.addMeter(m)...)
	}
	slices.SortFunc(p.types, func(a, b *eventType) int { return strings.Compare(a.name, b.name) })
	for i, a := range s.Attributes {
		for _, err := range p.addAttribute(a) {
			wrong.add(fmt.Sprintf("attributes[%d]", i+1), err)
		}
	}
	for _, t := range p.types {
		for i := range t.members {
			t.members[i].label = `"` + t.members[i].key + `":`
		}
		urn := ""
		if s.DataSchema != nil {
			urn = s.DataSchema(t.name)
		}
		p.schemas = append(p.schemas, urn)
	}
	p.readsLLM = p.paths.reads("llm")
	p.readsBody = p.paths.reads("body")
	return p, errors.Join(wrong.list...)
}

func (p *Program) addMeter(m Meter) []error {
	if p.slugs[m.Slug] && m.Slug != "" { // whatever else is wrong could not be told from what is wrong with the other one
		return []error{&Problem{Meter: m.Slug, Other: m.Slug, Field: "slug", Offset: -1, Err: errors.New("another meter has it")}}
	}
	p.slugs[m.Slug] = true
	if wrong := m.validate(); len(wrong) > 0 {
		return append(wrong, (&eventType{name: m.EventType}).add(m, &paths{})...) // all problems at once
	}
	name := m.EventType
	if name == "" {
		name = DefaultEventType
	}
	if i := slices.IndexFunc(p.types, func(t *eventType) bool { return t.name == name }); i >= 0 {
		return p.types[i].add(m, &p.paths)
	}
	t := &eventType{name: name}
	if wrong := t.add(m, &p.paths); len(wrong) > 0 {
		return wrong
	}
	p.types = append(p.types, t)
	return nil
}

// addAttribute adds a to every event type. A name that a meter uses stays the meter's: a client's header must not
// replace a count.
func (p *Program) addAttribute(a Attribute) (wrong []error) {
	keys, err := a.path()
	if err != nil {
		return []error{err}
	}
	if !validName(a.EventPropertyName) {
		return []error{fmt.Errorf("event_property_name %q: must be 1 to 63 of a-z, 0-9 and _, and start with a letter", a.EventPropertyName)}
	}
	slot, err := p.paths.add(keys)
	if err != nil {
		return []error{err}
	}
	for _, t := range p.types {
		if i := slices.IndexFunc(t.members, func(m member) bool { return m.key == a.EventPropertyName }); i >= 0 {
			first := t.meters[t.members[i].owners[0]].slug
			wrong = append(wrong, conflict(first, "event_property_name %q: meter %q of event type %q uses it", a.EventPropertyName, first, t.name))
			continue
		}
		owners := make([]int, len(t.meters))
		for i := range owners {
			owners[i] = i
		}
		t.members = append(t.members, member{key: a.EventPropertyName, expr: expr{at: slotRef{slot: slot}}, owners: owners})
		slices.SortFunc(t.members, func(a, b member) int { return strings.Compare(a.key, b.key) })
	}
	return wrong
}

// ReadsLLM reports whether a meter reads the observation's llm object, and so needs the body or Kong's AI statistics.
func (p *Program) ReadsLLM() bool { return p.readsLLM }

// ReadsBody reports whether a meter reads the response body itself.
func (p *Program) ReadsBody() bool { return p.readsBody }

// Observe reads Kong's serialized log, one JSON object, which may hold bytes that are not UTF-8. It keeps log. The
// error is [ErrNotObject].
func (p *Program) Observe(log string) (*Observation, error) {
	o := &Observation{log: log, headers: p.headers, values: make([]string, p.paths.slots+1)}
	s := scan.Scanner[string]{Unescape: true} // cjson writes the slash in a query argument's name as \/
	if err := s.Scan(log, &p.paths.log, o.values); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotObject, err)
	}
	if strings.TrimLeft(log, " \t\r\n")[0] != '{' {
		return nil, ErrNotObject
	}
	return o, nil
}

// Events evaluates the meters. The events' Sequence and RecordedTime are the caller's to set.
func (p *Program) Events(o *Observation) Result {
	var r Result
	p.Evaluate(o, &r)
	return r
}

// DeadLetters reports whether the events of an exchange that no source names a customer for go to the dead-letter topic.
func (p *Program) DeadLetters() bool { return p.missing == MissingDeadLetter }

// Evaluate is Events into a result that is new or has been reset.
func (p *Program) Evaluate(o *Observation, r *Result) {
	subject, _ := p.subject(o)
	if subject == "" {
		r.SubjectMissing = true
		subject = AnonymousSubject
		if p.missing == MissingDrop {
			r.Dropped = true
			return
		}
	}
	r.UsageInconsistent = !p.fill(o, subject)
	base := Event{Source: p.source, Subject: subject, TraceParent: traceParent(o.text(slotTraceParent))}
	if start, ok := o.StartedAt(); ok {
		base.Time = FormatTime(start)
	} else {
		r.NoStartTime = true
	}
	id := attributeText(o.RequestID())
	if id == "" || len(id) > maxText {
		id, r.NoRequestID = fingerprint(o.log), true
	}
	most := len(p.types)
	if o.LLM != nil {
		most += 4 // it has up to five rows
	}
	r.Events = slices.Grow(r.Events, most)
	r.x.values = o.values
	for i, t := range p.types {
		base.Type, base.DataSchema = t.name, p.schemas[i]
		t.events(&base, id, r)
	}
}

// fill stores what the observation adds to Kong's log.
func (p *Program) fill(o *Observation, subject string) (consistent bool) {
	if o.replayed != nil {
		p.fillReplayed(o, subject)
		return true
	}
	b, consistent := o.appendAdded(append(make([]byte, 0, 768), '{'), subject, p.paths.reads)
	b = append(b, '}')
	var doc scan.Scanner[string]
	if err := doc.Scan(string(b), &p.paths.added, o.values); err != nil {
		panic("bug: what is added to the log is no JSON: " + err.Error())
	}
	if shape, slot, ok := p.paths.added.Sub("body"); ok && len(o.Body) > 0 {
		p.fillBody(o, shape, slot, o.values)
	}
	return consistent
}

// fillReplayed is fill for an observation that is a document's. The subject is the program's to say.
func (p *Program) fillReplayed(o *Observation, subject string) {
	keep(o.values, o.replayed)
	if _, slot, ok := p.paths.added.Sub("subject"); ok && slot != scan.Nowhere {
		o.values[slot] = string(appendString(nil, subject))
	}
}

// fillBody stores what is read of a body that is JSON into values.
func (p *Program) fillBody(o *Observation, shape *scan.Shape, slot int, values []string) {
	body := strings.Trim(strings.TrimPrefix(string(o.Body), "\ufeff"), " \t\r\n")
	found := make([]string, len(values))
	s := scan.Scanner[string]{Unescape: true}
	if s.Scan(body, shape, found) != nil {
		return
	}
	keep(values, found)
	if slot != scan.Nowhere {
		values[slot] = body
	}
}

// keep stores what was found.
func keep(values, found []string) {
	for i, value := range found {
		if value != "" {
			values[i] = value
		}
	}
}

// traceParent returns s if it is a W3C traceparent header, else "": the client may send anything.
func traceParent(s string) string {
	const zeros = "00000000000000000000000000000000"
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return ""
	}
	version, trace, parent, flags := s[:2], s[3:35], s[36:52], s[53:]
	if !isHex(version) || !isHex(trace) || !isHex(parent) || !isHex(flags) || version == "ff" || trace == zeros || parent == zeros[:16] {
		return ""
	}
	return s
}

// isHex reports whether s is lower-case hexadecimal digits.
func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// fingerprint identifies an exchange that Kong gave no id. It does not depend on the order of members, which Kong does
// not keep when it serializes the same log again.
func fingerprint(log string) string {
	const maxLevels = 6 // deeper values count as they are written
	var leaves []string
	var walk func(path string, v gjson.Result, level int)
	walk = func(path string, v gjson.Result, level int) {
		if !v.IsObject() && !v.IsArray() || level == maxLevels {
			leaves = append(leaves, path+"="+v.Raw)
			return
		}
		index := 0
		v.ForEach(func(key, child gjson.Result) bool {
			name := key.Str
			if v.IsArray() {
				name = strconv.Itoa(index)
				index++
			}
			walk(path+"\x00"+name, child, level+1)
			return true
		})
	}
	walk("", gjson.Parse(log), 0)
	slices.Sort(leaves)
	sum := sha256.Sum256([]byte(strings.Join(leaves, "\n")))
	return hex.EncodeToString(sum[:16])
}
