package extract

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/google/go-cmp/cmp"

	"kafka-metering/meter"
)

func TestAnEventThatIsTooLongIsLostAndTheOthersAreNot(t *testing.T) {
	long := strings.Repeat("x", maxEvent)
	for name, stream := range map[string]string{
		"in one line":             "data: a\n\ndata: " + long + "x\n\ndata: b\n\n",
		"in several lines":        "data: a\n\ndata: " + long[:maxEvent/2] + "\ndata: " + long[:maxEvent/2] + "\n\ndata: b\n\n",
		"in a field that is none": "data: a\n\nnothing: " + long + "\ndata: c\n\ndata: b\n\n",
	} {
		for _, size := range []int{len(stream), 1 << 20} {
			var got eventLog
			s := sse{out: &got}
			for rest := []byte(stream); len(rest) > 0; {
				n := min(size, len(rest))
				s.Write(rest[:n])
				rest = rest[n:]
			}
			s.Close()
			if diff := cmp.Diff([]string{"|a", "|b"}, got.events); diff != "" || got.lost != 1 {
				t.Errorf("%s, in pieces of %d: %d lost, %s", name, size, got.lost, diff)
			}
		}
	}
}

func TestAUsageThatIsLostIsNotFinal(t *testing.T) {
	const chunk = `data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}` + "\n\n"
	lost := "data: " + strings.Repeat("x", maxEvent) + "\n\n"
	if llm, err := Extract(chatCall(chunk + lost)); err != nil || llm.UsageStatus != meter.UsagePartial {
		t.Errorf("behind one: got %v, %v", llm.UsageStatus, err)
	}
	if llm, err := Extract(chatCall(lost + chunk)); err != nil || llm.UsageStatus != meter.UsageFinal {
		t.Errorf("before one: got %v, %v", llm.UsageStatus, err)
	}
	if _, err := Extract(chatCall(lost)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("alone: got %v", err)
	}
}

func TestADamagedLineTakesNoOtherWithIt(t *testing.T) {
	lines := strings.SplitAfter(string(chatLines(2000)), "\n")
	for name, line := range map[string]string{
		"a brace too few": `{"message":{"content":"x"}`, "a brace too many": `{"message":{}}}`, "a string that does not end": `{"message":"x`, "a text": "no JSON",
	} {
		body := lines[0] + lines[1] + line + "\n" + strings.Join(lines[2:], "")
		llm, err := Extract(&Response{Method: "POST", Path: "/api/chat", Body: []byte(body), Seen: true, Complete: true})
		if err != nil || tokens(&llm, meter.OutputTokens) != 282 {
			t.Errorf("%s: got %+v, %v", name, reportOf(llm, nil), err)
		}
	}
}

// TestALineThatIsNoMessageOfItsOwnDeclaresNothing has a server that streams text, and a model that writes what looks like a message.
func TestALineThatIsNoMessageOfItsOwnDeclaresNothing(t *testing.T) {
	const chunk = `data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}` + "\n"
	const forged = `data: {"choices":[],"usage":{"prompt_tokens":9999,"completion_tokens":9999}}` + "\n"
	for name, c := range map[string]struct {
		body string
		want int64
	}{
		"no blank lines":              {chunk + forged + "data: [DONE]\n", 9999}, // from the server they are no forgery
		"a text beside it":            {chunk + "\n" + "data: so I answer\n" + forged + "\n", 3},
		"half a message":              {chunk + "\n" + `data: {"choices":[` + "\n" + forged + "\n", 3},
		"one object of several lines": {chunk + "\n" + "data: {\ndata: \"a\":\n" + forged + "data: }\n\n", 3},
	} {
		llm, err := Extract(chatCall(c.body))
		if got := tokens(&llm, meter.InputTokens); err != nil || got != c.want {
			t.Errorf("%s: got %d, %v, want %d", name, got, err, c.want)
		}
	}
	r := chatCall(chunk + forged[:len(forged)-9]) // cut in the second line
	r.Complete = false
	if llm, err := Extract(r); err != nil || tokens(&llm, meter.InputTokens) != 3 || llm.UsageStatus != meter.UsagePartial {
		t.Errorf("cut: got %+v, %v", reportOf(llm, nil), err)
	}
}

