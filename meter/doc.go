// Package meter turns what is known of one finished exchange into metering events. It is pure: no I/O, no goroutine, no
// clock; the same exchange and the same configuration always give the same event ids and the same data.
//
// The vocabulary, in the order of the data:
//
//   - an exchange is one proxied request and its response;
//   - an [Observation] is what is known of it: Kong's serialized log under Kong's own names, plus llm, body, outcome,
//     subject and capture;
//   - a [Usage] holds the tokens that a provider declared, and an [LLM] the call around them;
//   - a [Meter] says what to count, how to split it, and when, in CEL; a [Program] is a set of meters compiled for use;
//   - an [Event] is a CloudEvent: the values and dimensions of all meters of one event type for one exchange.
//
// Guarantees:
//
//   - absent is not zero: a number that nobody declared is never written, a declared zero is kept;
//   - an expression cannot hold the caller: what it may cost is bounded, for itself and for all of an exchange;
//   - a value that is not a finite number of at least zero is counted and never published;
//   - event ids derive from Kong's request id alone, so that an exchange that is handled twice gives the same ids;
//   - event bytes are valid UTF-8 whatever bytes clients and upstreams send.
package meter
