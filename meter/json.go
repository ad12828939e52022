package meter

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// maxInteger is the largest integer that every JSON reader keeps exact (2^53, RFC 8259 section 6).
const maxInteger = 1 << 53

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD: clients and upstreams can put any
// bytes into a header or a path, and one of them must not make an event unreadable.
func appendString[S string | []byte](b []byte, s S) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		n := min(len(s)-i, utf8.UTFMax)
		r, size := utf8.DecodeRuneInString(string(s[i : i+n]))
		if r == utf8.RuneError && size == 1 {
			b = append(b, s[start:i]...)
			b = append(b, "\ufffd"...)
			i++
			start = i
			continue
		}
		i += size
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// appendNumber appends f as JSON writes it, integral values as integers.
func appendNumber(b []byte, f float64) []byte {
	if f == math.Trunc(f) && math.Abs(f) <= maxInteger {
		return strconv.AppendInt(b, int64(f), 10)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}

// number reads a raw JSON number. Strings are never numbers here.
func number(raw string) (float64, bool) {
	if raw == "" || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, false
	}
	f, err := strconv.ParseFloat(raw, 64)
	return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
}

// text returns the text of a raw JSON string, and whether raw is one. Bytes that are not UTF-8 are kept.
func text(raw string) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	for i := 1; i < len(raw)-1; i++ {
		if raw[i] == '\\' {
			return gjson.Parse(raw).Str, true
		}
	}
	return raw[1 : len(raw)-1], true
}

// maxDepth bounds how deep a document may nest (RFC 8259, section 9, allows a limit). gjson validates by recursion:
// without a limit some megabytes of brackets exhaust the stack, which no recover can catch. Lua's cjson, which writes
// Kong's log, has the same limit.
const maxDepth = 1000

// valid reports whether s is one JSON value that nests at most maxDepth deep.
func valid(s string) bool {
	if strings.Count(s, "{")+strings.Count(s, "[") <= maxDepth {
		return gjson.Valid(s) // the common case, without looking at each byte twice
	}
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '{', '[':
			if depth++; depth > maxDepth {
				return false
			}
		case '}', ']':
			depth--
		case '"':
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
		}
	}
	return gjson.Valid(s)
}
