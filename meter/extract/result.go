package extract

import (
	"errors"
	"strings"

	"kafka-metering/meter"
)

// result returns the call and its outcome. err is what went wrong with the body.
func (c *Reader) result(err error) (meter.LLM, error) {
	if c.framing != unframed || c.sse {
		c.llm.Stream = new(c.streamed)
	}
	if c.format != nil && c.llm.Provider == "" && !c.response.configured() {
		c.llm.Provider = c.nativeProvider()
	}
	if !c.failed && (err != nil || c.declared.Empty() || c.bad || c.format.bedrock == bedrockWins) {
		c.readHeaders()
	}
	if errors.Is(err, ErrTooLarge) && c.streamed && (!c.declared.Empty() || c.answers > 0) {
		c.damaged, err = true, nil // what a stream had declared by then
	}
	if err == nil {
		err = c.outcome()
	}
	if err != nil && !c.failed && !c.header.Empty() {
		c.declared, c.spare, err = meter.Usage{}, meter.Usage{}, nil // whatever the body is like
	}
	if err != nil {
		if llm, ok := c.estimated(err); ok {
			return llm, nil
		}
		return c.llm, err
	}
	if c.declared.Empty() && c.answers == 0 || c.bedrockGoesOver() {
		c.takeSpare()
	} else {
		c.llm.Usage = c.total()
		c.llm.UsageSource = meter.SourceBody
		if c.streamed {
			c.llm.UsageSource = meter.SourceStream
		}
		c.llm.UsageStatus = meter.UsagePartial
		if c.settled && !c.damaged && !c.junk && !c.gap && (c.ended || c.complete && !c.cut) {
			c.llm.UsageStatus = meter.UsageFinal
		}
		c.fillFromHeaders()
	}
	switch c.llm.Operation {
	case "embeddings", "rerank", "classification":
		inputIsTotal(&c.llm.Usage)
	}
	complement(&c.llm.Usage)
	return c.llm, nil
}

// total returns what is declared as meter counts it, of all answers so far.
func (c *Reader) total() meter.Usage {
	if c.declared.Empty() {
		return c.earlier
	}
	u := c.declared
	if c.format.settle != nil && c.format.merging != sums {
		c.format.settle(&u, c.llm.Provider)
	}
	if c.answers == 0 {
		return u
	}
	complement(&u)
	u.Set(meter.Answers, 1)
	sum := c.earlier
	if c.answers == 1 {
		complement(&sum)
		sum.Set(meter.Answers, 1)
	}
	sum.Add(&u)
	return sum
}

func (c *Reader) sumTooLarge() bool {
	sum := c.total()
	return tooLarge(&sum)
}

func (c *Reader) outcome() error {
	switch {
	case c.bad, c.spoiled, c.answers > 0 && c.sumTooLarge():
		return ErrUnparsable
	case c.junk && !c.streamed:
		return ErrUnparsable
	case !c.declared.Empty(), c.answers > 0, !c.spare.Empty(), !c.header.Empty():
		return nil
	case c.lost:
		return ErrTooLarge
	case c.damaged:
		return ErrUnparsable
	case !c.ended && (c.cut || !c.complete):
		return ErrTruncated
	default:
		return ErrNoUsage
	}
}

// nativeProvider names the provider of a host that nobody knows, where a gateway in front of it is far likelier than
// another server: the format is the provider's own, and the model is one of theirs.
func (c *Reader) nativeProvider() string {
	for _, model := range [...]string{c.llm.Model, c.llm.RequestModel} {
		if model != "" {
			if f := c.format; f.native != "" && strings.HasPrefix(strings.TrimPrefix(model, "models/"), f.models) {
				return f.native
			}
			break
		}
	}
	return ""
}

// complement adds the total that a provider leaves out: what it declares of input and output.
func complement(u *meter.Usage) {
	if _, ok := u.Get(meter.TotalTokens); ok {
		return
	}
	input, hasInput := u.Get(meter.InputTokens)
	output, hasOutput := u.Get(meter.OutputTokens)
	if hasInput || hasOutput {
		u.Set(meter.TotalTokens, input+output)
	}
}

// inputIsTotal takes the total of a call that has no output for its input: Voyage and Jina declare nothing else.
func inputIsTotal(u *meter.Usage) {
	_, hasInput := u.Get(meter.InputTokens)
	_, hasOutput := u.Get(meter.OutputTokens)
	if total, ok := u.Get(meter.TotalTokens); ok && !hasInput && !hasOutput {
		u.Set(meter.InputTokens, total)
	}
}

// include adds part to whole, of which some formats leave it out. A part without a whole is all there is of it.
func include(u *meter.Usage, whole, part meter.Quantity) {
	if n, ok := u.Get(part); ok {
		sum, _ := u.Get(whole)
		u.Set(whole, sum+n)
	}
}
