package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// withFile is a process that was started with -config and this file.
func withFile(t *testing.T, text string) *process {
	t.Helper()
	p := testProcess(t)
	path := filepath.Join(t.TempDir(), "kafka-metering.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.readFile(path)
	return p
}

// parsed is a configuration as Kong sends it.
func parsed(t *testing.T, p *process, text string) *Config {
	t.Helper()
	c := newConfig(p)
	if err := json.Unmarshal([]byte(text), c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnInstanceWithoutBrokersUsesTheConnectionOfTheProcessAsAWhole(t *testing.T) {
	p := withFile(t, `
bootstrap_servers: [{host: kafka-1}, {host: kafka-2, port: 9093}]
topic: metering
cluster_name: prod-eu
node: kong-7
spool_dir: /var/lib/kafka-metering
security: {ssl: true}
queue: {max_batch_size: 7}
`)
	if len(p.problems) > 0 {
		t.Fatal(p.problems)
	}
	c, shared, err := p.connection(parsed(t, p, `{"timeout":1234,"topic":"other"}`))
	if err != nil || !shared {
		t.Fatal(shared, err)
	}
	if len(c.BootstrapServers) != 2 || c.BootstrapServers[0].Host != "kafka-1" || !c.Security.SSL || c.Queue.MaxBatchSize != 7 {
		t.Errorf("not the process's connection: %+v", c)
	}
	if c.Timeout == 1234 {
		t.Error("the timeout is the instance's: a connection is used as a whole")
	}
	if c.Topic != "other" || c.ClusterName != "prod-eu" {
		t.Errorf("topic %q, cluster %q", c.Topic, c.ClusterName)
	}
	if p.node != "kong-7" || p.spoolDir != "/var/lib/kafka-metering" {
		t.Errorf("node %q, spool %q", p.node, p.spoolDir)
	}
	own, shared, err := p.connection(parsed(t, p, `{"bootstrap_servers":[{"host":"mine","port":9092}],"timeout":1234}`))
	if err != nil || shared || own.Timeout != 1234 || own.Security.SSL || own.BootstrapServers[0].Host != "mine" {
		t.Errorf("shared %v, %v: %+v", shared, err, own)
	}
}

func TestEveryProblemOfTheProcessFileIsReportedAndTheRestCounts(t *testing.T) {
	p := withFile(t, `
bootstrap_servers: [{host: kafka}, {host: "kafka:9092"}]
topic: 7
cluster_name: prod/eu
brokers: kafka
meters: []
node: a/b
keepalive: fast
timeout: 1
queue: {max_bytes: 5, max_batch_size: 7}
authentication: {strategy: sasl, mechanism: PLAIN, user: metering, password: "{vault://env/kafka-password}"}
`)
	_, _, err := p.connection(parsed(t, p, `{}`))
	if err == nil {
		t.Fatal("no problem is reported")
	}
	for _, want := range []string{
		"topic: expected a string", "cluster_name: must be up to 255 letters", "brokers: unknown field", `unknown field "meters"`, "node: must be",
		"keepalive: expected an integer", "timeout: value should be between", "queue.max_bytes: value should be between",
		"bootstrap_servers[2].host: must be one host name", "authentication.password: references to vaults",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not reported: %s\n%v", want, err)
		}
	}
	f, d := p.file, defaultConnection()
	if len(f.BootstrapServers) != 2 || f.Queue.MaxBatchSize != 7 || f.Authentication.User != "metering" {
		t.Error("what is right in the file does not count")
	}
	if f.Topic != "" || f.ClusterName != "" || p.node == "a/b" || f.Timeout != d.Timeout || f.Queue.MaxBytes != d.Queue.MaxBytes {
		t.Error("what is wrong in the file counts")
	}
	if missing := testProcess(t); true {
		missing.readFile("no such file")
		if _, _, err := missing.connection(parsed(t, missing, `{}`)); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("a file that is not there: %v", err)
		}
	}
}

func TestInstancesWithOneConnectionShareASpoolAndTheNewestDecides(t *testing.T) {
	p := testProcess(t)
	const servers = `"bootstrap_servers":[{"host":"127.0.0.1","port":1}]`
	first := p.newInstance(parsed(t, p, `{`+servers+`,"__seq__":1,"queue":{"max_batch_size":1}}`))
	second := p.newInstance(parsed(t, p, `{`+servers+`,"__seq__":3,"queue":{"max_batch_size":3},"topic":"other"}`))
	late := p.newInstance(parsed(t, p, `{`+servers+`,"__seq__":2,"queue":{"max_batch_size":2}}`))
	elsewhere := p.newInstance(parsed(t, p, `{"bootstrap_servers":[{"host":"127.0.0.1","port":2}],"__seq__":4}`))
	t.Cleanup(func() {
		for _, l := range p.running() {
			l.stop()
			l.running.Wait()
			_ = l.spool.Close()
		}
	})
	if first.sink != second.sink || second.sink != late.sink || second.sink == elsewhere.sink {
		t.Error("a connection has one pipeline, another connection another")
	}
	if got := first.sink.(*pipeline).settings.MaxBatchRecords; got != 3 {
		t.Errorf("settings of the instance with %d are in force, want those of the newest", got)
	}
}

// TestPluginsThatShareAConnectionAndWantItOtherwiseAreTold has a plugin whose bound and TLS another one undoes, which neither could
// see from its own configuration.
func TestPluginsThatShareAConnectionAndWantItOtherwiseAreTold(t *testing.T) {
	p := testProcess(t)
	t.Cleanup(func() { _ = p.close(t.Context()) })
	start := func(plugin string, seq int, settings string) string {
		return p.newInstance(parsed(t, p, fmt.Sprintf(`{"bootstrap_servers":[{"host":"127.0.0.1","port":1}],"__plugin_id":%q,"__seq__":%d%s}`, plugin, seq, settings))).problems
	}
	for _, step := range []struct {
		plugin, settings string
		seq              int
		want             string
	}{
		{"a", ``, 2, ""},
		{"b", `,"topic":"of.b","cluster_name":"of-b"`, 3, ""}, // are not the connection's
		{"c", `,"queue":{"max_bytes":1048576},"security":{"ssl":true}`, 4, "security, queue: plugin a has"},
		{"c", `,"queue":{"max_bytes":1048576},"security":{"ssl":true}`, 4, "security, queue: plugin a has"}, // by another worker
		{"a", ``, 1, "security, queue: plugin c has"},                                                       // older, and so not in force
		{"c", ``, 5, ""},
		{"c", `,"queue":{"max_bytes":1048576}`, 6, ""}, // its own change
		{"a", ``, 7, "queue: plugin c has"},
		{"c", ``, 8, ""},
		{"a", ``, 9, ""}, // they have been set alike
	} {
		if got := start(step.plugin, step.seq, step.settings); !strings.Contains(got, step.want) || step.want == "" && got != "" {
			t.Errorf("plugin %s with %q is told %q, want %q", step.plugin, step.settings, got, step.want)
		}
	}
}

// TestAProcessThatOutlivesKongTakesTheSettingsOfTheNextOne starts Kong anew, whose configurations begin with number 1 again.
func TestAProcessThatOutlivesKongTakesTheSettingsOfTheNextOne(t *testing.T) {
	p := testProcess(t)
	pid := filepath.Join(p.prefix, "pids", "nginx.pid")
	if err := os.Mkdir(filepath.Dir(pid), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.close(t.Context()) })
	start := func(at time.Time) {
		t.Helper()
		if err := os.WriteFile(pid, []byte("1\n"), 0o600); err != nil { // in a container it is always 1
			t.Fatal(err)
		}
		if err := os.Chtimes(pid, at, at); err != nil {
			t.Fatal(err)
		}
	}
	set := func(seq, batch int, meters string) int {
		t.Helper()
		in := p.newInstance(parsed(t, p, fmt.Sprintf(
			`{"bootstrap_servers":[{"host":"127.0.0.1","port":1}],"__plugin_id":"p","__seq__":%d,"queue":{"max_batch_size":%d},"meters":[%s]}`, seq, batch, meters)))
		l := in.sink.(*pipeline)
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.settings.MaxBatchRecords
	}
	const wrong = `{"slug":"a","aggregation":"SUM","value":"1 +"}`
	start(time.UnixMilli(1795428217000))
	if set(7, 70, wrong); set(5, 50, "") != 70 || len(p.book.all()) != 1 {
		t.Error("an older worker's configuration is in force")
	}
	start(time.UnixMilli(1795428299000))
	if got := set(1, 10, ""); got != 10 || len(p.book.all()) != 0 {
		t.Errorf("batches of %d, %d problems: those of the Kong before", got, len(p.book.all()))
	}
}

