package extract

import (
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
	cases := recorded(t)
	if len(cases) == 0 {
		t.Skipf("no corpus in %s: the recorded cases are NOT tested", corpusDir)
	}
	return cases
}

// recorded reads all cases, of which there are none without the corpus.
func recorded(t *testing.T) (cases []corpusCase) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(corpusDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
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
		Body: c.body, Seen: true, Complete: !c.Truncated, Stored: true,
		Header: func(name string) string { return c.Response.Headers[name] },
	}
}

// corpusMembers are the corpus's names of our quantities where they differ.
var corpusMembers = map[string]meter.Quantity{
	"tool_use_prompt_tokens":     meter.ToolUseInputTokens,
	"accepted_prediction_tokens": meter.AcceptedPredictionOutputTokens,
	"rejected_prediction_tokens": meter.RejectedPredictionOutputTokens,
	"num_sources_used":           meter.SourcesUsed,
	"num_server_side_tools_used": meter.ServerToolsUsed,
	"responses":                  meter.Answers,
	"lines":                      meter.Answers,
}

// differences compares a result with what a case expects, on every unambiguous member that we have.
func (c *corpusCase) differences(llm *meter.LLM) (compared int, differences []string) {
	quantities := map[string]meter.Quantity{}
	for _, q := range meter.Quantities() {
		quantities[q.String()] = q
	}
	maps.Copy(quantities, corpusMembers)
	ambiguous := map[string]bool{}
	for _, name := range c.Ambiguous {
		ambiguous[name] = true
	}
	amounts := map[string]meter.Amount{}
	for _, a := range meter.Amounts() {
		amounts[a.String()] = a
	}
	for name, want := range c.Expected {
		if ambiguous[name] {
			continue
		}
		compared++
		number, wanted := want.(float64)
		got, declared := 0.0, false
		if q, ok := quantities[name]; ok {
			n, d := llm.Usage.Get(q)
			got, declared = float64(n), d
		} else if a, ok := amounts[name]; ok {
			got, declared = llm.Usage.Amount(a)
		} else if name == "declared_count" {
			n, d := c.counted()
			got, declared = float64(n), d
		} else if name == "model" {
			if model, _ := want.(string); llm.Model != model {
				differences = append(differences, "model: got "+llm.Model+", want "+model)
			}
			continue
		} else {
			differences = append(differences, name+": no such member")
			continue
		}
		if declared != wanted || declared && got != number {
			differences = append(differences, name+": got "+show(got, declared)+", want "+show(number, wanted))
		}
	}
	return compared, differences
}

// counted reads a case of a counting endpoint.
func (c *corpusCase) counted() (int64, bool) {
	r := c.response()
	reader := NewReader(r)
	if _, err := reader.Write(r.Body); err != nil {
		return 0, false
	}
	if _, err := reader.Close(r.Complete); !errors.Is(err, ErrNotLLM) {
		return 0, false
	}
	return reader.Counted()
}

func show(n float64, declared bool) string {
	if !declared {
		return "none"
	}
	b, _ := json.Marshal(n)
	return string(b)
}

func TestEveryCorpusCaseIsExact(t *testing.T) {
	outcomes := map[string]int{}
	exact, members := 0, 0
	cases := readCorpus(t)
	for _, c := range cases {
		llm, err := Extract(c.response())
		n, differences := c.differences(&llm)
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
	t.Logf("exact: %d of %d cases, %d members compared; outcomes: %v", exact, len(cases), members, outcomes)
}

func TestEveryCorpusCaseIsTheSameInPieces(t *testing.T) {
	for _, c := range readCorpus(t) {
		r := c.response()
		want := reportOf(Extract(r))
		random := rand.New(rand.NewPCG(1, uint64(len(r.Body))))
		for range 5 {
			reader := NewReader(r)
			for rest := r.Body; len(rest) > 0; {
				n := 1 + random.IntN(min(len(rest), 1<<random.IntN(16)))
				if _, err := reader.Write(rest[:n]); err != nil {
					break
				}
				rest = rest[n:]
			}
			if diff := cmp.Diff(want, reportOf(reader.Close(r.Complete))); diff != "" {
				t.Errorf("%s: %s", c.Name, diff)
			}
		}
	}
}

// The shape of a body tells its API without host, path or content type, but for answers that have none of their own: usage
// in headers alone, counts, and what declares nothing but a price.
func TestNearlyEveryCorpusCaseIsExactByItsShapeAlone(t *testing.T) {
	cases := readCorpus(t)
	exact, declared := 0, 0
	for _, c := range cases {
		r := c.response()
		known := *r
		r.Method, r.Host, r.Path, r.ContentType, r.Header = "POST", "", "", "", nil
		llm, err := Extract(r)
		whole, _ := Extract(&known)
		if whole.Usage.Empty() {
			if !llm.Usage.Empty() {
				t.Errorf("%s: false usage %v", c.Name, reportOf(llm, err).Usage)
			}
			continue
		}
		declared++
		if diff := cmp.Diff(reportOf(whole, nil).Usage, reportOf(llm, nil).Usage); diff != "" {
			t.Logf("%s: %s", c.Name, diff)
			continue
		}
		exact++
	}
	t.Logf("exact by shape: %d of %d that declare usage", exact, declared)
	if exact*100 < declared*98 {
		t.Errorf("only %d of %d are exact by shape", exact, declared)
	}
}
