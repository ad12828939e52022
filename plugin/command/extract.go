package command

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kafka-metering/meter"
	"kafka-metering/meter/extract"
)

const extractAbout = `Reads the usage that LLM responses declare: one JSON line for each body.

  kafka-metering extract recordings/*.body
  kafka-metering extract -explain -url https://api.openai.com/v1/chat/completions answer.json
  curl -s $URL -d @request.json | kafka-metering extract

A body NAME.body is described by NAME.json beside it, if there is one:

  {"request": {"method": "POST", "url": "https://…"},
   "response": {"status": 200, "headers": {"content-type": "…", "content-encoding": "…"}}, "truncated": false}

Without that the shape of the body alone tells the API. Directories are searched for *.body. A number that the provider
did not declare is absent from the line: absent is not zero. A file that cannot be read has a line, too, which says why.`

// extraction is what one run of the command needs.
type extraction struct {
	explain  bool
	estimate bool
	provider string
	url      string
	out      *bufio.Writer
	progress *progress
}

// runExtract runs the command extract.
func runExtract(args []string, in io.Reader, out, errs io.Writer) error {
	x := extraction{out: bufio.NewWriter(out), progress: newProgress(errs)}
	flags := flag.NewFlagSet("extract", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.BoolVar(&x.explain, "explain", false, "say which rule read which value where")
	flags.BoolVar(&x.estimate, "estimate", false, "count the delivered text of streams that declare no usage; marked as estimated")
	flags.StringVar(&x.provider, "provider", "", "`name` of the provider, as in llm.provider")
	flags.StringVar(&x.url, "url", "", "`URL` of the upstream, for bodies without a description")
	if err := parseFiles(flags, args, extractAbout, out); err != nil {
		return err
	}
	if x.url != "" {
		if u, err := url.Parse(x.url); err != nil || u.Host == "" {
			return fmt.Errorf("-url %q is no URL: give the upstream's, such as https://api.openai.com/v1/responses", x.url)
		}
	}
	files, err := bodies(flags.Args())
	if err != nil {
		return err
	}
	if len(files) == 0 {
		files = []string{"-"}
	}
	x.progress.total = len(files)
	failed := 0
	for _, name := range files {
		if err := x.file(name, in); err != nil {
			failed++
			fmt.Fprintf(errs, "kafka-metering extract: %v\n", err)
			x.fail(name, err)
		}
		x.progress.step()
	}
	x.progress.end()
	if err := x.out.Flush(); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d files could not be read", failed, len(files))
	}
	return nil
}

// parseFiles is parse for a command that takes files.
func parseFiles(flags *flag.FlagSet, args []string, about string, help io.Writer) error {
	flags.Usage = func() { printHelp(flags.Output(), about, flags) }
	if slices.ContainsFunc(args, func(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }) {
		flags.SetOutput(help)
		flags.Usage()
		return flag.ErrHelp
	}
	if flags.Parse(args) != nil {
		return errUsage
	}
	return nil
}

// bodies returns the bodies that args name: files, the bodies beside descriptions, and those in directories. Each once.
func bodies(args []string) ([]string, error) {
	var files []string
	known := map[string]bool{}
	add := func(name string) {
		if !known[name] {
			known[name] = true
			files = append(files, name)
		}
	}
	for _, arg := range args {
		info, err := os.Stat(arg)
		switch {
		case arg == "-" || err != nil:
			add(arg) // what is wrong with it is said when it is read
		case info.IsDir():
			found := false
			err := filepath.WalkDir(arg, func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				if !d.IsDir() && filepath.Ext(path) == ".body" {
					found = true
					add(path)
				}
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("search for bodies: %w", err)
			}
			if !found {
				add(arg) // nothing to read is no reason to read standard input
			}
		default:
			add(bodyOf(arg))
		}
	}
	return files, nil
}

