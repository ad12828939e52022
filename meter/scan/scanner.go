package scan

import (
	"encoding/json"
	"errors"
	"math/bits"
	"unicode/utf8"
)

// Depth bounds how deep a document may nest. RFC 8259, section 9, lets a parser set a limit; without one a few megabytes
// of brackets would exhaust the stack, which no recover can catch. Lua's cjson, which writes Kong's log, has the same one.
const Depth = 1000

var (
	// ErrSyntax is returned for a text that is not JSON, or that nests deeper than [Depth].
	ErrSyntax = errors.New("invalid JSON")
	// ErrEnd is returned for a text that is JSON as far as it goes, and ends early.
	ErrEnd = errors.New("JSON ends early")
)

// Text is what JSON comes in.
type Text interface{ string | []byte }

// Scanner reads one JSON text at a time, strictly by the grammar of RFC 8259 but for bytes that are not UTF-8, which
// strings may hold. The zero value is ready. The values that it finds are parts of the text, which it does not copy; a
// value that was not found is empty. It is for one goroutine.
type Scanner[T Text] struct {
	// Unescape makes a name that is spelled with escapes (a slash that Lua's cjson writes as \/) match too. Without it such
	// a name never matches, so that a search for the literal name can rule a text out before it is scanned.
	Unescape bool

	data    T
	pos     int
	slots   []T
	top     member // what is read of the outermost value
	comma   int    // the last comma between members of the outermost object; 0 when there was none
	escaped bool   // the last string has escapes
}

// Scan reads data, which must be one JSON value and nothing else but white space, and stores what shape asks for in it in
// those of the slots that are empty: the caller clears them.
func (s *Scanner[T]) Scan(data T, shape *Shape, slots []T) error {
	s.data, s.pos, s.slots, s.comma = data, 0, slots, 0
	s.space()
	s.top = member{slot: Nowhere, sub: shape}
	if err := s.value(&s.top, 0); err != nil {
		return err
	}
	return s.end()
}

// Comma returns where, in the text that Scan has read last, the outermost object's last comma stands: what is before it
// are whole members. It is 0 when there was none.
func (s *Scanner[T]) Comma() int { return s.comma }

// Open begins to read list, a JSON array, element by element.
func (s *Scanner[T]) Open(list T) {
	s.data, s.pos, s.slots, s.comma = list, 0, nil, 0
}

// Next reads the next element of the list, as Scan reads a text. An empty element without an error is the end of the list,
// and of the text.
func (s *Scanner[T]) Next(shape *Shape, slots []T) (element T, err error) {
	var none T
	first := s.pos == 0
	s.space()
	switch {
	case s.pos >= len(s.data):
		return none, ErrEnd
	case first && s.data[s.pos] == '[':
		s.pos++
		s.space()
		if s.pos < len(s.data) && s.data[s.pos] == ']' {
			s.pos++
			return none, s.end()
		}
	case !first && s.data[s.pos] == ',':
		s.pos++
		s.space()
	case !first && s.data[s.pos] == ']':
		s.pos++
		return none, s.end()
	default:
		return none, ErrSyntax
	}
	start := s.pos
	s.slots = slots
	// The list itself is one level.
	s.top = member{slot: Nowhere, sub: shape}
	if err := s.value(&s.top, 1); err != nil {
		return none, err
	}
	return s.data[start:s.pos], nil
}

// end reads the white space behind the value.
func (s *Scanner[T]) end() error {
	if s.space(); s.pos < len(s.data) {
		return ErrSyntax
	}
	return nil
}

