package extract

import (
	"bytes"
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

// maxText bounds a text that is read from a response (a model, an id), in bytes. A longer one is left out.
const maxText = 256

var (
	errSyntax = errors.New("invalid JSON")
	errEnd    = errors.New("JSON ends early")
)

// shape is what a format reads of an object: some of its members, by their literal names, each into a slot. A name that
// is spelled with escapes ("\u0075sage") never matches: no serializer writes one, and so a search for the literal key
// can rule a message out before it is parsed.
type shape struct {
	members []shapeMember // at most 64
}

type shapeMember struct {
	name string
	slot int    // where the raw value goes; -1 is nowhere
	list bool   // sub is the shape of the value's elements, not of the value
	sub  *shape // nil when nothing inside is read
}

// add makes s read path into slot. A path is names joined by dots. A name that ends in [] is a list: the path goes on in
// each of its elements, and the first that has a value wins.
func (s *shape) add(path string, slot int) {
	name, rest, more := strings.Cut(path, ".")
	name, list := strings.CutSuffix(name, "[]")
	i := s.find([]byte(name))
	if i < 0 {
		i = len(s.members)
		s.members = append(s.members, shapeMember{name: name, slot: -1, list: list})
	}
	m := &s.members[i]
	if m.list != list || i >= 64 {
		panic(fmt.Sprintf("bug: path %q does not fit the shape", path))
	}
	if !more {
		m.slot = slot
		return
	}
	if m.sub == nil {
		m.sub = new(shape)
	}
	m.sub.add(rest, slot)
}

func (s *shape) find(name []byte) int {
	for i := range s.members {
		if s.members[i].name == string(name) {
			return i
		}
	}
	return -1
}

// scanner reads one JSON text strictly by the grammar of RFC 8259 (but for bytes that are not UTF-8, which strings may
// hold) and picks what a shape asks for out of it, in one pass and without copying.
//
// Of a name that an object holds twice the first counts, and a null counts as absent: which of two a reader takes is
// undefined in JSON, and the first cannot be overridden by what is appended behind it.
type scanner struct {
	data  []byte
	pos   int
	slots [][]byte // the raw values found; nil is absent
	comma int      // the last comma between members of the outermost object; 0 when there was none
}

// scan reads data, which must be one object and nothing else but white space, and fills slots.
func (s *scanner) scan(data []byte, sh *shape, slots [][]byte) error {
	clear(slots)
	*s = scanner{data: data, slots: slots}
	s.space()
	if err := s.element(sh); err != nil {
		return err
	}
	if s.space(); s.pos < len(s.data) {
		return errSyntax
	}
	return nil
}

// element reads one value at the current position, as the root of sh where it is an object.
func (s *scanner) element(sh *shape) error {
	return s.value(&shapeMember{slot: -1, sub: sh}, 0)
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\n', '\r', '\t':
			s.pos++
		default:
			return
		}
	}
}

// value reads the value at the current position, which is not white space. m is nil when nobody reads it.
func (s *scanner) value(m *shapeMember, depth int) error {
	if s.pos >= len(s.data) {
		return errEnd
	}
	start := s.pos
	var err error
	switch c := s.data[start]; {
	case c == '"':
		s.pos++
		err = s.text()
	case c == '{':
		s.pos++
		var sub *shape
		if m != nil && !m.list {
			sub = m.sub
		}
		err = s.object(sub, depth+1)
	case c == '[':
		s.pos++
		var sub *shape
		if m != nil && m.list {
			sub = m.sub
		}
		err = s.array(sub, depth+1)
	case c == '-' || '0' <= c && c <= '9':
		err = s.number()
	case c == 't':
		err = s.literal("true")
	case c == 'f':
		err = s.literal("false")
	case c == 'n':
		return s.literal("null")
	default:
		err = errSyntax
	}
	if err == nil && m != nil && m.slot >= 0 && s.slots[m.slot] == nil {
		s.slots[m.slot] = s.data[start:s.pos:s.pos]
	}
	return err
}

