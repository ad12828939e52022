package extract

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tiktoken-go/tokenizer"

	"kafka-metering/meter"
)

// deltas is a stream that delivers a text in pieces and declares nothing.
func deltas(model string, pieces []string) string {
	var b strings.Builder
	for _, piece := range pieces {
		fmt.Fprintf(&b, `data: {"object":"chat.completion.chunk","model":%q,"choices":[{"index":0,"delta":{"content":%q}}]}`+"\n\n", model, piece)
	}
	return b.String()
}

func TestALongTextIsCountedInPiecesAsItIsAsAWhole(t *testing.T) {
	for name, words := range map[string][]string{
		"of words":             strings.SplitAfter(strings.Repeat("Es war einmal ein Müller, der hatte drei Söhne. ", 1000), " "),
		"without white space":  strings.Split(strings.Repeat("漢字仮名交じり文", 3000), ""),
		"of one kind of quote": strings.Split(strings.Repeat("a", 30000), ""),
	} {
		r := chatCall(deltas("gpt-4o", words))
		r.Estimate = true
		llm, err := Extract(r)
		want, countErr := mustGet(tokenizer.O200kBase).Count(strings.Join(words, ""))
		if err != nil || countErr != nil {
			t.Fatalf("%s: %v, %v", name, err, countErr)
		}
		// Each cut can cost a token or two.
		got := tokens(&llm, meter.OutputTokens)
		if diff := got - int64(want); diff < 0 || diff > 12 || llm.UsageStatus != meter.UsageEstimated {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
		if _, declared := llm.Usage.Get(meter.TotalTokens); declared {
			t.Errorf("%s: a total is declared, but what the request took in is not known", name)
		}
	}
}

func TestTheVocabularyIsTheModels(t *testing.T) {
	for model, want := range map[string]string{
		"gpt-4": "cl100k_base", "gpt-4-0613": "cl100k_base", "gpt-3.5-turbo": "cl100k_base", "gpt-35-turbo": "cl100k_base",
		"openai/gpt-4-turbo": "cl100k_base", "gpt-4o": "o200k_base", "gpt-4.1-nano": "o200k_base", "gpt-5": "o200k_base", "claude-x": "o200k_base", "": "o200k_base",
	} {
		if got := codecOf(model).GetName(); got != want {
			t.Errorf("%s: got %s, want %s", model, got, want)
		}
	}
}

func TestATextThatIsTooLongIsNotEstimated(t *testing.T) {
	r := chatCall(deltas("gpt-4o", []string{strings.Repeat("word ", maxEstimated/5+1)}))
	r.Estimate = true
	if llm, err := Extract(r); err == nil || !llm.Usage.Empty() {
		t.Errorf("got %+v, %v", reportOf(llm, nil), err)
	}
}

func TestATextIsCutBetweenCharacters(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("é", 2*estimatePiece), strings.Repeat("a b", estimatePiece), strings.Repeat("漢", estimatePiece), strings.Repeat("x", 2*estimatePiece),
		strings.Repeat("\x80", 2*estimatePiece),
	} {
		n := cut([]byte(text))
		if n < estimatePiece/2 || n > len(text) {
			t.Errorf("%.6q: cut at %d of %d", text, n, len(text))
		}
		if utf8.ValidString(text) && !utf8.ValidString(text[:n]) {
			t.Errorf("%.6q: cut in a character", text)
		}
	}
}

func TestADocumentIsNotEstimated(t *testing.T) {
	r := chatCall(`{"object":"text_completion","model":"gpt-3.5-turbo-instruct","choices":[{"text":"The quick brown fox","index":0}]}`)
	r.Estimate = true
	if llm, err := Extract(r); !errors.Is(err, ErrNoUsage) || !llm.Usage.Empty() {
		t.Errorf("got %v, %v", reportOf(llm, nil).Usage, err)
	}
}
