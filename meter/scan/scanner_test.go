package scan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/meter/scan"
)

// shapeOf reads each path into the slot of its index.
func shapeOf(paths ...string) *scan.Shape {
	s := new(scan.Shape)
	for slot, path := range paths {
		s.Add(path, slot)
	}
	return s
}

func TestScanFindsWhatTheShapeAsksFor(t *testing.T) {
	for name, test := range map[string]struct {
		json  string
		paths []string
		want  []string
	}{
		"members at any depth": {
			`{"a":1,"b":{"c":{"d":"x"},"e":true}}`,
			[]string{"a", "b.c.d", "b.e", "b.c", "missing", "a.inside"},
			[]string{"1", `"x"`, "true", `{"d":"x"}`, "", ""},
		},
		"the first of two members with one name":    {`{"u":{"n":1},"u":{"n":2}}`, []string{"u.n"}, []string{"1"}},
		"null is absent, and what comes later too":  {`{"n":null,"n":2}`, []string{"n"}, []string{""}},
		"the first element of a list with a value":  {`{"l":[{},{"n":null},{"n":2},{"n":3}]}`, []string{"l[].n"}, []string{"2"}},
		"a list where the shape has an object":      {`{"l":[{"n":1}]}`, []string{"l.n"}, []string{""}},
		"an object where the shape has a list":      {`{"l":{"n":1}}`, []string{"l[].n"}, []string{""}},
		"white space everywhere":                    {" {\n\t\"a\" :\r [ 1 , 2 ] } ", []string{"a"}, []string{"[ 1 , 2 ]"}},
		"bytes that are not UTF-8":                  {"{\"a\":\"\xff\xfe\"}", []string{"a"}, []string{"\"\xff\xfe\""}},
		"the same name elsewhere":                   {`{"x":{"a":1},"y":[{"a":2}],"z":"\"a\":3","a":4}`, []string{"a"}, []string{"4"}},
		"a name with escapes is not the plain name": {`{"\u0061":1}`, []string{"a"}, []string{""}},
		"a text that is no object":                  {`[1,2]`, []string{"a"}, []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			got := make([]string, len(test.paths))
			var s scan.Scanner[string]
			if err := s.Scan(test.json, shapeOf(test.paths...), got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			found := make([][]byte, len(test.paths))
			var b scan.Scanner[[]byte]
			if err := b.Scan([]byte(test.json), shapeOf(test.paths...), found); err != nil {
				t.Fatal(err)
			}
			for i, raw := range found {
				if string(raw) != test.want[i] {
					t.Errorf("as bytes, %s is %q, want %q", test.paths[i], raw, test.want[i])
				}
			}
		})
	}
}

