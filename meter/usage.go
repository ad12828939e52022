package meter

import (
	"fmt"
	"math"
)

// Quantity names one number that a provider may declare for an exchange: tokens, or other things that it counts. Its name
// is the member name in the observation's llm object: <kind>_<side>_tokens after OpenTelemetry's gen_ai.usage.*.
type Quantity uint8

// The quantities of tokens. InputTokens includes what was read from and written to a cache, and OutputTokens includes
// reasoning, as OpenTelemetry asks; the others are parts of those two, never additions to them.
const (
	InputTokens Quantity = iota
	OutputTokens
	TotalTokens
	CacheReadInputTokens
	CacheWriteInputTokens
	CacheWrite5mInputTokens
	CacheWrite1hInputTokens
	ReasoningOutputTokens
	AudioInputTokens
	AudioOutputTokens
	ImageInputTokens
	ImageOutputTokens
	VideoInputTokens
	VideoOutputTokens
	DocumentInputTokens
	DocumentOutputTokens
	TextInputTokens
	TextOutputTokens
	ToolUseInputTokens
	AcceptedPredictionOutputTokens
	RejectedPredictionOutputTokens
)

// The quantities that stand beside those: never part of InputTokens or OutputTokens.
const (
	// BilledInputTokens and BilledOutputTokens are what a provider invoices where it says that this is another number
	// than what the model processed (Cohere).
	BilledInputTokens Quantity = iota + RejectedPredictionOutputTokens + 1
	BilledOutputTokens
	// IterationsInputTokens and IterationsOutputTokens are the sums over all rounds of an answer, where those say more
	// than the answer itself (Anthropic: compaction, advisor, fallback).
	IterationsInputTokens
	IterationsOutputTokens
	CitationTokens // read from search results (Perplexity)
	SearchUnits
	SearchQueries
	WebSearchRequests
	WebFetchRequests
	SourcesUsed
	ServerToolsUsed
	PagesProcessed
	BillableCharacters
	BilledImages
	Classifications
	ImagePixels
	VideoPixels
	Answers // whose usage was added up: of a realtime session, the lines of a batch, or one stream of a gateway
	numQuantities
)

var quantityNames = [numQuantities]string{
	InputTokens:                    "input_tokens",
	OutputTokens:                   "output_tokens",
	TotalTokens:                    "total_tokens",
	CacheReadInputTokens:           "cache_read_input_tokens",
	CacheWriteInputTokens:          "cache_write_input_tokens",
	CacheWrite5mInputTokens:        "cache_write_5m_input_tokens",
	CacheWrite1hInputTokens:        "cache_write_1h_input_tokens",
	ReasoningOutputTokens:          "reasoning_output_tokens",
	AudioInputTokens:               "audio_input_tokens",
	AudioOutputTokens:              "audio_output_tokens",
	ImageInputTokens:               "image_input_tokens",
	ImageOutputTokens:              "image_output_tokens",
	VideoInputTokens:               "video_input_tokens",
	VideoOutputTokens:              "video_output_tokens",
	DocumentInputTokens:            "document_input_tokens",
	DocumentOutputTokens:           "document_output_tokens",
	TextInputTokens:                "text_input_tokens",
	TextOutputTokens:               "text_output_tokens",
	ToolUseInputTokens:             "tool_use_input_tokens",
	AcceptedPredictionOutputTokens: "accepted_prediction_output_tokens",
	RejectedPredictionOutputTokens: "rejected_prediction_output_tokens",
	BilledInputTokens:              "billed_input_tokens",
	BilledOutputTokens:             "billed_output_tokens",
	IterationsInputTokens:          "iterations_input_tokens",
	IterationsOutputTokens:         "iterations_output_tokens",
	CitationTokens:                 "citation_tokens",
	SearchUnits:                    "search_units",
	SearchQueries:                  "search_queries",
	WebSearchRequests:              "web_search_requests",
	WebFetchRequests:               "web_fetch_requests",
	SourcesUsed:                    "sources_used",
	ServerToolsUsed:                "server_tools_used",
	PagesProcessed:                 "pages_processed",
	BillableCharacters:             "billable_characters",
	BilledImages:                   "billed_images",
	Classifications:                "classifications",
	ImagePixels:                    "image_pixels",
	VideoPixels:                    "video_pixels",
	Answers:                        "answers",
}

// String returns the quantity's name on the topic.
func (q Quantity) String() string {
	if q < numQuantities {
		return quantityNames[q]
	}
	return fmt.Sprintf("quantity(%d)", uint8(q))
}

// Quantities returns every quantity, in the order in which they are written.
func Quantities() []Quantity {
	all := make([]Quantity, numQuantities)
	for i := range all {
		all[i] = Quantity(i)
	}
	return all
}

// Amount names one measure that a provider may declare and that need not be integral: money, time. Tokens are never one.
type Amount uint8

// The amounts.
const (
	CostUSD      Amount = iota // what the provider says that the call costs, in US dollars
	CostUSDTicks               // the same where it says so in 1/10^10 of a dollar (xAI)
	AudioSeconds               // of audio that was read
	numAmounts
)

var amountNames = [numAmounts]string{CostUSD: "cost_usd", CostUSDTicks: "cost_usd_ticks", AudioSeconds: "audio_seconds"}

