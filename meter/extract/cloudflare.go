package extract

import "kafka-metering/meter"

// cloudflareAudio is the transcriptions of Cloudflare's Workers AI
// (https://developers.cloudflare.com/workers-ai/models/whisper-large-v3-turbo/), which are paid by duration. What else they
// run declares its usage as OpenAI does, below result.
var cloudflareAudio = format{
	api:       "run",
	operation: "transcription",
	markers:   []string{`"transcription_info"`},
	shapes:    []shape{{[]sign{{"result.transcription_info.duration", ""}}, ""}},
	roots:     []string{"result.transcription_info"},
	amounts:   []amountRule{{"duration", meter.AudioSeconds}},
	native:    "cloudflare-workers-ai",
}.compile()
