package extract

import (
	"bytes"

	"kafka-metering/meter/scan"
)

// Slots of the shape below.
const (
	seesObject = iota
	seesType
	seesRole
	seesModel
	seesChoiceRole
	seesChoiceDelta
	seesStart
	seesMetadata
	seesCandidate
	seesVersion
	numSeen
)

// signs are the members that give an API away, whatever the path.
var signs = func() *scan.Shape {
	s := new(scan.Shape)
	for _, t := range []textRule{
		{"object", seesObject},
		{"type", seesType},
		{"role", seesRole},
		{"model", seesModel},
		{"choices[].message.role", seesChoiceRole},
		{"choices[].delta", seesChoiceDelta},
		{"message.usage", seesStart},
		{"usageMetadata.totalTokenCount", seesMetadata},
		{"usageMetadata.promptTokenCount", seesMetadata},
		{"candidates[].content", seesCandidate},
		{"modelVersion", seesVersion},
	} {
		s.Add(t.path, t.slot)
	}
	return s
}()

// recognise chooses the format of a message whose path tells nothing, and reports whether it has one.
func (c *collector) recognise(data []byte) bool {
	v := c.values[:numSeen]
	clear(v)
	if c.scanner.Scan(data, signs, v) != nil {
		return false
	}
	switch {
	case is(v[seesObject], "chat.completion"), is(v[seesObject], "chat.completion.chunk"),
		v[seesChoiceRole] != nil, v[seesChoiceDelta] != nil && v[seesChoiceDelta][0] == '{':
		c.format = openAIChat
	case is(v[seesType], "message") && is(v[seesRole], "assistant") && v[seesModel] != nil,
		is(v[seesType], "message_start") && v[seesStart] != nil:
		c.format = anthropicMessages
	case v[seesVersion] != nil && (v[seesMetadata] != nil || v[seesCandidate] != nil),
		v[seesMetadata] != nil && v[seesCandidate] != nil:
		c.format = geminiContent
	default:
		return false
	}
	c.llm.Operation = c.format.operation
	return true
}

// promising tells, without parsing it, whether a body may have one of the shapes. Most responses of a gateway do not.
func promising(r *Response) bool {
	if len(r.Body) == 0 {
		return false
	}
	if z, err := decompress(r.Body, r.ContentEncoding); z != nil || err != nil {
		if z != nil {
			z.Close()
		}
		return err == nil
	}
	for _, sign := range [...]string{`choices"`, `assistant"`, `message_start"`, `usageMetadata"`, `modelVersion"`} {
		if bytes.Contains(r.Body, []byte(sign)) {
			return true
		}
	}
	return false
}
