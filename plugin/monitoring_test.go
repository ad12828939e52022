package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// series is one series that a process exposes.
type series struct {
	name   string
	labels map[string]string
}

// exposedSeries returns all series of a process.
func exposedSeries(t *testing.T) []series {
	t.Helper()
	var text strings.Builder
	testProcess(t).ledger.set.WritePrometheus(&text)
	var all []series
	for line := range strings.Lines(text.String()) {
		selector, _, _ := strings.Cut(line, " ")
		name, rest, _ := strings.Cut(selector, "{")
		s := series{name, map[string]string{}}
		for _, m := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(rest, -1) {
			s.labels[m[1]] = m[2]
		}
		all = append(all, s)
	}
	return all
}

// targetLabels are added by Prometheus.
var targetLabels = []string{"instance", "job"}

// faults returns what is wrong with an expression: brackets that do not match, and selectors that select no series, for
// each of the alternatives that they name.
func faults(expr string, exposed []series) []string {
	var wrong []string
	var open []rune
	for _, r := range regexp.MustCompile(`"[^"]*"`).ReplaceAllString(expr, `""`) {
		switch closing := strings.IndexRune(")]}", r); {
		case strings.ContainsRune("([{", r):
			open = append(open, r)
		case closing >= 0 && (len(open) == 0 || rune("([{"[closing]) != open[len(open)-1]):
			return []string{"the brackets do not match"}
		case closing >= 0:
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		wrong = append(wrong, "the brackets do not match")
	}
	selectors := regexp.MustCompile(`(kong_meter_\w+)(\{[^}]*\})?`).FindAllStringSubmatch(expr, -1)
	if len(selectors) == 0 {
		wrong = append(wrong, "it uses no metric of this plugin")
	}
	has := func(name, label, pattern string) bool {
		return slices.ContainsFunc(exposed, func(s series) bool {
			value, labelled := s.labels[label]
			return s.name == name && (label == "" || labelled && regexp.MustCompile("^(?:"+pattern+")$").MatchString(value))
		})
	}
	for _, selector := range selectors {
		name := selector[1]
		if !has(name, "", "") {
			wrong = append(wrong, "there is no metric "+name)
			continue
		}
		for _, m := range regexp.MustCompile(`(\w+)(=~|!=|=)"([^"]*)"`).FindAllStringSubmatch(selector[2], -1) {
			if slices.Contains(targetLabels, m[1]) {
				continue
			}
			for alternative := range strings.SplitSeq(m[3], "|") {
				if !has(name, m[1], alternative) {
					wrong = append(wrong, name+" has no "+m[1]+" "+alternative)
				}
			}
		}
	}
	for _, by := range regexp.MustCompile(`by \(([^)]*)\) \((?:\w+\()?(kong_meter_\w+)`).FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(by[1], ", ") {
			if !slices.Contains(targetLabels, label) && !has(by[2], label, ".*") {
				wrong = append(wrong, by[2]+" has no label "+label)
			}
		}
	}
	return wrong
}

func TestAnExpressionOfAMetricThatIsNotThereIsFound(t *testing.T) {
	exposed := exposedSeries(t)
	for expr, want := range map[string]string{
		`sum(rate(kong_meter_exchanges_total{outcome="dropped"}[5m]))`:            "",
		`sum by (instance, outcome) (rate(kong_meter_exchanges_total[5m])) > 0.1`: "",
		`kong_meter_exchanges_dropped_total > 0`:                                  "no metric",
		`kong_meter_exchanges_total{outcome=~"dropped|lost"}`:                     "no outcome lost",
		`kong_meter_exchanges_total{result="dropped"}`:                            "no result dropped",
		`sum by (topic) (kong_meter_records_total)`:                               "no label topic",
		`sum(kong_meter_records_total]`:                                           "brackets",
		`(sum(kong_meter_records_total)`:                                          "brackets",
		`up == 0`:                                                                 "no metric of this plugin",
	} {
		got := strings.Join(faults(expr, exposed), "; ")
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}

func TestEveryAlertUsesMetricsThatExistAndSaysWhatToDo(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("monitoring", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	type rule struct {
		Alert       string
		Expr        string
		For         string
		Labels      map[string]string
		Annotations map[string]string
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		t.Fatal(err)
	}
	exposed := exposedSeries(t)
	known, used := map[string]bool{}, ""
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			for _, wrong := range faults(r.Expr, exposed) {
				t.Errorf("%s: %s", r.Alert, wrong)
			}
			if known[r.Alert] || !strings.HasPrefix(r.Alert, "KafkaMetering") {
				t.Errorf("another alert is called %q, or it is nobody's", r.Alert)
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s says nothing", r.Alert)
			}
			if r.For != "" && !regexp.MustCompile(`^\d+[smh]$`).MatchString(r.For) {
				t.Errorf("%s: for %q", r.Alert, r.For)
			}
			known[r.Alert] = true
			used += r.Expr + "\n"
		}
	}
	for _, metric := range []string{
		`kong_meter_exchanges_total{outcome=~"dropped|failed"}`, `evicted|set_aside`, `outcome="expired"`, `rejected|dead_lettered`,
		"kong_meter_imbalance_exchanges", "kong_meter_imbalance_records", "kong_meter_spool_oldest_pending_age_seconds",
	} {
		if !strings.Contains(used, metric) {
			t.Errorf("no alert watches %s", metric)
		}
	}
}

func TestTheDashboardShowsEveryMetric(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("monitoring", "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	type position struct{ X, Y, W, H int }
	var dashboard struct {
		Title  string
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos position
			Targets []struct{ RefID, Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	exposed := exposedSeries(t)
	ids, shown := map[int]bool{}, ""
	var taken []position
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d %q has the id of another, no title, or is outside", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, other := range taken {
			if p.GridPos.X < other.X+other.W && other.X < p.GridPos.X+p.GridPos.W && p.GridPos.Y < other.Y+other.H && other.Y < p.GridPos.Y+p.GridPos.H {
				t.Errorf("panel %q lies over another", p.Title)
			}
		}
		taken = append(taken, p.GridPos)
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			for _, wrong := range faults(target.Expr, exposed) {
				t.Errorf("panel %q: %s", p.Title, wrong)
			}
			shown += target.Expr + "\n"
		}
	}
	for _, m := range metricsHelp {
		summed := m.name == "kong_meter_exchanges_observed_total" // shown by outcome
		if !summed && !strings.Contains(shown, m.name+"{") && !strings.Contains(shown, m.name+"_bucket{") {
			t.Errorf("no panel shows %s", m.name)
		}
	}
}
