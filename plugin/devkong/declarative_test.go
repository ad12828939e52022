package devkong

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestARefusedConfigurationNamesEveryProblemWithItsPath(t *testing.T) {
	f := startKong(t, "log", answer("hello"))
	f.probe.release()
	for name, test := range map[string]struct{ file, want string }{
		"the plugin's own fields, against its schema": {
			`
services: [{name: s, host: h, routes: [{paths: [/x], plugins: [{name: probe, config: {n: three, tog: x}}]}]}]
plugins: [{name: probe, config: {tag: 1}}]`,
			`services[1].routes[1].plugins[1].config.n: expected an integer
services[1].routes[1].plugins[1].config.tog: unknown field
plugins[1].config.tag: expected a string`,
		},
		"a plugin that is not there": {
			`plugins: [{name: kafka-log}]`,
			`plugins[1].name: plugin 'kafka-log' not enabled; the stand-in has key-auth and the external plugins`,
		},
		"key-auth": {
			`plugins: [{name: key-auth, config: {key_names: apikey}}]`,
			`plugins[1].config.key_names: expected an array`,
		},
		"references to nothing": {
			`
routes: [{name: r, paths: [/x], service: {name: nobody}}]
keyauth_credentials: [{key: k, consumer: nobody}]
plugins: [{name: probe, route: nowhere}, {name: probe, service: nobody}, {name: probe, consumer: nobody}]`,
			`routes[1].service: invalid reference 'nobody' (no entry in 'services')
keyauth_credentials[1].consumer: invalid reference 'nobody' (no entry in 'consumers')
plugins[1].route: invalid reference 'nowhere' (no entry in 'routes')
plugins[2].service: invalid reference 'nobody' (no entry in 'services')
plugins[3].consumer: invalid reference 'nobody' (no entry in 'consumers')`,
		},
		"services, routes and consumers": {
			`
services:
- {name: s, url: "https://h", routes: [{name: r}, {paths: [x]}, {paths: ["~/["]}]}
- {name: s, path: x}
routes: [{name: alone, paths: [/alone]}]
consumers: [{tags: [t]}, {username: u, keyauth_credentials: [{key: k}, {key: k}]}]
plugins: [{config: {}}, {name: probe}, {name: probe}]`,
			`services[1].protocol: the stand-in proxies to http only, not "https"
services[1].routes[1]: must set one of 'methods', 'hosts', 'headers', 'paths', 'snis' when 'protocols' is 'https'
services[1].routes[2].paths[1]: should start with: / (fixed path) or ~/ (regex path)
services[1].routes[3].paths[1]: invalid regex: error parsing regexp: missing closing ]: ` + "`[`" + `
services[2].host: required field missing
services[2].path: should start with: /
services[2].name: uniqueness violation: 'services' entity with name set to 's' already declared
routes[1].service: the stand-in needs a service for every route
consumers[1]: at least one of these fields must be non-empty: 'custom_id', 'username'
consumers[2].keyauth_credentials[2].key: uniqueness violation: another credential has this key
plugins[1].name: required field missing
plugins[3]: uniqueness violation: probe is configured for the same entities at plugins[2]`,
		},
		"what is not in the format, by its line": {
			`
services:
- {name: s, host: h, prot: http}
upstreams: []`,
			`line 4: field prot: unknown field, or one that the stand-in does not have
line 5: field upstreams: unknown field, or one that the stand-in does not have`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := f.Reconfigure([]byte(`_format_version: "3.0"` + "\n" + test.file))
			if err == nil {
				t.Fatal("it is accepted")
			}
			if diff := cmp.Diff("parse declarative config: "+test.want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if err := f.Reconfigure([]byte("services: []")); err == nil || !strings.Contains(err.Error(), "_format_version: expected one of") {
		t.Errorf("without a version: %v", err)
	}
	if resp, _ := f.get("/open"); resp.StatusCode != http.StatusOK {
		t.Errorf("after refused configurations the old one gives %d", resp.StatusCode)
	}
}

func TestStartRefusesWhatReconfigureRefuses(t *testing.T) {
	p := newProbe(t)
	_, err := Start(t.Context(), Options{
		Declarative:   []byte(`{_format_version: "3.0", plugins: [{name: probe, config: {n: x}}]}`),
		PluginServers: []PluginServer{p.server("log")},
	})
	if err == nil || !strings.Contains(err.Error(), "plugins[1].config.n: expected an integer") {
		t.Error(err)
	}
}

func TestOverrideChangesAConfigurationBeforeItIsChecked(t *testing.T) {
	f := startKong(t, "log", answer("hello"), func(o *Options) {
		o.Override = func(plugin string, config map[string]any) {
			if plugin == probeName {
				config["tag"] = "overridden"
			}
		}
	})
	f.get("/open")
	e := f.probe.next("log")
	if got := e.config("tag"); got != "overridden" {
		t.Errorf("the plugin has the tag %v", got)
	}
	e.end("return")
}

func TestTheProjectsOwnFileIsUnderstood(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "kong.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if e := parseDeclarative(raw, 0); len(e.problems) > 0 || len(e.routes) == 0 || len(e.consumers) == 0 {
		t.Errorf("%d routes, %d consumers, problems %v", len(e.routes), len(e.consumers), e.problems)
	}
}

// The order is Kong's: https://developer.konghq.com/gateway/entities/plugin/#plugin-precedence.
func TestTheMostSpecificConfigurationOfAPluginWins(t *testing.T) {
	f := startKong(t, "log", answer("hello"), func(o *Options) {
		o.Declarative = []byte(`
_format_version: "3.0"
services:
- name: s
  url: http://upstream:8080
  plugins: [{name: probe, config: {tag: service}}]
  routes:
  - {name: plain, paths: [/plain]}
  - {name: own, paths: [/own], plugins: [{name: probe, config: {tag: route}}, {name: key-auth, config: {anonymous: nobody}}]}
- name: other
  url: http://upstream:8080
  routes: [{name: other, paths: [/other]}, {name: off, paths: [/off], plugins: [{name: probe, enabled: false, config: {tag: off}}]}]
consumers:
- {username: alice, keyauth_credentials: [{key: k}]}
- username: nobody
plugins:
- {name: probe, config: {tag: global}}
- {name: probe, route: own, consumer: alice, config: {tag: route and consumer}}
`)
	})
	for path, want := range map[string]string{
		"/plain": "service", "/own": "route", "/own?apikey=k": "route and consumer", "/other": "global", "/nowhere": "global", "/off": "global",
	} {
		f.get(path)
		e := f.probe.next("log")
		if got := e.config("tag"); got != want {
			t.Errorf("%s runs the configuration %q, want %q", path, got, want)
		}
		e.end("return")
	}
}

func TestRoutesAreFoundAndPathsRewrittenAsKongDoes(t *testing.T) {
	e := parseDeclarative([]byte(`
_format_version: "3.0"
services:
- name: plain
  url: http://h
  routes:
  - {name: short, paths: [/a]}
  - {name: long, paths: [/a/b, /a/b/c/]}
  - {name: post, paths: [/a], methods: [POST]}
  - {name: host, paths: [/a], hosts: [api.example.com]}
  - {name: wild, paths: [/w], hosts: ["*.example.com"]}
  - {name: header, paths: [/a], headers: {x-version: [two]}}
  - {name: prefix, paths: [/r/long/prefix]}
  - {name: expression, paths: ['~/r/\d+', '~/r/l']}
  - {name: one, paths: [/w], hosts: [one.example.com]}
- name: based
  url: http://h/base
  routes: [{name: stripped, paths: [/s]}, {name: kept, paths: [/k], strip_path: false}]
- name: slashed
  url: http://h/base/
  routes: [{name: slash, paths: [/t]}]
`), 0)
	if len(e.problems) > 0 {
		t.Fatal(e.problems)
	}
	rt := newRouter(e.routes)
	for _, test := range []struct{ line, host, version, route, upstream string }{
		{"GET /a", "h", "", "short", "/"},
		{"GET /ab", "h", "", "short", "/b"},
		{"GET /a/b/x", "h", "", "long", "/x"},
		{"GET /a/b/c/d", "h", "", "long", "/d"},
		{"POST /a/b", "h", "", "post", "/b"},
		{"GET /a", "API.example.com", "", "host", "/"},
		{"GET /w", "www.example.com", "", "wild", "/"},
		{"GET /w", "example.org", "", "", ""},
		{"GET /a", "h", "Two", "header", "/"},
		{"GET /r/42/x", "h", "", "expression", "/x"},
		{"GET /r/x", "h", "", "", ""},
		{"GET /r/long/prefix", "h", "", "expression", "/ong/prefix"},
		{"GET /w", "one.example.com", "", "one", "/"},
		{"GET /s", "h", "", "stripped", "/base"},
		{"GET /s/", "h", "", "stripped", "/base/"},
		{"GET /s/x%2Fy", "h", "", "stripped", "/base/x%2Fy"},
		{"GET /sx", "h", "", "stripped", "/base/x"},
		{"GET /k/x", "h", "", "kept", "/base/k/x"},
		{"GET /t", "h", "", "slash", "/base"},
		{"GET /t/", "h", "", "slash", "/base/"},
		{"GET /t/x", "h", "", "slash", "/base/x"},
		{"GET /tx", "h", "", "slash", "/base/x"},
	} {
		method, path, _ := strings.Cut(test.line, " ")
		r, err := http.NewRequestWithContext(t.Context(), method, "http://h"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Version", test.version)
		route, upstream := "", ""
		if m := rt.find(r, test.host); m != nil {
			route, upstream = m.route.Name, m.upstreamPath(path)
		}
		if route != test.route || upstream != test.upstream {
			t.Errorf("%s on %s: route %q asks for %q, want %q and %q", test.line, test.host, route, upstream, test.route, test.upstream)
		}
	}
}
