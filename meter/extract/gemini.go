package extract

import (
	"kafka-metering/meter"
	"kafka-metering/meter/scan"
)

// geminiContent is generateContent of the Gemini API and of Vertex AI.
//
//   - https://ai.google.dev/api/generate-content#UsageMetadata: promptTokenCount includes cached content and leaves out
//     the results of tools; candidatesTokenCount leaves out the thoughts. Members whose count is zero are left out.
//   - https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1/GenerateContentResponse
//
// streamGenerateContent sends server-sent events with alt=sse and one JSON array without. usageMetadata is in every
// message and cumulative, and its numbers may go down: the last one with numbers counts, not the largest.
var geminiContent = format{
	operation: "generate_content",
	marker:    `"usageMetadata"`,
	roots:     []string{"usageMetadata"},
	counts: []countRule{
		{"promptTokenCount", meter.InputTokens},
		{"candidatesTokenCount", meter.OutputTokens},
		{"totalTokenCount", meter.TotalTokens},
		{"cachedContentTokenCount", meter.CacheReadInputTokens},
		{"thoughtsTokenCount", meter.ReasoningOutputTokens},
		{"toolUsePromptTokenCount", meter.ToolUseInputTokens},
	},
	texts: []textRule{
		{"modelVersion", slotModel},
		{"responseId", slotID},
		{"candidates[].finishReason", slotFinish},
		{"usageMetadata.promptTokensDetails", slotInputDetails},
		{"usageMetadata.candidatesTokensDetails", slotOutputDetails},
	},
	arrays: true,
	native: "google",
	models: "gemini",
	read:   readGemini,
	settle: settleGemini,
}.compile()

// modalities are the names and, in streams that were written by a protobuf library, the numbers of
// https://ai.google.dev/api/generate-content#Modality.
var modalities = []struct {
	name, number  string
	input, output meter.Quantity
}{
	{"TEXT", "1", meter.TextInputTokens, meter.TextOutputTokens},
	{"IMAGE", "2", meter.ImageInputTokens, meter.ImageOutputTokens},
	{"VIDEO", "3", meter.VideoInputTokens, meter.VideoOutputTokens},
	{"AUDIO", "4", meter.AudioInputTokens, meter.AudioOutputTokens},
	{"DOCUMENT", "5", meter.DocumentInputTokens, meter.DocumentOutputTokens},
}

var modalityShape = func() *scan.Shape {
	s := new(scan.Shape)
	s.Add("modality", 0)
	s.Add("tokenCount", 1)
	return s
}()

func readGemini(c *collector) {
	u, ok := c.counts(0)
	if ok && u.Empty() {
		return
	}
	ok = ok && c.addModalities(&u, c.values[slotInputDetails], false) && c.addModalities(&u, c.values[slotOutputDetails], true)
	c.replace(&u, ok)
}

// addModalities reads a list of {modality, tokenCount}, which has been scanned before, and reports whether all its counts
// are counts. Of a modality that is listed twice the counts add up.
func (c *collector) addModalities(u *meter.Usage, list []byte, output bool) bool {
	if len(list) == 0 || list[0] != '[' {
		return true
	}
	slots := c.modality[:]
	var details scan.Scanner[[]byte]
	details.Open(list)
	for {
		clear(slots)
		if element, _ := details.Next(modalityShape, slots); element == nil {
			return true // no error: the list has been scanned before
		}
		if slots[1] == nil {
			continue
		}
		n, ok := count(slots[1])
		if !ok {
			return false
		}
		for _, m := range modalities {
			if !is(slots[0], m.name) && string(slots[0]) != m.number {
				continue
			}
			q := m.input
			if output {
				q = m.output
			}
			sum, _ := u.Get(q)
			if sum+n > maxCount {
				return false
			}
			u.Set(q, sum+n)
		}
	}
}

// settleGemini includes the results of tools in the input and the thoughts in the output: totalTokenCount is the sum of
// all four.
func settleGemini(u *meter.Usage) {
	include(u, meter.InputTokens, meter.ToolUseInputTokens)
	include(u, meter.OutputTokens, meter.ReasoningOutputTokens)
}
