package lane

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Version is the version of the protocol.
const Version = 2

// Limits of what a worker may send. A line that announces more is [ErrProtocol].
const (
	maxLine     = 512
	maxWorker   = 64
	maxReason   = 64
	MaxConfig   = 4 << 20   // a configuration, and its lists
	MaxBatch    = 256 << 20 // the exchanges of a batch
	MaxDrops    = 1 << 12   // lines of one batch
	MaxEntries  = 1 << 16   // of one batch
	maxMembers  = 1 << 12   // of one exchange's log
	maxFlags    = 8
	maxTypeText = 255
	maxNumber   = 1 << 53 // beyond it Lua's numbers are not exact
)

// ErrProtocol is returned for bytes that no worker of this version sends.
var ErrProtocol = errors.New("lane protocol")

// Message is what a worker says: [*Hello], [*Config], [*Batch] or [Bye].
type Message any

// Hello opens a connection.
type Hello struct {
	Worker  string // its name: unique for its life
	Counted int64  // exchanges that need no word any more
}

// Config registers a configuration for the connection.
type Config struct {
	ID    int64
	JSON  []byte // the caller's
	Lists []byte // JSON: the [Needs] that the worker's exchanges have the members of; empty before there were any
}

// ParseLists returns the lists of a configuration. The error wraps [ErrProtocol].
func (c *Config) ParseLists() (*Needs, error) {
	n := new(Needs)
	if err := json.Unmarshal(c.Lists, n); err != nil {
		return nil, fmt.Errorf("%w: the lists of a configuration: %w", ErrProtocol, err)
	}
	for _, path := range append(slices.Clip(n.Log), n.Calls...) {
		if len(path) == 0 {
			return nil, fmt.Errorf("%w: the lists of a configuration have a member without a name", ErrProtocol)
		}
	}
	return n, nil
}

// Batch begins a batch. Its exchanges are read one by one.
type Batch struct {
	Number  int64 // the worker's batches, from 1 on
	Again   bool  // it was sent before, and its acknowledgement has not come
	Drops   []Drop
	Entries int
	Size    int // bytes of the exchanges
}

// Drop is a number of exchanges that the worker could not keep.
type Drop struct {
	Plugin string // the id of Kong's plugin instance, or -
	Reason string
	Count  int64
}

// Sent is a batch that a worker had when it exited, and may have sent: the process may have taken it.
type Sent struct{ Batch int64 }

// Left is an exchange of such a batch.
type Left struct {
	Plugin string
	ID     string // Kong's id of the request, or -
}

// Taken is what a process that ended had of a worker: the batches up to this one.
type Taken struct {
	Worker string
	Batch  int64
}

// Bye says that the worker exits with nothing left.
type Bye struct{}

// Exchange is one exchange. Its slices are valid until the next one is read into it.
type Exchange struct {
	Config    int64
	Number    int64
	Delivered bool // nginx has sent the whole response to the client
	HasBody   bool // the upstream answered with a body
	Ended     bool // its end was seen
	Stalled   bool // the upstream was silent for as long as its service allows
	Tapped    bool // Head and Tail are what was seen of it

	FirstByte int64 // milliseconds from the request's start to the body's first byte; -1: there was none
	Bytes     int64 // of the body, as the client got them

	// Kong's log: all of it, or only the members that were asked for.
	Log     []byte   // JSON; nil where there are only members
	List    List     // whose members they are
	Members [][]byte // by the list's order; JSON, or empty where the log has no such member

	Request  []byte // the request's body; empty when nginx did not have it in memory
	Type     []byte // content type of the response, as the upstream sent it
	Encoding []byte // content encoding, likewise
	Head     []byte // the body, or its beginning
	Skipped  int64  // bytes that are missing between Head and Tail
	Tail     []byte
}

// List says of which list of [Needs] an exchange has the members.
type List int64

// The lists.
const (
	ListNone  List = iota // the whole log is there
	ListLog               // Needs.Log
	ListCalls             // Needs.Calls
)

// Body says how far a configuration needs the bodies of responses.
type Body string

// The needs.
const (
	BodyNone Body = "none"
	BodyLLM  Body = "llm" // of what may be an LLM's answer: a POST that succeeded
	BodyAny  Body = "any"
)

// Needs is the answer to a configuration.
type Needs struct {
	Log      [][]string `json:"log,omitempty"`   // the members of Kong's log that are read, each by its keys; nil: all
	Calls    [][]string `json:"calls,omitempty"` // those of a POST, which may be a call to a language model
	Body     Body       `json:"body"`
	Problems string     `json:"problems,omitempty"` // of the configuration, for Kong's error log
}

// Append appends the answer's line and bytes.
func (n *Needs) Append(b []byte) []byte {
	text, err := json.Marshal(n)
	if err != nil {
		panic("bug: " + err.Error())
	}
	return append(appendLine(b, "OK", int64(len(text))), text...)
}
