package extract

import "bytes"

// maxDocument bounds one JSON value, in bytes: a body that is one document, a line, an element of an array. Images in
// base64 fit.
const maxDocument = 32 << 20

// values splits a text into the JSON values that it holds: one document, one value for each line (NDJSON) or one behind
// the other, or the elements of a top-level array. Where the text is cut into chunks makes no difference.
//
// It only finds where values end, by their brackets and quotes; whether they are valid is for the receiver to check. Behind
// a first value that is one line, the end of a line ends a value: so one that is damaged does not take others with it. It
// copies only what stands across chunks.
type values struct {
	out valueReceiver

	buf     []byte // the start of a value whose end is not here yet
	depth   int    // of brackets
	array   bool   // in a top-level array
	open    bool   // in a value
	quoted  bool   // in a string
	escaped bool   // behind a backslash in it
	tooLong bool   // the value is, and its start is gone
	noise   bool   // in junk, which ends with its line
	ended   bool   // a top-level array has ended
	first   bool   // a value was found
	lines   bool   // it was a line, and so are the others
}

// valueReceiver receives what values finds.
type valueReceiver interface {
	// value takes each value. element says that it stands in a top-level array. data is valid until it returns.
	value(data []byte, element bool)
	// lose takes note of a value that was longer than maxDocument.
	lose()
	// stray takes note of text that belongs to no value.
	stray()
}

// Write takes the next chunk of the text. It keeps no reference to p.
func (s *values) Write(p []byte) {
	start := 0
	for i := 0; i < len(p); {
		if !s.open {
			start, i = i, s.between(p, i)
			continue
		}
		end := s.lineEnd(p, i)
		i = s.inside(p[:end], i)
		switch {
		case !s.open:
			s.emit(p[start:i])
		case end < len(p):
			s.abandon()
		}
	}
	if s.open {
		s.carry(p[start:])
	}
}

// lineEnd returns how far the value at i can go: to the end of its line where values are lines.
func (s *values) lineEnd(p []byte, i int) int {
	if s.lines {
		if n := bytes.IndexByte(p[i:], '\n'); n >= 0 {
			return i + n
		}
	}
	return len(p)
}

// abandon gives a value up whose line has ended before it.
func (s *values) abandon() {
	s.buf, s.tooLong = kept(s.buf), false
	s.open, s.quoted, s.escaped, s.depth = false, false, false, 0
	s.out.stray()
}

// between reads the byte at i, which is in no value, and returns where the next one is.
func (s *values) between(p []byte, i int) int {
	c := p[i]
	switch {
	case c == ' ' || c == '\t' || c == '\n' || c == '\r':
		s.noise = s.noise && c != '\n'
	case s.noise:
		if n := bytes.IndexByte(p[i:], '\n'); n >= 0 {
			return i + n
		}
		return len(p)
	case c == '{' || c == '"' || c == '[' && s.array:
		s.open, s.quoted = true, c == '"'
		if c != '"' {
			s.depth = 1
		}
	case c == '[':
		s.array = true
	case c == ']' && s.array:
		s.array, s.ended = false, true
	case s.array && (c == ',' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '+' && c <= '9' && c != '/'):
		// Separators, numbers, true, false and null.
	default:
		s.noise = true
		s.out.stray()
	}
	return i + 1
}

// structural are the bytes that say where a value ends.
var structural = [256]bool{'"': true, '{': true, '}': true, '[': true, ']': true}

// inside reads the rest of the value at i, as far as it is in p, and returns where it ends.
func (s *values) inside(p []byte, i int) int {
	for i < len(p) {
		if s.quoted {
			i = s.text(p, i)
			if !s.quoted && s.depth == 0 {
				s.open = false
				return i
			}
			continue
		}
		for i < len(p) && !structural[p[i]] {
			i++
		}
		if i == len(p) {
			break
		}
		switch p[i] {
		case '"':
			s.quoted = true
		case '{', '[':
			s.depth++
		case '}', ']':
			if s.depth--; s.depth == 0 {
				s.open = false
				return i + 1
			}
		}
		i++
	}
	return i
}

// text reads the rest of a string at i and returns what is behind it.
func (s *values) text(p []byte, i int) int {
	for from := i; ; {
		n := bytes.IndexByte(p[from:], '"')
		end := from + n
		if n < 0 {
			end = len(p)
		}
		slashes := 0
		for end-slashes > i && p[end-slashes-1] == '\\' {
			slashes++
		}
		if end-slashes == i && s.escaped {
			slashes++ // the run of backslashes began before p
		}
		escaped := slashes%2 == 1
		switch {
		case n < 0:
			s.escaped = escaped
			return end
		case !escaped:
			s.quoted, s.escaped = false, false
			return end + 1
		}
		from, i, s.escaped = end+1, end+1, false
	}
}

// emit hands over a value whose last part is p.
func (s *values) emit(p []byte) {
	if len(s.buf) > 0 || s.tooLong || len(p) > maxDocument {
		s.carry(p)
		p = s.buf
	}
	if !s.first {
		s.first, s.lines = true, !s.array && bytes.IndexByte(p, '\n') < 0
	}
	if s.tooLong {
		s.out.lose()
	} else {
		s.out.value(p, s.array)
	}
	s.buf, s.tooLong = kept(s.buf), false
}

func (s *values) carry(p []byte) {
	if s.tooLong || len(s.buf)+len(p) > maxDocument {
		s.buf, s.tooLong = nil, true
		return
	}
	s.buf = append(s.buf, p...)
}

// Close ends the text and returns what there is of a value, or an array, that has no end.
func (s *values) Close() (rest []byte, unended bool) {
	return s.buf, s.open || s.array
}
