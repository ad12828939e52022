package extract

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/klauspost/compress/zstd"

	"kafka-metering/meter"
)

func compressed(p []byte, open func(io.Writer) io.WriteCloser) []byte {
	var b bytes.Buffer
	z := open(&b)
	if _, err := z.Write(p); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func gzipped(p []byte) []byte {
	return compressed(p, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
}

func zlibbed(p []byte) []byte {
	return compressed(p, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
}

func deflated(p []byte) []byte {
	return compressed(p, func(w io.Writer) io.WriteCloser {
		z, err := flate.NewWriter(w, flate.DefaultCompression)
		if err != nil {
			panic(err)
		}
		return z
	})
}

func brotlied(p []byte) []byte {
	return compressed(p, func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) })
}

func zstandard(p []byte) []byte {
	return compressed(p, func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err)
		}
		return z
	})
}

// section is one file of a txtar archive (https://pkg.go.dev/golang.org/x/tools/txtar#hdr-Txtar_format).
type section struct{ name, text string }

// parseArchive splits a txtar archive into its comment, whose name is empty, and its files.
func parseArchive(archive string) []section {
	sections := []section{{}}
	for line := range strings.Lines(archive) {
		if name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "-- "); ok {
			if name, ok = strings.CutSuffix(name, " --"); ok {
				sections = append(sections, section{name: strings.TrimSpace(name)})
				continue
			}
		}
		sections[len(sections)-1].text += line
	}
	return sections
}

func formatArchive(sections []section) string {
	var b strings.Builder
	for _, s := range sections {
		if s.name != "" {
			fmt.Fprintf(&b, "-- %s --\n", s.name)
		}
		b.WriteString(s.text)
	}
	return b.String()
}

// parseRequest reads a golden case's request: a request line, then fields of the response and of the configuration.
func parseRequest(text string) (*Response, error) {
	headers := map[string]string{}
	r := &Response{Status: 200, Seen: true, Complete: true, Header: func(name string) string { return headers[name] }}
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if i == 0 {
			method, address, _ := strings.Cut(line, " ")
			u, err := url.Parse(address)
			if err != nil {
				return nil, err
			}
			r.Method, r.Host, r.Path = method, u.Host, u.RequestURI()
			continue
		}
		name, value, _ := strings.Cut(line, ": ")
		var err error
		if header, ok := strings.CutPrefix(name, "header "); ok {
			headers[header] = value
			continue
		}
		switch name {
		case "status":
			r.Status, err = strconv.Atoi(value)
		case "content-type":
			r.ContentType = value
		case "complete":
			r.Complete, err = strconv.ParseBool(value)
		case "provider":
			r.Provider = value
		case "estimate":
			r.Estimate, err = strconv.ParseBool(value)
		case "stored":
			r.Stored, err = strconv.ParseBool(value)
		default:
			err = fmt.Errorf("unknown field %q", line)
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// eventStreamOf writes an AWS event stream: for each line the type of an event and its payload. A chunk wraps its payload;
// a type that starts with an exclamation mark is that of an exception.
func eventStreamOf(text string) []byte {
	var b []byte
	for line := range strings.Lines(text) {
		kind, payload, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if kind == "chunk" {
			payload = `{"bytes":"` + base64.StdEncoding.EncodeToString([]byte(payload)) + `","p":"abcdefgh"}`
		}
		b = append(b, eventOf(kind, payload)...)
	}
	return b
}

// eventOf is one message of an AWS event stream.
func eventOf(kind, payload string) []byte {
	message := eventstream.Message{Payload: []byte(payload)}
	header := func(name, value string) { message.Headers.Set(name, eventstream.StringValue(value)) }
	if exception, ok := strings.CutPrefix(kind, "!"); ok {
		header(":exception-type", exception)
		header(":content-type", "application/json")
		header(":message-type", "exception")
	} else {
		header(":event-type", kind)
		header(":content-type", "application/json")
		header(":message-type", "event")
	}
	var b bytes.Buffer
	if err := eventstream.NewEncoder().Encode(&b, message); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// count of a quantity that must be declared, for tests that read better so; -1 when it is not.
func tokens(llm *meter.LLM, q meter.Quantity) int64 {
	if n, ok := llm.Usage.Get(q); ok {
		return n
	}
	return -1
}
