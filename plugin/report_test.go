package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"kafka-metering/plugin/devkong"
)

// TestTailAndReportReadWhatTheServerPublished publishes in both of CloudEvents' modes, and reads it with the commands.
func TestTailAndReportReadWhatTheServerPublished(t *testing.T) {
	const exchanges = 50
	for _, mode := range []string{formatStructured, formatBinary} {
		t.Run(mode, func(t *testing.T) {
			x, broker := newExchanges(t), startBroker(t)
			s := startServer(t)
			kong := devkong.NewWorkers(1, devkong.WorkersOptions{})
			defer kong.Close()
			conf := s.configuration(broker, `{"meter_ai_token_usage":false,"meter_ai_calls":false,"format":"`+mode+`"}`)
			for id := range exchanges {
				if err := kong.Worker(0).Log(t.Context(), conf, x.exchange(id)); err != nil {
					t.Fatal(err)
				}
			}
			s.awaitPublished()
			out, err := exec.Command(s.path, "report", "-brokers", broker, "-by", "route_name,status", "-format", "json").Output()
			if err != nil {
				t.Fatal(err)
			}
			row := gjson.ParseBytes(bytes.TrimSpace(out))
			if row.Get("event_type").Str != "kong.api_request" || row.Get("total").Num != exchanges || row.Get("subject").Str != "cust-42" || row.Get("by").Str != "auth, 200" {
				t.Errorf("the report is\n%s", out)
			}
			outside, err := exec.Command(s.path, "report", "-brokers", broker, "-from", "2026-11-24").CombinedOutput()
			if err != nil || !strings.Contains(string(outside), "50 outside the time") {
				t.Errorf("%v\n%s", err, outside)
			}
			for name, args := range map[string][]string{"lines": nil, "json": {"-json", "-type", "kong.api_request", "-subject", "cust-42"}} {
				cmd := exec.Command(s.path, append([]string{"tail", "-brokers", broker}, args...)...)
				var got syncBuffer
				cmd.Stdout, cmd.Stderr = &got, &got
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				for deadline := time.Now().Add(10 * time.Second); strings.Count(got.String(), "\n") < exchanges && time.Now().Before(deadline); {
					pause(t)
				}
				_ = cmd.Process.Signal(syscall.SIGINT)
				if err := cmd.Wait(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if n := strings.Count(got.String(), "\n"); n != exchanges {
					t.Errorf("%s: %d lines, want %d\n%s", name, n, exchanges, got.String())
				}
				if first, _, _ := strings.Cut(got.String(), "\n"); name == "json" && (gjson.Get(first, "specversion").Str != "1.0" || gjson.Get(first, "data.status").Int() != 200) {
					t.Errorf("as JSON: %s", first)
				}
			}
		})
	}
}

// TestTwoMeaningsOfOnePropertyAreAnError has two configurations of one file that declare it in two ways.
func TestTwoMeaningsOfOnePropertyAreAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kong.yml")
	text := `{_format_version: "3.0", services: [
		{name: a, url: http://a, plugins: [{name: kafka-metering, config: {meters: [{slug: a, aggregation: SUM, value: response.size}]}}]},
		{name: b, url: http://b, plugins: [{name: kafka-metering, config: {meters: [{slug: b, aggregation: MAX, value: response.size}]}}]}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(executable(t, t.TempDir()), "report", "-brokers", "127.0.0.1:1", "-meters", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is declared as SUM and as MAX") {
		t.Errorf("%v: %s", err, out)
	}
}
