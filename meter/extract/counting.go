package extract

import (
	"bytes"

	"kafka-metering/meter/scan"
)

// countShape finds what counting endpoints answer: Anthropic's and OpenAI's input_tokens, Bedrock's inputTokens, Gemini's
// totalTokens.
var countShape = func() *scan.Shape {
	s := new(scan.Shape)
	for i, path := range []string{"input_tokens", "inputTokens", "totalTokens"} {
		s.Add(path, i)
	}
	return s
}()

// DeclaredCount returns the number of tokens that an endpoint for counting them has answered. Nothing was consumed: it is
// no usage, and [Extract] calls such an exchange no LLM call.
func DeclaredCount(r *Response) (n int64, ok bool) {
	if !isCounting(pathOf(r)) || r.Status != 0 && r.Status != 200 {
		return 0, false
	}
	var body []byte
	write := func(b []byte) error {
		if len(body)+len(b) > maxEvent {
			return ErrTooLarge
		}
		body = append(body, b...)
		return nil
	}
	d, err := newDecoder(r.ContentEncoding, r.Body, write)
	switch {
	case err != nil:
		return 0, false
	case d == nil:
		body = r.Body
	default:
		werr := d.Write(r.Body)
		if err := d.Close(); err != nil || werr != nil {
			return 0, false
		}
	}
	var found [3][]byte
	var s scan.Scanner[[]byte]
	if s.Scan(bytes.TrimLeft(body, "\ufeff \t\r\n"), countShape, found[:]) != nil {
		return 0, false
	}
	for _, raw := range found {
		if raw != nil {
			return count(raw)
		}
	}
	return 0, false
}
