package extract

import (
	"errors"
	"fmt"
	"testing"

	"kafka-metering/meter"
)

// TestAnswersOfOneStreamAddUp has the ways in which a stream with several answers may end.
func TestAnswersOfOneStreamAddUp(t *testing.T) {
	start := func(id string) string {
		return fmt.Sprintf(`data: {"type":"message_start","message":{"type":"message","id":%q,"role":"assistant","model":"claude-x","usage":{"input_tokens":10,"output_tokens":1}}}`+"\n\n", id)
	}
	const (
		delta = `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}` + "\n\n"
		stop  = `data: {"type":"message_stop"}` + "\n\n"
		bad   = `data: {"type":"message_delta","usage":{"output_tokens":-5}}` + "\n\n"
		huge  = `data: {"type":"message_delta","usage":{"output_tokens":999999999999}}` + "\n\n"
	)
	for name, c := range map[string]struct {
		body          string
		input, output int64
		status        meter.UsageStatus
		err           error
	}{
		"three":                           {start("a") + delta + stop + start("b") + delta + stop + start("c") + delta + stop, 30, 15, meter.UsageFinal, nil},
		"the last has no end":             {start("a") + delta + stop + start("b"), 20, 6, meter.UsagePartial, nil},
		"the first has no last word":      {start("a") + stop + start("b") + delta + stop, 20, 6, meter.UsagePartial, nil},
		"the same once more":              {start("a") + delta + stop + start("a") + delta + stop, 10, 5, meter.UsageFinal, nil},
		"one without an id":               {start("a") + delta + stop + start("") + delta + stop, 10, 5, meter.UsageFinal, nil},
		"words behind the end":            {start("a") + delta + stop + delta + delta, 10, 5, meter.UsageFinal, nil},
		"the first declares nonsense":     {start("a") + bad + stop + start("b") + delta + stop, -1, -1, meter.UsageMissing, ErrUnparsable},
		"the second declares nonsense":    {start("a") + delta + stop + start("b") + bad + stop, -1, -1, meter.UsageMissing, ErrUnparsable},
		"more than a count may be":        {start("a") + huge + stop + start("b") + huge + stop + start("c") + delta + stop, -1, -1, meter.UsageMissing, ErrUnparsable},
		"the last is more than it may be": {start("a") + huge + stop + start("b") + huge + stop, -1, -1, meter.UsageMissing, ErrUnparsable},
	} {
		r := &Response{Method: "POST", Host: "api.anthropic.com", Path: "/v1/messages", ContentType: "text/event-stream", Body: []byte(c.body), Seen: true, Complete: true}
		llm, err := Extract(r)
		if tokens(&llm, meter.InputTokens) != c.input || tokens(&llm, meter.OutputTokens) != c.output || llm.UsageStatus != c.status || !errors.Is(err, c.err) {
			t.Errorf("%s: got %+v, %v", name, reportOf(llm, nil), err)
		}
	}
}
