package command

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
	"go.yaml.in/yaml/v3"
)

// pluginUse is one entry of the plugin in a declarative configuration, with what it is enabled on: names or ids, empty
// where it is enabled for all.
type pluginUse struct {
	route, service, consumer, group string
	line                            int
	config                          map[string]any
}

// String says where the plugin is enabled.
func (u *pluginUse) String() string {
	var on []string
	for _, p := range []struct{ kind, name string }{{"route", u.route}, {"service", u.service}, {"consumer", u.consumer}, {"consumer group", u.group}} {
		if p.name != "" {
			on = append(on, p.kind+" "+p.name)
		}
	}
	if len(on) == 0 {
		return fmt.Sprintf("line %d, enabled globally", u.line)
	}
	return fmt.Sprintf("line %d, enabled on %s", u.line, strings.Join(on, " and "))
}

// unnamed stands for an entity without a name: no name holds a space.
const unnamed = "(without a name)"

// kongNode is as much of an entity of a declarative configuration as is needed to find plugins.
type kongNode struct {
	Name     string     `yaml:"name"`
	ID       string     `yaml:"id"`
	Username string     `yaml:"username"`
	Routes   []kongNode `yaml:"routes"`
	Plugins  []kongPlug `yaml:"plugins"`
	Service  any        `yaml:"service"`
}

type kongPlug struct {
	Name     string         `yaml:"name"`
	Enabled  *bool          `yaml:"enabled"`
	Config   map[string]any `yaml:"config"`
	Shared   string         `yaml:"_config"` // decK's: a name in _plugin_configs
	Route    any            `yaml:"route"`
	Service  any            `yaml:"service"`
	Consumer any            `yaml:"consumer"`
	Group    any            `yaml:"consumer_group"`
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

// readKongFile returns the uses of the plugin in a kong.yml or decK file, in manifests of the Kong Ingress Controller, or
// the one that a file with the plugin's configuration alone is.
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
	decoder := yaml.NewDecoder(bytes.NewReader(withEnvironment(raw)))
	var uses []pluginUse
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return uses, nil
		}
		if err != nil {
			return nil, err
		}
		found, err := documentUses(&document)
		if err != nil {
			return nil, err
		}
		uses = append(uses, found...)
	}
}

// deckVariable is how decK is told to put in the value of an environment variable.
var deckVariable = regexp.MustCompile(`\$\{\{\s*env\s+"(DECK_\w+)"\s*(\|\s*to(Bool|Int|Float)\s*)?\}\}`)

// withEnvironment puts the values of environment variables in as decK does; those that are not set stay as they are written.
func withEnvironment(raw []byte) []byte {
	return deckVariable.ReplaceAllFunc(raw, func(written []byte) []byte {
		if value, ok := os.LookupEnv(string(deckVariable.FindSubmatch(written)[1])); ok {
			return []byte(value)
		}
		return written
	})
}

