package lint

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"kafka-metering/meter"
	"kafka-metering/schema"
)

// lint checks what the plugin is configured with at each place.
func (l *linter) lint(uses []use) {
	checked, values := map[*yaml.Node]bool{}, map[[2]string]*yaml.Node{}
	for i := range uses {
		u := &uses[i]
		l.uses++
		if u.config == nil {
			continue
		}
		if !checked[u.config] { // a configuration that several share is wrong once
			checked[u.config] = true
			l.config(u)
			l.shared(u.config, values)
		}
		l.meters(u)
	}
	l.all = append(l.all, uses...)
}

// environmentValue is what decK puts the value of an environment variable for, and reference what Kong looks up in a vault.
var (
	environmentValue = regexp.MustCompile(`\$\{\{.*\}\}`)
	vaultReference   = regexp.MustCompile(`^\{vault://.*\}$`)
)

// config reports what Kong refuses and what the meters' compiler finds.
func (l *linter) config(u *use) {
	var tree map[string]any
	if u.config.Kind != yaml.MappingNode {
		l.add(u.config, Error, RuleSchema, "config: expected a record")
		return
	}
	if err := u.config.Decode(&tree); err != nil {
		l.undecoded(u.config, err)
		return
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		l.add(u.config, Error, RuleSchema, "config: %v", err)
		return
	}
	for _, err := range l.check(raw) {
		if p, ok := errors.AsType[schema.Problem](err); ok {
			l.refused(u, p)
			continue
		}
		if p, ok := errors.AsType[*meter.Problem](err); ok {
			l.compiled(u, p)
			continue
		}
		l.add(u.config, Error, RuleMeter, "%v", err)
	}
	l.secrets(u.config)
}

// undecoded reports what the YAML reader says of values, such as a key that is there twice: a line of text for each.
func (l *linter) undecoded(n *yaml.Node, err error) {
	all := []string{err.Error()}
	if wrong, ok := errors.AsType[*yaml.TypeError](err); ok {
		all = wrong.Errors
	}
	for _, text := range all {
		at := yaml.Node{Line: n.Line, Column: n.Column}
		if strings.HasPrefix(text, "line ") {
			at = yaml.Node{Line: lineOf(errors.New(text)), Column: 1}
		}
		l.add(&at, Error, RuleSyntax, "%s", positionPrefix.ReplaceAllString(text, ""))
	}
}

// refused reports what Kong's schema says.
func (l *linter) refused(u *use, p schema.Problem) {
	at := u.config
	path := strings.TrimPrefix(strings.TrimPrefix(p.Path, "config"), ".")
	all := steps(path)
	for i, step := range all {
		if index, err := strconv.Atoi(step); err == nil {
			list := items(at)
			if index < 1 || index > len(list) {
				break
			}
			at = list[index-1]
			continue
		}
		name, value := entry(at, step)
		if value == nil {
			break // what is missing is reported where it should be
		}
		if at = value; p.Message == unknownField && i == len(all)-1 {
			at = name
		}
	}
	if at.Kind == yaml.ScalarNode && environmentValue.MatchString(at.Value) {
		return
	}
	message := p.Message
	if p.Message == unknownField {
		message += nearest(all[len(all)-1], siblings(path))
	}
	l.add(at, Error, RuleSchema, "%s: %s", p.Path, message)
}

// unknownField is what Kong says of a field that its schema does not have.
const unknownField = "unknown field"

// siblings returns the fields that the record has in which a path's last field was not known.
func siblings(path string) []string {
	field := schema.Config()
	all := steps(path)
	for _, step := range all[:len(all)-1] {
		if field == nil {
			return nil
		}
		if _, err := strconv.Atoi(step); err == nil {
			field = field.Elements
		} else {
			field = field.Field(step)
		}
	}
	if field == nil {
		return nil
	}
	var names []string
	for i := range field.Fields {
		names = append(names, field.Fields[i].Name)
	}
	return names
}

// steps splits a path such as meters[1].group_by.tenant; entries count from 1.
func steps(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}