func TestUnescapeMatchesNamesThatAreSpelledWithEscapes(t *testing.T) {
	s := scan.Scanner[string]{Unescape: true}
	shape, got := new(scan.Shape), make([]string, 2)
	for slot, keys := range [][]string{{"args", "a/b"}, {"args", "é"}} {
		if _, err := shape.AddKeys(keys, slot); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Scan(`{"args":{"a\/b":1,"\u00e9":2}}`, shape, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1", "2"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSlotsOfTwoDocumentsAreFilledTogether(t *testing.T) {
	var s scan.Scanner[string]
	got := make([]string, 2)
	for _, text := range []string{`{"a":1}`, `{"a":2,"b":3}`} {
		if err := s.Scan(text, shapeOf("a", "b"), got); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"1", "3"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsNoJSONIsAnErrorAndWhatEndsEarlyAnother(t *testing.T) {
	for text, want := range map[string]error{
		``: scan.ErrEnd, ` `: scan.ErrEnd, `{`: scan.ErrEnd, `{"a`: scan.ErrEnd, `{"a"`: scan.ErrEnd, `{"a":`: scan.ErrEnd,
		`{"a":1`: scan.ErrEnd, `{"a":1,`: scan.ErrEnd, `[`: scan.ErrEnd, `[1`: scan.ErrEnd, `[1,`: scan.ErrEnd, `"\u00`: scan.ErrEnd,
		`"\`: scan.ErrEnd, `tru`: scan.ErrEnd, `-`: scan.ErrEnd, `1.`: scan.ErrEnd, `1e`: scan.ErrEnd, `1e+`: scan.ErrEnd,
		`{,}`: scan.ErrSyntax, `{"a":1,}`: scan.ErrSyntax, `[1,]`: scan.ErrSyntax, `{"a" 1}`: scan.ErrSyntax, `{a:1}`: scan.ErrSyntax,
		`01`: scan.ErrSyntax, `+1`: scan.ErrSyntax, `.5`: scan.ErrSyntax, `1.e1`: scan.ErrSyntax, `NaN`: scan.ErrSyntax, `nul `: scan.ErrSyntax,
		"\"\n\"": scan.ErrSyntax, `"\x"`: scan.ErrSyntax, `"\u00zz"`: scan.ErrSyntax, `1 2`: scan.ErrSyntax, `{} {}`: scan.ErrSyntax,
		`'a'`: scan.ErrSyntax, `{"a":1}}`: scan.ErrSyntax, "\ufeff{}": scan.ErrSyntax,
		strings.Repeat("[", scan.Depth+1): scan.ErrSyntax, strings.Repeat("[", scan.Depth): scan.ErrEnd,
		strings.Repeat(`{"a":`, 10<<20): scan.ErrSyntax,
	} {
		var s scan.Scanner[string]
		if err := s.Scan(text, new(scan.Shape), nil); !errors.Is(err, want) {
			t.Errorf("%.40q: %v, want %v", text, err, want)
		}
	}
}

func TestCommaStandsBehindTheLastWholeMemberOfACutObject(t *testing.T) {
	var s scan.Scanner[string]
	text := `{"a":1,"b":{"c":1,"d":2},"e":[1,2`
	if err := s.Scan(text, new(scan.Shape), nil); !errors.Is(err, scan.ErrEnd) {
		t.Fatal(err)
	}
	if got := text[:s.Comma()]; got != `{"a":1,"b":{"c":1,"d":2}` {
		t.Errorf("the comma stands behind %s", got)
	}
}

func TestNextReadsAListElementByElement(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:                          "end",
		` [ ] `:                       "end",
		`[1, "a" ,{"n":2},[3]]`:       `1 "a" {"n":2}=2 [3] end`,
		`[{"n":1},{"x":{"n":2}}]`:     `{"n":1}=1 {"x":{"n":2}} end`,
		`[1`:                          "1 " + scan.ErrEnd.Error(),
		`[1,`:                         "1 " + scan.ErrEnd.Error(),
		`[1,{"n":`:                    "1 " + scan.ErrEnd.Error(),
		`[1 2]`:                       "1 " + scan.ErrSyntax.Error(),
		`[1,]`:                        "1 " + scan.ErrSyntax.Error(),
		`[,1]`:                        scan.ErrSyntax.Error(),
		`[1] x`:                       "1 " + scan.ErrSyntax.Error(),
		`{"n":1}`:                     scan.ErrSyntax.Error(),
		``:                            scan.ErrEnd.Error(),
		strings.Repeat("[", 1<<20):    scan.ErrSyntax.Error(),
		"[" + strings.Repeat(" ", 99): scan.ErrEnd.Error(),
	} {
		var (
			list scan.Scanner[string]
			got  []string
		)
		list.Open(text)
		slots := make([]string, 1)
		for {
			clear(slots)
			element, err := list.Next(shapeOf("n"), slots)
			if err != nil {
				got = append(got, err.Error())
				break
			}
			if element == "" {
				got = append(got, "end")
				break
			}
			if slots[0] != "" {
				element += "=" + slots[0]
			}
			got = append(got, element)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%.40q: %s, want %s", text, strings.Join(got, " "), want)
		}
	}
}

func TestAShapeHasRoomForSoManyMembersOfOneObject(t *testing.T) {
	s := new(scan.Shape)
	var err error
	added := 0
	for ; err == nil && added < 1000; added++ {
		_, err = s.AddKeys([]string{"headers", fmt.Sprint(added)}, added)
	}
	if err == nil || added-1 != 256 {
		t.Errorf("%d members were added: %v", added-1, err)
	}
	if slot, err := s.AddKeys([]string{"headers", "7"}, 999); slot != 7 || err != nil {
		t.Errorf("a path that is read already: slot %d, %v", slot, err)
	}
}

func TestUnquote(t *testing.T) {
	for raw, want := range map[string]string{
		`"plain"`: "plain", `"a\/b\u00e9\n"`: "a/bé\n", `1`: "", ``: "", `"`: "", "\"\xff\"": "\xff", `"\ud800"`: "\ufffd",
	} {
		if got := scan.Unquote(raw); got != want {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
}

// FuzzScan compares the scanner with encoding/json: what is JSON, and what a member's value is.
func FuzzScan(f *testing.F) {
	for _, seed := range []string{`{"a":{"b":1},"l":[{"n":2}]}`, `[1,{"a":null}]`, `{"a":"\u00e9\\","a":1}`, `{"a":1e5,"b":-0.1}`, "{\"\xff\":1}", `"`, ` {} `} {
		f.Add(seed)
	}
	shape := shapeOf("a", "a.b", "l[].n")
	f.Fuzz(func(t *testing.T, text string) {
		var s scan.Scanner[string]
		slots := make([]string, 3)
		err := s.Scan(text, shape, slots)
		if strings.Count(text, "{")+strings.Count(text, "[") < scan.Depth && (err == nil) != json.Valid([]byte(text)) {
			t.Fatalf("%q: %v, but encoding/json says %v", text, err, json.Valid([]byte(text)))
		}
		if err == nil {
			for _, value := range slots {
				if value != "" && (!json.Valid([]byte(value)) || value == "null") {
					t.Errorf("%q is no value", value)
				}
			}
			// A value that is found is the value of the member, unless the name stands there twice.
			var object map[string]json.RawMessage
			if json.Unmarshal([]byte(text), &object) == nil && strings.Count(text, `"a"`) == 1 && !strings.Contains(text, `\`) {
				if want := string(object["a"]); want != slots[0] && want != "null" {
					t.Errorf("a is %q, want %q", slots[0], want)
				}
			}
			return
		}
		// What ends early becomes JSON again at its last comma, or is none at any end.
		if comma := s.Comma(); errors.Is(err, scan.ErrEnd) && comma > 0 && !json.Valid([]byte(text[:comma]+"}")) {
			t.Errorf("cut at its comma %q is no JSON", text[:comma])
		}
	})
}

func BenchmarkScan(b *testing.B) {
	text := `{"id":"chatcmpl-1","model":"gpt-x","choices":[{"message":{"content":"` + strings.Repeat("The sky looks blue. ", 80) +
		`"},"finish_reason":"stop"}],"usage":{"prompt_tokens":11,"completion_tokens":22,"total_tokens":33}}`
	shape := shapeOf("model", "choices[].finish_reason", "usage.prompt_tokens", "usage.completion_tokens", "usage.total_tokens")
	slots := make([]string, 5)
	var s scan.Scanner[string]
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		clear(slots)
		if err := s.Scan(text, shape, slots); err != nil {
			b.Fatal(err)
		}
	}
}

func TestPlainIsWhatJSONLeavesAsItIs(t *testing.T) {
	for length := range 20 {
		for at := range length {
			for c := range 256 {
				text := bytes.Repeat([]byte("~"), length)
				text[at] = byte(c)
				want := c >= ' ' && c < 0x80 && c != '"' && c != '\\'
				if got := scan.Plain(string(text)); got != want {
					t.Fatalf("%q: %v", text, got)
				}
			}
		}
	}
}
