package devkong

import (
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// appendJSON appends v as Kong's cjson writes it: "/" is escaped, bytes that are not UTF-8 stand as they are, numbers
// have 16 digits. Maps come in the order of their keys, where Lua has none. Values are nil, bool, numbers, strings,
// []any, []string and map[string]any.
func appendJSON(b []byte, v any) []byte {
	switch x := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, x)
	case int:
		return strconv.AppendInt(b, int64(x), 10)
	case int64:
		return appendNumber(b, float64(x))
	case float64:
		return appendNumber(b, x)
	case string:
		return appendString(b, x)
	case []string:
		b = append(b, '[')
		for i, item := range x {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, item)
		}
		return append(b, ']')
	case []any:
		b = append(b, '[')
		for i, item := range x {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, item)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, key := range slices.Sorted(maps.Keys(x)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, key)
			b = append(b, ':')
			b = appendJSON(b, x[key])
		}
		return append(b, '}')
	default:
		panic("bug: no JSON for this type")
	}
}

// appendNumber appends a Lua number, which is a double: C's %.16g, so that integers below 2^53 come out whole.
func appendNumber(b []byte, f float64) []byte {
	if f == float64(int64(f)) && f > -1e16 && f < 1e16 {
		return strconv.AppendInt(b, int64(f), 10)
	}
	return strconv.AppendFloat(b, f, 'g', 16, 64)
}

// shortEscapes are the escapes of cjson that have a letter.
var shortEscapes = [256]byte{
	'\b': 'b', '\t': 't', '\n': 'n', '\f': 'f', '\r': 'r', '"': '"', '\\': '\\', '/': '/',
}

func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= utf8.RuneSelf || c >= 0x20 && c != 0x7f && shortEscapes[c] == 0 {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		if letter := shortEscapes[c]; letter != 0 {
			b = append(b, '\\', letter)
		} else {
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}