// nearest suggests the name that is most alike.
func nearest(name string, names []string) string {
	if best := meter.Nearest(name, names); best != "" {
		return ", did you mean " + best + "?"
	}
	return ""
}

// compiled reports what the compiler of the meters says.
func (l *linter) compiled(u *use, p *meter.Problem) {
	at := l.place(u.config, p)
	if at == nil {
		at = u.config
	}
	message := p.Error()
	if p.Other != "" && p.Other != p.Meter {
		if other := meterNode(u.config, p.Other, false); other != nil {
			message += " (line " + strconv.Itoa(other.Line) + ")"
		}
	}
	l.addAt(at, p.Offset, Error, RuleMeter, message)
}

// place returns the node that a problem of the meters is about.
func (l *linter) place(config *yaml.Node, p *meter.Problem) *yaml.Node {
	if p.Meter == "" {
		at := config
		for _, step := range steps(p.Field) {
			if index, err := strconv.Atoi(step); err == nil {
				list := items(at)
				if index < 1 || index > len(list) {
					return at
				}
				at = list[index-1]
			} else if next := member(at, step); next != nil {
				at = next
			}
		}
		return at
	}
	m := meterNode(config, p.Meter, p.Field == "slug")
	field, name, _ := strings.Cut(p.Field, ".")
	value := member(m, field)
	if name != "" {
		value = member(value, name)
	}
	if value == nil {
		return m
	}
	return value
}

// meterNode returns the meter of a slug: the first, or the last of several.
func meterNode(config *yaml.Node, slug string, last bool) *yaml.Node {
	var found *yaml.Node
	for _, m := range items(member(config, "meters")) {
		if text(member(m, "slug")) == slug && (found == nil || last) {
			found = m
		}
	}
	return found
}

// addAt adds a finding at a place in a scalar, in bytes, where the file shows it as it is.
func (l *linter) addAt(n *yaml.Node, offset int, severity Severity, rule Rule, message string) {
	at := *n
	if n.Kind == yaml.ScalarNode && offset >= 0 && offset <= len(n.Value) {
		before := n.Value[:offset]
		line := strings.Count(before, "\n")
		column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
		switch {
		case n.Style&yaml.LiteralStyle != 0: // its lines are the file's; how far they are indented is not known
			at.Line, at.Column = n.Line+1+line, 1
		case n.Style&yaml.FoldedStyle != 0:
			at.Line, at.Column = n.Line+1, 1
		case n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
			at.Column += 1 + column + strings.Count(before, "'")*quoteWidth(n)
		default:
			at.Column += column
		}
	}
	l.add(&at, severity, rule, "%s", message)
}

// quoteWidth is by how much a single quote is wider in the file than in the value.
func quoteWidth(n *yaml.Node) int {
	if n.Style&yaml.SingleQuotedStyle != 0 {
		return 1
	}
	return 0
}

// secrets finds secrets that stand in the file.
func (l *linter) secrets(config *yaml.Node) {
	for _, path := range []string{"authentication.password", "security.client_key"} {
		section, field, _ := strings.Cut(path, ".")
		n := member(member(config, section), field)
		if value := text(n); value != "" && !vaultReference.MatchString(value) && !environmentValue.MatchString(value) {
			l.add(n, Warning, RuleSecret, "config.%s stands in the file: use a vault reference, such as {vault://env/kafka-%s}", path, strings.ReplaceAll(field, "_", "-"))
		}
	}
}

// expressionFields are the fields of a meter that hold an expression.
var expressionFields = []string{"filter", "value", "for_each"}

// meters looks at the meters of a use for what compiles and is hardly meant.
func (l *linter) meters(u *use) {
	byValue := map[string]*yaml.Node{}
	for _, m := range items(member(u.config, "meters")) {
		each := text(member(m, "for_each")) != ""
		for _, field := range expressionFields {
			l.paths(u, member(m, field), each)
		}
		if filter := member(m, "filter"); text(filter) != "" {
			l.never(u, filter)
		}
		l.dimensions(u, m, each)
		l.double(m, byValue)
	}
	for _, a := range items(member(u.config, "attributes")) {
		name := member(a, "look_up_value_in")
		if source := text(member(a, "source")); source != "" && meter.Secret(text(name)) {
			l.add(name, Warning, RuleSecret, "%s %q may be a secret, and gets onto the topic", strings.ReplaceAll(source, "_", " "), name.Value)
		}
	}
	l.bothPresets(u.config)
}

