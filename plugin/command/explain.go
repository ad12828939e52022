package command

import (
	"bytes"
	"cmp"
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
  kafka-metering explain -config kong.yml -meters                  all meters, the built-in ones included, as a configuration declares them

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
	node := flags.String("node", "", "`name` of the node in the events' source, as in the file of the plugin server's -config (default: this machine's)")
	format := flags.String("format", "text", "text or json")
	meters := flags.Bool("meters", false, "print the configuration's meters, those that are built in included, as a configuration declares them")
	if err := parseFiles(flags, args, explainAbout, out); err != nil {
		return err
	}
	if *format != "text" && *format != "json" {
		return fmt.Errorf("-format %q: must be text or json", *format)
	}
	x.json = *format == "json"
	all, err := newEvaluators(host, *config, *node)
	if err != nil {
		return err
	}
	for _, warning := range all.warns {
		fmt.Fprintf(errs, "kafka-metering explain: %v\n", warning)
	}
	if *meters {
		return all.printMeters(out, *config)
	}
	names := flags.Args()
	if len(names) == 0 {
		names = []string{"-"}
	}
	document, err := x.find(names, in)
	if err != nil {
		return err
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
		return x.printJSON(seen, e.Program(), o, verdicts, records, result)
	}
	p := &printer{out: x.out}
	p.summary(seen, e.Program(), o)
	if config != "" {
		p.line("Configuration %s, %s", config, use)
	}
	if dry, _ := use.config["dry_run"].(bool); dry {
		p.line("dry_run is on: nothing of this is published")
	}
	p.observation(seen)
	if x.body == "" && !gjson.GetBytes(document, "capture").Exists() && (e.Program().ReadsBody() || e.Program().ReadsLLM()) {
		p.line("\nThere is no response's body here: give it with -body, if the meters shall read it or the usage that it declares.")
	}
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

// summary says which exchange it is, and whose.
func (p *printer) summary(document []byte, program *meter.Program, o *meter.Observation) {
	get := func(path string) string { return gjson.GetBytes(document, path).String() }
	uri, _, _ := strings.Cut(get("request.uri"), "?")
	p.line("%s %s, answered %s: %s", get("request.method"), shorten(uri, 200), cmp.Or(get("response.status"), "nothing"), get("outcome"))
	if id := get("request.id"); id != "" {
		p.line("Request %s", id)
	}
	subject, path, tried := program.Subject(o)
	switch {
	case path != "":
		p.line("Customer %s, by %s", subject, path)
	case len(tried) == 0:
		p.line("Customer %s: no source of the subject is configured", subject)
	default:
		p.line("Customer %s: none of %s is there", subject, strings.Join(tried, ", "))
	}
}

// observation prints what the meters see, with what Kong's log does not have first.
func (p *printer) observation(document []byte) {
	p.heading("The observation, as meters see it")
	var first, rest []string
	gjson.ParseBytes(document).ForEach(func(k, v gjson.Result) bool {
		if slices.Contains([]string{"llm", "outcome", "subject", "capture", "body"}, k.Str) {
			first = append(first, k.Str)
		} else {
			rest = append(rest, k.Str)
		}
		return true
	})
	slices.Sort(rest)
	line := ""
	for _, name := range append(first, rest...) {
		line = p.member(line, "", name, gjson.GetBytes(document, gjson.Escape(name)))
	}
	p.flush(line)
}

// room is how many characters a line takes.
const room = 120

// member prints one member: behind others on their line where there is room for it. It returns the line that has been begun.
func (p *printer) member(line, indent, name string, v gjson.Result) string {
	compact := v.Raw
	if v.IsObject() || v.IsArray() {
		compact = strings.TrimSpace(v.Get("@ugly").Raw)
	}
	text := name + ": " + shorten(compact, 400)
	switch {
	case v.IsObject() && utf8.RuneCountInString(indent+text) > room:
		p.flush(line)
		p.line("%s%s:", indent, name)
		inner := ""
		v.ForEach(func(k, v gjson.Result) bool {
			inner = p.member(inner, indent+"  ", k.Str, v)
			return true
		})
		p.flush(inner)
		return ""
	case line == "":
		return indent + text
	case utf8.RuneCountInString(line+"   "+text) <= room:
		return line + "   " + text
	default:
		p.flush(line)
		return indent + text
	}
}

// flush prints a line that has been begun.
func (p *printer) flush(line string) {
	if line != "" {
		p.line("%s", line)
	}
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
		p.parts(v)
	}
}

