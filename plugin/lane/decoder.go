package lane

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"kafka-metering/meter/scan"
)

// The tags of values as LuaJIT's string.buffer encodes them (https://luajit.org/ext_buffer.html#serialize_format). Those
// for what Kong's log does not hold are missing: dictionaries, metatables, complex numbers, pointers.
const (
	tagNil    = 0x00
	tagFalse  = 0x01
	tagTrue   = 0x02
	tagNull   = 0x03
	tagInt    = 0x06
	tagDouble = 0x07
	tagTable  = 0x08 // + 1: with a hash part; + 2: with a list from 0 on; + 4: with a list from 1 on
	tagInt64  = 0x10
	tagUint64 = 0x11
	tagString = 0x20 // + its length
)

const (
	maxDepth = 100      // how deep tables may be in one another, as in LuaJIT
	maxText  = 16 << 20 // bytes of an exchange's members, as JSON: of hostile tables each byte becomes several
	maxPairs = 1 << 16  // of a table that is sorted
)

// decoder takes values one after the other. What is not as it should be makes it bad, and it yields zeros from then on.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() {
	d.bad, d.b = true, nil
}

// bytes takes n bytes, or none.
func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

// unsigned takes a number of one, two or five bytes: a tag, a length or a count.
func (d *decoder) unsigned() uint64 {
	const one, two = 0xe0, 0x1fe0 // the smallest numbers of two and of five bytes
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	first := uint64(d.b[0])
	switch {
	case first < one:
		d.b = d.b[1:]
		return first
	case first < 0xff && len(d.b) >= 2:
		n := (first-one)<<8 + uint64(d.b[1]) + one
		d.b = d.b[2:]
		return n
	case first == 0xff && len(d.b) >= 5:
		n := uint64(binary.LittleEndian.Uint32(d.b[1:]))
		d.b = d.b[5:]
		if n >= two {
			return n
		}
	}
	d.fail()
	return 0
}

func (d *decoder) double() float64 {
	b := d.bytes(8)
	if b == nil {
		return 0
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b))
}

// list begins a list from 1 on and returns how many elements follow.
func (d *decoder) list() uint64 {
	if d.unsigned() != tagTable+4 {
		d.fail()
	}
	return max(1, d.unsigned()) - 1 // it counts the place of 0
}

// text takes a string of at most limit bytes; nothing for nil.
func (d *decoder) text(limit int) []byte {
	switch tag := d.unsigned(); {
	case tag == tagNil:
		return nil
	case tag >= tagString && tag-tagString <= uint64(limit):
		return d.bytes(tag - tagString)
	default:
		d.fail()
		return nil
	}
}

// number takes a whole number from low to maxNumber; 0 for nil.
func (d *decoder) number(low int64) int64 {
	tag := d.unsigned()
	if tag == tagNil {
		return 0
	}
	f, ok := d.float(tag)
	if !ok || f != math.Trunc(f) || f < float64(low) || f > maxNumber {
		d.fail()
		return 0
	}
	return int64(f)
}

// float takes a number behind its tag.
func (d *decoder) float(tag uint64) (f float64, ok bool) {
	switch tag {
	case tagDouble:
		return d.double(), true
	case tagInt:
		if b := d.bytes(4); b != nil {
			return float64(int32(binary.LittleEndian.Uint32(b))), true //nolint:gosec // it is one
		}
	}
	return 0, false
}

// appendJSON appends the next value as JSON, as cjson does that Kong writes its logs with: numbers have fourteen digits, an
// empty table is an object, and strings keep bytes that are not UTF-8. It appends nothing for nil, which is no value.
func (d *decoder) appendJSON(b []byte, depth int) []byte {
	tag := d.unsigned()
	switch {
	case d.bad, tag == tagNil:
	case tag == tagFalse:
		b = append(b, "false"...)
	case tag == tagTrue:
		b = append(b, "true"...)
	case tag == tagNull:
		b = append(b, "null"...)
	case tag > tagString+maxText:
		d.fail()
	case tag >= tagString:
		b = appendText(b, d.bytes(tag-tagString))
	case tag >= tagTable && tag < tagTable+6:
		if depth >= maxDepth {
			d.fail()
			return b
		}
		b = d.appendTable(b, tag-tagTable, depth+1)
	case tag == tagInt64:
		if v := d.bytes(8); v != nil {
			b = strconv.AppendInt(b, int64(binary.LittleEndian.Uint64(v)), 10) //nolint:gosec // it is one
		}
	case tag == tagUint64:
		if v := d.bytes(8); v != nil {
			b = strconv.AppendUint(b, binary.LittleEndian.Uint64(v), 10)
		}
	default:
		f, ok := d.float(tag)
		if !ok {
			d.fail()
			return b
		}
		b = appendNumber(b, f)
	}
	return b
}

