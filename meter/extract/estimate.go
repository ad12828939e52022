package extract

import "kafka-metering/meter"

type estimate struct{}

func (e *estimate) take(*format, []byte) {}

func (c *Reader) estimable(error) bool { return false }

func (c *Reader) estimated() (meter.LLM, error) { return c.llm, nil }