// object reads an object behind its opening brace.
func (s *scanner) object(sh *shape, depth int) error {
	if depth > maxDepth {
		return errSyntax
	}
	var seen uint64
	for first := true; ; first = false {
		s.space()
		if s.pos >= len(s.data) {
			return errEnd
		}
		if s.data[s.pos] == '}' && first {
			s.pos++
			return nil
		}
		if s.data[s.pos] != '"' {
			return errSyntax
		}
		s.pos++
		start := s.pos
		if err := s.text(); err != nil {
			return err
		}
		var m *shapeMember
		if sh != nil {
			if i := sh.find(s.data[start : s.pos-1]); i >= 0 && seen&(1<<i) == 0 {
				seen |= 1 << i
				m = &sh.members[i]
			}
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		s.space()
		if err := s.value(m, depth); err != nil {
			return err
		}
		s.space()
		if s.pos >= len(s.data) {
			return errEnd
		}
		switch s.data[s.pos] {
		case ',':
			if depth == 1 {
				s.comma = s.pos
			}
			s.pos++
		case '}':
			s.pos++
			return nil
		default:
			return errSyntax
		}
	}
}

// array reads an array behind its opening bracket. sh is the shape of its elements.
func (s *scanner) array(sh *shape, depth int) error {
	if depth > maxDepth {
		return errSyntax
	}
	var m *shapeMember
	if sh != nil {
		m = &shapeMember{slot: -1, sub: sh}
	}
	for first := true; ; first = false {
		s.space()
		if s.pos >= len(s.data) {
			return errEnd
		}
		if s.data[s.pos] == ']' && first {
			s.pos++
			return nil
		}
		if err := s.value(m, depth); err != nil {
			return err
		}
		s.space()
		if s.pos >= len(s.data) {
			return errEnd
		}
		switch s.data[s.pos] {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return errSyntax
		}
	}
}

func (s *scanner) expect(c byte) error {
	s.space()
	if s.pos >= len(s.data) {
		return errEnd
	}
	if s.data[s.pos] != c {
		return errSyntax
	}
	s.pos++
	return nil
}

const (
	everyByte = 0x0101010101010101
	topBits   = 0x8080808080808080
)

// text reads a string behind its opening quote. It looks at eight bytes at a time for what ends or bends a string: a
// quote, a backslash, a control character. The lowest of the bits that it finds is exact, which is the one it uses.
func (s *scanner) text() error {
	i := s.pos
	for {
		for i+8 <= len(s.data) {
			w := binary.LittleEndian.Uint64(s.data[i:])
			quote, slash := w^everyByte*'"', w^everyByte*'\\'
			found := ((w-everyByte*' ')&^w | (quote-everyByte)&^quote | (slash-everyByte)&^slash) & topBits
			if found != 0 {
				i += bits.TrailingZeros64(found) / 8
				break
			}
			i += 8
		}
		if i >= len(s.data) {
			return errEnd
		}
		switch c := s.data[i]; {
		case c == '"':
			s.pos = i + 1
			return nil
		case c == '\\':
			n, err := escape(s.data[i:])
			if err != nil {
				return err
			}
			i += n
		case c < ' ':
			return errSyntax
		default:
			i++ // within the last seven bytes
		}
	}
}

// escape returns the length of the escape sequence that b starts with.
func escape(b []byte) (int, error) {
	if len(b) < 2 {
		return 0, errEnd
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, nil
	case 'u':
		for i := 2; i < 6; i++ {
			if i >= len(b) {
				return 0, errEnd
			}
			c := b[i] | 0x20
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return 0, errSyntax
			}
		}
		return 6, nil
	default:
		return 0, errSyntax
	}
}

// number reads a number by the grammar. One that reaches the end of the data may go on behind it: the caller sees that
// its object does not end.
func (s *scanner) number() error {
	if s.data[s.pos] == '-' {
		s.pos++
	}
	if s.pos < len(s.data) && s.data[s.pos] == '0' {
		s.pos++
	} else if err := s.digits(); err != nil {
		return err
	}
	if s.pos < len(s.data) && s.data[s.pos] == '.' {
		s.pos++
		if err := s.digits(); err != nil {
			return err
		}
	}
	if s.pos < len(s.data) && s.data[s.pos]|0x20 == 'e' {
		s.pos++
		if s.pos < len(s.data) && (s.data[s.pos] == '+' || s.data[s.pos] == '-') {
			s.pos++
		}
		return s.digits()
	}
	return nil
}

// digits reads one or more digits.
func (s *scanner) digits() error {
	start := s.pos
	for s.pos < len(s.data) && '0' <= s.data[s.pos] && s.data[s.pos] <= '9' {
		s.pos++
	}
	switch {
	case s.pos > start:
		return nil
	case s.pos >= len(s.data):
		return errEnd
	default:
		return errSyntax
	}
}

func (s *scanner) literal(word string) error {
	rest := s.data[s.pos:]
	n := min(len(rest), len(word))
	switch {
	case string(rest[:n]) != word[:n]:
		return errSyntax
	case n < len(word):
		return errEnd
	}
	s.pos += n
	return nil
}

// text returns the text of a raw JSON string that a scanner has read, "" for any other value and for one that is too
// long to be a name.
func text(raw []byte) string {
	if len(raw) < 2 || raw[0] != '"' {
		return ""
	}
	inside := raw[1 : len(raw)-1]
	if len(inside) <= 6*maxText && bytes.IndexByte(inside, '\\') >= 0 {
		var s string
		if json.Unmarshal(raw, &s) != nil || len(s) > maxText {
			return ""
		}
		return s
	}
	if len(inside) > maxText {
		return ""
	}
	return string(inside)
}

// is reports whether raw is the JSON string s, which needs no escapes.
func is(raw []byte, s string) bool {
	return len(raw) == len(s)+2 && raw[0] == '"' && string(raw[1:len(raw)-1]) == s
}
