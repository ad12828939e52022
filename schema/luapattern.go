package schema

import (
	"fmt"
	"regexp"
	"strings"
)

// luaClasses are the contents of the regexp sets that stand for Lua's character classes. Lua's classes follow the C
// locale, which is the one Kong runs in.
var luaClasses = map[byte]string{
	'a': `A-Za-z`,
	'd': `0-9`,
	'l': `a-z`,
	's': `\t\n\v\f\r `,
	'u': `A-Z`,
	'w': `A-Za-z0-9`,
	'x': `A-Fa-f0-9`,
}

// compileLua translates a Lua pattern, which is what Kong's match takes, to a regexp. It knows single characters, sets,
// the classes above, the repetitions * + - ? and the anchors; anything else (captures, %b, %f, other classes) is an
// error, so that a pattern is either enforced as Kong enforces it or refused when the schema is loaded.
func compileLua(pattern string) (*regexp.Regexp, error) {
	var re strings.Builder
	re.WriteString(`(?s)`)
	p := pattern
	if strings.HasPrefix(p, "^") {
		re.WriteByte('^')
		p = p[1:]
	}
	for p != "" {
		if p == "$" {
			re.WriteByte('$')
			break
		}
		item, n, err := luaItem(p)
		if err != nil {
			return nil, fmt.Errorf("read Lua pattern %q: %w", pattern, err)
		}
		re.WriteString(item)
		p = p[n:]
		if p == "" {
			break
		}
		switch p[0] {
		case '*', '+', '?':
			re.WriteByte(p[0])
			p = p[1:]
		case '-':
			re.WriteString(`*?`)
			p = p[1:]
		}
	}
	return regexp.Compile(re.String())
}

// luaItem translates the single-character item at the start of p and returns the number of bytes it takes.
func luaItem(p string) (item string, n int, err error) {
	switch c := p[0]; {
	case c == '(' || c == ')':
		return "", 0, fmt.Errorf("captures are not known")
	case c >= 0x80:
		return "", 0, fmt.Errorf("characters outside ASCII are not known")
	case c == '.':
		return ".", 1, nil
	case c == '%':
		class, negated, n, err := luaEscape(p)
		if err != nil {
			return "", 0, err
		}
		if negated {
			return "[^" + class + "]", n, nil
		}
		return "[" + class + "]", n, nil
	case c == '[':
		return luaSet(p)
	default:
		return regexp.QuoteMeta(p[:1]), 1, nil
	}
}

// luaEscape translates the %x at the start of p to the contents of a regexp set.
func luaEscape(p string) (class string, negated bool, n int, err error) {
	if len(p) < 2 {
		return "", false, 0, fmt.Errorf("it ends with %%")
	}
	c := p[1]
	if class, ok := luaClasses[c]; ok {
		return class, false, 2, nil
	}
	if class, ok := luaClasses[c|0x20]; ok && c >= 'A' && c <= 'Z' {
		return class, true, 2, nil
	}
	if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80 {
		return "", false, 0, fmt.Errorf("%%%c is not known", c)
	}
	return setLiteral(c), false, 2, nil
}

// luaSet translates the [set] at the start of p.
func luaSet(p string) (item string, n int, err error) {
	var set strings.Builder
	set.WriteByte('[')
	i := 1
	if i < len(p) && p[i] == '^' {
		set.WriteByte('^')
		i++
	}
	for first := i; ; {
		switch {
		case i >= len(p):
			return "", 0, fmt.Errorf("a [ has no ]")
		case p[i] == ']' && i > first: // a ] in the first place stands for itself
			set.WriteByte(']')
			return set.String(), i + 1, nil
		case p[i] >= 0x80:
			return "", 0, fmt.Errorf("characters outside ASCII are not known")
		case p[i] == '%':
			class, negated, n, err := luaEscape(p[i:])
			if err != nil {
				return "", 0, err
			}
			if negated {
				return "", 0, fmt.Errorf("a negated class within a set is not known")
			}
			set.WriteString(class)
			i += n
		case i+2 < len(p) && p[i+1] == '-' && p[i+2] != ']':
			set.WriteString(setLiteral(p[i]) + "-" + setLiteral(p[i+2]))
			i += 3
		default:
			set.WriteString(setLiteral(p[i]))
			i++
		}
	}
}

// setLiteral writes c so that it stands for itself within a regexp set.
func setLiteral(c byte) string { return fmt.Sprintf(`\x%02x`, c) }