// bodyOf returns the body that a description stands beside, or the file itself.
func bodyOf(name string) string {
	if stem, ok := strings.CutSuffix(name, ".json"); ok {
		if _, err := os.Stat(stem + ".body"); err == nil {
			return stem + ".body"
		}
	}
	return name
}

// description is what is known of a body: the corpus's form, as far as it is read.
type description struct {
	Request struct {
		Method string `json:"method"`
		URL    string `json:"url"`
		Model  string `json:"model"`
	} `json:"request"`
	Response struct {
		Status  int               `json:"status"`
		Headers map[string]header `json:"headers"`
	} `json:"response"`
	Truncated bool `json:"truncated"`
}

// header is the value of a header: a text, or a list of what stands in several lines. Anything else is no header.
type header string

// UnmarshalJSON reads one.
func (h *header) UnmarshalJSON(data []byte) error {
	var lines []string
	if json.Unmarshal(data, &lines) != nil {
		lines = make([]string, 1)
		_ = json.Unmarshal(data, &lines[0]) // a number or null is left out
	}
	*h = header(strings.Join(lines, ", "))
	return nil
}

// describe reads the description beside a body. Without one the zero description is returned.
func describe(body string) (d description, err error) {
	for _, name := range []string{strings.TrimSuffix(body, filepath.Ext(body)) + ".json", body + ".json"} {
		if name == body {
			continue
		}
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return d, fmt.Errorf("read the description of a body: %w", err)
		}
		if err := json.Unmarshal(data, &d); err != nil {
			return d, fmt.Errorf("read the description %s: %w", name, err)
		}
		return d, nil
	}
	return d, nil
}

// response turns a description into what extract wants to know.
func (x *extraction) response(d *description) (extract.Response, error) {
	address := d.Request.URL
	if address == "" {
		address = x.url
	}
	u, err := url.Parse(address)
	if err != nil {
		return extract.Response{}, fmt.Errorf("the description's request.url: %w", err)
	}
	headers := map[string]string{}
	for name, value := range d.Response.Headers {
		headers[strings.ToLower(name)] = string(value)
	}
	r := extract.Response{
		Method: d.Request.Method, Host: u.Host, Path: u.RequestURI(), Status: d.Response.Status,
		ContentType: headers["content-type"], ContentEncoding: headers["content-encoding"],
		Header:   func(name string) string { return headers[name] },
		Provider: x.provider, Seen: true, Complete: !d.Truncated, Stored: true, Estimate: x.estimate,
	}
	if r.Method == "" {
		r.Method = "POST"
	}
	return r, nil
}

// file reads one body and writes its line.
func (x *extraction) file(name string, in io.Reader) error {
	var d description
	body := in
	if name != "-" {
		var err error
		if d, err = describe(name); err != nil {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("read a body: %w", err)
		}
		defer f.Close() //nolint:errcheck // it was only read
		body = f
	}
	r, err := x.response(&d)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var findings []string
	if x.explain {
		r.Explain = func(f extract.Finding) { findings = append(findings, f.String()) }
	}
	reader := extract.NewReader(&r)
	_, err = io.Copy(reader, body)
	llm, outcome := reader.Close(r.Complete)
	if err != nil && !errors.Is(err, outcome) {
		return fmt.Errorf("read a body: %w", err)
	}
	var l line
	l.add("file", name)
	l.addLLM(&llm, reader.API())
	if n, ok := reader.Counted(); ok {
		l.add("declared_count", n)
	}
	if outcome != nil {
		l.add("reason", outcome.Error())
	}
	if x.explain {
		l.add("explain", findings)
	}
	x.progress.count(&llm)
	_, err = x.out.Write(l.end())
	return err
}

// fail writes the line of a file that cannot be read, so that every file has one.
func (x *extraction) fail(name string, err error) {
	var l line
	l.add("file", name)
	l.add("usage_status", string(meter.UsageMissing))
	l.add("error", err.Error())
	_, _ = x.out.Write(l.end()) // Flush returns the error
}