// String returns the amount's name on the topic.
func (a Amount) String() string {
	if a < numAmounts {
		return amountNames[a]
	}
	return fmt.Sprintf("amount(%d)", uint8(a))
}

// Amounts returns every amount, in the order in which they are written.
func Amounts() []Amount {
	all := make([]Amount, numAmounts)
	for i := range all {
		all[i] = Amount(i)
	}
	return all
}

// Usage holds what a provider declared for one exchange: for each quantity a count, or nothing. Nothing is not zero: a
// declared zero is kept, an undeclared number is never written. The zero value declares nothing.
type Usage struct {
	counts   [numQuantities]int64
	amounts  [numAmounts]float64
	declared uint64 // bit q is set when counts[q] was declared, and bit numQuantities+a when amounts[a] was
}

// The bits of declared are as many as there are.
const _ = uint(64 - numQuantities - Quantity(numAmounts))

// Get returns the count declared for q, and whether one was declared.
func (u *Usage) Get(q Quantity) (int64, bool) {
	return u.counts[q], u.declared&(1<<q) != 0
}

// Set declares n tokens for q. A negative n is not a count and is ignored: the caller has checked its source.
func (u *Usage) Set(q Quantity, n int64) {
	if n < 0 {
		return
	}
	u.counts[q] = n
	u.declared |= 1 << q
}

// Amount returns what was declared for a, and whether anything was.
func (u *Usage) Amount(a Amount) (float64, bool) {
	return u.amounts[a], u.declared&(1<<(int(numQuantities)+int(a))) != 0
}

// SetAmount declares x for a. What is negative or not finite is no amount and is ignored.
func (u *Usage) SetAmount(a Amount, x float64) {
	if !(x >= 0 && x <= math.MaxFloat64) {
		return
	}
	u.amounts[a] = x
	u.declared |= 1 << (int(numQuantities) + int(a))
}

// Add adds to every number of u what v declares of it. The caller has bounded the numbers, so that no sum overflows.
func (u *Usage) Add(v *Usage) {
	for q := range numQuantities {
		if n, ok := v.Get(q); ok {
			u.Set(q, u.counts[q]+n)
		}
	}
	for a := range numAmounts {
		if x, ok := v.Amount(a); ok {
			u.SetAmount(a, u.amounts[a]+x)
		}
	}
}

// Clear makes q undeclared again.
func (u *Usage) Clear(q Quantity) {
	u.counts[q] = 0
	u.declared &^= 1 << q
}

// Empty reports whether nothing at all was declared.
func (u *Usage) Empty() bool { return u.declared == 0 }

// Overlay takes over every quantity that v declares and keeps the others: the rule for streams whose later events
// repeat cumulative numbers (Anthropic's message_delta).
func (u *Usage) Overlay(v *Usage) {
	for q := range numQuantities {
		if n, ok := v.Get(q); ok {
			u.Set(q, n)
		}
	}
	for a := range numAmounts {
		if x, ok := v.Amount(a); ok {
			u.SetAmount(a, x)
		}
	}
}

// Contradiction says how the declared numbers contradict each other, or is "". They are reported as they were declared.
func (u *Usage) Contradiction() string {
	input, hasInput := u.Get(InputTokens)
	output, hasOutput := u.Get(OutputTokens)
	if total, ok := u.Get(TotalTokens); ok && total != input+output { // also where one of them is not declared: the rows lack it
		return "total"
	}
	if read, write := u.counts[CacheReadInputTokens], u.counts[CacheWriteInputTokens]; hasInput && (read > input || write > input-read) {
		return "cache"
	}
	if hasOutput && u.counts[ReasoningOutputTokens] > output {
		return "reasoning"
	}
	return ""
}

// TokenType is the kind of a disjoint row of tokens, OpenMeter's `type` dimension.
type TokenType string

// The token types. Their rows never overlap, so that each can have its own price.
const (
	TypeInput      TokenType = "input"
	TypeCacheRead  TokenType = "cache_read"
	TypeCacheWrite TokenType = "cache_write"
	TypeOutput     TokenType = "output"
)

// TokenRow is a number of tokens of one type.
type TokenRow struct {
	Type   TokenType
	Tokens int64
}

// AppendRows appends the disjoint rows of u to rows: input without its cached parts, cache_read, cache_write, output.
// Their sum is input plus output. A row without tokens is left out, and so is everything that was not declared.
//
// Where the declared cached parts exceed the declared input the parts cannot be disjoint: then the input stays one
// row, so that the sum is still what the provider declared, and consistent is false.
func (u *Usage) AppendRows(rows []TokenRow) (_ []TokenRow, consistent bool) {
	consistent = true
	input, _ := u.Get(InputTokens)
	read, _ := u.Get(CacheReadInputTokens)
	write, _ := u.Get(CacheWriteInputTokens)
	output, _ := u.Get(OutputTokens)
	// Subtract one at a time: the sum of two hostile counts may overflow.
	if read > input || write > input-read {
		read, write, consistent = 0, 0, false
	}
	for _, r := range [...]TokenRow{
		{TypeInput, input - read - write},
		{TypeCacheRead, read},
		{TypeCacheWrite, write},
		{TypeOutput, output},
	} {
		if r.Tokens > 0 {
			rows = append(rows, r)
		}
	}
	return rows, consistent
}
