package extract

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"kafka-metering/meter"
)

// zeroes is an endless text.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

// bomb returns a chat completion with a content of size bytes, compressed.
func bomb(t *testing.T, size int64, open func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var b bytes.Buffer
	z := open(&b)
	text := io.MultiReader(strings.NewReader(`{"choices":[{"message":{"role":"`), io.LimitReader(zeroes{}, size), strings.NewReader(`"}}]}`))
	if _, err := io.Copy(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestABodyThatDecodesToTooMuchIsRefused(t *testing.T) {
	openBrotli := func(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, 1) }
	openZstd := func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	for name, c := range map[string]struct {
		encoding string
		body     []byte
	}{
		"brotli, more than the ratio": {"br", bomb(t, 16<<20, openBrotli)},
		"zstd, more than the ratio":   {"zstd", bomb(t, 16<<20, openZstd)},
		"gzip in brotli":              {"gzip, br", brotlied(gzipped(bomb(t, 80<<20, openBrotli)))},
		"plain, more than a document": {"", append([]byte(`{"a":"`), make([]byte, maxDocument)...)},
	} {
		r := chatCall("")
		r.Body, r.ContentEncoding = c.body, c.encoding
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		llm, err := Extract(r)
		runtime.ReadMemStats(&after)
		if name == "gzip in brotli" {
			if err == nil { // the inner text is brotli that nobody has declared
				t.Errorf("%s: got %+v", name, llm)
			}
			continue
		}
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v of %d bytes", name, err, len(c.body))
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 2*maxDocument+8<<20 {
			t.Errorf("%s: %d bytes were allocated", name, grown)
		}
	}
}

func TestAStreamThatDecodesToTooMuchKeepsWhatItHadDeclared(t *testing.T) {
	if testing.Short() {
		t.Skip("decodes 64 MB")
	}
	const chunk = `data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}` + "\n\n"
	r := chatCall("")
	r.Body = gzipped([]byte(chunk + strings.Repeat(": and on and on it goes, for ever and ever\n", maxDecoded/40)))
	llm, err := Extract(r)
	if err != nil || llm.UsageStatus != meter.UsagePartial || tokens(&llm, meter.InputTokens) != 3 {
		t.Errorf("got %+v, %v", llm, err)
	}
}

func TestACodingThatIsNotReadIsSaid(t *testing.T) {
	for _, encoding := range []string{"compress", "gzip, dcb", "gzip, gzip, gzip, gzip"} {
		r := chatCall("x")
		r.ContentEncoding = encoding
		if _, err := Extract(r); !errors.Is(err, ErrEncoding) {
			t.Errorf("%s: got %v", encoding, err)
		}
	}
}

func TestADamagedCodingIsNotBelieved(t *testing.T) {
	for encoding, body := range map[string][]byte{
		"gzip": gzipped(chatJSON()), "deflate": zlibbed(chatJSON()), "br": brotlied(chatJSON()), "zstd": zstandard(chatJSON()),
	} {
		r := chatCall("")
		r.ContentEncoding = encoding
		for i := 2; i < len(body); i += 7 {
			r.Body = bytes.Clone(body)
			r.Body[i] ^= 0x55
			checkUsage(t, r)
		}
		for i := 1; i < len(body); i += 11 {
			r.Body = body[:i]
			if llm, err := Extract(r); err == nil && llm.UsageStatus == "final" && tokens(&llm, meter.TotalTokens) != 1163 {
				t.Errorf("%s, cut at %d of %d: %v final", encoding, i, len(body), reportOf(llm, nil).Usage)
			}
		}
	}
}

// The memory that a stream needs does not grow with it.
func TestAStreamNeedsTheMemoryOfItsLargestEvent(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 64 MB for each framing")
	}
	for name, c := range map[string]struct {
		r    *Response
		body []byte
	}{
		"sse":         {chatCall(""), chatStream(1 << 20)},
		"ndjson":      {&Response{Method: "POST"}, chatLines(1 << 20)},
		"eventstream": {&Response{Method: "POST", Path: "/model/m/converse-stream"}, converseStream(1 << 20)},
		"array":       {&Response{Method: "POST", Path: "/v1/models/m:streamGenerateContent"}, []byte(strings.Repeat(string(contentJSON())+",", 500))},
	} {
		t.Run(name, func(t *testing.T) {
			c.body = c.body[:len(c.body)*9/10] // without the end, which would end the reading
			reader := NewReader(c.r)
			if name == "array" {
				fmt.Fprint(reader, "[")
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 64 {
				for rest := c.body; len(rest) > 0; {
					n := min(len(rest), 1400)
					if _, err := reader.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
			}
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 512<<10 {
				t.Errorf("%d bytes were allocated for %d bytes", grown, 64*len(c.body))
			}
			if _, err := reader.Close(false); errors.Is(err, ErrNotLLM) {
				t.Error("it was not read")
			}
		})
	}
}

// How a body is cut must not show in what a decoder has read at any point: the bound of the ratio depends on it.
func TestADecoderReadsLumpsOfOneSizeWhateverThePiecesAre(t *testing.T) {
	pieces := 0
	var f feed
	f.wait = func() bool {
		pieces++
		f.piece, f.ended = []byte("a"), pieces == 5000
		return true
	}
	var p [8 << 10]byte
	for _, want := range []int{4096, 904} {
		if n, err := f.Read(p[:]); n != want || err != nil {
			t.Errorf("got %d, %v, want %d", n, err, want)
		}
	}
	if n, err := f.Read(p[:]); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: got %d, %v", n, err)
	}
}
