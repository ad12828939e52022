package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	recordedChat = `{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},` +
		`"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`
	recordedStream = `data: {"id":"c","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"index":0,"delta":{"content":"The quick"}}]}` + "\n\n"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// extractLines runs the command and returns its lines by file.
func extractLines(t *testing.T, in string, args ...string) (lines map[string]map[string]any, errs string) {
	t.Helper()
	var out, complaints bytes.Buffer
	if err := runExtract(args, strings.NewReader(in), &out, &complaints); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, &complaints)
	}
	lines = map[string]map[string]any{}
	for line := range strings.Lines(out.String()) {
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		lines[l["file"].(string)] = l
	}
	return lines, complaints.String()
}

func TestExtractReadsABodyWithTheDescriptionBesideIt(t *testing.T) {
	dir := t.TempDir()
	body := write(t, dir, "a.body", recordedChat)
	write(t, dir, "a.json", `{"request":{"method":"POST","url":"https://api.openai.com/v1/chat/completions"},
		"response":{"status":200,"headers":{"Content-Type":"application/json"}}}`)
	lines, _ := extractLines(t, "", body)
	want := map[string]any{
		"file": body, "provider": "openai", "api": "chat_completions", "operation": "chat", "model": "m", "stream": false,
		"input_tokens": 3.0, "output_tokens": 4.0, "total_tokens": 7.0, "finish_reason": "stop", "response_id": "c",
		"usage_status": "final", "usage_source": "body",
	}
	if diff := cmp.Diff(want, lines[body]); diff != "" {
		t.Error(diff)
	}
}

func TestExtractReadsStandardInputByItsShape(t *testing.T) {
	lines, _ := extractLines(t, recordedChat)
	if got := lines["-"]; got["input_tokens"] != 3.0 || got["usage_status"] != "final" {
		t.Errorf("got %v", got)
	}
}

func TestExtractTakesTheURLOfABodyWithoutADescription(t *testing.T) {
	lines, _ := extractLines(t, `{"text":"x"}`, "-url", "https://api.groq.com/openai/v1/audio/transcriptions", "-")
	if got := lines["-"]; got["provider"] != "groq" || got["api"] != "audio_transcriptions" || got["usage_status"] != "missing" {
		t.Errorf("got %v", got)
	}
}

func TestExtractReadsEachBodyOnceHoweverItIsNamed(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		write(t, dir, fmt.Sprintf("%d.body", i), recordedChat)
		write(t, dir, fmt.Sprintf("%d.json", i), `{"response":{"status":200}}`)
	}
	write(t, dir, "README.md", "no body")
	all, err := filepath.Glob(filepath.Join(dir, "[0-9]*"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, "0.body"), filepath.Join(dir, "1.body"), filepath.Join(dir, "2.body")}
	for _, args := range [][]string{{dir}, all, append(all, dir)} {
		lines, errs := extractLines(t, "", args...)
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(lines))); diff != "" {
			t.Error(diff)
		}
		if !strings.Contains(errs, "3 files: usage final 3, partial 0, estimated 0, missing 0") {
			t.Errorf("the summary is %q", errs)
		}
	}
}

