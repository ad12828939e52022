package main

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
)

// doctorRun runs the command and returns its lines, as "verdict check", with their texts, and the exit status.
func doctorRun(t *testing.T, path string, args ...string) (lines []string, texts string, status int) {
	t.Helper()
	cmd := exec.Command(path, append([]string{"doctor", "-format", "json"}, args...)...)
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	var results []struct{ Check, Verdict, Text string }
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, r := range results {
		if r.Check != "clock" { // this machine's
			lines = append(lines, r.Verdict+" "+r.Check)
			texts += r.Text + "\n"
		}
	}
	return lines, texts, cmd.ProcessState.ExitCode()
}

// TestDoctor looks at a server and a broker that are well, and at some that are not.
func TestDoctor(t *testing.T) {
	s := startServer(t)
	address := startBroker(t)
	handler, err := filepath.Abs(filepath.Join("lua", "kong", "plugins", pluginName, "handler.lua"))
	if err != nil {
		t.Fatal(err)
	}
	spools := filepath.Join(s.prefix, pluginName+".spool")
	if err := os.MkdirAll(spools, 0o700); err != nil {
		t.Fatal(err)
	}
	well := []string{"-brokers", address, "-kong-prefix", s.prefix, "-spool-dir", spools, "-lua", handler}
	lines, texts, status := doctorRun(t, s.path, append(well, "-dead-letter-topic", defaultTopic)...)
	if diff := cmp.Diff(0, status); diff != "" || strings.Contains(strings.Join(lines, "\n"), "problem") || !strings.Contains(texts, "version "+version) {
		t.Errorf("status %d\n%s\n%s", status, strings.Join(lines, "\n"), texts)
	}
	for _, want := range []string{"ok broker", "ok topic", "ok dead letters", "ok spool", "ok plugin socket", "ok lane socket", "ok Lua front"} {
		if !strings.Contains(strings.Join(lines, "\n"), want) && !strings.Contains(strings.Join(lines, "\n"), strings.Replace(want, "ok", "warning", 1)) {
			t.Errorf("no line %q:\n%s", want, strings.Join(lines, "\n"))
		}
	}
	// A topic that is not there, a spool that is none, a server that does not run.
	missing := filepath.Join(t.TempDir(), "nothing")
	lines, texts, status = doctorRun(t, s.path, "-brokers", address, "-topic", "not.there", "-kong-prefix", missing, "-spool-dir", missing, "-lua", missing)
	want := []string{"ok broker", "problem topic", "warning dead letters", "problem spool", "problem plugin socket", "problem lane socket", "warning Lua front"}
	if diff := cmp.Diff(want, lines); diff != "" || status != 1 {
		t.Errorf("status %d\n%s\n%s", status, diff, texts)
	}
	if !strings.Contains(texts, "create it, or set the topic") {
		t.Error(texts)
	}
	// Nobody listens.
	lines, _, status = doctorRun(t, s.path, "-brokers", freeAddress(t), "-spool-dir", spools, "-lua", missing)
	if diff := cmp.Diff([]string{"problem broker", "ok spool"}, lines); diff != "" || status != 1 {
		t.Error(status, diff)
	}
	// The spool is in Kong's prefix, where the server keeps it unless it is told otherwise.
	if lines, _, _ = doctorRun(t, s.path, "-brokers", address, "-kong-prefix", s.prefix); !slices.Contains(lines, "ok spool") {
		t.Errorf("the prefix's spool is not looked at: %v", lines)
	}
	// It is nowhere, and that is said.
	if lines, texts, _ = doctorRun(t, s.path, "-brokers", address, "-kong-prefix", missing); !slices.Contains(lines, "warning spool") || !strings.Contains(texts, "-spool-dir") {
		t.Errorf("that no spool is looked at is not said: %v", lines)
	}
}

// TestDoctorLooksAtCertificates asks brokers with TLS.
func TestDoctorLooksAtCertificates(t *testing.T) {
	path := executable(t, t.TempDir())
	web := httptest.NewUnstartedServer(nil) // for its certificate, which names 127.0.0.1
	web.StartTLS()
	defer web.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, defaultTopic), kfake.TLS(&tls.Config{Certificates: web.TLS.Certificates}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	address := c.ListenAddrs()[0]
	lines, texts, _ := doctorRun(t, path, "-brokers", address, "-tls", "-ca", ca)
	if !strings.HasPrefix(strings.Join(lines, "\n"), "ok broker\nok topic") || !strings.Contains(texts, "is good until 2") {
		t.Errorf("%s\n%s", strings.Join(lines, "\n"), texts)
	}
	lines, texts, status := doctorRun(t, path, "-brokers", address, "-tls")
	if status != 1 || lines[0] != "problem broker" || !strings.Contains(texts, "TLS does not come about") {
		t.Errorf("status %d\n%s", status, texts)
	}
}