// paths finds names that are not there.
func (l *linter) paths(u *use, n *yaml.Node, each bool) {
	source := text(n)
	if source == "" {
		return
	}
	for _, p := range meter.ExpressionPaths(source, each) {
		if p.Keys[0] == "each" {
			continue
		}
		roots, _ := meter.PathNames()
		if !slices.Contains(roots, p.Keys[0]) {
			l.addAt(n, p.Offset, Warning, RulePath, "Kong's log has no "+p.Keys[0]+" unless a plugin adds it"+nearest(p.Keys[0], roots))
			continue
		}
		if p.Keys[0] == "service" && u.hasNoService() {
			l.addAt(n, p.Offset, Warning, RuleNever, "route "+u.route.name+" has no service: there never is a "+strings.Join(p.Keys, "."))
		}
		if len(p.Keys) < 2 {
			continue
		}
		if names, closed := meter.PathNames(p.Keys[0]); closed && !slices.Contains(names, p.Keys[1]) {
			l.addAt(n, p.Offset, Warning, RulePath, p.Keys[0]+" has no "+p.Keys[1]+nearest(p.Keys[1], names))
		}
		if len(p.Keys) >= 3 && p.Keys[0] == "request" && p.Keys[1] == "headers" && strings.Contains(p.Keys[2], "_") {
			l.addAt(n, p.Offset, Warning, RulePath, "header "+p.Keys[2]+" has an underscore: nginx does not take such headers unless it is told to")
		}
	}
}

// comparison is a condition that compares a path with a text, or with some of them.
var (
	comparison = regexp.MustCompile(`^(route\.name|service\.name|consumer\.username|request\.method) (?:== ("[^"\\]*")|in \[((?:"[^"\\]*"(?:, )?)+)\])$`)
	quoted     = regexp.MustCompile(`"([^"]*)"`)
)

// never finds conditions that cannot hold where the plugin is enabled.
func (l *linter) never(u *use, filter *yaml.Node) {
	for _, condition := range meter.Conjuncts(filter.Value) {
		match := comparison.FindStringSubmatch(condition)
		if match == nil {
			continue
		}
		path := match[1]
		var wanted []string
		for _, m := range quoted.FindAllStringSubmatch(match[2]+match[3], -1) {
			wanted = append(wanted, m[1])
		}
		is := func(name string) bool { return slices.Contains(wanted, name) }
		say := func(why string) {
			l.add(filter, Warning, RuleNever, "the meter never applies: %s is never \"%s\"%s", path, strings.Join(wanted, `" or "`), why)
		}
		switch path {
		case "route.name":
			if u.route != nil && u.route.name != "" && !is(u.route.name) {
				say(" on route " + u.route.name)
			} else if u.route == nil && u.known != nil && len(u.known.routes) > 0 && !slices.ContainsFunc(wanted, declared(u.known.routes)) {
				say(": no route of this file has that name" + nearest(wanted[0], names(u.known.routes)))
			}
		case "service.name":
			service := u.service
			if service == nil && u.route != nil {
				service = u.route.service
			}
			if service != nil && service.name != "" && !is(service.name) {
				say(" on service " + service.name)
			} else if service == nil && u.route == nil && u.known != nil && len(u.known.services) > 0 && !slices.ContainsFunc(wanted, declared(u.known.services)) {
				say(": no service of this file has that name" + nearest(wanted[0], names(u.known.services)))
			}
		case "consumer.username":
			if u.consumer != "" && !strings.HasPrefix(u.consumer, "of group ") && !is(u.consumer) {
				say(" for consumer " + u.consumer)
			}
		case "request.method":
			if u.route != nil && len(u.route.methods) > 0 && !slices.ContainsFunc(u.route.methods, is) {
				say(" on route " + u.route.name + ", which takes " + strings.Join(u.route.methods, ", "))
			}
		}
	}
}

