package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/twmb/franz-go/pkg/kfake"

	"kafka-metering/meter/relay"
	"kafka-metering/plugin/devkong"
)

// secretMark is in every planted secret, and nowhere else.
const secretMark = "pl4nted"

// plantedExchange is an LLM call with secrets wherever a client or an upstream may put them.
func plantedExchange(t *testing.T, id int) *devkong.Exchange {
	t.Helper()
	archive, err := txtar.ParseFile(filepath.Join("..", "testdata", "exchange", "openai_chat.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	var log map[string]any
	if err := json.Unmarshal(archive.Files[0].Data, &log); err != nil {
		t.Fatal(err)
	}
	request, response := log["request"].(map[string]any), log["response"].(map[string]any)
	request["id"] = requestID(id)
	for _, name := range []string{"authorization", "cookie", "x-api-key", "apikey", "x-goog-api-key"} {
		request["headers"].(map[string]any)[name] = secretMark + "-" + name
	}
	response["headers"].(map[string]any)["set-cookie"] = secretMark + "-session"
	request["querystring"] = map[string]any{"key": secretMark + "-key"}
	for _, name := range []string{"uri", "url"} {
		request[name] = request[name].(string) + "?key=" + secretMark + "-key"
	}
	log["upstream_uri"] = log["upstream_uri"].(string) + "?key=" + secretMark + "-key"
	raw, err := json.Marshal(log)
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Replace(archive.Files[1].Data, []byte(`"content":`), []byte(`"prompt":"`+secretMark+`-prompt","content":`), 1)
	return &devkong.Exchange{Log: raw, Body: body, Buffered: true}
}

// TestPlantedSecretsGetNowhere plants secrets in the configuration and in exchanges, and looks for them in everything that the
// process writes: the topic, the spool, what it keeps for simulate, its log, its metrics and its page. The brokers refuse the
// password first, so that there are errors to be told.
func TestPlantedSecretsGetNowhere(t *testing.T) {
	refusing, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, defaultTopic), kfake.EnableSASL(), kfake.Superuser("PLAIN", "kong", "another"))
	if err != nil {
		t.Fatal(err)
	}
	defer refusing.Close()
	broker := startBroker(t)
	s := startServer(t)
	kong := devkong.NewWorkers(1, devkong.WorkersOptions{})
	defer kong.Close()
	const failing = `{"slug":"fails","aggregation":"SUM","value":"timestamp(request.headers['x-api-key']) == timestamp(request.headers.cookie) ? 1 : 2"}`
	refused := s.configuration(refusing.ListenAddrs()[0], `{"authentication":{"strategy":"sasl","mechanism":"PLAIN","user":"kong","password":"`+secretMark+`-password"},"meters":[`+failing+`]}`)
	taken := s.configuration(broker, `{"record":true,"meters":[`+failing+`]}`)
	for id := range 20 {
		for i, conf := range []*devkong.Configuration{refused, taken} {
			if err := kong.Worker(0).Log(t.Context(), conf, plantedExchange(t, 2*id+i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	await(t, "the password is refused", func() bool { return s.metric("kong_meter_relay_failures_consecutive") > 0 })
	await(t, "the observations are kept", func() bool { return s.metric(`kong_meter_observations_total{result="kept"}`) > 0 })
	if n := s.metric("kong_meter_expressions_failed_total"); n == 0 {
		t.Error("no expression has failed over a secret")
	}
	found := 0
	look := func(where string, text []byte) {
		t.Helper()
		found += len(text)
		if i := bytes.Index(text, []byte(secretMark)); i >= 0 {
			t.Errorf("%s holds a secret: …%s…", where, text[max(0, i-60):min(len(text), i+60)])
		}
	}
	look("the status page", []byte(httpGet(t, "http://"+s.metrics+"/")))
	look("the metrics", []byte(httpGet(t, "http://"+s.metrics+"/metrics")))
	events := 0
	if err := relay.ReadAll(t.Context(), relay.Settings{Brokers: []string{broker}}, defaultTopic, func(m relay.Message) {
		events++
		look("the topic", m.Value)
		look("a key", m.Key)
		for _, h := range m.Headers {
			look("a header", h.Value)
		}
	}); err != nil {
		t.Fatal(err)
	}
	s.kill() // what it wrote can be read now
	look("the log", s.output.Bytes())
	files := 0
	if err := filepath.WalkDir(s.prefix, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Base(path) == pluginName {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		look(strings.TrimPrefix(path, s.prefix), b)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(s.output.Bytes(), []byte("a meter could not be applied")); n != 1 {
		t.Errorf("the log says %d times that a meter fails", n)
	}
	if events == 0 || files < 3 || found < 10_000 || !bytes.Contains(s.output.Bytes(), []byte("kong")) {
		t.Errorf("%d events, %d files and %d bytes were looked at", events, files, found)
	}
}

// TestFilesAreOpenToTheirOwnerAlone looks at the modes of everything that a server makes.
func TestFilesAreOpenToTheirOwnerAlone(t *testing.T) {
	broker := startBroker(t)
	before := syscall.Umask(0) // with which Kong starts its plugin servers
	s := startServer(t)
	syscall.Umask(before)
	kong := devkong.NewWorkers(1, devkong.WorkersOptions{})
	defer kong.Close()
	if err := kong.Worker(0).Log(t.Context(), s.configuration(broker, `{"record":true}`), plantedExchange(t, 1)); err != nil {
		t.Fatal(err)
	}
	await(t, "the observation is kept", func() bool { return s.metric(`kong_meter_observations_total{result="kept"}`) > 0 })
	seen := 0
	if err := filepath.WalkDir(filepath.Join(s.prefix, pluginName+".spool"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		seen++
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if seen < 4 {
		t.Errorf("%d files", seen)
	}
	for path, want := range map[string]fs.FileMode{filepath.Join(s.prefix, laneSocket): 0o660, s.socket(): 0o770} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
}
