package extract

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/meter"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata/extract")

const goldenDir = "../../testdata/extract"

// report is what a golden case wants.
type report struct {
	Error         string             `json:"error,omitempty"`
	Provider      string             `json:"provider,omitempty"`
	Operation     string             `json:"operation,omitempty"`
	RequestModel  string             `json:"request_model,omitempty"`
	Model         string             `json:"model,omitempty"`
	Stream        *bool              `json:"stream,omitempty"`
	FinishReason  string             `json:"finish_reason,omitempty"`
	ResponseID    string             `json:"response_id,omitempty"`
	Usage         map[string]float64 `json:"usage,omitempty"`
	UsageStatus   string             `json:"usage_status,omitempty"`
	UsageSource   string             `json:"usage_source,omitempty"`
	Contradiction string             `json:"usage_contradiction,omitempty"`
	Tokenizer     string             `json:"tokenizer,omitempty"`
}

func reportOf(llm meter.LLM, err error) report {
	r := report{
		Provider: llm.Provider, Operation: llm.Operation, RequestModel: llm.RequestModel, Model: llm.Model, Stream: llm.Stream,
		FinishReason: llm.FinishReason, ResponseID: llm.ResponseID,
		UsageStatus: string(llm.UsageStatus), UsageSource: string(llm.UsageSource),
		Contradiction: llm.Usage.Contradiction(), Tokenizer: llm.Tokenizer,
	}
	if err != nil {
		r.Error = err.Error()
	}
	usage := map[string]float64{}
	for _, q := range meter.Quantities() {
		if n, ok := llm.Usage.Get(q); ok {
			usage[q.String()] = float64(n)
		}
	}
	for _, a := range meter.Amounts() {
		if x, ok := llm.Usage.Amount(a); ok {
			usage[a.String()] = x
		}
	}
	if len(usage) > 0 {
		r.Usage = usage
	}
	return r
}

// golden is one case of testdata/extract.
type golden struct {
	name     string
	file     string
	sections []section
	response *Response
	framing  string // json, sse, ndjson, eventstream
}

