package extract

import (
	"strconv"

	"kafka-metering/meter"
)

// Finding is one step of an extraction: which rule read what, and where.
type Finding struct {
	Message int    `json:"message"` // which event, line or element of the body, from 1; 0 is before the body
	Rule    string `json:"rule"`    // path, shape, a quantity, or why a value is not believed
	At      string `json:"at"`      // the path in the message, or the name of a header
	Value   string `json:"value,omitempty"`
}

// noRoot is for what stands at a path of the message, or is a header.
const noRoot = -1

// String returns the finding as a line for people.
func (f Finding) String() string {
	where := "request"
	if f.Message > 0 {
		where = "message " + strconv.Itoa(f.Message)
	}
	s := where + ": " + f.Rule + " at " + f.At
	if f.Value != "" {
		s += ": " + f.Value
	}
	return s
}

func (c *Reader) explain(rule, at, value string) {
	if c.response.Explain != nil {
		c.response.Explain(Finding{c.seen, rule, at, value})
	}
}

func (c *Reader) explainCount(root int, path string, q meter.Quantity, n int64) {
	if c.response.Explain != nil {
		c.explain(q.String(), c.place(root, path), strconv.FormatInt(n, 10))
	}
}

func (c *Reader) explainAmount(root int, path string, a meter.Amount, raw []byte) {
	if c.response.Explain != nil {
		c.explain(a.String(), c.place(root, path), string(raw))
	}
}

// explainBad tells of a value that is no count, so that the usage which it is part of is not believed.
func (c *Reader) explainBad(root int, path string, raw []byte) {
	if c.response.Explain != nil {
		c.explain("not a count", c.place(root, path), string(raw[:min(len(raw), maxText)]))
	}
}

// place joins a root and a path below it.
func (c *Reader) place(root int, path string) string {
	if root == noRoot || c.format.roots[root] == "" {
		return path
	}
	return c.format.roots[root] + "." + path
}
