package extract

import "strconv"

// maxCount bounds a count: a trillion tokens in one exchange is an error or an attack, and the bound keeps every sum of
// counts exact.
const maxCount = 1_000_000_000_000

// maxAmount bounds a measure likewise; xAI counts 10^10 to the dollar.
const maxAmount = 1e15

// count reads a raw JSON value as a count of tokens. It must be a number, integral and between 0 and maxCount; 10.0 and
// 1e1 are ten, since some APIs count in floats (Cohere and Bedrock Titan do). The reading is exact: no float is involved.
func count(raw []byte) (int64, bool) {
	var (
		n     int64
		exp   int  // n counts in units of 10^exp
		zeros int  // zeros seen that are not in n yet
		point bool // behind the decimal point
		i     int
	)
	for ; i < len(raw) && raw[i]|0x20 != 'e'; i++ {
		c := raw[i]
		switch {
		case c == '.' && !point && i > 0:
			point = true
			continue
		case c < '0' || c > '9': // a sign: no count is negative, and -0 is no count either
			return 0, false
		}
		if point {
			exp--
		}
		if c == '0' {
			zeros++
			continue
		}
		for ; zeros > 0; zeros-- {
			if n *= 10; n > maxCount {
				return 0, false
			}
		}
		if n = n*10 + int64(c-'0'); n > maxCount*1000 {
			return 0, false
		}
	}
	if i == 0 {
		return 0, false
	}
	exp += zeros
	if i < len(raw) {
		e, ok := exponent(raw[i+1:])
		if !ok {
			return 0, n == 0 // zero whatever the exponent
		}
		exp += e
	}
	if n == 0 {
		return 0, true
	}
	if exp < 0 {
		return 0, false // n has no trailing zero: what is left is a fraction
	}
	for ; exp > 0 && n <= maxCount; exp-- {
		n *= 10
	}
	return n, n <= maxCount
}

// exponent reads a number's exponent. One of more than four digits makes any number but zero too large or a fraction.
func exponent(b []byte) (e int, ok bool) {
	negative := false
	if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
		negative = b[0] == '-'
		b = b[1:]
	}
	for len(b) > 1 && b[0] == '0' {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 4 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		e = e*10 + int(c-'0')
	}
	if negative {
		e = -e
	}
	return e, true
}

// amount reads a raw JSON value as a measure: a number that is finite and not negative.
func amount(raw []byte) (float64, bool) {
	if len(raw) == 0 || raw[0] < '0' || raw[0] > '9' {
		return 0, false
	}
	x, err := strconv.ParseFloat(string(raw), 64)
	return x, err == nil && x <= maxAmount
}
