package record

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"hash"
	"strconv"
	"time"

	"kafka-metering/meter"
	"kafka-metering/schema"
)

// TypeCheckpoint is the type of the events that tell of a run.
const TypeCheckpoint = "kong.metering_checkpoint"

// Reasons of a checkpoint.
const (
	ReasonInterval = "interval" // a minute, or 100,000 events: more may follow
	ReasonStop     = "stop"     // the process stops
	ReasonKilled   = "killed"   // the process was killed; another one says so that has its spool
)

// Checkpoint is the data of an event of [TypeCheckpoint].
type Checkpoint struct {
	First  string `json:"first_sequence"`
	Last   string `json:"last_sequence"`
	Events uint64 `json:"events"`
	Hash   string `json:"hash"`
	Reason string `json:"reason"`
}

// numberDigits is the width of a number, so that text order is numeric order. A run has at most maxNumber events.
const (
	numberDigits = 12
	maxNumber    = 999_999_999_999
	startDigits  = 13
)

// Unnumbered is the sequence of a record that has not been stored yet.
const Unnumbered = "0000000000000-000000000000"

// appendSequence appends a sequence, which is as long as Unnumbered.
func appendSequence(b []byte, start int64, number uint64) []byte {
	b = appendPadded(b, uint64(start), startDigits)
	b = append(b, '-')
	return appendPadded(b, number, numberDigits)
}

func appendPadded(b []byte, n uint64, width int) []byte {
	var space [20]byte
	digits := strconv.AppendUint(space[:0], n, 10)
	for range width - len(digits) {
		b = append(b, '0')
	}
	return append(b, digits...)
}

// ParseSequence takes a sequence apart. It is strict: what it accepts is what it would be written as.
func ParseSequence(s string) (start int64, number uint64, ok bool) {
	if len(s) != len(Unnumbered) || s[startDigits] != '-' {
		return 0, 0, false
	}
	first, err := strconv.ParseUint(s[:startDigits], 10, 63)
	if err != nil {
		return 0, 0, false
	}
	number, err = strconv.ParseUint(s[startDigits+1:], 10, 64)
	return int64(first), number, err == nil && number > 0
}

// digest is an event's part of a run's hash.
type digest = [sha256.Size]byte

// digestOf returns the digest of an event. The three attributes count in binary mode only.
func digestOf(binary bool, id, subject, at, value []byte, memory []byte) (digest, []byte) {
	if !binary {
		return sha256.Sum256(value), memory
	}
	memory = memory[:0]
	for _, part := range [...][]byte{id, subject, at} {
		memory = append(append(memory, part...), '\n')
	}
	memory = append(memory, value...)
	return sha256.Sum256(memory), memory
}

// chain is the hash of an interval.
type chain struct {
	hash.Hash
	text [2 * sha256.Size]byte
}

func newChain() *chain { return &chain{Hash: sha256.New()} }

// add adds the next event's digest.
func (c *chain) add(d *digest) {
	hex.Encode(c.text[:], d[:])
	c.Write(c.text[:])
}

// sum returns the hash of what was added so far.
func (c *chain) sum() string { return hex.EncodeToString(c.Sum(nil)) }

// appendState appends what restore takes back.
func (c *chain) appendState(b []byte) []byte {
	b, err := c.Hash.(encoding.BinaryAppender).AppendBinary(b)
	if err != nil {
		panic("bug: " + err.Error())
	}
	return b
}

func (c *chain) restore(state []byte) error {
	return c.Hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(state)
}

// event returns the checkpoint as an event of its source, which is its subject, too: nobody is billed for it.
func (c *Checkpoint) event(source, sequence string, at time.Time) meter.Event {
	data, err := json.Marshal(c)
	if err != nil {
		panic("bug: " + err.Error())
	}
	now := meter.FormatTime(at)
	return meter.Event{
		ID: sequence + "/" + TypeCheckpoint, Source: source, Type: TypeCheckpoint, Subject: source, Time: now,
		DataSchema: schema.DataSchema(TypeCheckpoint), Sequence: sequence, RecordedTime: now, Data: data,
	}
}

// isBinary reports whether a record with that content-type is in CloudEvents' binary mode.
func isBinary(contentType []byte) bool {
	return !bytes.HasPrefix(contentType, []byte("application/cloudevents"))
}
