package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/schema"
)

// schemaTypes flattens a schema to path and type.
func schemaTypes(f *schema.Field, path string, into map[string]string) {
	switch f.Type {
	case schema.TypeRecord:
		for _, sub := range f.Fields {
			schemaTypes(sub, strings.TrimPrefix(path+"."+sub.Name, "."), into)
		}
	case schema.TypeArray, schema.TypeSet:
		schemaTypes(f.Elements, path+"[]", into)
	case schema.TypeMap:
		into[path] = "map of " + f.Keys.Type + " to " + f.Values.Type
	default:
		into[path] = f.Type
	}
}

// goTypes flattens a Go type to path and the schema's word for its type.
func goTypes(t reflect.Type, path string, into map[string]string) {
	switch t.Kind() {
	case reflect.Struct:
		for field := range t.Fields() {
			switch {
			case field.Anonymous:
				goTypes(field.Type, path, into)
			case field.IsExported():
				goTypes(field.Type, strings.TrimPrefix(path+"."+field.Tag.Get("json"), "."), into)
			}
		}
	case reflect.Slice:
		goTypes(t.Elem(), path+"[]", into)
	case reflect.Map:
		into[path] = fmt.Sprintf("map of %s to %s", t.Key(), t.Elem())
	case reflect.Bool:
		into[path] = schema.TypeBoolean
	case reflect.Int:
		into[path] = schema.TypeInteger
	case reflect.Float64:
		into[path] = schema.TypeNumber
	default:
		into[path] = t.Kind().String()
	}
}

func TestSchemaAndConfigHaveTheSameFields(t *testing.T) {
	fromSchema, fromGo := map[string]string{}, map[string]string{}
	schemaTypes(schema.Config(), "", fromSchema)
	goTypes(reflect.TypeFor[Config](), "", fromGo)
	if diff := cmp.Diff(fromSchema, fromGo); diff != "" {
		t.Errorf("schema/kong.json (-) and Config (+) differ:\n%s", diff)
	}
}

// prune drops what Kong leaves out or sends as {}: unset values.
func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			if p := prune(value); p != nil {
				out[key] = p
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		if len(v) == 0 {
			return nil
		}
		return v
	case string:
		if v == "" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}

func generic(t *testing.T, v any) map[string]any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	m, _ := prune(out).(map[string]any)
	return m
}

func TestSchemaAndConfigHaveTheSameDefaults(t *testing.T) {
	complete, problems := schema.Config().Validate(map[string]any{})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if diff := cmp.Diff(generic(t, complete), generic(t, newConfig(nil))); diff != "" {
		t.Errorf("defaults of schema/kong.json (-) and newConfig (+) differ:\n%s", diff)
	}
	element := schema.Config().Field("bootstrap_servers").Elements
	if element.Field("port").Default != int64(9092) {
		t.Errorf("port's default is %v", element.Field("port").Default)
	}
}

func TestConfigIsDecodedAsKongSendsIt(t *testing.T) {
	c := newConfig(nil)
	// Empty Lua tables are {} whatever they are; unset records too; null is Lua's ngx.null.
	err := json.Unmarshal([]byte(`{"__seq__":59,"__plugin_id":"p","__key__":"k","__ws_id":"w","route_id":"r","$refs":{},"meters":{},"attributes":{},"authentication":{},"topic":null,
		"bootstrap_servers":[{"host":"kafka","port":9092}],"security":{"ssl":true},"subject":{"sources":{}},"queue":{"max_bytes":10737418240},"meter_ai_calls":false}`), c)
	if err != nil || len(c.problems) > 0 {
		t.Fatal(err, c.problems)
	}
	want := newConfig(nil)
	want.identity = identity{Seq: 59, PluginID: "p", RouteID: "r"}
	want.BootstrapServers = list[Broker]{{"kafka", 9092}}
	want.Security.SSL = true
	want.Subject.Sources = nil
	want.MeterAICalls = false
	want.Queue.MaxBytes = 10737418240
	if diff := cmp.Diff(generic(t, want), generic(t, c)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want.identity, c.identity, cmp.AllowUnexported(identity{})); diff != "" {
		t.Error(diff)
	}
}

func TestNoConfigurationIsRefused(t *testing.T) {
	for text, problem := range map[string]string{
		`{"topic":7,"timeout":"soon","queue":{"max_batch_size":1.5,"max_retry_delay":9},"meters":[{"slug":"a","aggregation":5}],"dry_run":true}`: "config.topic: expected string, got number",
		`{"meters":{"a":1},"dry_run":true}`:                              "config.meters",
		`{"__seq__":"x","dry_run":true}`:                                 "config",
		`{"subject":[],"bootstrap_servers":[{"host":1}],"dry_run":true}`: "config.subject",
	} {
		c := newConfig(nil)
		if err := json.Unmarshal([]byte(text), c); err != nil {
			t.Errorf("%s: refused: %v", text, err)
		}
		if !c.DryRun {
			t.Errorf("%s: the rest of the configuration is lost", text)
		}
		if !slices.ContainsFunc(c.problems, func(err error) bool { return strings.Contains(err.Error(), problem) }) {
			t.Errorf("%s: %q is not among the problems %v", text, problem, c.problems)
		}
	}
}

func TestEveryDefaultIsReachableFromTheProcessFile(t *testing.T) {
	names := map[string]string{}
	goTypes(reflect.TypeFor[processFile](), "", names)
	for _, name := range []string{"bootstrap_servers[].host", "topic", "cluster_name", "authentication.password", "queue.when_full", "node", "spool_dir"} {
		if _, ok := names[name]; !ok {
			t.Errorf("the process file has no %s: %v", name, slices.Sorted(maps.Keys(names)))
		}
	}
}
