package devkong

import "sync/atomic"

// Stats counts what became of the events of the Log phase, and what it took. Events = Delivered + Failed + Dropped when
// nothing is in flight.
type Stats struct {
	Events    int64 // exchanges handed to the Log phase, once for each plugin configuration
	Delivered int64 // the plugin server answered with its return message
	Failed    int64 // lost, as a real Kong loses them: process away, call that fails, timeout
	Dropped   int64 // never started: 4096 timers were running in the worker

	Repeated    int64 // events, of any phase, that began again because the plugin server closed the connection
	CallsFailed int64 // PDK calls that failed in Lua and ended their event
	Started     int64 // instances
	Closed      int64 // instances, with cmd_close_instance
	Resets      int64 // times that all instances of a plugin were forgotten
	Logged      int64 // lines that the plugin wrote with kong.log
}

// counters are Stats while they count.
type counters struct {
	events, delivered, failed, dropped             atomic.Int64
	repeated, callsFailed, started, closed, resets atomic.Int64
	logged                                         atomic.Int64
}

func (c *counters) stats() Stats {
	return Stats{
		Delivered: c.delivered.Load(), Failed: c.failed.Load(), Dropped: c.dropped.Load(), Events: c.events.Load(),
		Repeated: c.repeated.Load(), CallsFailed: c.callsFailed.Load(), Started: c.started.Load(), Closed: c.closed.Load(),
		Resets: c.resets.Load(), Logged: c.logged.Load(),
	}
}
