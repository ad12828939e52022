// Package lint finds what is wrong, or suspicious, in declarative configurations that enable the plugin: kong.yml, decK files and
// KongPlugin manifests of the Kong Ingress Controller. It reports every problem at once, with its line and column.
//
// It reads no file and keeps no state. What Kong refuses and what the meters' compiler finds it is told by its caller, who has
// the code that does that behind Kong.
package lint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// PluginName is the plugin's name in a configuration.
const PluginName = "kafka-metering"

// Severity says how much a finding matters.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // Kong refuses it, or the plugin leaves a meter out
	Warning Severity = "warning" // it works, and is hardly what was meant
)

// Rule is a kind of finding.
type Rule string

// The rules.
const (
	RuleSyntax      Rule = "syntax"
	RuleSchema      Rule = "schema"
	RuleMeter       Rule = "meter"
	RulePath        Rule = "path"
	RuleNever       Rule = "never-applies"
	RuleDouble      Rule = "double-billing"
	RuleSecret      Rule = "secret"
	RuleCardinality Rule = "cardinality"
	RuleTwice       Rule = "enabled-twice"
	RuleReplaced    Rule = "replaced"
	RuleConnection  Rule = "shared-connection"
	RuleNone        Rule = "not-enabled"
)

// Rules says what each rule finds.
var Rules = []struct {
	Rule Rule
	Text string
}{
	{RuleSyntax, "The file is no YAML, or no declarative configuration."},
	{RuleSchema, "Kong refuses the plugin's configuration."},
	{RuleMeter, "An expression is not CEL, or meters contradict each other: the plugin leaves the meter out."},
	{RulePath, "An expression reads something that is not there."},
	{RuleNever, "A meter can never apply where the plugin is enabled."},
	{RuleDouble, "The same usage is counted twice."},
	{RuleSecret, "A secret stands in the file, or gets onto the topic."},
	{RuleCardinality, "A dimension has as many values as there are exchanges."},
	{RuleTwice, "The plugin is enabled twice for the same thing."},
	{RuleReplaced, "A plugin takes the place of one with other meters."},
	{RuleConnection, "Plugins that share a connection set it differently: the last one decides for all."},
	{RuleNone, "The plugin is enabled nowhere in the file."},
}

// Finding is one thing that was found.
type Finding struct {
	File     string   `json:"file"`
	Line     int      `json:"line"`   // from 1 on
	Column   int      `json:"column"` // from 1 on, in characters
	Severity Severity `json:"severity"`
	Rule     Rule     `json:"rule"`
	Message  string   `json:"message"`
}

// String is the finding as compilers write theirs.
func (f Finding) String() string {
	mark := ""
	if f.Severity == Warning {
		mark = "warning: "
	}
	return fmt.Sprintf("%s:%d:%d: %s%s", f.File, f.Line, f.Column, mark, f.Message)
}

// Check returns what is wrong with a configuration of the plugin, as JSON: values of [schema.Problem] for what Kong refuses, and
// *[meter.Problem] for what the compiler of the meters finds.
type Check func(config []byte) []error

// File returns the findings in a file, by line and column.
func File(name string, data []byte, check Check) []Finding {
	l := &linter{file: name, check: check}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	documents := 0
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			l.add(&yaml.Node{Line: lineOf(err), Column: 1}, Error, RuleSyntax, "%s", positionPrefix.ReplaceAllString(err.Error(), ""))
			break
		}
		documents++
		if len(document.Content) == 1 {
			l.document(document.Content[0])
		}
	}
	l.connections()
	if documents == 0 && len(l.findings) == 0 {
		l.add(&yaml.Node{Line: 1, Column: 1}, Error, RuleSyntax, "the file is empty")
	}
	if documents > 0 && l.uses == 0 && len(l.findings) == 0 {
		l.add(&yaml.Node{Line: 1, Column: 1}, Warning, RuleNone, "the plugin %s is enabled nowhere in this file", PluginName)
	}
	slices.SortStableFunc(l.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), strings.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(l.findings, func(a, b Finding) bool { return a == b })
}

// positionPrefix is how the YAML reader begins its errors.
var positionPrefix = regexp.MustCompile(`^(yaml: )?(line \d+: )?`)

// lineOf returns the line that an error of the YAML reader names, or 1.
func lineOf(err error) int {
	_, rest, found := strings.Cut(err.Error(), "line ")
	if !found {
		return 1
	}
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	n, _ := strconv.Atoi(rest[:end])
	return max(n, 1)
}

// linter is one file's run.
type linter struct {
	file     string
	check    Check
	findings []Finding
	uses     int
	all      []use // of all documents
}

// add adds a finding at a node.
func (l *linter) add(at *yaml.Node, severity Severity, rule Rule, format string, args ...any) {
	l.findings = append(l.findings, Finding{
		File: l.file, Line: max(at.Line, 1), Column: max(at.Column, 1), Severity: severity, Rule: rule, Message: fmt.Sprintf(format, args...),
	})
}
