package lane

import (
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"
)

// What a worker sends, for the stand-in that does what the Lua front does, and for tests; and the word that a process leaves.

// Append appends the line.
func (m *Taken) Append(b []byte) []byte {
	b = append(append(append(b, "TAKEN "...), m.Worker...), ' ')
	return append(strconv.AppendInt(b, m.Batch, 10), '\n')
}

// Append appends the message.
func (h *Hello) Append(b []byte) []byte {
	b = append(append(b, "HELLO 2 "...), h.Worker...)
	return append(strconv.AppendInt(append(b, ' '), h.Counted, 10), '\n')
}

// Append appends the message.
func (c *Config) Append(b []byte) []byte {
	b = strconv.AppendInt(append(b, "CONFIG "...), c.ID, 10)
	b = strconv.AppendInt(append(b, ' '), int64(len(c.JSON)), 10)
	b = append(strconv.AppendInt(append(b, ' '), int64(len(c.Lists)), 10), '\n')
	return append(append(b, c.JSON...), c.Lists...)
}

// Append appends the batch with its exchanges, which [Exchange.Append] has made.
func (m *Batch) Append(b, exchanges []byte) []byte {
	again := int64(0)
	if m.Again {
		again = 1
	}
	b = append(b, "BATCH"...)
	for _, n := range [...]int64{m.Number, again, int64(len(m.Drops)), int64(m.Entries), int64(len(exchanges))} {
		b = strconv.AppendInt(append(b, ' '), n, 10)
	}
	b = append(b, '\n')
	for _, d := range m.Drops {
		b = append(append(append(b, "DROP "...), d.Plugin...), ' ')
		b = strconv.AppendInt(append(append(b, d.Reason...), ' '), d.Count, 10)
		b = append(b, '\n')
	}
	return append(b, exchanges...)
}

// Append appends the message.
func (Bye) Append(b []byte) []byte { return append(b, "BYE\n"...) }

// Pick returns the exchange with those members of its log that are needed, as the Lua front sends it, or as it is.
func (x Exchange) Pick(needs *Needs) Exchange {
	log := gjson.ParseBytes(x.Log)
	if needs.Log == nil || !log.IsObject() {
		return x
	}
	list, paths := ListLog, needs.Log
	if log.Get("request.method").Str == "POST" || log.Get("response.status").Int() == 101 {
		list, paths = ListCalls, needs.Calls
	}
	x.Log, x.List, x.Members = nil, list, make([][]byte, len(paths))
	for i, path := range paths {
		value := log
		for _, key := range path {
			value = value.Get(gjson.Escape(key))
		}
		x.Members[i] = []byte(value.Raw)
	}
	return x
}

// Append appends the exchange. What of its members is no JSON it leaves out.
func (x *Exchange) Append(b []byte) []byte {
	b = appendUnsigned(append(b, tagTable+4), uint64(13+len(x.Members)))
	b = appendDouble(b, float64(x.Config))
	b = appendDouble(b, float64(x.Number))
	var flags []byte
	for _, flag := range [...]struct {
		set    bool
		letter byte
	}{{x.Delivered, 'd'}, {x.HasBody, 'b'}, {x.Ended, 'e'}, {x.Stalled, 's'}, {x.Tapped, 't'}} {
		if flag.set {
			flags = append(flags, flag.letter)
		}
	}
	b = appendValue(b, flags)
	b = appendDouble(b, float64(x.FirstByte))
	b = appendDouble(b, float64(x.Bytes))
	for _, part := range [...][]byte{x.Request, x.Type, x.Encoding, x.Head} {
		b = appendValue(b, part)
	}
	b = appendDouble(b, float64(x.Skipped))
	b = appendValue(b, x.Tail)
	if x.List == ListNone {
		return appendString(b, x.Log)
	}
	b = appendDouble(b, float64(x.List))
	for _, m := range x.Members {
		var v any
		if len(m) > 0 && json.Unmarshal(m, &v) == nil && v == nil {
			b = append(b, tagNull)
		} else {
			b = appendAny(b, v)
		}
	}
	return b
}

// appendAny appends a value that was JSON, nil as what is not there.
func appendAny(b []byte, v any) []byte {
	switch v := v.(type) {
	case bool:
		if v {
			return append(b, tagTrue)
		}
		return append(b, tagFalse)
	case float64:
		return appendDouble(b, v)
	case string:
		return appendString(b, []byte(v))
	case []any:
		b = appendUnsigned(append(b, tagTable+4), uint64(1+len(v)))
		for _, e := range v {
			b = appendAny(b, e)
		}
		return b
	case map[string]any:
		b = appendUnsigned(append(b, tagTable+1), uint64(len(v)))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			b = appendAny(appendString(b, []byte(k)), v[k])
		}
		return b
	default:
		return append(b, tagNil)
	}
}

// appendValue appends a string, or nil where there is none.
func appendValue(b, text []byte) []byte {
	if len(text) == 0 {
		return append(b, tagNil)
	}
	return appendString(b, text)
}

func appendString(b, text []byte) []byte {
	return append(appendUnsigned(b, tagString+uint64(len(text))), text...)
}

func appendDouble(b []byte, f float64) []byte {
	return binary.LittleEndian.AppendUint64(append(b, tagDouble), math.Float64bits(f))
}

// appendUnsigned is [decoder.unsigned]'s other end.
func appendUnsigned(b []byte, n uint64) []byte {
	switch {
	case n < 0xe0:
		return append(b, byte(n))
	case n < 0x1fe0:
		return append(b, 0xe0|byte((n-0xe0)>>8), byte(n-0xe0)) //nolint:gosec // the low bits
	default:
		return binary.LittleEndian.AppendUint32(append(b, 0xff), uint32(n)) //nolint:gosec // of 32 bits
	}
}
