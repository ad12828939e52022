package lint

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// use is one place at which the plugin is enabled.
type use struct {
	at       *yaml.Node // the entry
	config   *yaml.Node // nil when there is none
	route    *entity    // nil: for all
	service  *entity
	consumer string
	nameless bool // enabled on a consumer that has no user name
	disabled bool
	known    *entities // nil where the file does not tell
}

// hasNoService reports whether the plugin is enabled on a route that the file declares without a service.
func (u *use) hasNoService() bool {
	return u.route != nil && u.route.service == nil && u.known != nil && slices.Contains(u.known.routes, u.route)
}

// entity is a route or a service.
type entity struct {
	name    string
	methods []string // of a route
	service *entity  // of a route
}

// entities are those that a file declares.
type entities struct{ routes, services []*entity }

func (e *entities) route(name string) *entity   { return find(e.routes, name) }
func (e *entities) service(name string) *entity { return find(e.services, name) }

func find(all []*entity, name string) *entity {
	if i := slices.IndexFunc(all, func(e *entity) bool { return e.name == name }); i >= 0 {
		return all[i]
	}
	return &entity{name: name}
}

// member returns a mapping's value for a key, or nil, also for no mapping.
func member(n *yaml.Node, key string) *yaml.Node {
	_, value := entry(n, key)
	return value
}

// entry returns a mapping's key node and value.
func entry(n *yaml.Node, key string) (name, value *yaml.Node) {
	n = resolved(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i], resolved(n.Content[i+1])
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag == "!!merge" {
			if name, value := entry(n.Content[i+1], key); value != nil {
				return name, value
			}
		}
	}
	return nil, nil
}

// resolved follows an alias.
func resolved(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode && i < 100; i++ {
		n = n.Alias
	}
	return n
}

// items returns a list's elements.
func items(n *yaml.Node) []*yaml.Node {
	if n = resolved(n); n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	all := make([]*yaml.Node, len(n.Content))
	for i := range n.Content {
		all[i] = resolved(n.Content[i])
	}
	return all
}

func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// reference returns the name in a reference: a text, or a record with a name or an id.
func reference(n *yaml.Node) string {
	for _, key := range []string{"name", "username", "id"} {
		if s := text(member(n, key)); s != "" {
			return s
		}
	}
	return text(n)
}

// configurationFields tell a file that is the plugin's configuration alone from anything else.
var configurationFields = []string{"config", "bootstrap_servers", "meters", "topic", "subject", "attributes", "cluster_name"}

// document reads one document of a file.
func (l *linter) document(root *yaml.Node) {
	switch {
	case text(member(root, "kind")) == "KongPlugin" || text(member(root, "kind")) == "KongClusterPlugin":
		if text(member(root, "plugin")) == PluginName {
			l.lint([]use{{at: root, config: member(root, "config"), disabled: text(member(root, "disabled")) == "true"}})
		}
	case member(root, "_format_version") != nil || member(root, "_plugin_configs") != nil:
		l.lint(l.declarative(root))
	case member(root, "kind") != nil: // another manifest
	case root.Kind == yaml.MappingNode && slices.ContainsFunc(configurationFields, func(f string) bool { return member(root, f) != nil }):
		config := root
		if inner := member(root, "config"); inner != nil {
			config = inner
		}
		l.lint([]use{{at: root, config: config}})
	default:
		l.add(root, Error, RuleSyntax, "this is no kong.yml or decK file (it has no _format_version), no KongPlugin manifest and no configuration of the plugin")
	}
}

// declarative finds the plugin in a kong.yml or decK file.
func (l *linter) declarative(root *yaml.Node) []use {
	known := &entities{}
	declare := func(n *yaml.Node, owner *entity) *entity {
		r := &entity{name: text(member(n, "name")), service: owner}
		for _, m := range items(member(n, "methods")) {
			r.methods = append(r.methods, m.Value)
		}
		if name := reference(member(n, "service")); name != "" && owner == nil {
			r.service = &entity{name: name}
		}
		known.routes = append(known.routes, r)
		return r
	}
	var uses []use
	plugins := func(n *yaml.Node, on use) {
		for _, p := range items(member(n, "plugins")) {
			if text(member(p, "name")) != PluginName {
				continue
			}
			u := on
			u.at, u.config, u.known = p, member(p, "config"), known
			u.disabled = text(member(p, "enabled")) == "false"
			if name := text(member(p, "_config")); name != "" && u.config == nil {
				if u.config = member(member(root, "_plugin_configs"), name); u.config == nil {
					l.add(member(p, "_config"), Error, RuleSchema, "_plugin_configs has no %q", name)
				}
			}
			if name := reference(member(p, "route")); name != "" {
				u.route = &entity{name: name}
			}
			if name := reference(member(p, "service")); name != "" {
				u.service = &entity{name: name}
			}
			if name := reference(member(p, "consumer")); name != "" {
				u.consumer = name
			}
			if name := reference(member(p, "consumer_group")); name != "" {
				u.consumer = "of group " + name
			}
			uses = append(uses, u)
		}
	}
	for _, s := range items(member(root, "services")) {
		service := &entity{name: text(member(s, "name"))}
		known.services = append(known.services, service)
		plugins(s, use{service: service})
		for _, r := range items(member(s, "routes")) {
			plugins(r, use{route: declare(r, service)})
		}
	}
	for _, r := range items(member(root, "routes")) {
		plugins(r, use{route: declare(r, nil)})
	}
	for _, c := range items(member(root, "consumers")) {
		name := reference(c)
		plugins(c, use{consumer: name, nameless: name == ""})
	}
	for _, g := range items(member(root, "consumer_groups")) {
		plugins(g, use{consumer: "of group " + text(member(g, "name"))})
	}
	plugins(root, use{})
	for i := range uses { // references, now that all are known
		if u := &uses[i]; u.route != nil {
			u.route = known.route(u.route.name)
		}
		if u := &uses[i]; u.service != nil {
			u.service = known.service(u.service.name)
		}
	}
	l.twice(uses)
	l.replaced(uses)
	return uses
}

// twice finds what Kong refuses: two plugins of one name for the same.
func (l *linter) twice(uses []use) {
	seen := map[string]int{}
	for _, u := range uses {
		if u.route != nil && u.route.name == "" || u.service != nil && u.service.name == "" || u.nameless {
			continue // each is another one
		}
		on := u.on()
		if first, again := seen[on]; again {
			l.add(u.at, Error, RuleTwice, "the plugin is enabled %s twice, first in line %d: Kong refuses the file", on, first)
			continue
		}
		seen[on] = u.at.Line
	}
}

// on says where the plugin is enabled.
func (u *use) on() string {
	var parts []string
	if u.route != nil {
		parts = append(parts, "on route "+u.route.name)
	}
	if u.service != nil {
		parts = append(parts, "on service "+u.service.name)
	}
	if u.consumer != "" {
		parts = append(parts, "for consumer "+u.consumer)
	}
	if len(parts) == 0 {
		return "globally"
	}
	return strings.Join(parts, " ")
}
