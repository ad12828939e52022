package extract

import "bytes"

// maxEvent bounds one event of a stream, in bytes. The last event of some APIs repeats the whole answer, images
// included, so that megabytes are legitimate.
const maxEvent = 16 << 20

// sse splits a stream of server-sent events into events, after the WHATWG HTML standard, section 9.2.6
// (https://html.spec.whatwg.org/multipage/server-sent-events.html): lines end with CR, LF or CRLF, a line that starts
// with a colon is a comment, an event's data lines are joined by LF, one space behind a field's colon is dropped, a byte
// order mark at the start is ignored. Where the stream is cut into chunks makes no difference.
//
// It knows nothing of what the data mean. It copies only what stands across chunks.
type sse struct {
	out eventReceiver

	line    []byte // the start of a line whose end is not here yet
	name    []byte
	data    []byte
	some    bool // the event has a data line
	owned   bool // data and name are copies
	nameOwn []byte
	dataOwn []byte
	began   bool // the first line was seen
	pastCR  bool // a line feed now belongs to the carriage return before it
	dropped bool // the line is too long and its start is gone
	tooLong bool // the event is
}

// eventReceiver receives what sse finds.
type eventReceiver interface {
	// event takes each event that has data. name and data are valid until it returns.
	event(name, data []byte)
	// lose takes note of an event that was longer than maxEvent.
	lose()
}

// Write takes the next chunk of the stream. It keeps no reference to p.
func (s *sse) Write(p []byte) {
	// Where the next line feed and the next carriage return are; looked up once for each, so that a stream that uses
	// only one of them is not searched for the other on every line.
	lf, cr := -1, -1
	for i := 0; i < len(p); {
		if s.pastCR {
			s.pastCR = false
			if p[i] == '\n' {
				i++
				continue
			}
		}
		if lf < i {
			lf = next(p, i, '\n')
		}
		if cr < i {
			cr = next(p, i, '\r')
		}
		end := min(lf, cr)
		if end == len(p) {
			s.carry(p[i:])
			break
		}
		line := p[i:end]
		if len(s.line) > 0 {
			s.carry(line)
			line = s.line
		}
		s.take(line)
		if len(s.line) > 0 {
			s.own() // the next line goes where this one stood
			s.line = s.line[:0]
		}
		s.pastCR = end == cr
		i = end + 1
	}
	s.own()
}

func next(p []byte, from int, c byte) int {
	if i := bytes.IndexByte(p[from:], c); i >= 0 {
		return from + i
	}
	return len(p)
}

// Close ends the stream. A last event without the blank line that ends an event counts for many servers' streams: it is
// handed over if there is one, and Close reports that. Whether it is whole is for the receiver to judge.
func (s *sse) Close() (unended bool) {
	if len(s.line) > 0 || s.dropped {
		s.take(s.line)
		s.line = s.line[:0]
	}
	unended = s.some || s.tooLong
	s.dispatch()
	return unended
}

// carry keeps the start of a line.
func (s *sse) carry(p []byte) {
	if s.dropped || len(s.line)+len(p) > maxEvent {
		s.dropped = true
		s.line = append(s.line[:0], ':') // not an empty line, and it says nothing
		return
	}
	s.line = append(s.line, p...)
}

var byteOrderMark = []byte("\ufeff")

// take handles one line, without its end.
func (s *sse) take(line []byte) {
	if s.dropped || len(line) > maxEvent {
		s.dropped, s.tooLong, s.began = false, true, true
		return
	}
	if !s.began {
		s.began = true
		line = bytes.TrimPrefix(line, byteOrderMark)
	}
	if len(line) == 0 {
		s.dispatch()
		return
	}
	name, value := line, []byte(nil)
	if colon := bytes.IndexByte(line, ':'); colon >= 0 {
		name, value = line[:colon], line[colon+1:]
		if len(value) > 0 && value[0] == ' ' {
			value = value[1:]
		}
	}
	switch string(name) {
	case "data":
		s.add(value)
	case "event":
		s.name = value
		s.owned = false
	}
}

// add adds a line to the event's data.
func (s *sse) add(value []byte) {
	if !s.some {
		s.data, s.some, s.owned = value, true, false
		return
	}
	if len(s.data)+1+len(value) > maxEvent {
		s.tooLong = true
		return
	}
	if len(s.dataOwn) == 0 || len(s.data) == 0 || &s.data[0] != &s.dataOwn[0] {
		s.dataOwn = append(s.dataOwn[:0], s.data...)
	}
	s.dataOwn = append(append(s.dataOwn, '\n'), value...)
	s.data = s.dataOwn
}

// own copies what the event has so far out of a chunk that is about to go.
func (s *sse) own() {
	if s.owned {
		return
	}
	s.owned = true
	if len(s.name) > 0 {
		s.nameOwn = append(s.nameOwn[:0], s.name...)
		s.name = s.nameOwn
	}
	if len(s.data) > 0 {
		s.dataOwn = append(s.dataOwn[:0], s.data...)
		s.data = s.dataOwn
	}
}

// dispatch ends an event.
func (s *sse) dispatch() {
	switch {
	case s.tooLong:
		s.out.lose()
	case s.some:
		s.out.event(s.name, s.data)
	}
	s.name, s.data, s.some, s.tooLong = nil, nil, false, false
}