func declared(all []*entity) func(name string) bool {
	return func(name string) bool {
		return slices.ContainsFunc(all, func(e *entity) bool { return e.name == name })
	}
}

func names(all []*entity) []string {
	out := make([]string, len(all))
	for i, e := range all {
		out[i] = e.name
	}
	return out
}

// perExchange are headers that differ from one exchange to the next.
var perExchange = []string{"x-request-id", "x-correlation-id", "traceparent", "tracestate", "x-b3-traceid", "x-b3-spanid", "content-length", "date", "x-forwarded-for", "x-kong-request-id"}

// dimensions finds dimensions with too many values, or with secrets.
func (l *linter) dimensions(u *use, m *yaml.Node, each bool) {
	group := member(m, "group_by")
	if group == nil || group.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(group.Content); i += 2 {
		name, value := group.Content[i], resolved(group.Content[i+1])
		l.paths(u, value, each)
		uses := meter.ExpressionPaths(text(value), each)
		for _, p := range uses {
			if len(p.Keys) == 3 && (p.Keys[1] == "headers" || p.Keys[1] == "querystring") && meter.Secret(p.Keys[2]) && !strings.Contains(value.Value, "hash(") {
				l.addAt(value, p.Offset, Warning, RuleSecret, "dimension "+name.Value+": "+p.Keys[2]+" may be a secret, and gets onto the topic; hash(…, 'salt') makes a pseudonym of it")
			}
		}
		header := len(uses) == 1 && len(uses[0].Keys) == 3 && uses[0].Keys[1] == "headers" && slices.Contains(perExchange, strings.ToLower(uses[0].Keys[2]))
		if meter.Measured(text(value)) || header {
			l.add(value, Warning, RuleCardinality, "dimension %s has about as many values as there are exchanges: consumers that keep a count for each will suffer", name.Value)
		}
	}
}

// double finds usage that is counted twice by the meters themselves.
func (l *linter) double(m *yaml.Node, byValue map[string]*yaml.Node) {
	aggregation, value, forEach := text(member(m, "aggregation")), member(m, "value"), text(member(m, "for_each"))
	if aggregation != "SUM" || text(value) == "" {
		return
	}
	if forEach != "" && !slices.ContainsFunc(meter.ExpressionPaths(value.Value, true), func(p meter.PathUse) bool { return p.Keys[0] == "each" }) &&
		len(meter.ExpressionPaths(value.Value, true)) > 0 {
		l.add(value, Warning, RuleDouble, "the value does not read each: every row counts the whole of it")
	}
	tokens := slices.ContainsFunc(meter.ExpressionPaths(value.Value, forEach != ""), func(p meter.PathUse) bool {
		return p.Keys[0] == "llm" && len(p.Keys) > 1 && strings.HasSuffix(p.Keys[1], "_tokens")
	})
	if eventType := text(member(m, "event_type")); tokens && (eventType == meter.TypeLLMRequest || eventType == meter.TypeLLMUsage) {
		l.add(value, Warning, RuleDouble, "%s tells of these tokens already: bill from one of them", eventType)
	}
	key := strings.Join(strings.Fields(value.Value), " ") + "\x00" + strings.Join(strings.Fields(text(member(m, "filter"))), " ") + "\x00" + forEach
	if first := byValue[key]; first != nil {
		l.add(value, Warning, RuleDouble, "meter %q sums up the same under the same condition (line %d): bill from one of them", text(member(first, "slug")), first.Line)
		return
	}
	byValue[key] = m
}

// bothPresets warns of a file that asks for both events of LLM calls by name.
func (l *linter) bothPresets(config *yaml.Node) {
	rows, calls := member(config, "meter_ai_token_usage"), member(config, "meter_ai_calls")
	if text(rows) == "true" && text(calls) == "true" {
		l.add(calls, Warning, RuleDouble, "kong.llm_usage and kong.llm_request (meter_ai_token_usage, line %d) both tell of every LLM call: bill from one of them", rows.Line)
	}
}
