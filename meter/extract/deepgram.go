package extract

import "kafka-metering/meter"

// deepgram is Deepgram's transcription of recorded audio
// (https://developers.deepgram.com/reference/speech-to-text/listen-pre-recorded), which is paid by duration.
var deepgram = format{
	api:       "listen",
	operation: "transcription",
	markers:   []string{`"duration"`},
	shapes:    []shape{{[]sign{{"metadata.duration", ""}, {"metadata.request_id", `"`}, {"results", "{"}}, ""}},
	texts:     []textRule{{"metadata.request_id", slotID}},
	roots:     []string{"metadata"},
	amounts:   []amountRule{{"duration", meter.AudioSeconds}},
	native:    "deepgram",
}.compile()
