package command

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"kafka-metering/meter"
	"kafka-metering/schema"
)

const exportAbout = `Makes the set-up of consumers from the plugin's configuration, so that nothing is typed twice.

  kafka-metering export openmeter kong.yml > meters.yaml     OpenMeter's meters
  kafka-metering export collector kong.yml > collector.yaml  OpenMeter's collector for our topic
  kafka-metering export asyncapi kong.yml > asyncapi.yaml    the topic and its events: AsyncAPI 3.0
  kafka-metering export jsonschema kong.yml > events.json    a JSON Schema of these very events

The file is a kong.yml or decK file, KongPlugin manifests of the Kong Ingress Controller, or the plugin's config alone. Where it
has the plugin in several places, the result is for all of them. What a consumer cannot do is said on standard error.`

// exported is what the configurations of a file say together.
type exported struct {
	file     string
	meters   []meter.Meter  // each slug once, by event type and slug
	members  []meter.Member // each event type and name once
	channels []channel
	brokers  []string
	login    login
	warns    []error
}

// channel is a topic with how events become its records.
type channel struct {
	topic              string
	structured, binary bool
	types              []string // of the meters' events
}

// login is how to get to the brokers. It holds no secret.
type login struct {
	tls, verify            bool
	authority, certificate bool   // of their own
	mechanism              string // of SASL; empty for none
}

// runExport runs the command export.
func runExport(args []string, out, errs io.Writer, host Host) error {
	flags := flag.NewFlagSet("export", flag.ContinueOnError)
	flags.SetOutput(errs)
	if err := parseFiles(flags, args, exportAbout, out); err != nil {
		return err
	}
	documents := map[string]func(*exported) ([]byte, error){
		"openmeter": (*exported).openMeter, "collector": (*exported).collector, "asyncapi": (*exported).asyncAPI, "jsonschema": (*exported).jsonSchema,
	}
	produce, known := documents[flags.Arg(0)]
	if flags.NArg() != 2 || !known {
		fmt.Fprintln(errs, refill(exportAbout))
		return errUsage
	}
	x, err := newExported(host, flags.Arg(1))
	if err != nil {
		return err
	}
	document, err := produce(x)
	for _, warning := range x.warns {
		fmt.Fprintf(errs, "kafka-metering export: %v\n", warning)
	}
	if err != nil {
		return err
	}
	_, err = out.Write(document)
	return err
}

func (x *exported) warn(format string, args ...any) {
	x.warns = append(x.warns, fmt.Errorf(format, args...))
}

func newExported(host Host, path string) (*exported, error) {
	all, err := newEvaluators(host, path, "")
	if err != nil {
		return nil, err
	}
	x := &exported{file: path, warns: all.warns}
	always := map[string]int{} // by event type and name: in how many configurations every event has it
	types := map[string]int{}  // by event type: how many configurations have it
	for i, e := range all.made {
		for _, m := range e.Program().Declared() {
			x.addMeter(m, &all.uses[i])
		}
		seen := map[string]bool{}
		for _, m := range e.Program().Members() {
			at := slices.IndexFunc(x.members, func(o meter.Member) bool { return o.EventType == m.EventType && o.Name == m.Name })
			switch {
			case at < 0:
				x.members = append(x.members, m)
			default:
				if o := &x.members[at]; o.Aggregation != m.Aggregation || m.Aggregation != "" && o.Expression != m.Expression {
					x.warn("%s: %q of event type %q is another value than elsewhere in this file: a consumer adds up both; give one of the meters an event_type of its own", &all.uses[i], m.Name, m.EventType)
				}
				if x.members[at].Kind != m.Kind {
					x.members[at].Kind = meter.KindAny
				}
			}
			if m.Always {
				always[m.EventType+"\x00"+m.Name]++
			}
			if !seen[m.EventType] {
				seen[m.EventType] = true
				types[m.EventType]++
			}
		}
		x.addConnection(all.uses[i].config, slices.Collect(maps.Keys(seen)))
	}
	if len(x.meters) == 0 {
		return nil, errors.New("no meter is on in " + path)
	}
	for i := range x.members {
		m := &x.members[i]
		m.Always = always[m.EventType+"\x00"+m.Name] == types[m.EventType]
	}
	slices.SortFunc(x.members, func(a, b meter.Member) int {
		return cmp.Or(strings.Compare(a.EventType, b.EventType), strings.Compare(a.Name, b.Name))
	})
	slices.SortFunc(x.meters, func(a, b meter.Meter) int {
		return cmp.Or(strings.Compare(a.EventType, b.EventType), strings.Compare(a.Slug, b.Slug))
	})
	return x, nil
}

