package main

import (
	"time"

	"github.com/Kong/go-pdk"
)

// reportInterval is how often a configuration's problems are written to Kong's error log.
const reportInterval = time.Minute

// Log meters one finished exchange. Kong calls it in a timer after the client has its response, so that nothing here can
// delay, change or fail a request; it returns when the events are on disk, or after [handOverLimit].
func (c *Config) Log(kong *pdk.PDK) {
	p := c.process
	t := p.ledger.open()
	defer func() {
		if cause := recover(); cause != nil {
			t.end(placePanic)
			p.reportPanic(cause)
		}
	}()
	in := c.started()
	in.handle(pdkExchange{kong}, t)
	if problems := in.problemsDue(time.Now()); problems != "" {
		// The event is taken. If this call fails Kong repeats the event, and the repeat is recognised.
		_ = kong.Log.Err(problems)
	}
}

// Response does nothing. Where the schema that Kong queries names its phase, Kong holds responses back until they are
// whole, and Log can read their bodies.
func (c *Config) Response(*pdk.PDK) {}

// started returns the running instance of c. Kong tells nobody that an instance has started: the first event does.
func (c *Config) started() *instance {
	c.start.Do(func() { c.instance = c.process.newInstance(c) })
	return c.instance
}
