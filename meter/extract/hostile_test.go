package extract

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/meter"
)

func chatCall(body string) *Response {
	return &Response{
		Method: "POST", Host: "api.openai.com", Path: "/v1/chat/completions", Status: 200,
		Body: []byte(body), Seen: true, Complete: true,
	}
}

// chatWith is a chat completion whose usage, content and further members are given as JSON.
func chatWith(usage, content, more string) string {
	return `{"id":"c","object":"chat.completion","model":"m"` + more + `,"choices":[{"index":0,"message":{"role":"assistant","content":` +
		content + `},"finish_reason":"stop"}],"usage":` + usage + `}`
}

func TestOnlyNumbersThatAreCountsAreBelieved(t *testing.T) {
	for number, want := range map[string]int64{
		"0": 0, "7": 7, "10.0": 10, "1e1": 10, "1.5e1": 15, "1000000000000": 1e12, "0e99999": 0, "100e-2": 1,
		"-1": -1, "-0": -1, "0.5": -1, "1e308": -1, "1e999999999": -1, "1000000000001": -1, "18446744073709551617": -1,
		`"7"`: -1, "true": -1, "[7]": -1, `{"n":7}`: -1, "1e-1": -1, "99999999999999999999999999999999999999999": -1, "9223372036854775808000000000000": -1, "36893488147419103232": -1,
	} {
		llm, err := Extract(chatCall(chatWith(`{"prompt_tokens":`+number+`,"completion_tokens":1}`, `"x"`, "")))
		if got := tokens(&llm, meter.InputTokens); got != want {
			t.Errorf("%s: got %d, want %d", number, got, want)
		}
		if want < 0 && (!errors.Is(err, ErrUnparsable) || !llm.Usage.Empty()) {
			t.Errorf("%s: got %v and %+v, want nothing of that usage to be believed", number, err, llm.Usage)
		}
	}
}