func goldens(tb testing.TB) []golden {
	tb.Helper()
	var cases []golden
	err := filepath.WalkDir(goldenDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".txtar" {
			return err
		}
		archive, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		g := golden{file: path, sections: parseArchive(string(archive))}
		g.name, _ = strings.CutSuffix(filepath.ToSlash(strings.TrimPrefix(path, goldenDir+"/")), ".txtar")
		if len(g.sections) != 4 || !strings.Contains(g.sections[0].text, "https://") {
			tb.Fatalf("%s: want a comment that cites the documentation, request, response and want", path)
		}
		if g.response, err = parseRequest(g.sections[1].text); err != nil {
			tb.Fatalf("%s: %v", path, err)
		}
		g.response.Body = []byte(g.sections[2].text)
		g.framing = strings.TrimPrefix(g.sections[2].name, "response.")
		if g.framing == "eventstream" {
			g.response.Body = eventStreamOf(g.sections[2].text)
		}
		cases = append(cases, g)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	if len(cases) == 0 {
		tb.Fatal("no golden cases")
	}
	return cases
}

func TestGoldenCases(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			got := reportOf(Extract(g.response))
			if *update {
				b, err := json.MarshalIndent(got, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				g.sections[3].text = string(b) + "\n"
				if err := os.WriteFile(g.file, []byte(formatArchive(g.sections)), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			var want report
			if err := json.Unmarshal([]byte(g.sections[3].text), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			for name, variant := range g.variants() {
				if diff := cmp.Diff(want, reportOf(Extract(&variant))); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
			}
		})
	}
}

// variants are other transports of the same response.
func (g *golden) variants() map[string]Response {
	variants := map[string]Response{}
	add := func(name, encoding string, body []byte) {
		r := *g.response
		r.Body, r.ContentEncoding = body, encoding
		variants[name] = r
	}
	body := g.response.Body
	add("gzip", "gzip", gzipped(body))
	add("gzip in two members", "x-gzip", append(gzipped(body[:len(body)/2]), gzipped(body[len(body)/2:])...))
	add("gzip that the headers do not name", "", gzipped(body))
	add("gzip that was unpacked on the way", "GZIP", body)
	add("deflate", "deflate", zlibbed(body))
	add("brotli", "br", brotlied(body))
	add("zstd", "zstd", zstandard(body))
	add("zstd that the headers do not name", "", zstandard(body))
	add("brotli in gzip", "br, gzip", gzipped(brotlied(body)))
	add("deflate without the zlib format", "deflate", deflated(body))
	switch g.framing {
	case "sse":
		add("sse with CRLF", "", bytes.ReplaceAll(body, []byte("\n"), []byte("\r\n")))
		add("sse with CR", "", bytes.ReplaceAll(body, []byte("\n"), []byte("\r")))
		add("sse with a byte order mark", "", append([]byte("\ufeff"), body...))
		add("sse with no space behind the colon", "", bytes.ReplaceAll(body, []byte("data: "), []byte("data:")))
		add("sse with other fields", "", bytes.ReplaceAll(body, []byte("data: "), []byte("id: 1\nretry: 10\nother: usage\n: \"usage\"\ndata: ")))
		split := bytes.ReplaceAll(body, []byte(`,"`), []byte(",\ndata:\""))
		if g.response.Complete {
			add("sse with several data lines for each event", "", split)
			add("sse without the last blank line", "", bytes.TrimSuffix(body, []byte("\n")))
			add("sse without the last line's end", "", bytes.TrimSuffix(body, []byte("\n\n")))
			if bytes.Count(body, []byte("\n\n")) > 1 {
				add("sse without blank lines", "", bytes.ReplaceAll(body, []byte("\n\n"), []byte("\n")))
			}
		}
		json := *g.response
		json.ContentType = "application/json"
		variants["sse as application/json"] = json
	case "ndjson":
		add("lines with CRLF", "", bytes.ReplaceAll(body, []byte("\n"), []byte("\r\n")))
		add("lines without the last one's end", "", bytes.TrimSuffix(body, []byte("\n")))
		add("lines with empty ones between", "", bytes.ReplaceAll(body, []byte("\n"), []byte("\n\n")))
	case "json":
		add("json behind white space", "", append([]byte(" \n\n\t\r\n"), body...))
		stream := *g.response
		stream.ContentType = "text/event-stream"
		if g.response.Status == 200 {
			variants["json as text/event-stream"] = stream
		}
	}
	return maps.Clone(variants)
}

func TestEverySplitOfABodyGivesTheSame(t *testing.T) {
	for _, g := range goldens(t) {
		want := reportOf(Extract(g.response))
		for _, size := range []int{1, 2, 3, 5, 7, 16, 61, 256, 1000} {
			if diff := cmp.Diff(want, reportOf(extractSplit(g.response, size))); diff != "" {
				t.Errorf("%s, in pieces of %d: %s", g.name, size, diff)
			}
		}
	}
}

// extractSplit is Extract of a body that comes in pieces.
func extractSplit(r *Response, size int) (meter.LLM, error) {
	c := NewReader(r)
	for body := r.Body; len(body) > 0; {
		n := min(size, len(body))
		piece := bytes.Clone(body[:n])
		if _, err := c.Write(piece); err != nil {
			break
		}
		clear(piece) // a piece is gone when the next one comes
		body = body[n:]
	}
	return c.Close(r.Complete)
}

func TestNoOutcomeHasAUsageAndAnError(t *testing.T) {
	for _, g := range goldens(t) {
		llm, err := Extract(g.response)
		switch {
		case errors.Is(err, ErrNotLLM):
			if diff := cmp.Diff(report{}, reportOf(llm, nil)); diff != "" {
				t.Errorf("%s: no call, but %s", g.name, diff)
			}
		case err != nil:
			if !llm.Usage.Empty() || llm.UsageStatus != meter.UsageMissing || llm.UsageSource != "" {
				t.Errorf("%s: %v, but the usage is %+v", g.name, err, reportOf(llm, err))
			}
		case llm.Usage.Empty() || llm.UsageStatus == meter.UsageMissing || llm.UsageSource == "":
			t.Errorf("%s: no error, but the usage is %+v", g.name, reportOf(llm, err))
		}
	}
}