func (s *Scanner[T]) space() {
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
func (s *Scanner[T]) value(m *member, depth int) error {
	if s.pos >= len(s.data) {
		return ErrEnd
	}
	start := s.pos
	var err error
	switch c := s.data[start]; {
	case c == '"':
		s.pos++
		err = s.text()
	case c == '{':
		s.pos++
		var sub *Shape
		if m != nil {
			sub = m.sub
		}
		err = s.object(sub, depth+1)
	case c == '[':
		s.pos++
		var each *member
		if m != nil {
			each = m.each
		}
		err = s.array(each, depth+1)
	case c == '-' || '0' <= c && c <= '9':
		err = s.number()
	case c == 't':
		err = s.literal("true")
	case c == 'f':
		err = s.literal("false")
	case c == 'n':
		return s.literal("null")
	default:
		err = ErrSyntax
	}
	if err == nil && m != nil && m.slot >= 0 && len(s.slots[m.slot]) == 0 {
		s.slots[m.slot] = s.data[start:s.pos]
	}
	return err
}

// member returns the index of sh's member with this name, as it stands between its quotes, or -1.
func (s *Scanner[T]) member(sh *Shape, name T) int {
	if s.escaped {
		if !s.Unescape {
			return -1
		}
		return sh.find([]byte(Unquote(s.data[s.pos-len(name)-2 : s.pos])))
	}
	for i := range sh.members {
		if sh.members[i].name == string(name) {
			return i
		}
	}
	return -1
}

// object reads an object behind its opening brace.
func (s *Scanner[T]) object(sh *Shape, depth int) error {
	if depth > Depth {
		return ErrSyntax
	}
	var seen [maxMembers / 64]uint64
	for first := true; ; first = false {
		s.space()
		if s.pos >= len(s.data) {
			return ErrEnd
		}
		if s.data[s.pos] == '}' && first {
			s.pos++
			return nil
		}
		if s.data[s.pos] != '"' {
			return ErrSyntax
		}
		s.pos++
		start := s.pos
		if err := s.text(); err != nil {
			return err
		}
		var m *member
		if sh != nil {
			if i := s.member(sh, s.data[start:s.pos-1]); i >= 0 && seen[i/64]&(1<<(i%64)) == 0 {
				seen[i/64] |= 1 << (i % 64)
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
			return ErrEnd
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
			return ErrSyntax
		}
	}
}

// array reads an array behind its opening bracket. m is what is read of its elements.
func (s *Scanner[T]) array(m *member, depth int) error {
	if depth > Depth {
		return ErrSyntax
	}
	for first := true; ; first = false {
		s.space()
		if s.pos >= len(s.data) {
			return ErrEnd
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
			return ErrEnd
		}
		switch s.data[s.pos] {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return ErrSyntax
		}
	}
}

func (s *Scanner[T]) expect(c byte) error {
	s.space()
	if s.pos >= len(s.data) {
		return ErrEnd
	}
	if s.data[s.pos] != c {
		return ErrSyntax
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
func (s *Scanner[T]) text() error {
	i := s.pos
	s.escaped = false
	for {
		for i+8 <= len(s.data) {
			w := load(s.data, i)
			quote, slash := w^everyByte*'"', w^everyByte*'\\'
			found := ((w-everyByte*' ')&^w | (quote-everyByte)&^quote | (slash-everyByte)&^slash) & topBits
			if found != 0 {
				i += bits.TrailingZeros64(found) / 8
				break
			}
			i += 8
		}
		if i >= len(s.data) {
			return ErrEnd
		}
		switch c := s.data[i]; {
		case c == '"':
			s.pos = i + 1
			return nil
		case c == '\\':
			s.escaped = true
			n, err := escape(s.data[i:])
			if err != nil {
				return err
			}
			i += n
		case c < ' ':
			return ErrSyntax
		default:
			i++ // within the last seven bytes
		}
	}
}

// Plain reports whether text is the same inside a JSON string and outside, and ASCII.
func Plain[T Text](text T) bool {
	for len(text) >= 8 {
		w := load(text, 0)
		quote, slash := w^everyByte*'"', w^everyByte*'\\'
		if (w|(w-everyByte*' ')|(quote-everyByte)|(slash-everyByte))&topBits != 0 {
			return false
		}
		text = text[8:]
	}
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// load returns the eight bytes at i, the first one lowest.
func load[T Text](data T, i int) uint64 {
	b := data[i : i+8]
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}

// escape returns the length of the escape sequence that b starts with.
func escape[T Text](b T) (int, error) {
	if len(b) < 2 {
		return 0, ErrEnd
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, nil
	case 'u':
		for i := 2; i < 6; i++ {
			if i >= len(b) {
				return 0, ErrEnd
			}
			if c := b[i]; (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
				return 0, ErrSyntax
			}
		}
		return 6, nil
	default:
		return 0, ErrSyntax
	}
}

// number reads a number by the grammar. One that reaches the end of the data may go on behind it: the caller sees that
// its object does not end.
func (s *Scanner[T]) number() error {
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
func (s *Scanner[T]) digits() error {
	start := s.pos
	for s.pos < len(s.data) && '0' <= s.data[s.pos] && s.data[s.pos] <= '9' {
		s.pos++
	}
	switch {
	case s.pos > start:
		return nil
	case s.pos >= len(s.data):
		return ErrEnd
	default:
		return ErrSyntax
	}
}

func (s *Scanner[T]) literal(word string) error {
	rest := s.data[s.pos:]
	n := min(len(rest), len(word))
	switch {
	case string(rest[:n]) != word[:n]:
		return ErrSyntax
	case n < len(word):
		return ErrEnd
	}
	s.pos += n
	return nil
}

// Unquote returns the text of a raw JSON string that a scanner has found, and "" for any other value. Bytes that are not
// UTF-8 are kept, unless the string has escapes: then they become U+FFFD.
func Unquote[T Text](raw T) string {
	if len(raw) < 2 || raw[0] != '"' {
		return ""
	}
	inside := raw[1 : len(raw)-1]
	for i := range len(inside) {
		if inside[i] == '\\' {
			var s string
			if json.Unmarshal([]byte(raw), &s) != nil {
				return ""
			}
			return s
		}
	}
	return string(inside)
}
