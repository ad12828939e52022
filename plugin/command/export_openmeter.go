package command

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"kafka-metering/meter"
)

// openMeterMeter is a meter as OpenMeter's configuration declares it (openmeter.io/docs, "Creating meters").
type openMeterMeter struct {
	Slug          string            `yaml:"slug"`
	Description   string            `yaml:"description"`
	EventType     string            `yaml:"eventType"`
	Aggregation   string            `yaml:"aggregation"`
	ValueProperty string            `yaml:"valueProperty,omitempty"`
	GroupBy       map[string]string `yaml:"groupBy,omitempty"`
}

// openMeterSlug is what OpenMeter takes for a slug: narrower than ours.
var openMeterSlug = regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*$`)

// openMeterColumns are dimensions by which OpenMeter means something else than data.
var openMeterColumns = []string{"subject", "customer_id"}

// openMeter returns OpenMeter's meter definitions. What is measured for each exchange, and each exchange's own, is no
// dimension there.
func (x *exported) openMeter() ([]byte, error) {
	var document struct {
		Meters []openMeterMeter `yaml:"meters"`
	}
	for i := range x.meters {
		m := &x.meters[i]
		out := openMeterMeter{
			Slug: m.Slug, Description: inWords(m), EventType: m.EventType, Aggregation: string(m.Aggregation), GroupBy: map[string]string{},
		}
		if !x.aggregate(m, &out) {
			continue
		}
		if !openMeterSlug.MatchString(m.Slug) {
			x.warn("meter %q: OpenMeter takes no slug with two underscores in a row, or with one at its end", m.Slug)
		}
		for _, member := range x.members {
			if member.EventType != m.EventType {
				continue
			}
			expression, dimension := m.GroupBy[member.Name]
			attribute := member.Aggregation == "" && member.Expression == ""
			if !dimension && !attribute || meter.Measured(expression) {
				continue
			}
			if slices.Contains(openMeterColumns, member.Name) {
				x.warn("meter %q: dimension %q is left out: OpenMeter takes it for the event's own %s", m.Slug, member.Name, member.Name)
				continue
			}
			out.GroupBy[member.Name] = "$." + member.Name
		}
		document.Meters = append(document.Meters, out)
	}
	return withComment(document, "OpenMeter meter definitions of "+x.file+", made by kafka-metering export openmeter.\n"+
		"Bill from kong_ai_token_usage or from the values of kong_ai_calls, never from both.")
}

// aggregate fills in how OpenMeter folds a meter's values. OpenMeter's COUNT counts every event of a type, also those that
// another meter of that type has made and that lack this meter's value: such a meter adds up its ones instead. It reports
// whether OpenMeter can do it.
func (x *exported) aggregate(m *meter.Meter, out *openMeterMeter) bool {
	property := cmp.Or(m.ValueProperty, meter.DefaultValueProperty)
	at := slices.IndexFunc(x.members, func(o meter.Member) bool { return o.EventType == m.EventType && o.Name == property })
	always := at < 0 || x.members[at].Always
	switch {
	case m.Aggregation == meter.Count && always:
		return true
	case m.Aggregation == meter.Count && m.Value != "":
		x.warn("meter %q is left out: OpenMeter counts the events of %q, of which other meters make some; give it an event_type of its own", m.Slug, m.EventType)
		return false
	case m.Aggregation == meter.Count:
		out.Aggregation = string(meter.Sum)
	case m.Aggregation == meter.UniqueCount && !always:
		x.warn("meter %q: OpenMeter counts one more for the events of %q that lack %q; give it an event_type of its own", m.Slug, m.EventType, property)
	}
	out.ValueProperty = "$." + property
	return true
}

// maxDescription is how many characters OpenMeter takes for a description.
const maxDescription = 1024

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
	if all := []rune(what); len(all) > maxDescription {
		what = string(all[:maxDescription-1]) + "…"
	}
	return what
}

// Bloblang mappings of the collector. Events about the metering itself are nobody's usage. The first leaves other events as
// they are; the second makes one event of a record in binary mode, whose attributes are headers.
const (
	structuredMapping = `root = if this.type.has_prefix("kong.metering_") { deleted() }`
	binaryMapping     = `root = match {
  metadata("ce_type").or(this.type.or("")).has_prefix("kong.metering_") => deleted(),
  metadata("ce_id") != null && metadata("content-type") == "application/json" => {
    "specversion": "1.0", "id": metadata("ce_id"), "source": metadata("ce_source"), "type": metadata("ce_type"),
    "subject": metadata("ce_subject"), "time": metadata("ce_time"), "datacontenttype": "application/json", "data": this
  },
  _ => this,
}
`
)

// collector returns a configuration of OpenMeter's collector, which is Redpanda Connect with an output for OpenMeter.
func (x *exported) collector() ([]byte, error) {
	brokers := x.brokers
	if len(brokers) == 0 {
		brokers = []string{"${KAFKA_BROKERS}"}
	}
	input := map[string]any{
		"seed_brokers": brokers, "topics": x.topics(), "consumer_group": "openmeter-collector", "start_from_oldest": true,
	}
	if x.login.tls {
		tls := map[string]any{"enabled": true, "skip_cert_verify": !x.login.verify}
		if x.login.authority {
			tls["root_cas_file"] = "${KAFKA_CA_FILE}"
		}
		if x.login.certificate {
			tls["client_certs"] = []any{map[string]any{"cert_file": "${KAFKA_CERT_FILE}", "key_file": "${KAFKA_KEY_FILE}"}}
		}
		input["tls"] = tls
	}
	if x.login.mechanism != "" {
		input["sasl"] = []any{map[string]any{"mechanism": x.login.mechanism, "username": "${KAFKA_USER}", "password": "${KAFKA_PASSWORD}"}}
	}
	mapping := structuredMapping
	if x.binary() {
		mapping = binaryMapping
	}
	document := map[string]any{
		"input":    map[string]any{"kafka_franz": input},
		"pipeline": map[string]any{"processors": []any{map[string]any{"mapping": mapping}}},
		"output": map[string]any{"openmeter": map[string]any{
			"url": "${OPENMETER_URL:https://openmeter.cloud}", "token": "${OPENMETER_TOKEN:}",
			"max_in_flight": 1,
			"batching":      map[string]any{"count": 100, "period": "1s"},
		}},
	}
	return withComment(document, "OpenMeter's collector for "+x.file+", made by kafka-metering export collector. What OpenMeter does not take is\n"+
		"sent again, and not acknowledged to Kafka: watch the consumer group's lag. OpenMeter counts an event once, by source and id,\n"+
		"where its deduplication is on, for as long as it remembers. A self-hosted one has sink.dedupe.enabled: false unless it is told\n"+
		"otherwise (docs/consumers.md). Secrets and the files of certificates come from the environment.")
}
