package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// recordVersion is the first byte of an encoded Record. Version 1, which is read still, has the value at the end, and the
// headers' values in full.
const recordVersion = 2

// maxHeaders bounds what ParseRecord allocates for hostile bytes.
const maxHeaders = 1 << 16

// Header is one header of a Kafka record.
type Header struct {
	Key   string
	Value []byte
}

// Record is one Kafka record, final as it stands in the spool: whoever publishes
// it needs to know nothing about how it was made.
type Record struct {
	Topic   string
	Key     []byte // nil: no key, any partition
	Value   []byte
	Headers []Header
	// Dead is why the record is meant for the dead-letter topic; "" when it is
	// meant for Topic.
	Dead string
}

// AppendTo appends the encoded record to dst and returns it.
//
// The encoding is a version byte, then topic, dead, key, value, the number of headers, and the headers' keys and values.
// Strings and byte slices have their length as a uvarint in front, slices plus one, so that 0 is nil. A header's value that
// is a part of Value, its memory, is not written twice, as that of a CloudEvent's attribute: the uvarints are its length
// with partOfValue, and where it begins.
func (r Record) AppendTo(dst []byte) []byte {
	dst = append(dst, recordVersion)
	dst = appendString(dst, r.Topic)
	dst = appendString(dst, r.Dead)
	dst = appendBytes(dst, r.Key)
	dst = appendBytes(dst, r.Value)
	dst = binary.AppendUvarint(dst, uint64(len(r.Headers)))
	for _, h := range r.Headers {
		dst = appendString(dst, h.Key)
		switch at, ok := within(h.Value, r.Value); {
		case ok:
			dst = binary.AppendUvarint(dst, uint64(len(h.Value))<<1|partOfValue)
			dst = binary.AppendUvarint(dst, uint64(at))
		case h.Value == nil:
			dst = append(dst, 0)
		default:
			dst = binary.AppendUvarint(dst, uint64(len(h.Value)+1)<<1)
			dst = append(dst, h.Value...)
		}
	}
	return dst
}

// partOfValue is the lowest bit of a header's length: where the header's value stands.
const partOfValue = 1

// within returns where in whole a part of it begins. ok is false for what is no part, or may be one and cannot be told.
func within(part, whole []byte) (at int, ok bool) {
	at = cap(whole) - cap(part)
	return at, len(part) > 0 && at >= 0 && at+len(part) <= len(whole) && &whole[at] == &part[0]
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return append(dst, 0)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b))+1)
	return append(dst, b...)
}

// ParseRecord decodes what AppendTo encoded. The slices of the result are parts
// of b. Bytes that are no record are an error.
func ParseRecord(b []byte) (Record, error) { return parseRecord(b, nil) }

// parseRecord is ParseRecord that takes strings which it has seen before from known, and puts others there: records have the
// same topics and headers.
func parseRecord(b []byte, known map[string]string) (Record, error) {
	if len(b) == 0 {
		return Record{}, errors.New("parse record: it is empty")
	}
	if b[0] == 0 || b[0] > recordVersion {
		return Record{}, fmt.Errorf("parse record: version %d, want %d", b[0], recordVersion)
	}
	p := parser{version: b[0], rest: b[1:], known: known}
	r := Record{Topic: p.string(), Dead: p.string(), Key: p.bytes()}
	if p.version > 1 {
		r.Value = p.bytes()
	}
	if n := p.uvarint(); n > maxHeaders || n > uint64(len(p.rest)) {
		p.failed = true
	} else if n > 0 {
		r.Headers = make([]Header, 0, n)
		for range n {
			r.Headers = append(r.Headers, Header{Key: p.string(), Value: p.headerValue(r.Value)})
		}
	}
	if p.version == 1 {
		r.Value = p.bytes()
	}
	switch {
	case p.failed:
		return Record{}, errors.New("parse record: a length is out of range")
	case len(p.rest) > 0:
		return Record{}, fmt.Errorf("parse record: %d bytes too many", len(p.rest))
	}
	return r, nil
}

// Fields are parts of an encoded record.
type Fields struct{ Topic, Dead, Key, Value []byte }

// Scan reads an encoded record in place, without copies of what is in it: header
// is called for each header, with parts of b, which may be changed but not in
// their length.
func Scan(b []byte, header func(key, value []byte)) (f Fields, ok bool) {
	if len(b) == 0 || b[0] != recordVersion {
		return f, false // one of an earlier version has been in a spool, and is what it will be
	}
	p := parser{version: b[0], rest: b[1:]}
	f.Topic, f.Dead, f.Key, f.Value = p.take(p.uvarint()), p.take(p.uvarint()), p.bytes(), p.bytes()
	for n := p.uvarint(); n > 0 && !p.failed; n-- {
		key := p.take(p.uvarint())
		header(key, p.headerValue(f.Value))
	}
	return f, !p.failed && len(p.rest) == 0
}

// parser reads fields until one does not fit; then it returns zero values.
type parser struct {
	version byte
	rest    []byte
	failed  bool
	known   map[string]string // may be nil
}

// headerValue reads the value of a header of a record with this value.
func (p *parser) headerValue(value []byte) []byte {
	if p.version == 1 {
		return p.bytes()
	}
	n := p.uvarint()
	switch {
	case n == 0:
		return nil
	case n&partOfValue == 0:
		return p.take(n>>1 - 1)
	}
	n, at := n>>1, p.uvarint()
	if n > uint64(len(value)) || at > uint64(len(value))-n {
		p.failed, p.rest = true, nil
		return nil
	}
	return value[at : at+n : at+n]
}

func (p *parser) uvarint() uint64 {
	n, size := binary.Uvarint(p.rest)
	if size <= 0 {
		p.failed, p.rest = true, nil
		return 0
	}
	p.rest = p.rest[size:]
	return n
}

func (p *parser) take(n uint64) []byte {
	if n > uint64(len(p.rest)) {
		p.failed, p.rest = true, nil
		return nil
	}
	b := p.rest[:n:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) string() string {
	b := p.take(p.uvarint())
	if s, ok := p.known[string(b)]; ok {
		return s
	}
	s := string(b)
	if p.known != nil {
		p.known[s] = s
	}
	return s
}

func (p *parser) bytes() []byte {
	n := p.uvarint()
	if n == 0 {
		return nil
	}
	return p.take(n - 1)
}