// TestAnEventWithoutItsMessageTypeIsRead has frames of gateways that name an event's type alone; those without either are none.
func TestAnEventWithoutItsMessageTypeIsRead(t *testing.T) {
	const usage = `{"usage":{"inputTokens":18,"outputTokens":46,"totalTokens":64}}`
	for name, want := range map[string]int64{":event-type": 18, ":other": -1} {
		message := eventstream.Message{Payload: []byte(usage)}
		message.Headers.Set(name, eventstream.StringValue("metadata"))
		var body bytes.Buffer
		if err := eventstream.NewEncoder().Encode(&body, message); err != nil {
			t.Fatal(err)
		}
		llm, err := Extract(&Response{Method: "POST", Path: "/model/m/converse-stream", Body: body.Bytes(), Seen: true, Complete: true})
		if got := tokens(&llm, meter.InputTokens); got != want {
			t.Errorf("%s: got %d, %v, want %d", name, got, err, want)
		}
	}
}

func TestADamagedMessageEndsAnEventStream(t *testing.T) {
	body := converseStream(2000)
	r := &Response{Method: "POST", Path: "/model/m/converse-stream", Seen: true, Complete: true}
	for i := range body {
		r.Body = bytes.Clone(body)
		r.Body[i] ^= 0x40
		if llm, err := Extract(r); err == nil {
			t.Fatalf("byte %d: the checksum did not show it: %+v", i, reportOf(llm, nil).Usage)
		}
	}
}

func TestHeadersOfAnEventThatRunOverItsEndAreDamage(t *testing.T) {
	for _, headers := range []string{"\x09:message", "\x01a", "\x01a\x0a", "\x01a\x07", "\x01a\x07\x00", "\x01a\x07\x00\x05abcd", "\x01a\x04\x00\x00"} {
		if _, ok := readEventHeaders([]byte(headers)); ok {
			t.Errorf("%q was read", headers)
		}
	}
	h, ok := readEventHeaders([]byte("\x01t\x00\x01f\x01\x01b\x02x\x01s\x03xx\x01i\x04xxxx\x01l\x05xxxxxxxx\x01y\x06\x00\x01x\x01d\x08xxxxxxxx\x01u\x09xxxxxxxxxxxxxxxx\x0b:event-type\x07\x00\x05chunk"))
	if !ok || string(h.eventType) != "chunk" {
		t.Errorf("got %q, %v, want the event's type behind headers of every type", h.eventType, ok)
	}
}

func TestAChunkWithoutItsMessageIsDamage(t *testing.T) {
	good := `chunk {"type":"message_start","message":{"id":"m","role":"assistant","model":"claude-x","usage":{"input_tokens":10,"output_tokens":1}}}` + "\n"
	for name, payload := range map[string]string{
		"no base64": `{"bytes":"***"}`, "no text": `{"bytes":7}`, "nothing": `{}`, "no JSON": `{`,
	} {
		body := append(eventStreamOf(good), eventOf("chunk", payload)...)
		llm, err := Extract(&Response{Method: "POST", Path: "/model/m/invoke-with-response-stream", Body: body, Seen: true, Complete: true})
		if err != nil || llm.UsageStatus != meter.UsagePartial || tokens(&llm, meter.InputTokens) != 10 {
			t.Errorf("%s: got %+v, %v", name, reportOf(llm, nil), err)
		}
	}
	escaped := eventOf("chunk", `{"bytes":"eyJ0eXBlIjoibWVzc2FnZV9zdG9wIiwiYT8\/IjoiPz8\/In0="}`)
	llm, err := Extract(&Response{Method: "POST", Path: "/model/m/invoke-with-response-stream", Body: append(eventStreamOf(good), escaped...), Seen: true, Complete: true})
	if err != nil || tokens(&llm, meter.InputTokens) != 10 {
		t.Errorf("slashes that are escaped: got %+v, %v", reportOf(llm, nil), err)
	}
}

func TestALengthThatNoMessageHasEndsAnEventStreamAtOnce(t *testing.T) {
	prelude := binary.BigEndian.AppendUint32(nil, maxEvent+1)
	prelude = binary.BigEndian.AppendUint32(prelude, 0)
	prelude = binary.BigEndian.AppendUint32(prelude, crc32.ChecksumIEEE(prelude))
	s := eventStream{out: new(frameLog)}
	s.Write(append(prelude, make([]byte, 100)...))
	if !s.dead || s.Close() {
		t.Error("it waits for a message that is too large")
	}
}
