package lane

import "strconv"

// What a worker sends, for the stand-in that does what the Lua front does, and for tests.

// Append appends the message.
func (h *Hello) Append(b []byte) []byte {
	b = append(append(b, "HELLO 1 "...), h.Worker...)
	return append(strconv.AppendInt(append(b, ' '), h.Counted, 10), '\n')
}

// Append appends the message.
func (c *Config) Append(b []byte) []byte {
	b = strconv.AppendInt(append(b, "CONFIG "...), c.ID, 10)
	b = append(strconv.AppendInt(append(b, ' '), int64(len(c.JSON)), 10), '\n')
	return append(b, c.JSON...)
}

// Append appends the beginning of the batch; its exchanges follow.
func (m *Batch) Append(b []byte) []byte {
	again := int64(0)
	if m.Again {
		again = 1
	}
	b = append(b, "BATCH"...)
	for _, n := range [...]int64{m.Number, again, int64(len(m.Drops)), int64(m.Entries)} {
		b = strconv.AppendInt(append(b, ' '), n, 10)
	}
	b = append(b, '\n')
	for _, d := range m.Drops {
		b = append(append(append(b, "DROP "...), d.Plugin...), ' ')
		b = strconv.AppendInt(append(append(b, d.Reason...), ' '), d.Count, 10)
		b = append(b, '\n')
	}
	return b
}

// Append appends the message.
func (Bye) Append(b []byte) []byte { return append(b, "BYE\n"...) }

// Append appends the exchange.
func (x *Exchange) Append(b []byte) []byte {
	b = append(b, "EXCHANGE"...)
	for _, n := range [...]int64{x.Config, x.Number} {
		b = strconv.AppendInt(append(b, ' '), n, 10)
	}
	b = append(b, ' ', '-')
	for _, flag := range [...]struct {
		set    bool
		letter byte
	}{{x.Delivered, 'd'}, {x.HasBody, 'b'}, {x.Ended, 'e'}, {x.Stalled, 's'}, {x.Tapped, 't'}} {
		if flag.set {
			b = append(b, flag.letter)
		}
	}
	for _, n := range [...]int64{
		x.FirstByte, x.Bytes, int64(len(x.Log)), int64(len(x.Request)), int64(len(x.Type)), int64(len(x.Encoding)),
		int64(len(x.Head)), x.Skipped, int64(len(x.Tail)),
	} {
		b = strconv.AppendInt(append(b, ' '), n, 10)
	}
	b = append(b, '\n')
	for _, part := range [...][]byte{x.Log, x.Request, x.Type, x.Encoding, x.Head, x.Tail} {
		b = append(b, part...)
	}
	return b
}
