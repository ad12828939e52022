package schema

import "testing"

// The wanted results are those of Lua 5.1's string.match.
func TestLuaPatternsMatchAsInLua(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{`^[a-z][a-z0-9_]*$`, []string{"a", "a_1", "tokens_5m"}, []string{"", "1a", "_a", "A", "a-b", "a\n"}},
		{`^[a-zA-Z0-9._%-]+$`, []string{"kong.metering", "a-b_c"}, []string{"", "a b", "a/b", "ä"}},
		{`^[a-zA-Z0-9._~%-]+$`, []string{"prod-eu~1"}, []string{"a%b", "a:b"}},
		{`^[^%s/,]+$`, []string{"kafka", "::1", "a:b"}, []string{"a b", "a\tb", "http://a", "a,b", ""}},
		{`^[^:]+:%d*$`, []string{"kafka:9092", "kafka:"}, []string{"::1", "kafka", "fe80::1"}},
		{`a.c`, []string{"abc", "xa\ncx"}, []string{"ac"}},
		{`^a%.c$`, []string{"a.c"}, []string{"abc"}},
		{`^%w+%W%w+$`, []string{"a-b", "1 2"}, []string{"ab", "a_-b"}},
		{`^%a%d?%l*%u$`, []string{"aB", "a1bcD"}, []string{"1aB", "a12B"}},
		{`^a-b$`, []string{"b", "aab"}, []string{"a-b", "a"}},
		{`^[]x]+$`, []string{"]x]"}, []string{"[", ""}},
		{`^[a-]+$`, []string{"a-a"}, []string{"b"}},
		{`^%x+$`, []string{"0aF"}, []string{"g"}},
		{`$a`, []string{"$a"}, []string{"a"}},
		{`a^`, []string{"a^"}, []string{"a"}},
		{`a{2}`, []string{"a{2}"}, []string{"aa"}},
		{`^a|b$`, []string{"a|b"}, []string{"a", "b"}},
		{`^%[%]%%$`, []string{"[]%"}, []string{"[]"}},
	} {
		re, err := compileLua(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		for _, s := range c.yes {
			if !re.MatchString(s) {
				t.Errorf("%s does not match %q", c.pattern, s)
			}
		}
		for _, s := range c.no {
			if re.MatchString(s) {
				t.Errorf("%s matches %q", c.pattern, s)
			}
		}
	}
}

func TestLuaPatternsThatAreNotKnownAreErrors(t *testing.T) {
	for _, pattern := range []string{`(a)`, `%b()`, `%f[a]`, `%1`, `%p`, `%c`, `a%`, `[a`, `[%W]`, `[%`, `ä`, `[ä]`, `%é`} {
		if re, err := compileLua(pattern); err == nil {
			t.Errorf("%s is read as %s", pattern, re)
		}
	}
}
