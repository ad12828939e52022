package extract

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"strings"
	"sync"
)

const (
	// maxDecoded bounds a compressed body, decoded, in bytes: a stream is read in small pieces, so this bounds work.
	maxDecoded = 64 << 20
	// maxDocument bounds a body that has to be in memory as a whole, in bytes. Images in base64 fit.
	maxDocument = 32 << 20
	// chunk is the piece in which a compressed body is decoded.
	chunk = 32 << 10
)

var (
	chunks  = sync.Pool{New: func() any { return new([chunk]byte) }}
	gunzips = sync.Pool{New: func() any { return new(gzip.Reader) }}
)

// decompress returns a reader of the decoded body, which the caller closes; nil when the body is not compressed.
//
// Gzip is recognised by its first bytes, declared or not: a filter between the upstream and the log may have packed or
// unpacked the body, and neither JSON nor an event stream starts like that.
func decompress(body []byte, encoding string) (io.ReadCloser, error) {
	if len(body) == 0 {
		return nil, nil
	}
	encoding = strings.ToLower(strings.TrimSpace(encoding))
	if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) && encoding != "deflate" {
		z := gunzips.Get().(*gzip.Reader)
		if err := z.Reset(bytes.NewReader(body)); err != nil {
			gunzips.Put(z)
			return nil, decodeError(err)
		}
		return pooled{z}, nil
	}
	switch encoding {
	case "", "identity", "gzip", "x-gzip":
		return nil, nil
	case "deflate":
		// RFC 9110, section 8.4.1.2: the zlib format; some servers send its content alone.
		if len(body) < 2 || body[0]&15 != 8 || (int(body[0])<<8|int(body[1]))%31 != 0 {
			return flate.NewReader(bytes.NewReader(body)), nil
		}
		z, err := zlib.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, decodeError(err)
		}
		return z, nil
	default:
		return nil, ErrEncoding
	}
}

// pooled is a gzip.Reader, whose tables are some 40 KiB, that goes back when it is closed.
type pooled struct{ *gzip.Reader }

func (p pooled) Close() error {
	gunzips.Put(p.Reader)
	return nil
}

// inflate hands what z reads to write, in pieces that are valid until it returns. With [ErrTruncated] everything before
// the cut has been handed over.
func inflate(z io.Reader, write func([]byte) error) error {
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	for total := 0; ; {
		n, err := z.Read(buf[:])
		if total += n; total > maxDecoded {
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

// decodeError tells an early end from damage. A damaged body is not read at all: what came before the place where the
// damage shows is not checked by any checksum.
func decodeError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return ErrTruncated
	}
	return ErrUnparsable
}
