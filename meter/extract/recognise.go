package extract

import (
	"bytes"
	"strings"

	"kafka-metering/meter/scan"
)

// signShape finds all signs of all formats in one pass, and knownShapes are the formats' shapes over its slots. They are
// built by init, because the formats' functions refer to them.
var (
	signShape   = new(scan.Shape)
	numSigns    int
	knownShapes []knownShape
)

// knownShape is a format's shape.
type knownShape struct {
	format    *format
	operation string
	signs     []knownSign
	text      string // for explanations
}

type knownSign struct {
	slot  int
	value string
}

func init() {
	slots := map[string]int{}
	for _, f := range formats {
		for _, shape := range f.shapes {
			k := knownShape{format: f, operation: shape.operation}
			for i, sign := range shape.signs {
				slot, ok := slots[sign.path]
				if !ok {
					slot = len(slots)
					slots[sign.path] = slot
					signShape.Add(sign.path, slot)
				}
				k.signs = append(k.signs, knownSign{slot, sign.value})
				if i > 0 {
					k.text += ", "
				}
				if k.text += sign.path; sign.value != "" {
					k.text += " = " + sign.value
				}
			}
			knownShapes = append(knownShapes, k)
		}
	}
	if numSigns = len(slots); numSigns > maxSigns {
		panic("bug: too many signs")
	}
}

// maxSigns bounds the signs, so that a scan for them needs no memory of its own.
const maxSigns = 160

// recognise chooses the format of a message whose path tells nothing, and reports whether it has one.
func (c *Reader) recognise(data []byte) bool {
	if data = bytes.TrimLeft(data, " \t\n"); len(data) == 0 || data[0] != '{' {
		return false
	}
	found := c.signs[:numSigns]
	clear(found)
	if c.scanner.Scan(data, signShape, found) != nil {
		return false
	}
	for i := range knownShapes {
		k := &knownShapes[i]
		if c.element && k.format.arrays == noArrays {
			continue // a list of answers that were given before
		}
		if k.matches(found) {
			c.choose(k.format, k.operation)
			c.explain("shape", k.text, c.API())
			return true
		}
	}
	return false
}

func (k *knownShape) matches(found [][]byte) bool {
	for _, s := range k.signs {
		if !hasSign(found[s.slot], s.value) {
			return false
		}
	}
	return true
}

func hasSign(raw []byte, value string) bool {
	switch {
	case len(raw) == 0:
		return false
	case value == "":
		return true
	case value == "{" || value == "[" || value == `"`:
		return raw[0] == value[0]
	}
	if prefix, ok := strings.CutSuffix(value, "*"); ok {
		return raw[0] == '"' && bytes.HasPrefix(raw[1:], []byte(prefix))
	}
	return is(raw, value)
}
