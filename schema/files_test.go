package schema_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"

	"kafka-metering/meter"
	"kafka-metering/schema"
)

const pluginName = "kafka-metering"

// kongPlugin is a plugin as a declarative configuration has it.
type kongPlugin struct {
	Name   string
	Config map[string]any
}

// kongFile is what these tests read of Kong's declarative configuration.
type kongFile struct {
	FormatVersion string `yaml:"_format_version"`
	Services      []struct {
		Name, URL string
		Routes    []struct {
			Name    string
			Paths   []string
			Plugins []kongPlugin
		}
		Plugins []kongPlugin
	}
	Consumers []struct {
		Username       string
		CustomID       string                 `yaml:"custom_id"`
		KeyCredentials []struct{ Key string } `yaml:"keyauth_credentials"`
	}
	Plugins []kongPlugin
}

func loadKong(t *testing.T) (file kongFile, metering []kongPlugin) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "kong.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	all := slices.Clone(file.Plugins)
	for _, s := range file.Services {
		all = append(all, s.Plugins...)
		for _, r := range s.Routes {
			all = append(all, r.Plugins...)
		}
	}
	for _, p := range all {
		if p.Name == pluginName {
			metering = append(metering, p)
		}
	}
	return file, metering
}

func TestKongYmlIsAConfigurationThatKongTakes(t *testing.T) {
	file, metering := loadKong(t)
	if file.FormatVersion != "3.0" {
		t.Errorf("_format_version is %q", file.FormatVersion)
	}
	if len(metering) == 0 {
		t.Error("the plugin is enabled nowhere")
	}
	for _, p := range metering {
		complete, problems := schema.Config().Validate(p.Config)
		for _, problem := range problems {
			t.Errorf("kong.yml: %v", problem)
		}
		raw, err := json.Marshal(complete["meters"])
		if err != nil {
			t.Fatal(err)
		}
		var declared []struct {
			Slug, Aggregation, Filter, Value string
			EventType                        string            `json:"event_type"`
			ValueProperty                    string            `json:"value_property"`
			GroupBy                          map[string]string `json:"group_by"`
			ForEach                          string            `json:"for_each"`
		}
		if err := json.Unmarshal(raw, &declared); err != nil {
			t.Fatal(err)
		}
		meters := []meter.Meter{meter.APIRequests(), meter.AITokenUsage(), meter.AICalls()}
		for _, d := range declared {
			meters = append(meters, meter.Meter{
				Slug: d.Slug, EventType: d.EventType, Aggregation: meter.Aggregation(d.Aggregation), Filter: d.Filter,
				Value: d.Value, ValueProperty: d.ValueProperty, ForEach: d.ForEach, GroupBy: d.GroupBy,
			})
		}
		if _, err := meter.Compile(meter.Settings{Meters: meters}); err != nil {
			t.Errorf("kong.yml: %v", err)
		}
	}
	for _, c := range file.Consumers {
		if len(c.KeyCredentials) != 1 || c.KeyCredentials[0].Key != c.Username+"-key" {
			t.Errorf("consumer %s: credentials %v", c.Username, c.KeyCredentials)
		}
	}
	for _, s := range file.Services {
		for _, r := range s.Routes {
			if len(r.Paths) == 0 || !slices.ContainsFunc(r.Plugins, func(p kongPlugin) bool { return p.Name == "key-auth" }) {
				t.Errorf("route %s: paths %v, plugins %v", r.Name, r.Paths, r.Plugins)
			}
		}
	}
}