// parts prints the expressions of a meter, with their values in one column.
func (p *printer) parts(v *meter.Verdict) {
	type row struct {
		label string
		part  *meter.Part
	}
	var rows []row
	for i := range v.Filter {
		rows = append(rows, row{"", &v.Filter[i]})
	}
	if len(rows) > 0 {
		rows[0].label = "filter"
	}
	if v.ForEach != nil {
		rows = append(rows, row{"for_each", v.ForEach})
	}
	if v.Value != nil {
		rows = append(rows, row{"value", v.Value})
	}
	const many = 12 // dimensions: those of the presets are no news
	for i := range v.GroupBy {
		d := &v.GroupBy[i]
		plain := d.Err == nil && d.Value != "" && d.Value[0] != '[' && d.Value[0] != '{' && len(d.Reads) == 0 // it is in the event, as it is above
		if v.Applies && !plain && (len(v.GroupBy) <= many || d.Err != nil) {
			rows = append(rows, row{"group_by." + d.Name, d})
		}
	}
	labels, expressions := 0, 0
	text := func(part *meter.Part) string {
		return strings.Repeat("  ", part.Depth) + strings.Join(strings.Fields(part.Expression), " ")
	}
	for _, r := range rows {
		labels = max(labels, len(r.label))
		if n := utf8.RuneCountInString(text(r.part)); n <= room/2 {
			expressions = max(expressions, n)
		}
	}
	for _, r := range rows {
		value := shorten(r.part.Value, 80)
		switch {
		case r.part.Err != nil:
			value = "failed: " + r.part.Err.Error()
		case value == "":
			value = "absent"
		}
		var reads []string
		for _, read := range r.part.Reads {
			found := shorten(read.Value, 60)
			if found == "" {
				found = "absent"
			}
			reads = append(reads, read.Path+" = "+found)
		}
		if len(reads) > 0 && (len(v.Filter) < 2 || r.part != &v.Filter[0]) {
			value += "   (" + strings.Join(reads, ", ") + ")"
		}
		if r.part.Decides {
			value += "   ← decides"
		}
		p.line("    %-*s  %-*s  →  %s", labels, r.label, expressions, text(r.part), value)
	}
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
	for i, r := range records {
		if i > 0 {
			p.line("")
		}
		topic := "topic " + r.Topic
		if r.Dead != "" {
			topic = "the dead-letter topic (" + r.Dead + ") instead of " + r.Topic
		}
		p.line("%d. %s: %s, key %s, %d bytes", i+1, r.Event.Type, topic, r.Key, len(r.Value))
		if r.Binary {
			for _, h := range r.Headers {
				p.line("   %s: %s", h.Key, h.Value)
			}
		}
		p.line("%s", r.Value)
	}
	p.counted(result)
	if len(records) > 0 {
		p.line("\nBehind Kong sequence and recordedtime come on top, and the source is the node's.")
	}
}

// counted prints what the metrics would tell of the exchange.
func (p *printer) counted(r meter.Result) {
	for _, c := range []struct {
		n            int
		what, metric string
	}{
		{r.MeterErrors, "a value is no finite number of at least 0, and not published", "values_invalid"},
		{r.ExpressionErrors, "a filter, value or list could not be evaluated, and its meter does not apply", "expressions_failed"},
		{r.ExpressionsTooCostly, "an expression costs too much for this exchange, and its meter does not apply", "expressions_too_costly"},
		{r.RowsSkipped, "a row of for_each is behind the thousandth, and not published", "rows_skipped"},
		{r.DimensionErrors, "a dimension is an object or could not be evaluated, and is left out", "dimensions_invalid"},
		{r.DimensionsTruncated, "a dimension has more than 256 bytes, and is cut", "dimensions_truncated"},
	} {
		if c.n > 0 {
			p.line("\nCounted by kong_meter_%s_total, %d: %s.", c.metric, c.n, c.what)
		}
	}
	if r.NoRequestID {
		p.line("\nKong gave the exchange no request id: those of the events are a hash of its log (kong_meter_exchanges_without_request_id_total).")
	}
	if r.NoStartTime {
		p.line("\nKong's log has no started_at: behind Kong the events' time is that of their recording (kong_meter_exchanges_without_start_time_total).")
	}
	if r.UsageInconsistent {
		p.line("\nThe declared cached tokens exceed the declared input: all are input (kong_meter_usages_inconsistent_total).")
	}
}

// printJSON prints an explanation for programs.
func (x *explanation) printJSON(seen []byte, program *meter.Program, o *meter.Observation, verdicts []meter.Verdict, records []Record, result meter.Result) error {
	type read struct {
		Path  string          `json:"path"`
		Value json.RawMessage `json:"value,omitempty"`
	}
	type part struct {
		Name       string          `json:"name,omitempty"`
		Expression string          `json:"expression"`
		Depth      int             `json:"depth,omitempty"`
		Decides    bool            `json:"decides,omitempty"`
		Value      json.RawMessage `json:"value,omitempty"`
		Error      string          `json:"error,omitempty"`
		Reads      []read          `json:"reads,omitempty"`
	}
	convert := func(p *meter.Part) *part {
		if p == nil {
			return nil
		}
		out := &part{Name: p.Name, Expression: p.Expression, Depth: p.Depth, Decides: p.Decides, Value: json.RawMessage(p.Value)}
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
		Topic   string            `json:"topic"`
		Dead    string            `json:"dead_letter,omitempty"`
		Key     string            `json:"key"`
		Headers map[string]string `json:"headers"`
		Value   json.RawMessage   `json:"value"`
	}
	out := struct {
		Observation    json.RawMessage `json:"observation"`
		Subject        string          `json:"subject"`
		SubjectFrom    string          `json:"subject_from,omitempty"`
		SubjectMissing bool            `json:"subject_missing"`
		Meters         []verdict       `json:"meters"`
		Events         []event         `json:"events"`
	}{Observation: seen, SubjectMissing: result.SubjectMissing, Events: []event{}}
	out.Subject, out.SubjectFrom, _ = program.Subject(o)
	for i := range verdicts {
		v := &verdicts[i]
		out.Meters = append(out.Meters, verdict{v.Meter.Slug, v.Meter.EventType, v.Applies, v.Why, convertAll(v.Filter), convert(v.ForEach), convert(v.Value), convertAll(v.GroupBy)})
	}
	for _, r := range records {
		headers := map[string]string{}
		for _, h := range r.Headers {
			headers[h.Key] = string(h.Value)
		}
		out.Events = append(out.Events, event{r.Topic, r.Dead, r.Key, headers, r.Value})
	}
	encoder := json.NewEncoder(x.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(out)
}
