package extract

import (
	"encoding/binary"
	"hash/crc32"
)

// eventStream splits a stream in AWS's binary encoding into messages
// (https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html describes the same encoding): total
// length, length of the headers, CRC-32 of both; headers; payload; CRC-32 of all. Where the stream is cut into chunks
// makes no difference. A message whose checksums are wrong, or whose lengths are impossible, ends it: nothing behind can
// be found.
//
// AWS's own decoder, which the fuzz test compares this one with, reads from an io.Reader, makes a value of each header and
// is twenty times slower.
type eventStream struct {
	out frameReceiver

	buf  []byte // the start of a message whose end is not here yet
	dead bool
}

// frameReceiver receives what eventStream finds.
type frameReceiver interface {
	// frame takes each message. Both are valid until it returns.
	frame(h eventHeaders, payload []byte)
	// broken is called once, for a stream that cannot be read on.
	broken()
}

// eventHeaders are the headers that tell what a message is.
type eventHeaders struct {
	messageType []byte // event, exception, error
	eventType   []byte // of an event
}

const (
	preludeLen = 12
	crcLen     = 4
)

// Write takes the next chunk of the stream. It keeps no reference to p.
func (s *eventStream) Write(p []byte) {
	for len(p) > 0 && !s.dead {
		if len(s.buf) > 0 {
			p = s.complete(p)
			continue
		}
		n, ok := s.length(p)
		switch {
		case s.dead:
		case !ok || n > len(p):
			s.buf = append(s.buf, p...)
			return
		default:
			s.take(p[:n])
			p = p[n:]
		}
	}
}

// complete moves bytes of p behind those of the message that has begun, takes it when it is whole, and returns the rest.
func (s *eventStream) complete(p []byte) []byte {
	if missing := preludeLen - len(s.buf); missing > 0 {
		n := min(missing, len(p))
		s.buf, p = append(s.buf, p[:n]...), p[n:]
	}
	total, ok := s.length(s.buf)
	if !ok || s.dead {
		return p
	}
	n := min(max(0, total-len(s.buf)), len(p))
	s.buf, p = append(s.buf, p[:n]...), p[n:]
	if len(s.buf) >= total {
		s.take(s.buf)
		s.buf = kept(s.buf)
	}
	return p
}

// length returns the length of the message that p starts with; ok is false when p is too short to tell, or not one.
func (s *eventStream) length(p []byte) (n int, ok bool) {
	if len(p) < preludeLen || s.dead {
		return 0, false
	}
	total, headers := binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:])
	if crc32.ChecksumIEEE(p[:8]) != binary.BigEndian.Uint32(p[8:]) ||
		total < preludeLen+crcLen || total > maxEvent || headers > total-preludeLen-crcLen {
		s.fail()
		return 0, false
	}
	return int(total), true
}

// take handles one whole message.
func (s *eventStream) take(m []byte) {
	end := len(m) - crcLen
	if crc32.ChecksumIEEE(m[:end]) != binary.BigEndian.Uint32(m[end:]) {
		s.fail()
		return
	}
	payload := preludeLen + int(binary.BigEndian.Uint32(m[4:]))
	h, ok := readEventHeaders(m[preludeLen:payload])
	if !ok {
		s.fail()
		return
	}
	s.out.frame(h, m[payload:end])
}

func (s *eventStream) fail() {
	if !s.dead {
		s.dead, s.buf = true, nil
		s.out.broken()
	}
}

// Close ends the stream and reports whether a message has no end.
func (s *eventStream) Close() (unended bool) { return len(s.buf) > 0 }

// eventHeaderLengths are the lengths of the values of the types of headers; -1 is a two-byte length before the value.
var eventHeaderLengths = [...]int{0, 0, 1, 2, 4, 8, -1, -1, 8, 16}

const eventHeaderString = 7

// readEventHeaders reads headers: for each the length of the name, the name, the type of the value, the value.
func readEventHeaders(b []byte) (h eventHeaders, ok bool) {
	for len(b) > 0 {
		n := int(b[0])
		if len(b) < 1+n+1 {
			return h, false
		}
		name, kind := b[1:1+n], int(b[1+n])
		b = b[1+n+1:]
		if kind >= len(eventHeaderLengths) {
			return h, false
		}
		if n = eventHeaderLengths[kind]; n < 0 {
			if len(b) < 2 {
				return h, false
			}
			n = int(binary.BigEndian.Uint16(b))
			b = b[2:]
		}
		if len(b) < n {
			return h, false
		}
		if kind == eventHeaderString {
			switch string(name) {
			case ":message-type":
				h.messageType = b[:n]
			case ":event-type":
				h.eventType = b[:n]
			}
		}
		b = b[n:]
	}
	return h, true
}