func loadCompose(t *testing.T) *types.Project {
	t.Helper()
	// With an empty environment: the file must not depend on the variables of whoever runs it.
	options, err := cli.NewProjectOptions([]string{filepath.Join("..", "docker-compose.yml")})
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestDockerComposeStartsKongWithThePlugin(t *testing.T) {
	project := loadCompose(t)
	for name, s := range project.Services {
		if s.Image == "" && s.Build == nil {
			t.Errorf("%s: neither image nor build", name)
		}
		for dependency, d := range s.DependsOn {
			on, err := project.GetService(dependency)
			if err != nil {
				t.Errorf("%s depends on %s: %v", name, dependency, err)
			}
			if d.Condition == types.ServiceConditionHealthy && on.HealthCheck == nil {
				t.Errorf("%s waits for %s to be healthy, which has no health check", name, dependency)
			}
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s: volume: %v", name, err)
				}
			}
		}
	}
	for _, name := range []string{"kong", "kafka", "upstream"} {
		if project.Services[name].HealthCheck == nil {
			t.Errorf("%s: no health check", name)
		}
	}
	env := project.Services["kong"].Environment.Resolve(func(string) (string, bool) { return "", false })
	get := func(key string) string {
		if v := env[key]; v != nil {
			return *v
		}
		t.Errorf("kong: no %s", key)
		return ""
	}
	if names := get("KONG_PLUGINSERVER_NAMES"); names != pluginName {
		t.Errorf("pluginserver_names is %q", names)
	}
	if plugins := strings.Split(get("KONG_PLUGINS"), ","); !slices.Contains(plugins, pluginName) {
		t.Errorf("plugins is %q", plugins)
	}
	// Kong looks a plugin server's settings up under its name in lower case with every dash as an underscore.
	prefix := "KONG_PLUGINSERVER_" + strings.ToUpper(strings.ReplaceAll(pluginName, "-", "_"))
	start, query := strings.Fields(get(prefix+"_START_CMD")), strings.Fields(get(prefix+"_QUERY_CMD"))
	kongPrefix := get("KONG_PREFIX")
	for _, command := range [][]string{start, query} {
		if filepath.Base(command[0]) != pluginName {
			t.Errorf("%v: the executable's name is not the plugin's", command)
		}
		if i := slices.Index(command, "-kong-prefix"); i < 0 || command[i+1] != kongPrefix {
			t.Errorf("%v: -kong-prefix is not %s", command, kongPrefix)
		}
	}
	if slices.Contains(start, "-dump") || !slices.Contains(query, "-dump") {
		t.Errorf("-dump belongs to query_cmd alone: %v, %v", start, query)
	}
	if got, want := get(prefix+"_SOCKET"), kongPrefix+"/"+pluginName+".socket"; got != want {
		t.Errorf("the socket is %s, the plugin server's is %s", got, want)
	}
	spool := start[slices.Index(start, "-spool-dir")+1]
	if !slices.ContainsFunc(project.Services["kong"].Volumes, func(v types.ServiceVolumeConfig) bool {
		return v.Type == types.VolumeTypeVolume && v.Target == spool
	}) {
		t.Errorf("%s, the spool, is no named volume", spool)
	}
	dockerfile, err := os.ReadFile(filepath.Join("..", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"COPY --from=build /kafka-metering " + start[0], "install -d -o kong -g 0 -m 0750 " + spool, "-o /kafka-metering ./plugin", "COPY --from=build /src/plugin/lua/kong /usr/local/share/lua/5.1/kong"} {
		if !strings.Contains(string(dockerfile), want) {
			t.Errorf("the Dockerfile has no %q", want)
		}
	}
}

func TestDockerComposeAndKongYmlNameTheSameThings(t *testing.T) {
	project := loadCompose(t)
	file, metering := loadKong(t)
	kafka := project.Services["kafka"].Environment
	topics := strings.Join(project.Services["topics"].Command, " ")
	for _, p := range metering {
		for _, server := range p.Config["bootstrap_servers"].([]any) {
			host, port := server.(map[string]any)["host"].(string), server.(map[string]any)["port"]
			address := host + ":" + jsonText(t, port)
			if advertised := *kafka["KAFKA_ADVERTISED_LISTENERS"]; !strings.Contains(advertised, "//"+address+",") {
				t.Errorf("bootstrap server %s: Kafka advertises %s", address, advertised)
			}
		}
		for _, field := range []string{"topic", "dead_letter_topic"} {
			if topic := p.Config[field].(string); !strings.Contains(topics, "--topic "+topic+" ") {
				t.Errorf("%s %s is not created: %s", field, topic, topics)
			}
		}
	}
	upstream := project.Services["upstream"]
	for _, s := range file.Services {
		port := upstream.Entrypoint[len(upstream.Entrypoint)-1]
		if want := "http://upstream" + port; s.URL != want {
			t.Errorf("service %s: url is %s, the upstream is at %s", s.Name, s.URL, want)
		}
	}
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
