package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// recordVersion is the first byte of an encoded Record.
const recordVersion = 1

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
// The encoding is a version byte, then topic, dead, key, the number of headers,
// the headers' keys and values, and the value; strings and byte slices have their
// length as a uvarint in front, slices plus one, so that 0 is nil.
func (r Record) AppendTo(dst []byte) []byte {
	dst = append(dst, recordVersion)
	dst = appendString(dst, r.Topic)
	dst = appendString(dst, r.Dead)
	dst = appendBytes(dst, r.Key)
	dst = binary.AppendUvarint(dst, uint64(len(r.Headers)))
	for _, h := range r.Headers {
		dst = appendString(dst, h.Key)
		dst = appendBytes(dst, h.Value)
	}
	return appendBytes(dst, r.Value)
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
func ParseRecord(b []byte) (Record, error) {
	if len(b) == 0 {
		return Record{}, errors.New("parse record: it is empty")
	}
	if b[0] != recordVersion {
		return Record{}, fmt.Errorf("parse record: version %d, want %d", b[0], recordVersion)
	}
	p := parser{rest: b[1:]}
	r := Record{Topic: p.string(), Dead: p.string(), Key: p.bytes()}
	if n := p.uvarint(); n > maxHeaders || n > uint64(len(p.rest)) {
		p.failed = true
	} else if n > 0 {
		r.Headers = make([]Header, 0, n)
		for range n {
			r.Headers = append(r.Headers, Header{Key: p.string(), Value: p.bytes()})
		}
	}
	r.Value = p.bytes()
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
		return f, false
	}
	p := parser{rest: b[1:]}
	f.Topic, f.Dead, f.Key = p.take(p.uvarint()), p.take(p.uvarint()), p.bytes()
	for n := p.uvarint(); n > 0 && !p.failed; n-- {
		key := p.take(p.uvarint())
		header(key, p.bytes())
	}
	f.Value = p.bytes()
	return f, !p.failed && len(p.rest) == 0
}

// parser reads fields until one does not fit; then it returns zero values.
type parser struct {
	rest   []byte
	failed bool
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

func (p *parser) string() string { return string(p.take(p.uvarint())) }

func (p *parser) bytes() []byte {
	n := p.uvarint()
	if n == 0 {
		return nil
	}
	return p.take(n - 1)
}
