package extract

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// Servers flush what they compress behind each event: all that came before a cut can be read.
func TestACutOfACompressedStreamLosesNoEventThatCame(t *testing.T) {
	type flusher interface {
		io.Writer
		Flush() error
	}
	for coding, open := range map[string]func(io.Writer) flusher{
		"gzip":    func(w io.Writer) flusher { return gzip.NewWriter(w) },
		"deflate": func(w io.Writer) flusher { return zlib.NewWriter(w) },
		"br":      func(w io.Writer) flusher { return brotli.NewWriter(w) },
		"zstd": func(w io.Writer) flusher {
			z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
			if err != nil {
				t.Fatal(err)
			}
			return z
		},
	} {
		for name, r := range answers(t) {
			ends := eventEnds(r.Body)
			if framingOf(r) != "events" || len(ends) < 4 || r.Estimate {
				continue
			}
			var packed bytes.Buffer
			z, last := open(&packed), 0
			var flushed []int
			for _, end := range ends {
				if _, err := z.Write(r.Body[last:end]); err != nil {
					t.Fatal(err)
				}
				if err := z.Flush(); err != nil {
					t.Fatal(err)
				}
				last, flushed = end, append(flushed, packed.Len())
			}
			for i := 1; i < len(ends)-1; i += 1 + len(ends)/6 {
				want, got := *r, *r
				want.Body, want.Complete = r.Body[:ends[i]], false
				got.Body, got.Complete, got.ContentEncoding = packed.Bytes()[:flushed[i]], false, coding
				before := reportOf(Extract(&want))
				if diff := cmp.Diff(before, reportOf(Extract(&got))); diff != "" {
					t.Errorf("%s, %s, cut behind event %d: %s", coding, name, i+1, diff)
				}
				want.Body, got.Body = r.Body[:ends[i+1]], packed.Bytes()[:(flushed[i]+flushed[i+1])/2]
				after, inside := reportOf(Extract(&want)).Usage, reportOf(Extract(&got)).Usage
				if !cmp.Equal(before.Usage, inside) && !cmp.Equal(after, inside) {
					t.Errorf("%s, %s, cut in event %d: got %v, want %v or %v", coding, name, i+2, inside, before.Usage, after)
				}
			}
		}
	}
}
