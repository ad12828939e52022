package command

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"kafka-metering/meter"
)

const exportAbout = `Makes the set-up of consumers from the plugin's configuration, so that nothing is typed twice.

  kafka-metering export openmeter kong.yml > meters.yaml     meter definitions for OpenMeter's configuration
  kafka-metering export collector kong.yml > collector.yaml  OpenMeter's collector, from our topic to OpenMeter
  kafka-metering export asyncapi kong.yml > asyncapi.yaml    the topic and its events as AsyncAPI 3.0
  kafka-metering export jsonschema kong.yml > events.json    a JSON Schema of the very events that are published

The file is a kong.yml or decK file, or the plugin's config alone.`

// exported is what the configurations of a file say together.
type exported struct {
	file    string
	meters  []meter.Meter  // each slug once
	members []meter.Member // each event type and name once
	topics  []string
	brokers []string
}

// runExport runs the command export.
func runExport(args []string, out, errs io.Writer, host Host) error {
	flags := flag.NewFlagSet("export", flag.ContinueOnError)
	flags.SetOutput(errs)
	if err := parseFiles(flags, args, exportAbout, out); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		fmt.Fprintln(errs, exportAbout)
		return errUsage
	}
	x, warns, err := newExported(host, flags.Arg(1))
	if err != nil {
		return err
	}
	for _, warning := range warns {
		fmt.Fprintf(errs, "kafka-metering export: %v\n", warning)
	}
	var document []byte
	switch what := flags.Arg(0); what {
	case "openmeter":
		document, err = x.openMeter()
	case "collector":
		document, err = x.collector()
	case "asyncapi":
		document, err = x.asyncAPI()
	case "jsonschema":
		var b bytes.Buffer
		encoder := json.NewEncoder(&b)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(x.jsonSchema())
		document = b.Bytes()
	default:
		return fmt.Errorf("%q: must be openmeter, collector, asyncapi or jsonschema", what)
	}
	if err != nil {
		return err
	}
	_, err = out.Write(document)
	return err
}

func newExported(host Host, path string) (*exported, []error, error) {
	all, err := newEvaluators(host, path)
	if err != nil {
		return nil, nil, err
	}
	x := &exported{file: path}
	warns := all.warns
	for i, e := range all.made {
		for _, m := range e.Program().Declared() {
			at := slices.IndexFunc(x.meters, func(o meter.Meter) bool { return o.Slug == m.Slug })
			if at < 0 {
				x.meters = append(x.meters, m)
			} else if other := x.meters[at]; other.EventType != m.EventType || other.Aggregation != m.Aggregation || other.ValueProperty != m.ValueProperty {
				warns = append(warns, fmt.Errorf("%s: meter %q is another one than elsewhere in this file; the first is taken", &all.uses[i], m.Slug))
			}
		}
		for _, m := range e.Program().Members() {
			at := slices.IndexFunc(x.members, func(o meter.Member) bool { return o.EventType == m.EventType && o.Name == m.Name })
			switch {
			case at < 0:
				m.Always = m.Always && len(all.made) == 1
				x.members = append(x.members, m)
			case x.members[at].Kind != m.Kind:
				x.members[at].Kind = meter.KindAny
			}
		}
		config := all.uses[i].config
		topic, _ := config["topic"].(string)
		if topic = cmp.Or(topic, "kong.metering"); !slices.Contains(x.topics, topic) {
			x.topics = append(x.topics, topic)
		}
		brokers, _ := config["bootstrap_servers"].([]any)
		for _, b := range brokers {
			if record, ok := b.(map[string]any); ok {
				host, _ := record["host"].(string)
				port, _ := record["port"].(int)
				if address := host + ":" + strconv.Itoa(cmp.Or(port, 9092)); host != "" && !slices.Contains(x.brokers, address) {
					x.brokers = append(x.brokers, address)
				}
			}
		}
	}
	if len(x.meters) == 0 {
		return nil, warns, errors.New("no meter is on in " + path)
	}
	slices.SortFunc(x.meters, func(a, b meter.Meter) int {
		return strings.Compare(a.EventType+"\x00"+a.Slug, b.EventType+"\x00"+b.Slug)
	})
	return x, warns, nil
}