func TestExtractExplainsWhichRuleReadWhatWhere(t *testing.T) {
	lines, _ := extractLines(t, recordedChat, "-explain")
	got, _ := lines["-"]["explain"].([]any)
	want := []any{
		"message 1: shape at object = chat.completion*: chat_completions",
		"message 1: input_tokens at usage.prompt_tokens: 3",
		"message 1: output_tokens at usage.completion_tokens: 4",
		"message 1: total_tokens at usage.total_tokens: 7",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestExtractEstimatesOnlyWhenAsked(t *testing.T) {
	lines, _ := extractLines(t, recordedStream)
	if got := lines["-"]; got["usage_status"] != "missing" || got["output_tokens"] != nil {
		t.Errorf("not asked: got %v", got)
	}
	lines, _ = extractLines(t, recordedStream, "-estimate")
	if got := lines["-"]; got["usage_status"] != "estimated" || got["output_tokens"] != 2.0 || got["tokenizer"] != "o200k_base" {
		t.Errorf("asked: got %v", got)
	}
}

func TestExtractSaysOfACutBodyThatItsUsageIsPartial(t *testing.T) {
	dir := t.TempDir()
	body := write(t, dir, "a.body", `data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}`+"\n\n")
	write(t, dir, "a.json", `{"truncated":true}`)
	lines, _ := extractLines(t, "", body)
	if got := lines[body]; got["usage_status"] != "partial" || got["input_tokens"] != 3.0 {
		t.Errorf("got %v", got)
	}
}

func TestExtractGoesOnBehindAFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	body := write(t, dir, "a.body", recordedChat)
	bad := write(t, dir, "b.body", recordedChat)
	write(t, dir, "b.json", "{")
	var out, errs bytes.Buffer
	err := runExtract([]string{filepath.Join(dir, "none"), bad, body}, nil, &out, &errs)
	if err == nil || err.Error() != "2 of 3 files could not be read" {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(out.String(), body) || !strings.Contains(errs.String(), "none") || !strings.Contains(errs.String(), "b.json") {
		t.Errorf("got\n%s\n%s", &out, &errs)
	}
	if got := strings.Count(out.String(), "\n"); got != 3 || strings.Count(out.String(), `"error":"read `) != 2 {
		t.Errorf("got %d lines, want one for each file, two of them with an error:\n%s", got, &out)
	}
}

func TestExtractDoesNotReadStandardInputForADirectoryWithoutBodies(t *testing.T) {
	dir := t.TempDir()
	var out, errs bytes.Buffer
	err := runExtract([]string{dir}, strings.NewReader(recordedChat), &out, &errs)
	if err == nil || !strings.Contains(out.String(), "is a directory") {
		t.Errorf("got %v\n%s", err, &out)
	}
}

func TestExtractReadsHeadersThatAreLists(t *testing.T) {
	dir := t.TempDir()
	body := write(t, dir, "a.body", `[{"generated_text":"x"}]`)
	write(t, dir, "a.json", `{"response":{"headers":{"X-Prompt-Tokens":["12"],"X-Generated-Tokens":"5","Age":3,"Via":null,"Etag":{}}}}`)
	lines, _ := extractLines(t, "", body)
	if got := lines[body]; got["input_tokens"] != 12.0 || got["output_tokens"] != 5.0 {
		t.Errorf("got %v", got)
	}
}

func TestExtractRefusesWrongUse(t *testing.T) {
	var out, errs bytes.Buffer
	if err := runExtract([]string{"-url", "nowhere"}, nil, &out, &errs); err == nil || !strings.Contains(err.Error(), `"nowhere" is no URL`) {
		t.Errorf("got %v", err)
	}
	if err := runExtract([]string{"-wrong"}, nil, &out, &errs); !errors.Is(err, errUsage) {
		t.Errorf("got %v", err)
	}
	if err := runExtract([]string{"-h"}, nil, &out, &errs); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "-explain") {
		t.Errorf("got %v and %s", err, &out)
	}
}

// The command, from files to lines, on every case of a collection of recorded responses that is no part of the project.
func TestExtractIsExactOnTheCorpus(t *testing.T) {
	const dir = "../../../shared/corpus"
	descriptions, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(descriptions) == 0 {
		t.Skipf("no corpus in %s: the recorded cases are NOT tested", dir)
	}
	lines, _ := extractLines(t, "", dir)
	for _, name := range descriptions {
		var c struct {
			Expected  map[string]any
			Ambiguous []string
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		line := lines[strings.TrimSuffix(name, ".json")+".body"]
		for member, want := range c.Expected {
			if got := line[member]; got != want && !slices.Contains(c.Ambiguous, member) {
				t.Errorf("%s: %s: got %v, want %v", name, member, got, want)
			}
		}
	}
}
