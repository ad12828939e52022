package extract

import "kafka-metering/meter"

// miniMaxEmbeddings is MiniMax's own embeddings (https://platform.minimaxi.com/document/Embeddings), which declare one number beside the
// vectors. Its chats speak OpenAI's dialect.
var miniMaxEmbeddings = format{
	api:       "minimax_embeddings",
	operation: "embeddings",
	markers:   []string{`"total_tokens"`},
	shapes:    []shape{{[]sign{{"vectors", "["}, {"total_tokens", ""}, {"base_resp", "{"}}, "embeddings"}},
	roots:     []string{""},
	counts:    []countRule{{"total_tokens", meter.TotalTokens}},
	native:    "minimax",
}.compile()
