package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"kafka-metering/meter"
)

const explainAbout = `Shows what the plugin makes of one exchange, and why: the observation as the meters see it, what became of each meter, and
the events byte for byte.

  kafka-metering explain -config kong.yml log.json       a log as http-log and file-log write it
  kafka-metering explain -config kong.yml -body answer.json log.json
  kafka-metering explain -config kong.yml -request 64593a19 /usr/local/kong/kafka-metering.spool/observations

Of a file with several documents, or a directory of observations (config.record), it takes the last one, or the one of
-request. The configuration is that of a kong.yml or decK file, of whose entries Kong would run the most specific one; a file
with the plugin's config alone; or, without -config, the default.`

// explanation is one run of the command.
type explanation struct {
	host    Host
	out     io.Writer
	body    string
	request string
	json    bool
}

// runExplain runs the command explain.
func runExplain(args []string, in io.Reader, out, errs io.Writer, host Host) error {
	x := explanation{host: host, out: out}
	flags := flag.NewFlagSet("explain", flag.ContinueOnError)
	flags.SetOutput(errs)
	config := flags.String("config", "", "`file` with the plugin's configuration: kong.yml, decK, or config alone (default: the plugin's defaults)")
	flags.StringVar(&x.body, "body", "", "`file` with the response's body, as the upstream sent it")
	flags.StringVar(&x.request, "request", "", "`id` of the request, or its beginning")
	format := flags.String("format", "text", "text or json")
	if err := parseFiles(flags, args, explainAbout, out); err != nil {
		return err
	}
	if *format != "text" && *format != "json" {
		return fmt.Errorf("-format %q: must be text or json", *format)
	}
	x.json = *format == "json"
	names := flags.Args()
	if len(names) == 0 {
		names = []string{"-"}
	}
	document, err := x.find(names, in)
	if err != nil {
		return err
	}
	all, err := newEvaluators(host, *config)
	if err != nil {
		return err
	}
	for _, warning := range all.warns {
		fmt.Fprintf(errs, "kafka-metering explain: %v\n", warning)
	}
	evaluator, use := all.find(document)
	if evaluator == nil {
		return fmt.Errorf("%s: Kong would not run the plugin for this exchange: it is enabled on other routes, services or consumers", *config)
	}
	return x.explain(document, evaluator, *config, use)
}

