package lane_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/plugin/lane"
)

// write writes a document as a worker does, whose values are 1, 2, 3, …
func write(d *lane.Document) string {
	var b strings.Builder
	for i, m := range d.Members {
		b.WriteString(m.Before)
		b.WriteString(strconv.Itoa(i + 1))
	}
	return b.String() + d.After
}

func TestADocumentHasEachValueUnderItsNamesInKongsLog(t *testing.T) {
	for _, test := range []struct{ paths, want string }{
		{`[["a"]]`, `{"a":1}`},
		{`[["b"],["a"]]`, `{"a":1,"b":2}`},
		{`[["a","x"],["b"],["a","y","z"],["c","d"]]`, `{"a":{"x":1,"y":{"z":2}},"b":3,"c":{"d":4}}`},
		{`[["a","b","c","d"],["a","b","e"],["f"]]`, `{"a":{"b":{"c":{"d":1},"e":2}},"f":3}`},
		{`[["a","b","c"],["a"],["a","b"]]`, `{"a":1}`},
		{`[["a","b"],["a","b"],["a","bc"]]`, `{"a":{"b":1,"bc":2}}`},
		{`[["h","x-\"q\".r"],["h","ä"]]`, `{"h":{"x-\"q\".r":1,"ä":2}}`},
	} {
		var paths [][]string
		if err := json.Unmarshal([]byte(test.paths), &paths); err != nil {
			t.Fatal(err)
		}
		text := write(lane.NewDocument(paths))
		if text != test.want || !json.Valid([]byte(text)) {
			t.Errorf("%s: got %s, want %s", test.paths, text, test.want)
		}
	}
}

func TestADocumentNamesThePathOfEachValue(t *testing.T) {
	d := lane.NewDocument([][]string{{"b", "c"}, {"a"}})
	want := []lane.Member{{Before: `{"a":`, Path: []string{"a"}}, {Before: `,"b":{"c":`, Path: []string{"b", "c"}}}
	if diff := cmp.Diff(want, d.Members); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
