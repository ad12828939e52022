package lint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"kafka-metering/meter"
	"kafka-metering/schema"
)

// What several plugins, or several meters, do to one another.

// replaced finds meters that do not count where another plugin is enabled too: Kong runs the most specific one alone (Kong's
// documentation, "Plugin precedence").
func (l *linter) replaced(uses []use) {
	for _, u := range uses {
		for _, wider := range uses {
			if !u.within(&wider) || u.disabled || wider.disabled {
				continue
			}
			var missing []string
			for _, m := range items(member(wider.config, "meters")) {
				slug := text(member(m, "slug"))
				if slug != "" && meterNode(u.config, slug, false) == nil {
					missing = append(missing, slug)
				}
			}
			if len(missing) > 0 {
				l.add(u.at, Warning, RuleReplaced, "here Kong does not run the plugin that is enabled %s (line %d), whose meters do not count then: %s; repeat them here, or put a filter into that one's",
					wider.on(), wider.at.Line, strings.Join(missing, ", "))
			}
		}
	}
}

// within reports whether u takes the place of a plugin that is enabled for more.
func (u *use) within(wider *use) bool {
	service := u.service
	if service == nil && u.route != nil {
		service = u.route.service
	}
	narrower := u.consumer != wider.consumer || u.route != wider.route || u.service != wider.service
	return narrower && (wider.consumer == "" || wider.consumer == u.consumer) && (wider.route == nil || wider.route == u.route) &&
		(wider.service == nil || service != nil && service.name == wider.service.name)
}

// ofTheConnection are the fields that all plugins with the same brokers and user share: the newest of them decides.
var ofTheConnection = []string{
	"dead_letter_topic", "create_topics", "authentication", "security", "timeout", "keepalive",
	"producer_request_limits_bytes_per_request", "producer_compression", "queue",
}

// connections finds plugins that share a connection and want it otherwise.
func (l *linter) connections() {
	type sharing struct {
		config *yaml.Node
		values map[string]any
	}
	seen := map[string]sharing{}
	for _, u := range l.all {
		var tree map[string]any
		if u.config == nil || u.disabled || u.config.Decode(&tree) != nil {
			continue
		}
		config, _ := schema.Config().Validate(tree)
		var parts []string
		brokers, _ := config["bootstrap_servers"].([]any)
		for _, b := range brokers {
			text, _ := json.Marshal(b)
			parts = append(parts, string(text))
		}
		slices.Sort(parts)
		if len(parts) > 0 {
			authentication, _ := config["authentication"].(map[string]any)
			user, _ := json.Marshal(authentication["user"])
			parts = append(parts, string(user))
		}
		key := strings.Join(parts, "\x00") // none: the connection of the process
		other, again := seen[key]
		if !again {
			seen[key] = sharing{u.config, config}
			continue
		}
		if other.config == u.config {
			continue
		}
		fields := ofTheConnection
		if len(parts) == 0 {
			fields = []string{"dead_letter_topic"} // the rest is the process's
		}
		for _, field := range fields {
			mine, _ := json.Marshal(config[field])
			its, _ := json.Marshal(other.values[field])
			if !bytes.Equal(mine, its) {
				at, _ := entry(u.config, field)
				l.add(cmp.Or(at, u.config), Warning, RuleConnection, "config.%s is not that of line %d, with the same brokers and user: the two share one connection and one spool, and what Kong hands over last is in force for both",
					field, other.config.Line)
			}
		}
	}
}

// shared finds values that consumers cannot tell apart: of two meters that count the same under different conditions, and of two
// configurations. Other values that one configuration shares the meters' compiler finds.
func (l *linter) shared(config *yaml.Node, values map[[2]string]*yaml.Node) {
	mine := map[[2]string]*yaml.Node{}
	for _, m := range items(member(config, "meters")) {
		key := [2]string{cmp.Or(text(member(m, "event_type")), meter.DefaultEventType), cmp.Or(text(member(m, "value_property")), meter.DefaultValueProperty)}
		other := values[key]
		if text(member(m, "slug")) == "" {
			continue
		}
		if first := mine[key]; first != nil {
			if !same(m, first, "filter") && same(m, first, "aggregation", "value") {
				l.add(m, Warning, RuleDouble, "meter %q counts into the property %q of %s under another filter than meter %q does (line %d): a consumer counts both as one; give it a value_property of its own",
					text(member(m, "slug")), key[1], key[0], text(member(first, "slug")), first.Line)
			}
			continue
		}
		mine[key] = m
		if other != nil && !same(m, other, "slug", "aggregation", "value") { // else it is the same meter, enabled in two places
			l.add(m, Warning, RuleDouble, "meter %q has the event type %s and the property %q in common with meter %q of another configuration (line %d): a consumer counts both as one; give it an event_type of its own",
				text(member(m, "slug")), key[0], key[1], text(member(other, "slug")), other.Line)
		}
	}
	for key, m := range mine {
		if values[key] == nil {
			values[key] = m
		}
	}
}

// same reports whether two meters have the same texts in these fields.
func same(a, b *yaml.Node, fields ...string) bool {
	return !slices.ContainsFunc(fields, func(field string) bool {
		return strings.TrimSpace(text(member(a, field))) != strings.TrimSpace(text(member(b, field)))
	})
}
