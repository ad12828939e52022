package lane

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Reader reads what a worker sends. Its memory grows with what has arrived, not with what was announced, and never beyond
// the limits. It is for one goroutine.
type Reader struct {
	r     *bufio.Reader
	words [8][]byte

	buf   []byte // of the batch
	batch []byte // what has not been read of it
	left  int    // exchanges in there
	text  []byte // of an exchange's members
	ends  []int  // of each in text
}

// NewReader returns a reader of a connection.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 64<<10)}
}

// Await returns when a message has begun, with the errors of [Reader.Message].
func (d *Reader) Await() error {
	_, err := d.r.Peek(1)
	return err
}

// Message reads the next message; of a batch what it says of itself: its exchanges must be read before the next message. The error
// is [io.EOF] at the end between two messages, and wraps [ErrProtocol] where something else stands there.
func (d *Reader) Message() (Message, error) {
	words, err := d.line()
	if err != nil {
		return nil, err
	}
	p := fields{words: words[1:]}
	switch string(words[0]) {
	case "HELLO":
		if version := p.number(maxNumber); !p.bad && version != Version {
			return nil, fmt.Errorf("%w: the Lua front speaks version %d, this process %d: install the handler.lua of this release", ErrProtocol, version, Version)
		}
		h := &Hello{Worker: p.name(maxWorker), Counted: p.number(maxNumber)}
		return h, p.end(words)
	case "CONFIG":
		c := &Config{ID: p.number(maxNumber)}
		size, lists := p.number(MaxConfig), p.number(MaxConfig)
		if err := p.end(words); err != nil {
			return nil, err
		}
		both, err := d.bytes(nil, int(size+lists))
		if err != nil {
			return nil, err
		}
		c.JSON, c.Lists = both[:size:size], both[size:]
		return c, nil
	case "BATCH":
		b := &Batch{Number: p.number(maxNumber), Again: p.number(1) == 1}
		drops := p.number(MaxDrops)
		b.Entries, b.Size = int(p.number(MaxEntries)), int(p.number(MaxBatch))
		if err := p.end(words); err != nil {
			return nil, err
		}
		for range drops {
			drop, err := d.drop()
			if err != nil {
				return nil, err
			}
			b.Drops = append(b.Drops, drop)
		}
		return b, d.exchanges(b)
	case "BYE":
		return Bye{}, p.end(words)
	default:
		return nil, fmt.Errorf("%w: unknown message %.32q", ErrProtocol, words[0])
	}
}

// exchanges reads those of a batch into memory.
func (d *Reader) exchanges(b *Batch) (err error) {
	if b.Entries == 0 && b.Size > 0 {
		return fmt.Errorf("%w: a batch of %d bytes without exchanges", ErrProtocol, b.Size)
	}
	if cap(d.buf) > keptBuffer && b.Size <= keptBuffer {
		d.buf = nil
	}
	if cap(d.text) > keptBuffer {
		d.text = nil
	}
	d.buf, err = d.bytes(d.buf[:0], b.Size)
	d.batch, d.left = d.buf, b.Entries
	return err
}

func (d *Reader) drop() (Drop, error) {
	words, err := d.line()
	if err != nil {
		return Drop{}, unexpected(err)
	}
	p := fields{words: words}
	if p.word() != "DROP" {
		p.bad = true
	}
	drop := Drop{Plugin: p.name(maxReason), Reason: p.name(maxReason), Count: p.number(maxNumber)}
	return drop, p.end(words)
}

// Exchange reads the next exchange of a batch into x.
func (d *Reader) Exchange(x *Exchange) error {
	r := decoder{b: d.batch}
	*x = Exchange{Members: x.Members[:0]}
	count := r.list()
	x.Config, x.Number = r.number(0), r.number(0)
	for _, flag := range r.text(maxFlags) {
		switch flag {
		case 'd':
			x.Delivered = true
		case 'b':
			x.HasBody = true
		case 'e':
			x.Ended = true
		case 's':
			x.Stalled = true
		case 't':
			x.Tapped = true
		default:
			r.fail()
		}
	}
	x.FirstByte, x.Bytes = r.number(-1), r.number(0)
	x.Request, x.Type, x.Encoding = r.text(MaxBatch), r.text(maxTypeText), r.text(maxTypeText)
	x.Head, x.Skipped, x.Tail = r.text(MaxBatch), r.number(0), r.text(MaxBatch)
	const fixed = 11 // and the log
	if count <= fixed || count > fixed+1+maxMembers {
		r.fail()
	}
	if len(r.b) > 0 && r.b[0] >= tagString {
		x.Log = r.text(MaxBatch)
		count = min(count, fixed+1) // no members beside it
	} else if x.List = List(r.number(0)); x.List != ListLog && x.List != ListCalls {
		r.fail()
	}
	d.text = d.text[:0]
	d.ends = d.ends[:0]
	for range count - fixed - 1 {
		d.text = r.appendJSON(d.text, 0)
		d.ends = append(d.ends, len(d.text))
		if r.bad || len(d.text) > maxText {
			r.fail()
			break
		}
	}
	if r.bad {
		return fmt.Errorf("%w: exchange %d of configuration %d is not as it should be: install the handler.lua of this release", ErrProtocol, x.Number, x.Config)
	}
	d.batch = r.b
	start := 0
	for _, end := range d.ends {
		x.Members = append(x.Members, d.text[start:end:end])
		start = end
	}
	if d.left--; d.left == 0 && len(d.batch) > 0 {
		return fmt.Errorf("%w: %d bytes follow the last exchange of a batch", ErrProtocol, len(d.batch))
	}
	return nil
}