// find returns the document that is asked for.
func (x *explanation) find(names []string, in io.Reader) ([]byte, error) {
	files, err := observationFiles(names)
	if err != nil {
		return nil, err
	}
	var found []byte
	for _, name := range files {
		if err := eachDocument(name, in, func(document []byte) error {
			if strings.HasPrefix(gjson.GetBytes(document, "request.id").Str, x.request) {
				found = bytes.Clone(document)
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	if found == nil {
		return nil, fmt.Errorf("there is no exchange whose request id begins with %q", x.request)
	}
	return found, nil
}

// observe makes the observation of a log, or reads the one that the document is.
func (x *explanation) observe(document []byte, e Evaluator) (*meter.Observation, error) {
	if gjson.GetBytes(document, "outcome").Exists() && gjson.GetBytes(document, "capture").Exists() {
		if x.body != "" {
			return nil, errors.New("-body: the document is an observation, whose body has been read already")
		}
		return e.Program().Replay(string(document))
	}
	var body []byte
	if x.body != "" {
		var err error
		if body, err = os.ReadFile(x.body); err != nil {
			return nil, err
		}
	}
	return e.Observe(document, body)
}

func (x *explanation) explain(document []byte, e Evaluator, config string, use *pluginUse) error {
	o, err := x.observe(document, e)
	if err != nil {
		return err
	}
	records, result := e.Records(o)
	verdicts := e.Program().Explain(o)
	seen := e.Program().Document(o)
	if gjson.GetBytes(document, "capture").Exists() {
		seen = document
	}
	if x.json {
		return x.printJSON(seen, verdicts, records, result)
	}
	p := &printer{out: x.out}
	if config != "" {
		p.line("Configuration: %s, %s.", config, use)
	}
	p.observation(seen)
	p.verdicts(verdicts)
	p.records(records, result)
	return p.err
}

// printer prints an explanation for people.
type printer struct {
	out io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if _, err := fmt.Fprintf(p.out, format+"\n", args...); err != nil && p.err == nil {
		p.err = err
	}
}

func (p *printer) heading(text string) {
	p.line("\n%s\n%s", text, strings.Repeat("─", utf8.RuneCountInString(text)))
}

// observation prints what the meters see, the short members on one line.
func (p *printer) observation(document []byte) {
	p.heading("The observation, as meters see it")
	var first []string
	gjson.ParseBytes(document).ForEach(func(k, v gjson.Result) bool {
		if slices.Contains([]string{"llm", "outcome", "subject", "capture", "body"}, k.Str) {
			first = append(first, k.Str)
		}
		return true
	})
	var rest []string
	gjson.ParseBytes(document).ForEach(func(k, _ gjson.Result) bool {
		if !slices.Contains(first, k.Str) {
			rest = append(rest, k.Str)
		}
		return true
	})
	slices.Sort(rest)
	for _, name := range append(first, rest...) {
		p.member("", name, gjson.GetBytes(document, gjson.Escape(name)))
	}
}

// member prints one member: on one line where there is room for it.
func (p *printer) member(indent, name string, v gjson.Result) {
	const room = 110
	compact := string(bytes.TrimSpace([]byte(v.Get("@ugly").Raw)))
	if !v.IsObject() && !v.IsArray() {
		compact = v.Raw
	}
	if utf8.RuneCountInString(indent)+len(name)+2+utf8.RuneCountInString(compact) <= room || !v.IsObject() {
		p.line("%s%s: %s", indent, name, shorten(compact, 400))
		return
	}
	p.line("%s%s:", indent, name)
	v.ForEach(func(k, inner gjson.Result) bool {
		p.member(indent+"  ", k.Str, inner)
		return true
	})
}

// shorten cuts a text that is too long for a line.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := most
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:end], len(s))
}

// verdicts prints what became of each meter.
func (p *printer) verdicts(all []meter.Verdict) {
	p.heading("The meters")
	width := 0
	for i := range all {
		width = max(width, len(all[i].Meter.Slug))
	}
	for i := range all {
		v := &all[i]
		mark, what := "✓", "applies"
		if !v.Applies {
			mark, what = "✗", "does not apply"
		}
		if v.Why != "" {
			what += ": " + v.Why
		}
		p.line("%s %-*s  %s  %s", mark, width, v.Meter.Slug, v.Meter.EventType, what)
		for j := range v.Filter {
			label := "filter"
			if j > 0 {
				label = ""
			}
			p.part(label, &v.Filter[j])
		}
		if v.ForEach != nil {
			p.part("for_each", v.ForEach)
		}
		if v.Value != nil {
			p.part("value", v.Value)
		}
		for j := range v.GroupBy {
			if d := &v.GroupBy[j]; v.Applies && (d.Value == "" || len(d.Reads) > 0) && len(v.GroupBy) <= 12 {
				p.part("group_by."+d.Name, d)
			}
		}
	}
}

func (p *printer) part(label string, part *meter.Part) {
	value := part.Value
	switch {
	case part.Err != nil:
		value = "failed: " + part.Err.Error()
	case value == "":
		value = "absent"
	}
	text := strings.Repeat("  ", part.Depth) + strings.Join(strings.Fields(part.Expression), " ")
	var reads []string
	for _, r := range part.Reads {
		found := r.Value
		if found == "" {
			found = "absent"
		}
		reads = append(reads, r.Path+" = "+shorten(found, 60))
	}
	note := ""
	if len(reads) > 0 {
		note = "   (" + strings.Join(reads, ", ") + ")"
	}
	p.line("    %-16s %s  →  %s%s", label, text, shorten(value, 80), note)
}

// records prints the events.
func (p *printer) records(records []Record, result meter.Result) {
	p.heading(fmt.Sprintf("The events: %d", len(records)))
	switch {
	case result.Dropped:
		p.line("None: no source of the subject names a customer, and subject.on_missing is drop.")
	case len(records) == 0:
		p.line("None: no meter applies.")
	}
	if result.SubjectMissing && !result.Dropped {
		p.line("No source of the subject names a customer.")
	}
	for i, r := range records {
		if i > 0 {
			p.line("")
		}
		p.line("topic %s, key %s", r.Topic, r.Key)
		p.line("%s", r.Value)
	}
	if len(records) > 0 {
		p.line("\nBehind Kong sequence and recordedtime come on top, and the source is the node's.")
	}
}

// printJSON prints an explanation for programs.
func (x *explanation) printJSON(seen []byte, verdicts []meter.Verdict, records []Record, result meter.Result) error {
	type read struct {
		Path  string          `json:"path"`
		Value json.RawMessage `json:"value,omitempty"`
	}
	type part struct {
		Name       string          `json:"name,omitempty"`
		Expression string          `json:"expression"`
		Depth      int             `json:"depth,omitempty"`
		Value      json.RawMessage `json:"value,omitempty"`
		Error      string          `json:"error,omitempty"`
		Reads      []read          `json:"reads,omitempty"`
	}
	convert := func(p *meter.Part) *part {
		if p == nil {
			return nil
		}
		out := &part{Name: p.Name, Expression: p.Expression, Depth: p.Depth, Value: json.RawMessage(p.Value)}
		if p.Err != nil {
			out.Error = p.Err.Error()
		}
		for _, r := range p.Reads {
			out.Reads = append(out.Reads, read{r.Path, json.RawMessage(r.Value)})
		}
		return out
	}
	convertAll := func(parts []meter.Part) (out []*part) {
		for i := range parts {
			out = append(out, convert(&parts[i]))
		}
		return out
	}
	type verdict struct {
		Meter     string  `json:"meter"`
		EventType string  `json:"event_type"`
		Applies   bool    `json:"applies"`
		Why       string  `json:"why,omitempty"`
		Filter    []*part `json:"filter,omitempty"`
		ForEach   *part   `json:"for_each,omitempty"`
		Value     *part   `json:"value,omitempty"`
		GroupBy   []*part `json:"group_by,omitempty"`
	}
	type event struct {
		Topic string          `json:"topic"`
		Key   string          `json:"key"`
		Value json.RawMessage `json:"value"`
	}
	out := struct {
		Observation    json.RawMessage `json:"observation"`
		SubjectMissing bool            `json:"subject_missing"`
		Meters         []verdict       `json:"meters"`
		Events         []event         `json:"events"`
	}{Observation: seen, SubjectMissing: result.SubjectMissing, Events: []event{}}
	for i := range verdicts {
		v := &verdicts[i]
		out.Meters = append(out.Meters, verdict{v.Meter.Slug, v.Meter.EventType, v.Applies, v.Why, convertAll(v.Filter), convert(v.ForEach), convert(v.Value), convertAll(v.GroupBy)})
	}
	for _, r := range records {
		out.Events = append(out.Events, event{r.Topic, r.Key, r.Value})
	}
	encoder := json.NewEncoder(x.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(out)
}
