package meter

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"kafka-metering/meter/scan"
)

// maxInteger is the largest integer that every JSON reader keeps exact (2^53, RFC 8259 section 6).
const maxInteger = 1 << 53

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD: clients and upstreams can put any
// bytes into a header or a path, and one of them must not make an event unreadable.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	if scan.Plain(s) {
		return append(append(b, s...), '"')
	}
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
		r, size := utf8.DecodeRuneInString(s[i:])
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

// appendNumber appends f as JSON writes it, integral values as integers: those from 1e21 on have an exponent, as JavaScript
// writes them.
func appendNumber(b []byte, f float64) []byte {
	switch {
	case f != math.Trunc(f) || math.Abs(f) >= 1e21:
		return strconv.AppendFloat(b, f, 'g', -1, 64)
	case math.Abs(f) <= maxInteger:
		return strconv.AppendInt(b, int64(f), 10)
	default:
		return strconv.AppendFloat(b, f, 'f', -1, 64)
	}
}

// isCount reports whether raw is a number of digits only that appendNumber would write as it stands: the common case.
func isCount(raw string) bool {
	if raw == "" || len(raw) > 15 || raw[0] == '0' && len(raw) > 1 {
		return false
	}
	for i := range len(raw) {
		if raw[i] < '0' || raw[i] > '9' {
			return false
		}
	}
	return true
}

// isLongInteger reports whether raw is an integer of more digits than a double keeps, as ids may be.
func isLongInteger(raw string) bool {
	digits := strings.TrimPrefix(raw, "-")
	return len(digits) > 15 && len(digits) <= maxText && strings.Trim(digits, "0123456789") == ""
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