// addMeter adds a meter of a configuration. One that several configurations have gets the dimensions of all of them.
func (x *exported) addMeter(m meter.Meter, u *pluginUse) {
	at := slices.IndexFunc(x.meters, func(o meter.Meter) bool { return o.Slug == m.Slug })
	if at < 0 {
		if i := slices.IndexFunc(x.meters, func(o meter.Meter) bool {
			return counted(o) == counted(m) && strings.TrimSpace(o.Filter) != strings.TrimSpace(m.Filter)
		}); i >= 0 {
			x.warn("%s: meters %q and %q count into the property %q of %q under different filters: a consumer counts both as one; give one of them a value_property of its own", u, x.meters[i].Slug, m.Slug, counted(m)[1], m.EventType)
		}
		m.GroupBy = maps.Clone(m.GroupBy)
		x.meters = append(x.meters, m)
		return
	}
	first := &x.meters[at]
	if first.EventType != m.EventType || first.Aggregation != m.Aggregation || first.ValueProperty != m.ValueProperty {
		x.warn("%s: meter %q is another one than elsewhere in this file; the first is taken", u, m.Slug)
		return
	}
	if first.GroupBy == nil {
		first.GroupBy = map[string]string{}
	}
	for name, expression := range m.GroupBy {
		if _, has := first.GroupBy[name]; !has {
			first.GroupBy[name] = expression
		}
	}
}

// addConnection adds where a configuration publishes its event types to. Kong completes a configuration, and so does this.
func (x *exported) addConnection(config map[string]any, types []string) {
	complete, _ := schema.Config().Validate(config)
	record := func(name string) map[string]any {
		r, _ := complete[name].(map[string]any)
		return r
	}
	topic, _ := complete["topic"].(string)
	if topic == "" {
		topic = "kong.metering"
	}
	at := slices.IndexFunc(x.channels, func(c channel) bool { return c.topic == topic })
	if at < 0 {
		at = len(x.channels)
		x.channels = append(x.channels, channel{topic: topic})
	}
	x.channels[at].types = append(x.channels[at].types, types...)
	if complete["format"] == "cloudevents_binary" {
		x.channels[at].binary = true
	} else {
		x.channels[at].structured = true
	}
	brokers, _ := complete["bootstrap_servers"].([]any)
	for _, b := range brokers {
		server, _ := b.(map[string]any)
		host, _ := server["host"].(string)
		port, _ := server["port"].(int64)
		if address := net.JoinHostPort(host, strconv.FormatInt(port, 10)); host != "" && !slices.Contains(x.brokers, address) {
			x.brokers = append(x.brokers, address)
		}
	}
	if tls, _ := record("security")["ssl"].(bool); tls {
		verify, _ := record("security")["ssl_verify"].(bool)
		x.login.tls, x.login.verify = true, verify
		x.login.authority = x.login.authority || record("security")["ca_certificate"] != nil
		x.login.certificate = x.login.certificate || record("security")["client_certificate"] != nil
	}
	if mechanism, _ := record("authentication")["mechanism"].(string); mechanism != "" {
		x.login.mechanism = mechanism
	}
}

// topics returns the names of the topics.
func (x *exported) topics() []string {
	var all []string
	for _, c := range x.channels {
		all = append(all, c.topic)
	}
	return all
}

// binary reports whether there are topics whose records hold data alone.
func (x *exported) binary() bool {
	return slices.ContainsFunc(x.channels, func(c channel) bool { return c.binary })
}

// withComment returns a document as YAML under a comment.
func withComment(document any, comment string) ([]byte, error) {
	var b bytes.Buffer
	for line := range strings.SplitSeq(comment, "\n") {
		b.WriteString("# " + line + "\n")
	}
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(document); err != nil {
		return nil, err
	}
	return b.Bytes(), encoder.Close()
}

// asJSON returns a document as JSON for eyes.
func asJSON(document any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(document)
	return b.Bytes(), err
}
