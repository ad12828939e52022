package command

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/tidwall/gjson"
	"go.yaml.in/yaml/v3"
)

// pluginUse is one entry of the plugin in a declarative configuration, with what it is enabled on: names or ids, empty
// where it is enabled for all.
type pluginUse struct {
	route, service, consumer string
	line                     int
	config                   map[string]any
}

// String says where the plugin is enabled.
func (u *pluginUse) String() string {
	var on []string
	for _, p := range []struct{ kind, name string }{{"route", u.route}, {"service", u.service}, {"consumer", u.consumer}} {
		if p.name != "" {
			on = append(on, p.kind+" "+p.name)
		}
	}
	if len(on) == 0 {
		return fmt.Sprintf("line %d, enabled globally", u.line)
	}
	return fmt.Sprintf("line %d, enabled on %s", u.line, strings.Join(on, " and "))
}

// kongNode is as much of an entity of a declarative configuration as is needed to find plugins.
type kongNode struct {
	Name     string     `yaml:"name"`
	Username string     `yaml:"username"`
	Routes   []kongNode `yaml:"routes"`
	Plugins  []kongPlug `yaml:"plugins"`
	Service  any        `yaml:"service"`
}

type kongPlug struct {
	Name     string         `yaml:"name"`
	Enabled  *bool          `yaml:"enabled"`
	Config   map[string]any `yaml:"config"`
	Route    any            `yaml:"route"`
	Service  any            `yaml:"service"`
	Consumer any            `yaml:"consumer"`
	line     int
}

// UnmarshalYAML notes the line.
func (p *kongPlug) UnmarshalYAML(n *yaml.Node) error {
	type plain kongPlug
	if err := n.Decode((*plain)(p)); err != nil {
		return err
	}
	p.line = n.Line
	return nil
}

// refName returns the name in a reference: a text, or a record with a name, an id or a user name.
func refName(ref any) string {
	if record, ok := ref.(map[string]any); ok {
		for _, key := range []string{"name", "username", "id"} {
			if s, ok := record[key].(string); ok {
				return s
			}
		}
	}
	s, _ := ref.(string)
	return s
}

// readKongFile returns the uses of the plugin in a kong.yml or decK file, or the one that a file with the plugin's
// configuration alone is.
func readKongFile(path string) ([]pluginUse, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	uses, err := parseKongFile(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(uses) == 0 {
		return nil, fmt.Errorf("%s: the plugin %s is enabled nowhere in it", path, pluginName)
	}
	return uses, nil
}

// parseKongFile is readKongFile of what is read.
func parseKongFile(raw []byte) ([]pluginUse, error) {
	var file struct {
		FormatVersion string `yaml:"_format_version"`
		kongNode      `yaml:",inline"`
		Services      []kongNode `yaml:"services"`
		Consumers     []kongNode `yaml:"consumers"`
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		return nil, err
	}
	if file.FormatVersion == "" {
		var config map[string]any
		if err := yaml.Unmarshal(raw, &config); err != nil {
			return nil, err
		}
		if inner, ok := config["config"].(map[string]any); ok {
			config = inner
		}
		return []pluginUse{{line: 1, config: config}}, nil
	}
	var uses []pluginUse
	add := func(plugins []kongPlug, on pluginUse) {
		for _, p := range plugins {
			if p.Name != pluginName || p.Enabled != nil && !*p.Enabled {
				continue
			}
			use := on
			use.line, use.config = p.line, p.Config
			for _, r := range []struct {
				into *string
				ref  any
			}{{&use.route, p.Route}, {&use.service, p.Service}, {&use.consumer, p.Consumer}} {
				if name := refName(r.ref); name != "" {
					*r.into = name
				}
			}
			uses = append(uses, use)
		}
	}
	add(file.Plugins, pluginUse{})
	for _, r := range file.Routes {
		add(r.Plugins, pluginUse{route: r.Name})
	}
	for _, c := range file.Consumers {
		add(c.Plugins, pluginUse{consumer: c.Username})
	}
	for _, s := range file.Services {
		add(s.Plugins, pluginUse{service: s.Name})
		for _, r := range s.Routes {
			add(r.Plugins, pluginUse{route: r.Name})
		}
	}
	return uses, nil
}

// choose returns the use that Kong would run for an exchange, given Kong's log of it: of those that fit the most specific
// one (Kong's documentation, "Plugin precedence"). It is nil when none fits.
func choose(uses []pluginUse, log []byte) *pluginUse {
	named := func(member, name string) bool {
		o := gjson.GetBytes(log, member)
		return name == o.Get("name").Str || name == o.Get("id").Str || name == o.Get("username").Str
	}
	var best *pluginUse
	rank := -1
	for i := range uses {
		u := &uses[i]
		if u.route != "" && !named("route", u.route) || u.service != "" && !named("service", u.service) || u.consumer != "" && !named("consumer", u.consumer) {
			continue
		}
		r := 0
		for weight, set := range map[int]bool{4: u.consumer != "", 2: u.route != "", 1: u.service != ""} {
			if set {
				r += weight
			}
		}
		if r > rank {
			best, rank = u, r
		}
	}
	return best
}

// evaluators compiles each use once.
type evaluators struct {
	host  Host
	uses  []pluginUse
	made  []Evaluator
	warns []error
}

func newEvaluators(host Host, path string) (*evaluators, error) {
	e := &evaluators{host: host, uses: []pluginUse{{}}}
	if path != "" {
		uses, err := readKongFile(path)
		if err != nil {
			return nil, err
		}
		e.uses = uses
	}
	for i := range e.uses {
		config := e.uses[i].config
		if config == nil {
			config = map[string]any{}
		}
		raw, err := json.Marshal(config)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, &e.uses[i], err)
		}
		evaluator, err := host.NewEvaluator(raw)
		if evaluator == nil {
			return nil, fmt.Errorf("%s: %s: %w", path, &e.uses[i], err)
		}
		if err != nil {
			e.warns = append(e.warns, fmt.Errorf("%s: %s: %w", path, &e.uses[i], err))
		}
		e.made = append(e.made, evaluator)
	}
	return e, nil
}

// find returns the evaluator for an exchange, and where it is declared; nil when the plugin is not enabled for it.
func (e *evaluators) find(log []byte) (Evaluator, *pluginUse) {
	u := choose(e.uses, log)
	if u == nil {
		return nil, nil
	}
	for i := range e.uses {
		if &e.uses[i] == u {
			return e.made[i], u
		}
	}
	return nil, nil
}
