package relay

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go/compress"
	kafkazstd "github.com/segmentio/kafka-go/compress/zstd"
)

// zstdWindow is the encoder's window, in bytes: a batch is hardly larger
// ([Settings].MaxBatchBytes). kafka-go's codec takes the default of 8 MiB, and
// 16 MiB of memory for each encoder, of which there is one for each CPU.
const zstdWindow = 1 << 20

func init() {
	compress.Codecs[compress.Zstd] = new(zstdCodec)
}

// zstdCodec is kafka-go's with a smaller window.
type zstdCodec struct {
	kafkazstd.Codec
	encoders sync.Pool // of *zstd.Encoder
}

// NewWriter implements kafka-go's compress.Codec.
func (c *zstdCodec) NewWriter(w io.Writer) io.WriteCloser {
	if e, ok := c.encoders.Get().(*zstd.Encoder); ok {
		e.Reset(w)
		return &zstdWriter{e, c}
	}
	e, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithZeroFrames(true))
	if err != nil {
		panic("bug: zstd refuses its options: " + err.Error())
	}
	return &zstdWriter{e, c}
}

// zstdWriter gives its encoder back when it is closed.
type zstdWriter struct {
	*zstd.Encoder
	codec *zstdCodec
}

func (w *zstdWriter) Close() error {
	if w.Encoder == nil {
		return nil
	}
	err := w.Encoder.Close()
	w.Reset(nil)
	w.codec.encoders.Put(w.Encoder)
	w.Encoder = nil
	return err
}
