// Package relay moves records from a spool to Kafka.
//
// # Guarantees
//
// A record leaves the spool only after the brokers acknowledged it with
// acks=all, or after it was moved, durably, to the spool's rejected bucket.
// Delivery is at least once: when the process dies between the broker's
// acknowledgement and the spool's, the next process publishes the same bytes
// again. Everything but a poison record is retried for ever, or for
// Settings.MaxEventAge.
//
// Every record that Run takes from the spool ends in exactly one count of
// [Stats]: published, dead-lettered, rejected or expired.
//
// # Order
//
// Records with one key go to one partition (Murmur2, as the Java client does
// it) and reach it in spool order: a partition has one request in flight, and
// nothing later is sent to it before what is earlier was acknowledged or set
// aside as poison. Three things break that: a request that timed out may still
// be executed after its retry (Kafka knows duplicates only from idempotent
// producers, which kafka-go is not), partitions that are added to the topic move
// keys, and poison records go to another topic.
//
// What cannot be written holds up nobody else: the records of a partition, or of
// a topic, that fails stay in the spool in their order, and the rest goes on. The
// oldest of them is tried again after a delay, and when it is taken the others
// follow. Only when no broker can be asked at all the relay waits. A broker that
// takes its time is waited for, at most Timeout.
//
// # Poison
//
// A record that the brokers will never take (too large, invalid, an impossible
// topic) goes to the dead-letter topic with the headers dead_letter_reason and
// dead_letter_topic. Brokers refuse a whole batch when one record in it is at
// fault: the batch is halved until the culprit is alone. Without a dead-letter
// topic, or when that cannot take the record either, it stays in the spool's
// rejected bucket, and the rest goes on.
//
// # Age
//
// What a biller gets after it has closed the period is refused or, worse, counted
// in the next one. A record that was spooled longer ago than
// Settings.MaxEventAge is therefore not published: it goes where poison goes, for
// somebody to decide. The age is that of the spool's clock; a clock that is put
// forward expires what it should not, which is kept all the same, and what seems
// to come from the future is published. Since the oldest of a key come first,
// what is left of a key is in order.
package relay
