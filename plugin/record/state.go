package record

import "encoding/binary"

// stateVersion is the first byte of a state. A process that does not know it leaves the runs without their last checkpoint.
const stateVersion = 1

// appendState appends the runs whose last checkpoint is still to come, as the spool keeps them: a version, then for each run
// topic, source and the hash's state, with their lengths, and start, mode, first, last and the time of the last event.
// Without such runs it is empty.
func (n *Numbers) appendState(b []byte) []byte {
	empty := len(b)
	b = append(b, stateVersion)
	for _, r := range n.runs {
		a := &r.next
		if r.dead || a.closed || a.last == 0 {
			continue
		}
		b = appendText(b, r.topic)
		b = appendText(b, r.source)
		b = appendText(b, string(a.sum))
		mode := uint64(0)
		if a.binary {
			mode = 1
		}
		for _, v := range [...]uint64{uint64(r.start), mode, a.first, a.last, uint64(a.recorded.UnixMilli())} {
			b = binary.AppendUvarint(b, v)
		}
	}
	if len(b) == empty+1 {
		return b[:empty]
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// parseState reads what appendState wrote. Of anything else it returns what can be read.
func parseState(b []byte) (runs []left) {
	if len(b) == 0 || b[0] != stateVersion {
		return nil
	}
	b = b[1:]
	number := func() uint64 {
		v, size := binary.Uvarint(b)
		if size <= 0 {
			b = nil
			return 0
		}
		b = b[size:]
		return v
	}
	text := func() string {
		size := number()
		if size > uint64(len(b)) {
			b = nil
			return ""
		}
		s := string(b[:size])
		b = b[size:]
		return s
	}
	for len(b) > 0 {
		l := left{topic: text(), source: text(), sum: []byte(text())}
		l.start, l.binary, l.first, l.last, l.recorded = int64(number()), number() == 1, number(), number(), number()
		usable := l.first > 0 && l.first <= l.last && l.last < maxNumber && l.start > 0
		if usable && newChain().restore(l.sum) == nil {
			runs = append(runs, l)
		}
	}
	return runs
}
