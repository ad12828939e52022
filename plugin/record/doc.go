// Package record makes the Kafka records of events, numbers them, and proves from a topic that all of them are there.
//
// # Numbers
//
// The events that a process sends to one topic from one source through one connection are a run. Each has a sequence,
// <start of the run, ms since 1970>-<number>, with the numbers 1, 2, 3, … without a hole: a number is given in the
// transaction that makes its event durable ([Numbers], as the spool's journal), and given again if that fails. What was
// refused (a full spool, a failing disk) has none. So each number is owed to the topic, and a number that is missing there
// is an event that is lost, or was set aside, evicted or dead-lettered by name.
//
// # Checkpoints
//
// A run is told about by its own events of the type kong.metering_checkpoint: after a minute with events, after 100,000 of
// them, and when the process stops. Each says how many events stand between two numbers, and their hash. The first begins
// at number 1, each other one at the number of the checkpoint before it, so that every number but that of the last checkpoint
// is covered by exactly one.
//
// The hash is SHA-256, in lower-case hex, over the lower-case hex SHA-256 of each event, in the order of their numbers, with
// nothing between. An event's is that of its record's value in CloudEvents' structured mode. In binary mode, where the value
// is not the whole event, it is that of ce_id, ce_subject, ce_time and the value, with a line feed after each of the first
// three.
//
// The spool keeps the state of the runs in the transactions that change it. The checkpoint that a killed process did not come
// to write is therefore written by the one that adopts its spool, with the reason killed: exact, and the same to the byte
// however often it is written.
package record
