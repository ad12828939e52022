package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// tryCommand is `kafka-metering try` in the project's directory.
func tryCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(executable(t, t.TempDir()), append([]string{"try"}, args...)...)
	cmd.Dir = ".."
	return cmd
}

func TestTryEndsWithTotalsThatAreEqual(t *testing.T) {
	for _, front := range []string{"lua", "pdk"} {
		t.Run(front, func(t *testing.T) { testTry(t, front) })
	}
}

func testTry(t *testing.T, front string) {
	t.Helper()
	cmd := tryCommand(t, "-front", front)
	far := filepath.Join(t.TempDir(), strings.Repeat("far", 40)) // too far down for a unix socket
	if err := os.Mkdir(far, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "TMPDIR="+far)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"Equal, call by call and to the token.", "kong.llm_usage", "usage missing", "upstream_error", "401 rejected",
		"404 rejected", "acme.traffic", "department=research", "streamed", "cache_read tokens", "cache_write tokens",
	} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("the output does not have %q:\n%s", want, out)
		}
	}
	stream := regexp.MustCompile(`A stream of \S+: its client had the events after ([\d ]+) ms\.`).FindSubmatch(out)
	if stream == nil {
		t.Fatalf("the output shows no stream:\n%s", out)
	}
	times := strings.Fields(string(stream[1]))
	if moments := len(slices.Compact(slices.Clone(times))); front == "lua" && moments < len(times)/2 {
		t.Errorf("the stream's %d events came at %d moments: %s", len(times), moments, times)
	}
}

// TestTryLeavesNothingBehind ends it in the middle: by Ctrl-C, and by nobody reading its output any more.
func TestTryLeavesNothingBehind(t *testing.T) {
	for _, ending := range []string{"interrupt", "broken pipe"} {
		t.Run(ending, func(t *testing.T) {
			cmd := tryCommand(t)
			dir, err := os.MkdirTemp("", "try") //nolint:usetesting // its path is too long for a unix socket
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			cmd.Env = append(os.Environ(), "TMPDIR="+dir)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			if _, err := io.ReadFull(out, make([]byte, 40)); err != nil { // it runs
				t.Fatal(err)
			}
			if ending == "interrupt" {
				if err := cmd.Process.Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, out)
			} else {
				out.Close()
			}
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("it ended with %v", err)
			}
			if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
				t.Errorf("it left %v %v", left, err)
			}
		})
	}
}

func TestTryServesUntilItIsInterrupted(t *testing.T) {
	address := freeAddress(t)
	cmd := tryCommand(t, "-serve", "-listen", address)
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	awaitOutput := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !strings.Contains(out.String(), want); pause(t) {
			if time.Now().After(deadline) {
				t.Fatalf("%q is not printed:\n%s", want, out.String())
			}
		}
	}
	awaitOutput("Ctrl-C ends it")
	request, err := http.NewRequest(http.MethodPost, "http://"+address+"/openai/v1/chat/completions", strings.NewReader(`{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Apikey", "acme-key")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s %v: %s", response.Status, err, body)
	}
	awaitOutput("kong.llm_usage")
	_, line, _ := strings.Cut(out.String(), "in another terminal:")
	line, _, _ = strings.Cut(strings.TrimSpace(line), "\n")
	explain := exec.Command("/bin/sh", "-c", line)
	explain.Dir = cmd.Dir
	host, _ := os.Hostname()
	text, err := explain.CombinedOutput()
	for _, want := range []string{"POST /openai/v1/chat/completions, answered 200: completed", `"source":"/kong/demo/` + host + `","type":"kong.llm_usage"`} {
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v, and there is no %s in\n%s", line, err, want, text)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "Totals, read back from the topic") {
		t.Errorf("no totals:\n%s", out.String())
	}
}

func TestTryExplainsAFileThatItCannotUse(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, test := range map[string]struct{ file, want string }{
		"missing":        {filepath.Join(dir, "missing.yml"), "name a file with -f"},
		"no YAML":        {write("bad.yml", "a: [b"), "yaml"},
		"no plugin":      {write("none.yml", "_format_version: \"3.0\"\n"), "enabled nowhere"},
		"a wrong field":  {write("field.yml", "_format_version: \"3.0\"\nplugins: [{name: kafka-metering, config: {topics: x}}]\n"), "topics: unknown field"},
		"a wrong number": {write("number.yml", "_format_version: \"3.0\"\nplugins: [{name: kafka-metering, config: {timeout: 1}}]\n"), "timeout: value should be between 100 and 600000"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := tryCommand(t, "-f", test.file).CombinedOutput()
			failed := (*exec.ExitError)(nil)
			if !errors.As(err, &failed) || failed.ExitCode() != 1 || !bytes.Contains(out, []byte(test.want)) {
				t.Errorf("%v, want exit status 1 and %q:\n%s", err, test.want, out)
			}
		})
	}
}
