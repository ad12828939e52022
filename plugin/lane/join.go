package lane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"kafka-metering/meter/scan"
)

// maxTries bounds the work of finding out where in a tail a whole piece begins.
const maxTries = 256

// Join closes the hole between the head and the tail of a body that was not kept whole. The result is a body of the same
// kind that lacks something in the middle: members of a document, elements of a list, lines, or events of a stream. What
// is left are whole pieces of what was sent, in their order; nothing is guessed. ok is false when that cannot be done,
// for a body that is compressed above all: then only the head can be read.
func Join(head, tail []byte, encoding string) (body []byte, ok bool) {
	text := bytes.TrimLeft(head, " \t\r\n\ufeff")
	if len(text) == 0 || encoding != "" && encoding != "identity" {
		return nil, false
	}
	var cut, from int
	switch {
	case text[0] == '{':
		return joinObject(head, text, tail)
	case text[0] == '[':
		return joinList(text, tail)
	case text[0] == 0:
		cut, from = endOfFrames(head), startOfFrame(tail)
	case bytes.IndexByte([]byte("deir:"), text[0]) >= 0: // fields of an event: data, event, id, retry, a comment
		cut, from = endOfEvents(head), startOfEvent(tail)
	default:
		return nil, false
	}
	if from < 0 {
		return nil, false
	}
	return append(head[:cut:cut], tail[from:]...), true
}

// joinObject joins a document, or lines of documents.
func joinObject(head, text, tail []byte) ([]byte, bool) {
	var s scan.Scanner[[]byte]
	if err := s.Scan(text, nil, nil); !errors.Is(err, scan.ErrEnd) {
		cut, from := bytes.LastIndexByte(head, '\n')+1, bytes.IndexByte(tail, '\n')+1
		if cut == 0 || from == 0 {
			return nil, false
		}
		return append(head[:cut:cut], tail[from:]...), true
	}
	before := append([]byte("{"), text[1:max(1, s.Comma())]...)
	// The members behind the hole: the longest end of the tail that is an object but for its brace.
	best := lastMembers(tail, '"', func(end []byte) bool { return s.Scan(append([]byte("{"), end...), nil, nil) == nil })
	if best == nil {
		return nil, false
	}
	if len(before) > 1 {
		before = append(before, ',')
	}
	return append(before, best...), true
}

// joinList joins a list, as Gemini streams one without SSE.
func joinList(text, tail []byte) ([]byte, bool) {
	var s scan.Scanner[[]byte]
	s.Open(text)
	before := []byte("[")
	for {
		element, err := s.Next(nil, nil)
		if err != nil || len(element) == 0 {
			break
		}
		if len(before) > 1 {
			before = append(before, ',')
		}
		before = append(before, element...)
	}
	best := lastMembers(tail, '{', func(end []byte) bool { return s.Scan(append([]byte("["), end...), nil, nil) == nil })
	if best == nil {
		return nil, false
	}
	if len(before) > 1 {
		before = append(before, ',')
	}
	return append(before, best...), true
}

// lastMembers returns the longest end of tail that begins with first, behind a comma, and is whole. A place inside a string
// or a deeper value does not pass: what follows it closes too much.
func lastMembers(tail []byte, first byte, whole func([]byte) bool) (best []byte) {
	end := len(tail)
	for range maxTries {
		end = bytes.LastIndexByte(tail[:end], first)
		if end < 0 {
			break
		}
		if before := bytes.TrimRight(tail[:end], " \t\r\n"); bytes.HasSuffix(before, []byte(",")) && whole(tail[end:]) {
			best = tail[end:]
		}
	}
	return best
}

// blankLines end the events of a stream.
var blankLines = [...]string{"\n\n", "\r\n\r\n", "\r\r"}

// endOfEvents returns the length of the whole events that b begins with.
func endOfEvents(b []byte) int {
	end := 0
	for _, blank := range blankLines {
		if i := bytes.LastIndex(b, []byte(blank)); i >= 0 {
			end = max(end, i+len(blank))
		}
	}
	return end
}

// startOfEvent returns where in b the first whole event begins, or -1.
func startOfEvent(b []byte) int {
	best := -1
	for _, blank := range blankLines {
		if i := bytes.Index(b, []byte(blank)); i >= 0 && (best < 0 || i+len(blank) < best) {
			best = i + len(blank)
		}
	}
	return best
}

// The framing of AWS event streams: total length, length of the headers, and the CRC of these two, each of four bytes.
const (
	preludeSize = 12
	maxFrame    = 16 << 20
)

// prelude returns the length of the message that b begins with, or 0.
func prelude(b []byte) int {
	if len(b) < preludeSize || crc32.ChecksumIEEE(b[:8]) != binary.BigEndian.Uint32(b[8:]) {
		return 0
	}
	if n := int64(binary.BigEndian.Uint32(b)); n >= preludeSize+4 && n <= maxFrame {
		return int(n)
	}
	return 0
}

// endOfFrames returns the length of the whole messages that b begins with.
func endOfFrames(b []byte) int {
	end := 0
	for {
		n := prelude(b[end:])
		if n == 0 || n > len(b)-end {
			return end
		}
		end += n
	}
}

// startOfFrame returns where in b the first message begins, or -1.
func startOfFrame(b []byte) int {
	for i := range b {
		if b[i] == 0 && prelude(b[i:]) > 0 { // no message is longer than maxFrame, of three bytes
			return i
		}
	}
	return -1
}
