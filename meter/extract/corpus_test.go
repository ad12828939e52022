package extract

import (
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kafka-metering/meter"
)

// corpusDir holds recorded responses with the usage that their providers declared. It is not part of the project.
const corpusDir = "../../../shared/corpus"

type corpusCase struct {
	Name      string
	Provider  string
	API       string
	Truncated bool
	Error     bool
	Request   struct{ Method, URL string }
	Response  struct {
		Status  int
		Headers map[string]string
	}
	Expected  map[string]any
	Ambiguous []string

	body []byte
}

func readCorpus(t *testing.T) []corpusCase {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(corpusDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Skipf("no corpus in %s: the recorded cases are NOT tested", corpusDir)
	}
	var cases []corpusCase
	for _, name := range names {
		var c corpusCase
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.body, err = os.ReadFile(strings.TrimSuffix(name, ".json") + ".body"); err != nil {
			t.Fatal(err)
		}
		cases = append(cases, c)
	}
	return cases
}

func (c *corpusCase) response() *Response {
	u, err := url.Parse(c.Request.URL)
	if err != nil {
		panic(err)
	}
	return &Response{
		Method: c.Request.Method, Host: u.Host, Path: u.RequestURI(), Status: c.Response.Status,
		ContentType: c.Response.Headers["content-type"], ContentEncoding: c.Response.Headers["content-encoding"],
		Body: c.body, Seen: true, Complete: !c.Truncated,
	}
}

// supported are the APIs whose cases must be exact.
var supported = map[string]bool{"chat_completions": true, "messages": true, "generate_content": true}

// corpusMembers are the corpus's names of our quantities where they differ.
var corpusMembers = map[string]meter.Quantity{
	"tool_use_prompt_tokens":     meter.ToolUseInputTokens,
	"accepted_prediction_tokens": meter.AcceptedPredictionOutputTokens,
	"rejected_prediction_tokens": meter.RejectedPredictionOutputTokens,
}

// differences compares a result with what a case expects, on every unambiguous member that we have.
func (c *corpusCase) differences(llm *meter.LLM) (compared int, differences []string) {
	quantities := map[string]meter.Quantity{}
	for _, q := range meter.Quantities() {
		quantities[q.String()] = q
	}
	for name, q := range corpusMembers {
		quantities[name] = q
	}
	ambiguous := map[string]bool{}
	for _, name := range c.Ambiguous {
		ambiguous[name] = true
	}
	for name, want := range c.Expected {
		if name == "model" {
			compared++
			if model, _ := want.(string); llm.Model != model {
				differences = append(differences, "model: got "+llm.Model+", want "+model)
			}
			continue
		}
		q, ok := quantities[name]
		if !ok || strings.HasPrefix(name, "iterations_") || ambiguous[name] {
			continue
		}
		compared++
		got, declared := llm.Usage.Get(q)
		number, wanted := want.(float64)
		if declared != wanted || declared && float64(got) != number {
			differences = append(differences, name+": got "+show(got, declared)+", want "+show(int64(number), wanted))
		}
	}
	return compared, differences
}

func show(n int64, declared bool) string {
	if !declared {
		return "none"
	}
	b, _ := json.Marshal(n)
	return string(b)
}

func TestEveryCorpusCaseOfASupportedAPIIsExact(t *testing.T) {
	outcomes := map[string]int{}
	exact, compared, members := 0, 0, 0
	for _, c := range readCorpus(t) {
		llm, err := Extract(c.response())
		if errors.Is(err, ErrNotLLM) && supported[c.API] {
			t.Errorf("%s: not recognised", c.Name)
		}
		n, differences := c.differences(&llm)
		if !supported[c.API] {
			// Formats to come: no number may be false.
			if !llm.Usage.Empty() && len(differences) > 0 {
				t.Errorf("%s: false usage: %v", c.Name, differences)
			}
			if err == nil {
				outcomes["beyond the supported APIs, by shape"]++
			}
			continue
		}
		compared++
		members += n
		if len(differences) > 0 {
			t.Errorf("%s: %v (%v)", c.Name, differences, err)
			continue
		}
		exact++
		if err != nil {
			outcomes[err.Error()]++
		} else {
			outcomes[string(llm.UsageStatus)]++
		}
		if err == nil && c.Truncated != (llm.UsageStatus == meter.UsagePartial) {
			t.Errorf("%s: status %s of a body that was truncated: %v", c.Name, llm.UsageStatus, c.Truncated)
		}
	}
	t.Logf("exact: %d of %d cases, %d members compared; outcomes: %v", exact, compared, members, outcomes)
}