// openMeterMeter is a meter as OpenMeter's configuration declares it (openmeter.io/docs, "Creating meters").
type openMeterMeter struct {
	Slug          string            `yaml:"slug"`
	Description   string            `yaml:"description"`
	EventType     string            `yaml:"eventType"`
	Aggregation   string            `yaml:"aggregation"`
	ValueProperty string            `yaml:"valueProperty,omitempty"`
	GroupBy       map[string]string `yaml:"groupBy,omitempty"`
}

// openMeter returns OpenMeter's meter definitions. What is measured for each exchange, and each exchange's own, is no
// dimension there.
func (x *exported) openMeter() ([]byte, error) {
	var document struct {
		Meters []openMeterMeter `yaml:"meters"`
	}
	for _, m := range x.meters {
		out := openMeterMeter{Slug: m.Slug, Description: inWords(&m), EventType: m.EventType, Aggregation: string(m.Aggregation), GroupBy: map[string]string{}}
		if m.Aggregation != meter.Count {
			out.ValueProperty = "$." + cmp.Or(m.ValueProperty, meter.DefaultValueProperty)
		}
		for _, member := range x.members {
			_, dimension := m.GroupBy[member.Name]
			attribute := member.EventType == m.EventType && member.Aggregation == "" && member.Expression == ""
			if (dimension || attribute) && !meter.Measured(m.GroupBy[member.Name]) {
				out.GroupBy[member.Name] = "$." + member.Name
			}
		}
		document.Meters = append(document.Meters, out)
	}
	return withComment(document, "OpenMeter meter definitions of "+x.file+", made by kafka-metering export openmeter.\n"+
		"Bill from kong_ai_token_usage or from the values of kong_ai_calls, never from both.")
}

func inWords(m *meter.Meter) string {
	what := "Number of exchanges"
	if m.Value != "" {
		what = strings.Join(strings.Fields(m.Value), " ")
	}
	if m.Filter != "" {
		what += " where " + strings.Join(strings.Fields(m.Filter), " ")
	}
	if m.ForEach != "" {
		what += ", for each of " + strings.Join(strings.Fields(m.ForEach), " ")
	}
	return what
}

// collector returns a configuration of OpenMeter's collector (Redpanda Connect): from the topic to OpenMeter's API.
func (x *exported) collector() ([]byte, error) {
	brokers := x.brokers
	if len(brokers) == 0 {
		brokers = []string{"${KAFKA_BROKERS}"}
	}
	document := map[string]any{
		"input": map[string]any{"kafka_franz": map[string]any{
			"seed_brokers": brokers, "topics": x.topics, "consumer_group": "openmeter-collector", "start_from_oldest": true,
		}},
		"pipeline": map[string]any{"processors": []any{map[string]any{
			// Events about the metering itself are nobody's usage.
			"mapping": `root = if this.type.has_prefix("kong.metering_") { deleted() }`,
		}}},
		"output": map[string]any{"http_client": map[string]any{
			"url": "${OPENMETER_URL:https://openmeter.cloud}/api/v1/events", "verb": "POST",
			"headers":       map[string]any{"Authorization": "Bearer ${OPENMETER_TOKEN}", "Content-Type": "application/cloudevents-batch+json"},
			"timeout":       "30s",
			"max_in_flight": 1,
			"batching":      map[string]any{"count": 100, "period": "1s", "processors": []any{map[string]any{"archive": map[string]any{"format": "json_array"}}}},
		}},
	}
	return withComment(document, "OpenMeter's collector for "+x.file+", made by kafka-metering export collector. What OpenMeter does not take is\n"+
		"sent again, and not acknowledged to Kafka: watch the consumer group's lag. OpenMeter counts an event once, by source and id.\n"+
		"TLS and SASL, if Kafka asks for them, go into input.kafka_franz.")
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
