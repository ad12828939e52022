package extract

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxDecoded bounds a compressed body, decoded, in bytes: a stream is read in small pieces, so this bounds work.
	maxDecoded = 64 << 20
	// maxRatio bounds how often larger a body may become by decoding, beyond freeSize. Gzip cannot do more, and text of
	// a model is far from it; the other codings could turn a few bytes into gigabytes.
	maxRatio = 1032
	freeSize = 1 << 20
	// maxWindow bounds the memory that a zstd stream can ask for, in bytes: RFC 8878 recommends to support 8 MiB.
	maxWindow = 8 << 20
	// chunk is the piece in which a compressed body is decoded.
	chunk = 32 << 10
	// maxCodings bounds how many codings a body may have on top of each other.
	maxCodings = 3
	// sniffed is how many bytes tell gzip and zstd.
	sniffed = 4
)

// errClosed ends a decoding that nobody needs any more.
var errClosed = errors.New("the body is no longer read")

// decoder decodes a body that comes in pieces. The readers that decode want to be the ones who ask for input; so they run
// as a coroutine, which is at rest whenever it waits for the next piece. Close must be called.
type decoder struct {
	input  feed
	resume func() (struct{}, bool)
	cancel func()
	err    error
}

// newDecoder returns a decoder that undoes codings, the outermost first. What is decoded goes to write, in pieces that are
// valid until it returns.
func newDecoder(codings []string, write func([]byte) error) *decoder {
	d := new(decoder)
	d.resume, d.cancel = iter.Pull(func(yield func(struct{}) bool) {
		d.input.wait = func() bool { return yield(struct{}{}) }
		d.err = d.run(codings, write)
	})
	return d
}

// Write decodes the next piece of the body as far as it goes.
func (d *decoder) Write(p []byte) error {
	d.input.piece = p
	d.resume()
	return d.err
}

// Close ends the body. With [ErrTruncated] everything before the cut has been handed over.
func (d *decoder) Close() error {
	d.input.piece, d.input.ended = nil, true
	d.resume()
	d.cancel()
	return d.err
}

// feed is the encoded body, as a reader. It hands it out in lumps of one size, whatever the pieces are that it comes in:
// so what a decoder has read when it writes a byte depends on nothing but the body.
type feed struct {
	piece []byte
	ended bool
	wait  func() bool
	read  int // bytes that were handed out
	lump  [4 << 10]byte
	rest  []byte // of the lump
}

func (f *feed) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		n := 0
		for n < len(f.lump) && (!f.ended || len(f.piece) > 0) {
			if len(f.piece) == 0 && !f.wait() {
				return 0, errClosed
			}
			m := copy(f.lump[n:], f.piece)
			f.piece, n = f.piece[m:], n+m
		}
		if n == 0 {
			return 0, io.EOF
		}
		f.rest = f.lump[:n]
		f.read += n
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// run decodes the whole body.
func (d *decoder) run(codings []string, write func([]byte) error) error {
	var r io.Reader = &d.input
	for _, coding := range codings {
		z, release, err := open(coding, r)
		if err != nil {
			return decodeError(err)
		}
		defer release()
		r = z
	}
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	for total := 0; ; {
		n, err := r.Read(buf[:])
		if total += n; total > maxDecoded || total > freeSize && total/maxRatio > d.input.read {
			return ErrTooLarge
		}
		if n > 0 {
			if err := write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return decodeError(err)
		}
	}
}

// codingsOf returns the codings to undo, the outermost first, of a body with a Content-Encoding that starts with head
// (sniffed bytes, or all there are).
//
// Gzip and zstd are recognised by their first bytes, declared or not: a filter between the upstream and the log may have
// packed or unpacked the body, and no text starts like that.
func codingsOf(encoding string, head []byte) ([]string, error) {
	if len(head) == 0 {
		return nil, nil
	}
	if bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return []string{"zstd"}, nil
	}
	gzipped := bytes.HasPrefix(head, []byte{0x1f, 0x8b})
	if encoding == "" && !gzipped {
		return nil, nil
	}
	var codings []string
	for name := range strings.SplitSeq(strings.ToLower(encoding), ",") {
		name = strings.TrimSpace(name)
		switch name {
		case "", "identity":
			continue
		case "gzip", "x-gzip", "deflate", "br", "zstd":
		default:
			return nil, ErrEncoding
		}
		codings = append([]string{name}, codings...)
	}
	if len(codings) > maxCodings {
		return nil, ErrEncoding
	}
	switch {
	case gzipped && (len(codings) == 0 || codings[0] == "br" || codings[0] == "zstd"):
		return []string{"gzip"}, nil
	case gzipped || len(codings) != 1:
		return codings, nil
	case codings[0] == "deflate" || codings[0] == "br":
		if !plain(head) {
			return codings, nil
		}
	}
	return nil, nil // it was unpacked on the way
}

// plain reports whether a body that should be deflate or brotli starts like a text instead: like an object or a field of
// an event. Neither coding starts a stream with these bytes: as deflate they are a block of an invalid type or length, as
// brotli an empty last block with something behind it.
func plain(head []byte) bool {
	switch string(head[:min(len(head), sniffed)]) {
	case "data", "even":
		return true
	}
	return head[0] == '{'
}

var (
	gunzips   = sync.Pool{New: func() any { return new(gzip.Reader) }}
	unbrotlis = sync.Pool{New: func() any { return new(brotli.Reader) }}
	unzstds   = sync.Pool{New: func() any { return newZstd() }}
)

// newZstd returns a decoder that works in the goroutine that reads from it, so that it needs no Close.
func newZstd() *zstd.Decoder {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		panic("bug: the decoder's options: " + err.Error())
	}
	return z
}

// open returns a reader that undoes a coding, and what gives its memory back.
func open(coding string, r io.Reader) (_ io.Reader, release func(), _ error) {
	switch coding {
	case "gzip", "x-gzip":
		z := gunzips.Get().(*gzip.Reader)
		if err := z.Reset(r); err != nil {
			return nil, nil, err
		}
		return z, func() { gunzips.Put(z) }, nil
	case "br":
		z := unbrotlis.Get().(*brotli.Reader)
		if err := z.Reset(r); err != nil {
			return nil, nil, err
		}
		return z, func() { unbrotlis.Put(z) }, nil
	case "zstd":
		z := unzstds.Get().(*zstd.Decoder)
		if err := z.Reset(r); err != nil {
			return nil, nil, err
		}
		return z, func() {
			if z.Reset(nil) == nil {
				unzstds.Put(z)
			}
		}, nil
	default: // deflate
		return openDeflate(r)
	}
}

// openDeflate reads RFC 9110, section 8.4.1.2: the zlib format; some servers send its content alone.
func openDeflate(r io.Reader) (io.Reader, func(), error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, nil, err
	}
	r = io.MultiReader(bytes.NewReader(head[:]), r)
	if head[0]&15 != 8 || (int(head[0])<<8|int(head[1]))%31 != 0 {
		z := flate.NewReader(r)
		return z, func() { _ = z.Close() }, nil
	}
	z, err := zlib.NewReader(r)
	if err != nil {
		return nil, nil, err
	}
	return z, func() { _ = z.Close() }, nil
}

// decodeError tells an early end, or a window larger than we allow, from damage. A damaged body is not read at all: what
// came before the place where the damage shows is not checked by any checksum.
func decodeError(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return ErrTruncated
	case errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return ErrTooLarge
	default:
		return ErrUnparsable
	}
}
