package meter

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Problem is one thing that is wrong in [Settings], with its place. [Compile] returns all of them, joined.
type Problem struct {
	Meter string // the meter's slug, or empty
	// Field is the setting as a configuration names it: slug, event_type, aggregation, filter, value, value_property,
	// for_each, group_by.NAME, subject.sources[N] or attributes[N], N from 1 on.
	Field string
	// Other is the slug of the meter that the setting contradicts, or empty.
	Other string
	// Offset is where in the expression the problem is, in bytes, or -1: the whole setting.
	Offset int
	Err    error
}

// Error says what is wrong, and where.
func (p *Problem) Error() string {
	var b strings.Builder
	if p.Meter != "" {
		b.WriteString("meter \"" + p.Meter + "\": ")
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Err.Error())
	return b.String()
}

// Unwrap returns the problem without its place.
func (p *Problem) Unwrap() error { return p.Err }

// Problems returns the problems that an error of [Compile] joins.
func Problems(err error) []*Problem {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var all []*Problem
	for _, e := range joined.Unwrap() {
		if p, ok := errors.AsType[*Problem](e); ok {
			all = append(all, p)
		}
	}
	return all
}

// problems collects what is wrong with one meter or another setting.
type problems struct {
	meter string
	list  []error
}

// add notes an error in a field. Where err is a *syntaxError, so does its place.
func (p *problems) add(field string, err error) {
	if err == nil {
		return
	}
	problem := &Problem{Meter: p.meter, Field: field, Offset: -1, Err: err}
	if e, ok := errors.AsType[*syntaxError](err); ok {
		problem.Offset = e.offset
	}
	if e, ok := errors.AsType[*conflictError](err); ok {
		problem.Other = e.other
	}
	p.list = append(p.list, problem)
}

// syntaxError is an error at a place in an expression.
type syntaxError struct {
	source  string
	offset  int // in bytes
	message string
}

func (e *syntaxError) Error() string {
	const around = 24 // bytes of the expression that are shown behind the place
	place := e.source[min(e.offset, len(e.source)):]
	if len(place) > around {
		end := around
		for end > 0 && !utf8.RuneStart(place[end]) {
			end--
		}
		place = place[:end] + "…"
	}
	if e.offset == 0 || place == "" {
		return e.message
	}
	return e.message + ", at `" + place + "`"
}

// conflictError says that two meters contradict each other.
type conflictError struct {
	other   string // the meter that was there first
	message string
}

func (e *conflictError) Error() string { return e.message }

func conflict(other, format string, args ...any) error {
	return &conflictError{other: other, message: fmt.Sprintf(format, args...)}
}