// documentUses returns the uses of the plugin in one document.
func documentUses(document *yaml.Node) ([]pluginUse, error) {
	var manifest struct {
		Kind     string         `yaml:"kind"`
		Plugin   string         `yaml:"plugin"`
		Disabled bool           `yaml:"disabled"`
		Config   map[string]any `yaml:"config"`
	}
	if len(document.Content) == 0 || document.Content[0].Tag == "!!null" {
		return nil, nil
	}
	if err := document.Decode(&manifest); err != nil {
		return nil, err
	}
	switch {
	case manifest.Kind == "":
	case (manifest.Kind == "KongPlugin" || manifest.Kind == "KongClusterPlugin") && manifest.Plugin == pluginName && !manifest.Disabled:
		return []pluginUse{{line: document.Content[0].Line, config: manifest.Config}}, nil
	default: // of something else
		return nil, nil
	}
	var file struct {
		FormatVersion string `yaml:"_format_version"`
		kongNode      `yaml:",inline"`
		Services      []kongNode                `yaml:"services"`
		Consumers     []kongNode                `yaml:"consumers"`
		Groups        []kongNode                `yaml:"consumer_groups"`
		Shared        map[string]map[string]any `yaml:"_plugin_configs"`
	}
	if err := document.Decode(&file); err != nil {
		return nil, err
	}
	if file.FormatVersion == "" && file.Shared == nil {
		var config map[string]any
		if err := document.Decode(&config); err != nil {
			return nil, err
		}
		if manifest.Config != nil {
			config = manifest.Config
		}
		return []pluginUse{{line: 1, config: config}}, nil
	}
	var uses []pluginUse
	var wrong error
	// An entity without a name and an id is found in no log: what is enabled on it never fits.
	of := func(n *kongNode, names ...string) string { return cmp.Or(append(names, n.ID, unnamed)...) }
	add := func(plugins []kongPlug, on pluginUse) {
		for _, p := range plugins {
			if p.Name != pluginName || p.Enabled != nil && !*p.Enabled {
				continue
			}
			use := on
			use.line, use.config = p.line, p.Config
			if p.Shared != "" { // what the entry gives itself wins
				shared, ok := file.Shared[p.Shared]
				if !ok {
					wrong = fmt.Errorf("line %d: _plugin_configs has no %q", p.line, p.Shared)
				}
				use.config = map[string]any{}
				maps.Copy(use.config, shared)
				maps.Copy(use.config, p.Config)
			}
			for _, r := range []struct {
				into *string
				ref  any
			}{{&use.route, p.Route}, {&use.service, p.Service}, {&use.consumer, p.Consumer}, {&use.group, p.Group}} {
				if name := refName(r.ref); name != "" {
					*r.into = name
				}
			}
			uses = append(uses, use)
		}
	}
	add(file.Plugins, pluginUse{})
	for _, r := range file.Routes {
		add(r.Plugins, pluginUse{route: of(&r, r.Name)})
	}
	for _, c := range file.Consumers {
		add(c.Plugins, pluginUse{consumer: of(&c, c.Username)})
	}
	for _, g := range file.Groups {
		add(g.Plugins, pluginUse{group: of(&g, g.Name)})
	}
	for _, s := range file.Services {
		add(s.Plugins, pluginUse{service: of(&s, s.Name)})
		for _, r := range s.Routes {
			add(r.Plugins, pluginUse{route: of(&r, r.Name)})
		}
	}
	return uses, wrong
}

// scope says for what a plugin is enabled: for one consumer, one route, one service, or several of these at once.
type scope struct{ consumer, route, service bool }

// precedence is Kong's order among the plugins that fit an exchange, of which it runs the first (Kong's documentation, "Plugin
// precedence").
var precedence = [...]scope{
	{consumer: true, route: true, service: true},
	{consumer: true, route: true},
	{consumer: true, service: true},
	{route: true, service: true},
	{consumer: true},
	{route: true},
	{service: true},
	{},
}

// choose returns the use that Kong would run for an exchange, given Kong's log of it. It is nil when none fits. Kong's log does
// not tell of consumer groups: what is enabled for one of them never fits.
func choose(uses []pluginUse, log []byte) *pluginUse {
	fits := func(member, name string) bool {
		o := gjson.GetBytes(log, member)
		return name == "" || name == o.Get("name").Str || name == o.Get("id").Str || name == o.Get("username").Str
	}
	var best *pluginUse
	first := len(precedence)
	for i := range uses {
		u := &uses[i]
		if u.group != "" || !fits("route", u.route) || !fits("service", u.service) || !fits("consumer", u.consumer) {
			continue
		}
		place := slices.Index(precedence[:], scope{consumer: u.consumer != "", route: u.route != "", service: u.service != ""})
		if place < first {
			best, first = u, place
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

func newEvaluators(host Host, path, node string) (*evaluators, error) {
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
		evaluator, err := host.NewEvaluator(raw, node)
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
