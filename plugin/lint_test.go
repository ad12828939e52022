package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"kafka-metering/plugin/lint"
)

// TestLint lints the file of each archive of testdata/lint and compares with its want.txt.
func TestLint(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", "lint", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatal("no archives", err)
	}
	rules := map[lint.Rule]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			findings := lint.File(archive.Files[0].Name, archive.Files[0].Data, check)
			for _, f := range findings {
				rules[f.Rule] = true
			}
			var got bytes.Buffer
			if err := lint.WriteText(&got, findings); err != nil {
				t.Fatal(err)
			}
			if *update {
				archive.Files[1].Data = got.Bytes()
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(archive.Files[1].Data), got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, r := range lint.Rules {
		if !rules[r.Rule] && r.Rule != lint.RuleNone {
			t.Errorf("no archive has a finding of the rule %s", r.Rule)
		}
	}
}

// TestTheProjectsOwnFilesLintClean runs the command, and then on a file that is not clean.
func TestTheProjectsOwnFilesLintClean(t *testing.T) {
	path := executable(t, t.TempDir())
	run := func(args ...string) (string, int) {
		cmd := exec.Command(path, append([]string{"lint"}, args...)...)
		cmd.Dir = ".."
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, code := run("-strict", "kong.yml", filepath.Join("docs", "recipes.yml")); code != 0 {
		t.Errorf("status %d\n%s", code, out)
	}
	archive, err := txtar.ParseFile(filepath.Join("..", "testdata", "lint", "everything.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "kong.yml")
	if err := os.WriteFile(bad, archive.Files[0].Data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := run(bad); code != 1 || !strings.Contains(out, bad+":12:") {
		t.Errorf("status %d\n%s", code, out)
	}
	if out, code := run("-format", "xml", bad); code == 0 {
		t.Errorf("status %d\n%s", code, out)
	}
	if out, code := run(filepath.Join(t.TempDir(), "missing.yml")); code != 1 {
		t.Errorf("status %d\n%s", code, out)
	}
}

// TestFindingsAsSARIF checks the members that code hosts read (SARIF 2.1.0, sections 3.13 to 3.27).
func TestFindingsAsSARIF(t *testing.T) {
	archive, err := txtar.ParseFile(filepath.Join("..", "testdata", "lint", "everything.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	findings := lint.File("kong.yml", archive.Files[0].Data, check)
	var b bytes.Buffer
	if err := lint.WriteSARIF(&b, version, findings); err != nil {
		t.Fatal(err)
	}
	var log struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct {
					Name  string
					Rules []struct{ ID string }
				}
			}
			Results []struct {
				RuleID, Level string
				Message       struct{ Text string }
				Locations     []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           struct{ StartLine, StartColumn int }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(b.Bytes(), &log); err != nil {
		t.Fatal(err)
	}
	run := log.Runs[0]
	if log.Version != "2.1.0" || run.Tool.Driver.Name == "" || len(run.Results) != len(findings) {
		t.Fatalf("version %q, %d results of %d", log.Version, len(run.Results), len(findings))
	}
	for i, r := range run.Results {
		known := slices.ContainsFunc(run.Tool.Driver.Rules, func(rule struct{ ID string }) bool { return rule.ID == r.RuleID })
		at := r.Locations[0].PhysicalLocation
		if !known || r.Level != string(findings[i].Severity) || r.Message.Text != findings[i].Message ||
			at.ArtifactLocation.URI != "kong.yml" || at.Region.StartLine != findings[i].Line || at.Region.StartColumn != findings[i].Column {
			t.Errorf("%+v is not %+v", r, findings[i])
		}
	}
}

// FuzzLint lints any file: no panic, and every finding has a place in it.
func FuzzLint(f *testing.F) {
	files, _ := filepath.Glob(filepath.Join("..", "testdata", "lint", "*.txtar"))
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(archive.Files[0].Data)
	}
	f.Add([]byte("_format_version: '3.0'\nplugins: [&a {name: kafka-metering, config: {<<: *a}}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		for _, finding := range lint.File("f", data, check) {
			if finding.Line < 1 || finding.Column < 1 || finding.Message == "" || finding.Rule == "" {
				t.Errorf("%+v", finding)
			}
		}
	})
}
