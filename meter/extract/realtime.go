package extract

// realtime is OpenAI's Realtime API, whose WebSocket messages come one for each line. Each response.done declares the
// usage of one response (https://platform.openai.com/docs/api-reference/realtime-server-events/response/done): a session
// consumes their sum. xAI puts it beside the response instead of into it
// (https://docs.x.ai/docs/guides/voice).
//
// The usage of an input's transcription is that of another model, and not read, but in a session that does nothing else
// (https://platform.openai.com/docs/guides/realtime-transcription): there it is the sum of the transcriptions.
var realtime = format{
	api:       "realtime",
	operation: "chat",
	markers:   []string{`"usage"`},
	shapes: []shape{
		{[]sign{{"type", "session.created"}, {"session.object", "realtime*"}}, ""},
		{[]sign{{"type", "session.*"}, {"session", "{"}, {"event_id", `"`}}, ""},
		{[]sign{{"type", "transcription_session.*"}, {"session", "{"}}, "transcription"},
		{[]sign{{"type", "response.*"}, {"response.object", "realtime.response"}}, ""},
	},
	texts: []textRule{
		{"session.model", slotModel},
		{"session.id", slotID},
		{"response.status", slotFinish},
		{"type", slotType},
		{"session.object", slotFlag},
		{"session.audio.input.transcription.model", slotSide},
		{"session.input_audio_transcription.model", slotSide},
	},
	roots:   []string{"response.usage", "usage"},
	counts:  openAICounts,
	amounts: openAIAmounts,
	merging: sums,
	read:    readRealtime,
	settle:  settleOpenAI,
}.compile()

func readRealtime(c *Reader) {
	if is(c.texts[slotFlag], "realtime.transcription_session") {
		c.llm.Operation = transcribes
		c.texts[slotModel] = c.texts[slotSide]
	}
	last := "response.done"
	if c.llm.Operation == transcribes {
		last = "conversation.item.input_audio_transcription.completed"
	}
	if is(c.texts[slotType], last) {
		c.readRoots()
	}
}

// transcribes is the operation of a session that only transcribes.
const transcribes = "transcription"