// appendNumber appends a number with the precision of Kong's logs. JSON has no others than finite ones.
func appendNumber(b []byte, f float64) []byte {
	const digits, exact = 14, 1e14
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return append(b, "null"...)
	case f == math.Trunc(f) && math.Abs(f) < exact:
		return strconv.AppendInt(b, int64(f), 10)
	default:
		return strconv.AppendFloat(b, f, 'g', digits, 64)
	}
}

// appendText appends a JSON string. The bytes that are not ASCII stay as they are.
func appendText(b, text []byte) []byte {
	b = append(b, '"')
	if scan.Plain(text) {
		return append(append(b, text...), '"')
	}
	const hex = "0123456789abcdef"
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// appendTable appends a table with the parts that its tag tells.
func (d *decoder) appendTable(b []byte, parts uint64, depth int) []byte {
	if parts == 0 {
		return append(b, "{}"...)
	}
	if parts == 1 {
		if start := *d; start.unsigned() > 0 && start.unsigned() >= tagString { // its first key is a string: an object
			return d.appendObject(b, depth)
		}
	}
	first, end, pairs := int64(0), int64(0), uint64(0)
	if parts >= 4 {
		first = 1
	}
	if parts >= 2 {
		end = int64(d.unsigned()) //nolint:gosec // of 32 bits
	}
	if parts%2 == 1 {
		pairs = d.unsigned()
	}
	if first == 1 && pairs == 0 {
		b = append(b, '[')
		for i := first; i < end && !d.bad; i++ {
			b = append(d.appendElement(b, depth), ',')
		}
		return closed(b, ']')
	}
	return d.appendMixed(b, first, end, pairs, depth)
}

// appendElement appends a value where one must be.
func (d *decoder) appendElement(b []byte, depth int) []byte {
	start := len(b)
	if b = d.appendJSON(b, depth); len(b) == start {
		b = append(b, "null"...)
	}
	if len(b) > maxText {
		d.fail()
	}
	return b
}

// appendObject appends a table of pairs.
func (d *decoder) appendObject(b []byte, depth int) []byte {
	b = append(b, '{')
	for pairs := d.unsigned(); pairs > 0 && !d.bad; pairs-- {
		b, _ = d.appendKey(b)
		b = append(d.appendElement(append(b, ':'), depth), ',')
	}
	return closed(b, '}')
}

// appendKey appends a key as an object's, and returns the place in a list that it may be, or 0.
func (d *decoder) appendKey(b []byte) (after []byte, index int64) {
	tag := d.unsigned()
	if tag > tagString+maxText {
		d.fail()
	} else if tag >= tagString {
		return appendText(b, d.bytes(tag-tagString)), 0
	}
	f, ok := d.float(tag)
	if !ok {
		d.fail()
	}
	if f == math.Trunc(f) && f > 0 && f < maxNumber {
		index = int64(f)
	}
	return append(appendNumber(append(b, '"'), f), '"'), index
}

// appendMixed appends a table that may be a list in spite of its parts, because Lua has put elements among the pairs.
func (d *decoder) appendMixed(b []byte, first, end int64, pairs uint64, depth int) []byte {
	type entry struct {
		index      int64 // 0: its key is no place in a list
		key, value []byte
	}
	var all []entry
	var last int64
	list := true
	add := func(e entry) {
		e.value = d.appendJSON(nil, depth)
		if len(e.value) == 0 {
			return
		}
		if len(all) >= maxPairs {
			d.fail()
		}
		list, last = list && e.index > 0, max(last, e.index)
		all = append(all, e)
	}
	for i := first; i < end && !d.bad; i++ {
		add(entry{index: i, key: strconv.AppendQuote(nil, strconv.FormatInt(i, 10))})
	}
	for ; pairs > 0 && !d.bad; pairs-- {
		var e entry
		e.key, e.index = d.appendKey(nil)
		add(e)
	}
	if !list || last > 2*int64(len(all)) { // cjson refuses such holes; here they become an object
		b = append(b, '{')
		for _, e := range all {
			b = append(append(append(append(b, e.key...), ':'), e.value...), ',')
		}
		return closed(b, '}')
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.index, b.index) })
	b = append(b, '[')
	for i, at := int64(1), 0; i <= last; i++ {
		if all[at].index == i {
			b, at = append(b, all[at].value...), at+1
		} else {
			b = append(b, "null"...)
		}
		b = append(b, ',')
	}
	return closed(b, ']')
}

// closed closes a list or an object that may end in a comma.
func closed(b []byte, end byte) []byte {
	if b[len(b)-1] == ',' {
		b = b[:len(b)-1]
	}
	return append(b, end)
}