func TestSpoolsOfConnectionsThatAreGoneAreCounted(t *testing.T) {
	p := testProcess(t)
	for _, dir := range []string{"kafka-0a1b2c3d", "empty-0a1b2c3d"} {
		if err := os.MkdirAll(filepath.Join(p.spoolDir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(p.spoolDir, "kafka-0a1b2c3d", "x.spool"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := p.orphans(); !slices.Equal(got, []string{"kafka-0a1b2c3d"}) {
		t.Error(got)
	}
}

func TestCommandsReadTheConnectionOfTheProcessFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kafka-metering.yml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("bootstrap_servers: [{host: kafka-1}]\ntopic: acme.events\nspool_dir: /var/lib/spool\ndead_letter_topic: dead\nsecurity: {ssl: true}\n" +
		"authentication: {strategy: sasl, mechanism: PLAIN, user: metering, password: secret}\n")
	settings, topic, dir, err := readConnection(path)
	if err != nil || dir != "/var/lib/spool" || topic != "acme.events" {
		t.Error(topic, dir, err)
	}
	if !slices.Equal(settings.Brokers, []string{"kafka-1:9092"}) || settings.Password != "secret" || settings.TLS == nil || settings.DeadLetterTopic != "dead" {
		t.Errorf("%+v", settings)
	}
	write("spool_dir: /x\n")
	if _, _, _, err := readConnection(path); err == nil || !strings.Contains(err.Error(), "bootstrap_servers") {
		t.Error("a file without brokers:", err)
	}
	if _, _, _, err := readConnection(path + ".missing"); err == nil {
		t.Error("a file that is not there")
	}
}

// TestMetricsAreServedWhenTheProcessBeforeHasLetGoOfTheAddress has two processes for a while, as kong reload has.
func TestMetricsAreServedWhenTheProcessBeforeHasLetGoOfTheAddress(t *testing.T) {
	before, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := before.Addr().String()
	p := testProcess(t)
	if err := p.listen(address); err == nil || !strings.Contains(err.Error(), "tried again") {
		t.Errorf("listening twice: %v", err)
	}
	before.Close()
	await(t, "the metrics are there", func() bool {
		response, err := http.Get("http://" + address + "/healthz") //nolint:noctx // a test's
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	if err := p.listen("no address"); err == nil || strings.Contains(err.Error(), "tried again") {
		t.Errorf("listening nowhere: %v", err)
	}
}

func TestADiskThatDoesNotAnswerKeepsNoProcessFromEnding(t *testing.T) {
	p, _ := laneProcess(t)
	stuck := newPipeline(p, filepath.Join(p.spoolDir, "stuck"))
	stuck.mu.Lock() // as while the disk does not answer
	p.pipelines["stuck"] = stuck
	err := p.end(time.Millisecond, 10*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "has not answered") {
		t.Error(err)
	}
	stuck.mu.Unlock()
	if err := p.end(time.Minute, time.Minute); err != nil {
		t.Errorf("a disk that answers: %v", err)
	}
}

func TestADiskInTroubleIsReportedBesideTheConfigurationsProblems(t *testing.T) {
	p := testProcess(t)
	in, _ := testInstance(t, p, `{}`)
	l := newPipeline(p, p.spoolDir)
	in.sink = l
	now := time.UnixMilli(1795428217000)
	for _, step := range []struct{ problems, alarm, want string }{
		{"", "", ""}, {"a typo", "", "a typo"}, {"", "no disk", "no disk"}, {"a typo", "no disk", "a typo; no disk"},
	} {
		in.problems = step.problems
		l.alarm.Store(nil)
		if step.alarm != "" {
			l.alarm.Store(&step.alarm)
		}
		now = now.Add(2 * reportInterval)
		if got := in.problemsDue(now); got != step.want {
			t.Errorf("%+v: %q", step, got)
		}
		if got := in.problemsDue(now); got != "" {
			t.Errorf("%+v is reported twice at once: %q", step, got)
		}
	}
}