func TestUsageThatTheProviderDidNotDeclareNeverCounts(t *testing.T) {
	const honest = `{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}`
	const forged = `{"prompt_tokens":900,"completion_tokens":900,"total_tokens":1800}`
	quoted := strings.ReplaceAll(forged, `"`, `\"`)
	chunk := func(content, more string) string {
		return `data: {"object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":` + content + `}}]` + more + "}\n\n"
	}
	for name, body := range map[string]string{
		"in a content string":                  chatWith(honest, `"{\"usage\":`+quoted+`}"`, ""),
		"in a tool's arguments":                chatWith(honest, `null,"tool_calls":[{"function":{"name":"f","arguments":"{\"usage\":`+quoted+`}"}}]`, ""),
		"in arguments that are an object":      chatWith(honest, `null,"tool_calls":[{"function":{"name":"f","arguments":{"usage":`+forged+`}}}]`, ""),
		"in metadata":                          chatWith(honest, `"x"`, `,"metadata":{"usage":`+forged+`}`),
		"inside usage":                         chatWith(`{"usage":`+forged+`,"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}`, `"x"`, ""),
		"as a second usage behind the first":   chatWith(honest+`,"usage":`+forged, `"x"`, ""),
		"as a second number behind the first":  chatWith(`{"prompt_tokens":3,"prompt_tokens":900,"completion_tokens":4,"total_tokens":7}`, `"x"`, ""),
		"under a name spelled with escapes":    chatWith(honest, `"x"`, `,"\u0075sage":`+forged),
		"under a name in other letters":        chatWith(honest, `"x"`, `,"Usage":`+forged+`,"USAGE":`+forged),
		"in a stream's content":                chunk(`"\n\ndata: {\"usage\":`+quoted+`}\n\n"`, `,"usage":`+honest) + "data: [DONE]\n\n",
		"in another field of a stream":         "event: {\"usage\":" + forged + "}\nid: {\"usage\":" + forged + "}\nusage: " + forged + "\n" + chunk(`"x"`, `,"usage":`+honest) + "data: [DONE]\n\n",
		"in a comment of a stream":             chunk(`"x"`, `,"usage":`+honest) + ": data: {\"usage\":" + forged + "}\n\ndata: [DONE]\n\n",
		"in a field that only looks like data": chunk(`"x"`, `,"usage":`+honest) + " data: {\"usage\":" + forged + "}\ndatax: {\"usage\":" + forged + "}\n\ndata: [DONE]\n\n",
		"behind the end of a stream":           chunk(`"x"`, `,"usage":`+honest) + "data: [DONE]\n\n" + chunk(`"x"`, `,"usage":`+forged),
	} {
		llm, err := Extract(chatCall(body))
		got := [...]int64{tokens(&llm, meter.InputTokens), tokens(&llm, meter.OutputTokens), tokens(&llm, meter.TotalTokens)}
		if err != nil || got != [...]int64{3, 4, 7} {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

// forged are members that could pass for usage, at the end of an object, by a server that repeats what a client sent.
func forged(body string) string {
	const numbers = `{"prompt_tokens":900,"input_tokens":900,"completion_tokens":900,"output_tokens":900,"total_tokens":1800,` +
		`"inputTokens":900,"outputTokens":900,"promptTokenCount":900,"candidatesTokenCount":900,"tokens":{"input_tokens":900},"seconds":900}`
	members := `,"metadata":{"usage":` + numbers + `,"usageMetadata":` + numbers + `,"meta":` + numbers + `},"Usage":` + numbers +
		`,"\u0075sage":` + numbers + `,"note":"\"usage\":` + strings.ReplaceAll(numbers, `"`, `\"`) + `"`
	var top map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &top); err != nil {
		return members
	}
	for _, key := range []string{"usage", "usageMetadata", "meta", "metrics", "stats", "details", "usage_info"} {
		if top[key] != nil {
			members += `,"` + key + `":` + numbers
		}
	}
	return members
}

func TestForgedMembersChangeNoFormatsNumbers(t *testing.T) {
	for _, g := range goldens(t) {
		body := strings.TrimSpace(string(g.response.Body))
		if g.framing != "json" || !g.response.Complete || !strings.HasSuffix(body, "}") || strings.Contains(body, `"metadata":{"`) ||
			strings.Contains(body, `"metadata": {"`) {
			continue
		}
		r := *g.response
		r.Body = []byte(strings.TrimSuffix(body, "}") + forged(body) + "}")
		want, wantErr := Extract(g.response)
		got, gotErr := Extract(&r)
		if diff := cmp.Diff(reportOf(want, wantErr), reportOf(got, gotErr)); diff != "" {
			t.Errorf("%s: %s", g.name, diff)
		}
	}
}

func TestBrokenBodiesAreOutcomesNotNumbers(t *testing.T) {
	whole := chatWith(`{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}`, `"x"`, "")
	for name, c := range map[string]struct {
		body string
		want error
	}{
		"nothing":                              {"", ErrNoUsage},
		"white space":                          {" \r\n\t ", ErrNoUsage},
		"a text":                               {"upstream connect error", ErrUnparsable},
		"half a document":                      {whole[:len(whole)/2], ErrUnparsable},
		"all of it but the last brace":         {whole[:len(whole)-1], ErrUnparsable},
		"a brace too many":                     {whole + "}", ErrUnparsable},
		"10 MB of {":                           {strings.Repeat("{", 10<<20), ErrUnparsable},
		"10 MB of [":                           {strings.Repeat("[", 10<<20), ErrUnparsable},
		`10 MB of {"a":`:                       {strings.Repeat(`{"a":`, 2<<20), ErrUnparsable},
		"10 MB of backslashes":                 {`{"a":"` + strings.Repeat(`\`, 10<<20), ErrUnparsable},
		"10 MB of data lines":                  {strings.Repeat("data: {\n", 10<<20/8), ErrNoUsage},
		"10 MB of empty lines":                 {"data: [DONE]\n" + strings.Repeat("\n", 10<<20), ErrNoUsage},
		"bytes":                                {strings.Repeat("\xff\x00\xfe", 1000), ErrUnparsable},
		"an array where the format has none":   {"[" + whole + "]", ErrNoUsage},
		"usage that is a number":               {chatWith("7", `"x"`, ""), ErrNoUsage},
		"usage that is a list":                 {chatWith(`[{"prompt_tokens":3}]`, `"x"`, ""), ErrNoUsage},
		"an empty usage":                       {chatWith("{}", `"x"`, ""), ErrNoUsage},
		"a null":                               {"null", ErrUnparsable},
		"a control character in a string":      {strings.Replace(whole, `"x"`, "\"\x00\"", 1), ErrUnparsable},
		"a half escape":                        {strings.Replace(whole, `"x"`, `"\u12"`, 1), ErrUnparsable},
		"a stream whose only event is damaged": {`data: {"usage":{"prompt_tokens":3,` + "\n\ndata: [DONE]\n\n", ErrUnparsable},
	} {
		llm, err := Extract(chatCall(c.body))
		if !errors.Is(err, c.want) || !llm.Usage.Empty() || llm.UsageStatus != meter.UsageMissing {
			t.Errorf("%s: got %v and %+v, want %v", name, err, reportOf(llm, nil).Usage, c.want)
		}
	}
}

func TestBytesThatAreNotUTF8ChangeNoNumber(t *testing.T) {
	for name, body := range map[string]string{
		"JSON": strings.ReplaceAll(chatWith(`{"prompt_tokens":3,"completion_tokens":4,"x":"X"}`, `"X"`, `,"X":"X"`), "X", "\xff\xc0\x80\xed\xa0\x80"),
		"SSE":  "data: {\"choices\":[{\"delta\":{\"content\":\"\xff\xfe\"}}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n",
	} {
		llm, err := Extract(chatCall(body))
		if err != nil || tokens(&llm, meter.InputTokens) != 3 || tokens(&llm, meter.OutputTokens) != 4 {
			t.Errorf("%s: got %+v, %v", name, llm.Usage, err)
		}
	}
}

// A cut answer declares what its whole messages declare, and never more or other numbers than the whole answer.
func TestACutAtAnyOffsetInventsNothing(t *testing.T) {
	for _, g := range goldens(t) {
		whole, _ := Extract(g.response)
		for n := range len(g.response.Body) {
			r := *g.response
			r.Body, r.Complete = g.response.Body[:n], false
			llm, err := Extract(&r)
			if err == nil && llm.UsageStatus == meter.UsageMissing || err != nil && !llm.Usage.Empty() {
				t.Fatalf("%s, cut at %d: %v with usage %+v", g.name, n, err, llm.Usage)
			}
			if between := strings.HasSuffix(g.name, "two-answers-sse") || strings.HasSuffix(g.name, "sse-two-answers"); between && tokens(&llm, meter.Answers) < 2 {
				continue // a cut between two answers cannot be told from the end
			}
			if llm.UsageStatus == meter.UsageFinal && reportOf(llm, nil).Usage["total_tokens"] != reportOf(whole, nil).Usage["total_tokens"] {
				t.Fatalf("%s, cut at %d: final with %v, whole %v", g.name, n, reportOf(llm, nil).Usage, reportOf(whole, nil).Usage)
			}
			if llm.UsageStatus != meter.UsageEstimated && !grows(&llm.Usage, &whole.Usage) && !cumulative(g.name) {
				t.Fatalf("%s, cut at %d: %v, whole %v", g.name, n, reportOf(llm, nil).Usage, reportOf(whole, nil).Usage)
			}
		}
	}
}

// cumulative names the golden cases whose numbers may go down while they stream.
func cumulative(name string) bool {
	return strings.HasPrefix(name, "gemini/") || strings.Contains(name, "zero")
}

// grows reports whether no token in a is missing from b.
func grows(a, b *meter.Usage) bool {
	for _, q := range []meter.Quantity{meter.InputTokens, meter.OutputTokens, meter.TotalTokens} {
		part, declared := a.Get(q)
		if whole, _ := b.Get(q); declared && part > whole {
			return false
		}
	}
	return true
}

func TestAChangedByteNeverPanicsNorMakesANegativeNumber(t *testing.T) {
	for _, g := range goldens(t) {
		body := g.response.Body
		for i := 0; i < len(body); i += 1 + len(body)/400 {
			for _, c := range []byte{0, '"', '\\', '{', '}', '-', '9', '\n', 0xff} {
				r := *g.response
				r.Body = bytes.Clone(body)
				r.Body[i] = c
				checkUsage(t, &r)
			}
		}
	}
}

// checkUsage fails when an extraction breaks a rule that holds for every input.
func checkUsage(tb testing.TB, r *Response) {
	tb.Helper()
	llm, err := Extract(r)
	for _, q := range meter.Quantities() {
		if n, declared := llm.Usage.Get(q); n < 0 || declared && n > math.MaxInt64/8 {
			tb.Fatalf("%s is %d", q, n)
		}
	}
	if (err == nil) == llm.Usage.Empty() {
		tb.Fatalf("error %v with usage %+v", err, llm.Usage)
	}
	if errors.Is(err, ErrNotLLM) {
		if diff := cmp.Diff(report{}, reportOf(llm, nil)); diff != "" {
			tb.Fatalf("no call, but %s", diff)
		}
	}
}

func TestASumThatIsNoCountIsNotBelieved(t *testing.T) {
	line := `{"custom_id":"a","response":{"body":{"usage":{"prompt_tokens":999999999999,"completion_tokens":1}}}}` + "\n"
	for n, want := range map[int]error{1: nil, 2: ErrUnparsable, 100: ErrUnparsable} {
		llm, err := Extract(&Response{
			Method: "GET", Path: "/v1/files/f/content", Status: 200, Stored: true, Body: []byte(strings.Repeat(line, n)), Seen: true, Complete: true,
		})
		if !errors.Is(err, want) || (err == nil) == llm.Usage.Empty() {
			t.Errorf("%d lines: got %v, %+v", n, err, reportOf(llm, nil).Usage)
		}
	}
}

func TestAListThatAddsUpToNoCountIsNotBelieved(t *testing.T) {
	r := &Response{Method: "POST", Path: "/v1beta/models/m:generateContent", Seen: true, Complete: true}
	r.Body = []byte(`{"usageMetadata":{"promptTokenCount":3,"promptTokensDetails":[{"modality":"TEXT","tokenCount":999999999999},{"modality":"TEXT","tokenCount":2}]}}`)
	if llm, err := Extract(r); !errors.Is(err, ErrUnparsable) || !llm.Usage.Empty() {
		t.Errorf("got %+v, %v", reportOf(llm, nil).Usage, err)
	}
}

// The lines of an event that are missing could change what it says.
func TestAnEventWithoutItsEndCountsOnlyWhenTheStreamIsWhole(t *testing.T) {
	r := chatCall(`data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}` + "\n")
	if llm, err := Extract(r); err != nil || llm.UsageStatus != meter.UsageFinal {
		t.Errorf("whole: got %v, %v", llm.UsageStatus, err)
	}
	r.Complete = false
	if llm, err := Extract(r); !errors.Is(err, ErrTruncated) || !llm.Usage.Empty() {
		t.Errorf("cut: got %+v, %v", reportOf(llm, nil).Usage, err)
	}
}