// keptBuffer is how large a buffer may be that is kept for the next batch, in bytes.
const keptBuffer = 1 << 20

// bytes appends n bytes to b. What is announced and does not come costs no memory.
func (d *Reader) bytes(b []byte, n int) ([]byte, error) {
	for n > 0 {
		step := min(n, 64<<10)
		start := len(b)
		if cap(b)-start < step {
			b = append(b, make([]byte, step)...)
		}
		b = b[:start+step]
		if _, err := io.ReadFull(d.r, b[start:]); err != nil {
			return nil, unexpected(err)
		}
		n -= step
	}
	return b, nil
}

// line reads a line into words, which are valid until the next read.
func (d *Reader) line() ([][]byte, error) {
	line, err := d.r.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) > 0:
		return nil, io.ErrUnexpectedEOF
	case errors.Is(err, bufio.ErrBufferFull), len(line) > maxLine:
		return nil, fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, maxLine)
	case err != nil:
		return nil, err
	}
	line = line[:len(line)-1]
	words := d.words[:0]
	for {
		i := bytes.IndexByte(line, ' ')
		if len(words) == cap(words) {
			return nil, fmt.Errorf("%w: too many words in %.64q", ErrProtocol, line)
		}
		if i < 0 {
			return append(words, line), nil
		}
		words, line = append(words, line[:i]), line[i+1:]
	}
}

// unexpected is an end in the middle of something.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fields takes the words of a line one after the other.
type fields struct {
	words [][]byte
	bad   bool
}

func (p *fields) word() string {
	if len(p.words) == 0 {
		p.bad = true
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return string(w)
}

// name takes a word of letters, digits, dot, dash and underscore.
func (p *fields) name(limit int) string {
	w := p.word()
	if len(w) == 0 || len(w) > limit {
		p.bad = true
	}
	for i := range len(w) {
		c := w[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			p.bad = true
		}
	}
	return w
}

// number takes a number from 0 to limit.
func (p *fields) number(limit int64) int64 {
	if len(p.words) == 0 {
		p.bad = true
		return 0
	}
	w := p.words[0]
	p.words = p.words[1:]
	if len(w) == 0 || len(w) > 16 {
		p.bad = true
		return 0
	}
	var n int64
	for _, c := range w {
		if c < '0' || c > '9' {
			p.bad = true
			return 0
		}
		n = n*10 + int64(c-'0')
	}
	if n > limit {
		p.bad = true
		return 0
	}
	return n
}

// end checks that all words were taken, and were what they should be.
func (p *fields) end(words [][]byte) error {
	if p.bad || len(p.words) > 0 {
		return fmt.Errorf("%w: %.128q is not as it should be", ErrProtocol, bytes.Join(words, []byte(" ")))
	}
	return nil
}

// appendLine appends a line of a word and a number.
func appendLine(b []byte, word string, number int64) []byte {
	b = append(append(b, word...), ' ')
	return append(strconv.AppendInt(b, number, 10), '\n')
}

// AppendOK appends the answer to a batch.
func AppendOK(b []byte, number int64) []byte { return appendLine(b, "OK", number) }

// AppendError appends the answer to a message that is wrong for good: the worker must not send it again.
func AppendError(b []byte, err error) []byte { return appendAnswer(b, "ERR ", err) }

// AppendLater appends the answer to a batch that cannot be taken now: the worker sends it again.
func AppendLater(b []byte, err error) []byte { return appendAnswer(b, "LATER ", err) }

// appendAnswer appends a line of a word and err's text.
func appendAnswer(b []byte, word string, err error) []byte {
	text := err.Error()
	b = append(b, word...)
	for i := range min(len(text), 400) {
		c := text[i]
		if c < ' ' || c == 0x7f {
			c = ' '
		}
		b = append(b, c)
	}
	return append(b, '\n')
}

// ParseLost reads a line of the file in which workers leave word of what they lost when they exited: [*Hello], with the
// worker's name, and what follows it, [*Drop], [*Sent] and [*Left]; or of that in which a process does, [*Taken].
func ParseLost(line string) (Message, error) {
	d := NewReader(strings.NewReader(line + "\n"))
	word, _, _ := strings.Cut(line, " ")
	switch word {
	case "HELLO":
		return d.Message()
	case "DROP":
		drop, err := d.drop()
		return &drop, err
	case "SENT":
		words, err := d.line()
		if err != nil {
			return nil, unexpected(err)
		}
		p := fields{words: words[1:]}
		sent := &Sent{Batch: p.number(maxNumber)}
		return sent, p.end(words)
	case "LEFT":
		words, err := d.line()
		if err != nil {
			return nil, unexpected(err)
		}
		p := fields{words: words[1:]}
		left := &Left{Plugin: p.name(maxReason), ID: p.name(maxReason)}
		return left, p.end(words)
	case "TAKEN":
		words, err := d.line()
		if err != nil {
			return nil, unexpected(err)
		}
		p := fields{words: words[1:]}
		taken := &Taken{Worker: p.name(maxWorker), Batch: p.number(maxNumber)}
		return taken, p.end(words)
	default:
		return nil, fmt.Errorf("%w: %.32q among what was lost", ErrProtocol, line)
	}
}
