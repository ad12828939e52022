package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

const (
	// headerSize is what a stored value has before the record: the checksum
	// and the time of the append.
	headerSize = 4 + 8
	// maxRecordBytes bounds one record. It is far above what Kafka takes; its
	// use is that a damaged length is recognised as one.
	maxRecordBytes = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errChecksum = errors.New("checksum does not match")

func checksum(key, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
}

func appendKey(dst []byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(dst, seq)
}

// appendValue appends the stored form of record to dst.
func appendValue(dst, key []byte, at time.Time, record []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(at.UnixMilli()))
	dst = append(dst, record...)
	binary.BigEndian.PutUint32(dst[start:], checksum(key, dst[start+4:]))
	return dst
}

// parseValue returns the record inside the stored value v. The record is
// returned, as far as there is one, even when the checksum does not match.
func parseValue(key, v []byte) (record []byte, at time.Time, err error) {
	if len(v) < headerSize {
		return nil, time.Time{}, errChecksum
	}
	at = time.UnixMilli(int64(binary.BigEndian.Uint64(v[4:])))
	if binary.BigEndian.Uint32(v) != checksum(key, v[4:]) {
		return v[headerSize:], at, errChecksum
	}
	return v[headerSize:], at, nil
}

func rejectedValue(key []byte, at time.Time, reason string, record []byte) []byte {
	v := make([]byte, 4, headerSize+binary.MaxVarintLen64+len(reason)+len(record))
	v = binary.BigEndian.AppendUint64(v, uint64(at.UnixMilli()))
	v = binary.AppendUvarint(v, uint64(len(reason)))
	v = append(v, reason...)
	v = append(v, record...)
	binary.BigEndian.PutUint32(v, checksum(key, v[4:]))
	return v
}

func parseRejected(key, v []byte) (reason string, record []byte, at time.Time, err error) {
	body, at, err := parseValue(key, v)
	if err != nil {
		return "", nil, at, err
	}
	n, size := binary.Uvarint(body)
	if size <= 0 || n > uint64(len(body)-size) {
		return "", nil, at, errors.New("length of the reason is out of range")
	}
	body = body[size:]
	return string(body[:n]), body[n:], at, nil
}

// counters is what a file knows about itself. It is stored in the transaction
// that changes it, so that opening a file of any size costs one read.
type counters struct {
	next         int64 // sequence of the next record; the first is 1
	pending      int64 // records in the bucket "records"
	pendingBytes int64 // bytes of those records, without keys and headers
	acked        int64
	evicted      int64
	rejected     int64 // records in the bucket "rejected"
	rejectedSize int64 // bytes of those records
}

const countersSize = 7*8 + 4

func (c counters) encode() []byte {
	b := make([]byte, 0, countersSize)
	for _, n := range [...]int64{c.next, c.pending, c.pendingBytes, c.acked, c.evicted, c.rejected, c.rejectedSize} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return binary.BigEndian.AppendUint32(b, checksum(nil, b))
}

func parseCounters(b []byte) (counters, error) {
	if len(b) != countersSize || binary.BigEndian.Uint32(b[countersSize-4:]) != checksum(nil, b[:countersSize-4]) {
		return counters{}, fmt.Errorf("read counters: %w", errChecksum)
	}
	var n [7]int64
	for i := range n {
		n[i] = int64(binary.BigEndian.Uint64(b[8*i:]))
	}
	c := counters{n[0], n[1], n[2], n[3], n[4], n[5], n[6]}
	if c.next-1 != c.pending+c.acked+c.evicted+c.rejected || c.pending < 0 || c.pendingBytes < 0 {
		return c, fmt.Errorf("read counters: they do not balance: %+v", c)
	}
	return c, nil
}
