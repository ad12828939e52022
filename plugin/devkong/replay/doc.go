// Package replay is an upstream for trials and tests: it answers as the APIs of OpenAI, Anthropic and Gemini do, with
// JSON or with a stream of events, and as a plain API of orders.
//
//	POST /v1/chat/completions                     OpenAI: JSON; "stream": true for SSE, with stream_options.include_usage
//	POST /v1/messages                             Anthropic: JSON; "stream": true for SSE
//	POST /v1beta/models/<model>:generateContent   Gemini: JSON
//	POST /v1beta/models/<model>:streamGenerateContent   Gemini: SSE with ?alt=sse, else a JSON array
//	GET, POST, … /orders…                         JSON
//
// The answers are written after the providers' documentation. They are deterministic: the same model and the same prompt
// give the same words and the same numbers. A request with the header X-Replay-Status: 429 (or any other status from 400
// to 599) gets that status, with an error in the format of its API. Accept-Encoding: gzip compresses.
//
// The server keeps a ledger of the tokens that it has declared, by Kong's request id, for whoever checks a bill.
package replay
