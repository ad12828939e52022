package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"kafka-metering/meter/relay"
	"kafka-metering/schema"
)

// processFile is the YAML file of the flag -config: the connection, with the names of the plugin's configuration, and
// what only a process has.
type processFile struct {
	Connection

	Node     string `json:"node"`      // the node's name in the events' source; default: the host name
	SpoolDir string `json:"spool_dir"` // default: kafka-metering.spool in Kong's prefix
}

// readFile reads the file of the flag -config. What is wrong in it does not stop the process, whose exchanges would be
// lost: it becomes a problem that the plugin reports, and its default counts.
func (p *process) readFile(path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		p.problems = append(p.problems, fmt.Errorf("-config: %w", err))
		return
	}
	var tree map[string]any
	if err := yaml.Unmarshal(data, &tree); err != nil {
		p.problems = append(p.problems, fmt.Errorf("-config %s: %w", path, err))
		return
	}
	for _, err := range refuse(tree) {
		p.problems = append(p.problems, fmt.Errorf("-config %s: %w", path, err))
	}
	fields := map[string]json.RawMessage{}
	for name, value := range tree {
		raw, err := json.Marshal(value)
		if err != nil {
			p.problems = append(p.problems, fmt.Errorf("-config %s: %s: %w", path, name, err))
			continue
		}
		fields[name] = raw
	}
	for _, err := range decodeFields(reflect.ValueOf(&p.file).Elem(), fields) {
		p.problems = append(p.problems, fmt.Errorf("-config %s: %w", path, err))
	}
	for name := range fields {
		p.problems = append(p.problems, fmt.Errorf("-config %s: unknown field %q", path, name))
	}
	p.node = cmp.Or(p.file.Node, p.node)
	p.spoolDir = cmp.Or(p.file.SpoolDir, p.spoolDir)
}

// readConnection is how commands read the file of the flag -config.
func readConnection(path string) (settings relay.Settings, topic, spoolDir string, err error) {
	p := newProcess("", slog.New(slog.DiscardHandler))
	p.readFile(path)
	connection, _, err := p.connection(&Config{})
	if err != nil {
		return settings, "", "", err
	}
	settings, err = connection.relaySettings()
	return settings, connection.Topic, p.file.SpoolDir, err
}

// nodeName is a node's name as the source of an event can hold it.
var nodeName = regexp.MustCompile(`^[a-zA-Z0-9._~-]{1,255}$`)

// refuse takes out of the file what Kong would refuse in the plugin's configuration, and returns why. Kong does not see
// this file.
func refuse(tree map[string]any) (errs []error) {
	fields := maps.Clone(tree)
	delete(fields, "node")
	delete(fields, "spool_dir")
	if node, given := tree["node"].(string); given && !nodeName.MatchString(node) {
		errs = append(errs, errors.New("node: must be 1 to 255 of a-z, A-Z, 0-9, dot, _, ~ and -"))
		delete(tree, "node")
	}
	_, problems := schema.Config().Validate(fields)
	for _, problem := range problems {
		path := strings.TrimPrefix(problem.Path, "config.")
		errs = append(errs, errors.New(path+": "+problem.Message))
		remove(tree, strings.Split(path, "."))
	}
	return append(errs, vaultReferences("", fields)...)
}

// remove takes the value at a path out of tree, unless it is a record, whose fields may be right, or in a list, of which the
// rest would be something else.
func remove(tree map[string]any, path []string) {
	for len(path) > 1 {
		inner, ok := tree[path[0]].(map[string]any)
		if !ok {
			return
		}
		tree, path = inner, path[1:]
	}
	if _, record := tree[path[0]].(map[string]any); !record {
		delete(tree, path[0])
	}
}

// vaultReferences finds references to vaults, which Kong resolves in a plugin's configuration, and nobody here.
func vaultReferences(path string, tree map[string]any) (errs []error) {
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		switch v := tree[name].(type) {
		case map[string]any:
			errs = append(errs, vaultReferences(path+name+".", v)...)
		case string:
			if schema.IsReference(v) {
				errs = append(errs, fmt.Errorf("%s%s: references to vaults are resolved in the plugin's configuration only: write the value itself", path, name))
			}
		}
	}
	return errs
}
