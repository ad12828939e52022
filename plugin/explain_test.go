package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/tidwall/gjson"
	"go.yaml.in/yaml/v3"

	"kafka-metering/plugin/devkong"
)

// TestExplain runs the command on every archive of testdata/explain: kong.yml, log.json, body.json (optional), want.txt.
func TestExplain(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", "explain", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatal("no archives", err)
	}
	path := executable(t, t.TempDir())
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir, want := t.TempDir(), -1
			args := []string{"explain", "-node", "node", "-config", "kong.yml"}
			for i, f := range archive.Files {
				if f.Name == "want.txt" {
					want = i
					continue
				}
				if f.Name == "body.json" {
					args = append(args, "-body", f.Name)
				}
				if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(path, append(args, "log.json")...)
			cmd.Dir = dir
			got, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, got)
			}
			if *update {
				archive.Files[want].Data = got
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(archive.Files[want].Data), string(got)); diff != "" {
				t.Error(diff)
			}
			cmd = exec.Command(path, append(append(args, "-format", "json"), "log.json")...)
			cmd.Dir = dir
			if got, err = cmd.CombinedOutput(); err != nil || !json.Valid(got) {
				t.Errorf("as JSON: %v\n%s", err, got)
			}
		})
	}
}

// TestWhatWasKeptIsExplainedAndSimulated has a real server keep observations, and asks the commands about them.
func TestWhatWasKeptIsExplainedAndSimulated(t *testing.T) {
	const exchanges = 100
	x, broker := newExchanges(t), startBroker(t)
	s := startServer(t)
	kong := devkong.NewWorkers(1, devkong.WorkersOptions{})
	defer kong.Close()
	conf := s.configuration(broker, `{"meter_ai_token_usage":false,"meter_ai_calls":false,"record":true}`)
	for id := range exchanges {
		if err := kong.Worker(0).Log(t.Context(), conf, x.exchange(id)); err != nil {
			t.Fatal(err)
		}
	}
	s.awaitPublished()
	for deadline := time.Now().Add(10 * time.Second); s.metric(`kong_meter_observations_total{result="kept"}`) < exchanges; pause(t) {
		if time.Now().After(deadline) {
			t.Fatal("the observations are not kept")
		}
	}
	observations := filepath.Join(s.prefix, pluginName+".spool", recordedDir)
	files, _ := filepath.Glob(filepath.Join(observations, "*"))
	for _, file := range append(files, observations) {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may read %s: %v", file, info.Mode())
		}
	}
	configuration := func(name, meters string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(`{"meter_ai_token_usage":false,"meter_ai_calls":false,"meters":[`+meters+`]}`), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	before := configuration("old.yml", "")
	after := configuration("new.yml", `{"slug":"egress","event_type":"acme.egress","aggregation":"SUM","value":"response.size * 2","value_property":"bytes"},`+
		`{"slug":"customers","event_type":"acme.egress","aggregation":"UNIQUE_COUNT","value":"consumer.id","value_property":"customer"}`)
	out, err := exec.Command(s.path, "simulate", "-old", before, "-new", after, "-format", "json", observations).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range bytes.Lines(out) {
		r := gjson.ParseBytes(line)
		got[r.Get("meter").Str+" "+r.Get("property").Str+" "+r.Get("subject").Str] = r.Get("old").Raw + " → " + r.Get("new").Raw
	}
	want := map[string]string{
		"kong.api_request value cust-42": "100 → 100", "acme.egress bytes cust-42": " → 100000", "acme.egress customer cust-42": " → 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	explained, err := exec.Command(s.path, "explain", "-config", after, "-request", requestID(7), observations).CombinedOutput()
	if err != nil || !strings.Contains(string(explained), `"id":"`+requestID(7)+`/acme.egress"`) {
		t.Errorf("%v\n%s", err, explained)
	}
	table, err := exec.Command(s.path, "simulate", "-old", before, "-new", after, "-by", "route_name", observations).CombinedOutput()
	if err != nil || !strings.Contains(string(table), "100 exchanges; old: 100 events; new: 200 events") || !strings.Contains(string(table), "+100000") {
		t.Errorf("%v\n%s", err, table)
	}
}

// TestTheBuiltInMetersAreMetersThatAUserCouldHaveWritten declares what explain -meters prints, without the built-in ones: the
// events of every exchange of testdata/exchange stay the same to the byte.
func TestTheBuiltInMetersAreMetersThatAUserCouldHaveWritten(t *testing.T) {
	printed, err := exec.Command(executable(t, t.TempDir()), "explain", "-meters").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	declared := map[string]any{"meter_api_requests": false, "meter_ai_token_usage": false, "meter_ai_calls": false}
	if err := yaml.Unmarshal(printed, declared); err != nil {
		t.Fatal(err)
	}
	if meters, _ := declared["meters"].([]any); len(meters) != 3 {
		t.Fatalf("%d meters\n%s", len(meters), printed)
	}
	config, err := json.Marshal(declared)
	if err != nil {
		t.Fatal(err)
	}
	records := func(config, log, body []byte) (all []string) {
		e, err := newEvaluator(config, "")
		if err != nil {
			t.Fatal(err)
		}
		o, err := e.Observe(log, body)
		if err != nil {
			t.Fatal(err)
		}
		records, _ := e.Records(o)
		for _, r := range records {
			all = append(all, string(r.Value))
		}
		return all
	}
	files, err := filepath.Glob(filepath.Join("..", "testdata", "exchange", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatal("no archives", err)
	}
	events := 0
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var log, body []byte
		for _, f := range archive.Files {
			switch {
			case f.Name == "serialize.json":
				log = bytes.TrimSpace(f.Data)
			case strings.HasPrefix(f.Name, "response."):
				body = f.Data
			}
		}
		builtIn := records([]byte("{}"), log, body)
		events += len(builtIn)
		if diff := cmp.Diff(builtIn, records(config, log, body)); diff != "" {
			t.Errorf("%s (-built in +declared)\n%s", file, diff)
		}
	}
	if events < 2*len(files) {
		t.Errorf("only %d events", events)
	}
}

// TestASimulationShowsBothConfigurationsSideBySide computes four exchanges of two customers, one of them kept twice, at two prices.
func TestASimulationShowsBothConfigurationsSideBySide(t *testing.T) {
	path, dir := executable(t, t.TempDir()), t.TempDir()
	observation := func(id, customer string, size int) string {
		return fmt.Sprintf(`{"request":{"id":%q,"method":"GET"},"response":{"status":200,"size":%d},"consumer":{"custom_id":%q},"started_at":1795428218594,`+
			`"outcome":"completed","subject":"x","capture":{"mode":"none"}}`+"\n", id, size, customer)
	}
	files := map[string]string{
		"kept.jsonl": observation("1", "a", 100) + observation("2", "a", 200) + observation("2", "a", 200) + observation("3", "b", 500) + observation("4", "b", 0),
		"old.yml":    "{meter_api_requests: false, meters: [{slug: egress, event_type: e, aggregation: SUM, value: response.size * 0.0000001, value_property: usd}]}",
		"new.yml": `
meter_api_requests: false
meters:
- {slug: egress, event_type: e, aggregation: SUM, value: response.size * 0.00000012, value_property: usd, filter: response.size > 0}
- {slug: largest, event_type: m, aggregation: MAX, value: response.size, filter: response.size > 300}`,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		cmd := exec.Command(path, append(append([]string{"simulate"}, args...), "kept.jsonl")...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	want := `EVENT TYPE  WHAT       CUSTOMER  OLD      NEW       DIFFERENCE
e           sum usd    a         0.00003  0.000036  +0.000006 (+20.0 %)
e           sum usd    b         0.00005  0.00006   +0.00001 (+20.0 %)
e           sum usd    all       0.00008  0.000096  +0.000016 (+20.0 %)
m           max value  b         –        500       +500
4 exchanges; old: 4 events; new: 4 events; 1 were kept twice and count once
`
	if diff := cmp.Diff(want, run("-old", "old.yml", "-new", "new.yml")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	want = `event_type,property,aggregation,subject,request_method,old,new,difference
e,usd,SUM,a,,0.00003,0.000036,0.000006
e,usd,SUM,b,,0.00005,0.00006,0.00001
m,value,MAX,b,,,500,500
`
	if got := run("-old", "old.yml", "-new", "new.yml", "-format", "csv", "-by", "request_method"); !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := run("-new", "new.yml", "-format", "csv"); !strings.Contains(got, "\ne,usd,SUM,a,,,0.000036,\n") {
		t.Errorf("without an old configuration there is a difference:\n%s", got)
	}
}

// TestTheLuaFrontsObservationsAreWhole keeps what a real nginx hands over: all of Kong's log, whatever the meters read, and no
// secret.
func TestTheLuaFrontsObservationsAreWhole(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	n := startNginx(t, s, 1, &frontUpstream{}, s.configuration(broker, `{"record":true,"meter_api_requests":false}`).Config)
	c := frontCases["document"]
	c.request(t, "document", n.Front)
	await(t, "the observation is kept", func() bool { return s.metric(`kong_meter_observations_total{result="kept"}`) == 1 })
	n.quit()
	files, _ := filepath.Glob(filepath.Join(s.prefix, pluginName+".spool", recordedDir, "*"))
	if len(files) != 1 {
		t.Fatal(files)
	}
	document, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"request.headers.x-team": "research", "request.headers.authorization": "REDACTED", "request.headers.apikey": "REDACTED",
		"request.querystring.case": "document", "llm.usage_status": "final", "capture.mode": "tap", "outcome": "completed", "client_ip": "127.0.0.1",
	} {
		if got := gjson.GetBytes(document, path).String(); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if bytes.Contains(document, []byte("planted")) {
		t.Errorf("a secret is kept: %s", document)
	}
}

func TestObservationsTakeNoMoreThanTheirRoom(t *testing.T) {
	p := testProcess(t)
	now := time.UnixMilli(1795428230123)
	r := &recorder{dir: t.TempDir(), pid: 7, now: func() time.Time { return now }, log: p.log, kept: p.ledger.observationsKept, dropped: p.ledger.observationsDropped}
	old := filepath.Join(r.dir, "2026-11-01T00-1-00001.jsonl")
	for _, path := range []string{old, filepath.Join(r.dir, "2026-11-22T00-1-00001.jsonl"), filepath.Join(r.dir, "2026-11-22T01-1-00001.jsonl")} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, recordedBytes*2/3); err != nil {
			t.Fatal(err)
		}
		at := now
		if path == old {
			at = now.Add(-recordedAge - time.Second)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.append([][]byte{[]byte(`{"a":1}`), []byte(`{"a":2}`)}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	if err := r.append([][]byte{[]byte(`{"a":3}`)}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"2026-11-22T01-1-00001.jsonl", "2026-11-23T10-7-00001.jsonl", "2026-11-23T11-7-00002.jsonl"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	b, err := os.ReadFile(filepath.Join(r.dir, want[1]))
	if err != nil || string(b) != "{\"a\":1}\n{\"a\":2}\n" {
		t.Errorf("%q %v", b, err)
	}
}

// FuzzConfiguration compiles any configuration and evaluates an exchange: no panic, and what comes of it is JSON.
func FuzzConfiguration(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"meters":[{"slug":"a","aggregation":"SUM","value":"body.rows * 2","filter":"has(body.rows)","group_by":{"x":"lower(route.name)"}}]}`,
		`{"meters":[{"slug":"a","aggregation":"COUNT","for_each":"body.list","group_by":{"x":"each.sku"}}],"attributes":[{"source":"header","look_up_value_in":"x","event_property_name":"y"}]}`,
		`{"meter_ai_calls":false,"subject":{"sources":[{"look_up_value_in":"header","field":"x"}],"on_missing":"drop"},"format":"cloudevents_binary"}`,
	} {
		f.Add([]byte(seed))
	}
	log, err := os.ReadFile(filepath.Join("..", "testdata", "serialize", "authenticated.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		p := testProcess(t)
		c := newConfig(p)
		if err := c.UnmarshalJSON(config); err != nil {
			t.Fatal("Kong would see a plugin that does not start", err)
		}
		in, _ := p.compile(c)
		e := evaluator{in}
		o, err := e.Observe(bytes.TrimSpace(log), []byte(`{"rows":3,"list":[{"sku":"a"},{"sku":1}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`))
		if err != nil {
			t.Fatal(err)
		}
		records, _ := e.Records(o)
		for _, r := range records {
			if !json.Valid(r.Value) {
				t.Errorf("no JSON: %s", r.Value)
			}
		}
	})
}
