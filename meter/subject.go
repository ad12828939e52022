package meter

import (
	"fmt"
	"unicode/utf8"
)

// maxText bounds a subject and a dimension, in bytes.
const maxText = 256

// AnonymousSubject is the subject of an exchange that no source names a customer for.
const AnonymousSubject = "anonymous"

// OnMissing says what becomes of an exchange that no source names a customer for.
type OnMissing string

// The policies.
const (
	MissingAnonymous  OnMissing = "anonymous"   // its events carry [AnonymousSubject]
	MissingDrop       OnMissing = "drop"        // it is skipped, and counted
	MissingDeadLetter OnMissing = "dead_letter" // its events go to the dead-letter topic
)

// SubjectSource is one place to look for the customer. A header is the client's own word: use it only where the
// client is trusted or an earlier plugin sets it.
type SubjectSource struct {
	LookUpValueIn string // consumer, credential, header, route or service
	Field         string // the member, or the header's name
}

// path returns the source's path in the observation.
func (s SubjectSource) path() ([]string, error) {
	switch s.LookUpValueIn {
	case "consumer", "route", "service":
		return []string{s.LookUpValueIn, s.Field}, nil
	case "credential":
		return []string{"authenticated_entity", s.Field}, nil
	case "header":
		return []string{"request", "headers", s.Field}, nil
	default:
		return nil, fmt.Errorf("look_up_value_in %q: must be consumer, credential, header, route or service", s.LookUpValueIn)
	}
}

// subjectPath is a compiled source.
type subjectPath struct {
	slot int
	path string
}

// subject returns the customer that the sources name, and the path of the one that does, or "". A longer value than an event can
// carry names nobody, nor does text that is not UTF-8: cut short or mended it might name somebody else.
func (p *Program) subject(o *Observation) (subject, path string) {
	for _, source := range p.subjects {
		raw := o.values[source.slot]
		s, isText := text(raw)
		if _, isNumber := number(raw); isNumber {
			s, isText = raw, true
		}
		if isText && s != "" && len(s) <= maxText && utf8.ValidString(s) {
			return attributeText(s), source.path
		}
	}
	return "", ""
}

// subjectOf returns the exchange's subject.
func (p *Program) subjectOf(o *Observation) string {
	if s, _ := p.subject(o); s != "" {
		return s
	}
	return AnonymousSubject
}

// Subject returns the exchange's subject and the path that names it, or [AnonymousSubject] and, as tried, the paths that name
// nobody.
func (p *Program) Subject(o *Observation) (subject, path string, tried []string) {
	if subject, path = p.subject(o); subject != "" {
		return subject, path, nil
	}
	for _, source := range p.subjects {
		tried = append(tried, source.path)
	}
	return AnonymousSubject, "", tried
}

// Attribute is one more dimension of every event, read from the request or the response.
type Attribute struct {
	Source            string // header, query or response_header
	LookUpValueIn     string // its name there
	EventPropertyName string // its key in data
}

// path returns the attribute's path in the observation.
func (a Attribute) path() ([]string, error) {
	switch a.Source {
	case "header":
		return []string{"request", "headers", a.LookUpValueIn}, nil
	case "query":
		return []string{"request", "querystring", a.LookUpValueIn}, nil
	case "response_header":
		return []string{"response", "headers", a.LookUpValueIn}, nil
	default:
		return nil, fmt.Errorf("source %q: must be header, query or response_header", a.Source)
	}
}

// lower is for header names, which Kong's log holds in lower case.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
