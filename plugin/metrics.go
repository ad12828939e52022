package main

import (
	"fmt"
	"time"

	"kafka-metering/meter/relay"
	"kafka-metering/meter/spool"
)

// metricsHelp says what each metric counts.
var metricsHelp = []struct{ name, help string }{
	{"kong_meter_exchanges_observed_total", "Exchanges that Kong handed over."},
	{"kong_meter_exchanges_total", "Where they ended, by `outcome` and `reason`: spooled (on disk, or memory: only there, because the disk could not be written), skipped (no_meter, no_subject, dry_run, repeated), dropped (spool_full, busy, stopping; on the Lua front also worker_queue_full, worker_log, worker_error, worker_refused, worker_exit, gap), failed (disk, serialize, bad_log, panic)."},
	{"kong_meter_exchanges_under_way", "Exchanges that have no end yet: 0 whenever it is quiet."},
	{"kong_meter_imbalance_exchanges", "Exchanges that the sums have been missing for a minute: 0 while each one has ended in exactly one of the places above, or is under way for less than a minute. Anything else is a defect of this plugin, or a disk that does not answer."},
	{"kong_meter_exchanges_without_request_id_total", "Exchanges whose id is a hash of Kong's log (Kong before 3.5)."},
	{"kong_meter_exchanges_without_start_time_total", "Exchanges whose time is that of their recording."},
	{"kong_meter_exchanges_without_subject_total", "Exchanges for which no source named a customer."},
	{"kong_meter_extractions_total", "How reading the usage of an exchange ended, by `result`: ok, ai_proxy, not_llm, no_usage, no_body, unparsable, truncated, too_large, encoding."},
	{"kong_meter_usages_inconsistent_total", "Calls whose declared cached tokens exceed their declared input: billed as input."},
	{"kong_meter_bodies_unread_total", "Bodies that Kong had buffered and could not give, or that are of more than 64 MiB."},
	{"kong_meter_values_invalid_total", "Values of meters that are no finite number of at least 0: not published."},
	{"kong_meter_expressions_failed_total", "Filters, values and lists of meters that could not be evaluated: the meter did not apply to that exchange."},
	{"kong_meter_expressions_too_costly_total", "The same, because they would have cost too much for that exchange."},
	{"kong_meter_rows_skipped_total", "Rows of for_each behind the thousandth of an exchange: not published."},
	{"kong_meter_observations_total", "Observations that config.record has kept or, because the disk was too slow or full, dropped."},
	{"kong_meter_dimensions_invalid_total", "Dimensions that are objects or could not be evaluated: left out."},
	{"kong_meter_dimensions_truncated_total", "Dimensions of more than 256 bytes: cut."},
	{"kong_meter_config_problems_total", "Problems of configurations that Kong's schema accepted."},
	{"kong_meter_handover_duration_seconds", "Histogram of the time from the hand-over of an exchange (`front` pdk) or of a batch of them (lua) until their events were on disk, by `front`. No client waits for it."},
	{"kong_meter_handovers_late_total", "Exchanges that Kong was not kept waiting for, because the disk took longer than 2 s."},
	{"kong_meter_lane_batches_total", "Batches of exchanges from the Lua front, by `result`: taken, repeated (sent again, and taken before), later (the spool could not take them, and the worker keeps them)."},
	{"kong_meter_lane_workers_lost_total", "Workers of Kong that are gone without goodbye: what they had queued is lost, and how much that was is not known."},
	{"kong_meter_records_total", "Records, one for each event, by `outcome`: spooled, published, dead_lettered, rejected, expired (older than queue.max_event_age; kept on the dead-letter topic or in the spool), evicted, set_aside."},
	{"kong_meter_imbalance_records", "Records that the sums have been missing for a minute: 0 while spooled = published + dead_lettered + rejected + expired + evicted + set_aside + pending."},
	{"kong_meter_spool_pending_records", "Records that Kafka does not have yet."},
	{"kong_meter_spool_pending_bytes", "Their bytes."},
	{"kong_meter_spool_oldest_pending_age_seconds", "Age of the oldest record that Kafka does not have yet; 0 when it has all."},
	{"kong_meter_spool_rejected_bytes", "Bytes of records that Kafka refused for good or that expired, kept for somebody to look at. They count for queue.max_bytes."},
	{"kong_meter_spool_degraded", "Pipelines whose spool's disk cannot be written now: their events are in memory, or stay with Kong's workers."},
	{"kong_meter_spool_memory_records", "Of the records that Kafka does not have yet, those that are in memory alone, and would be lost with the process."},
	{"kong_meter_spool_files_unreadable", "Spool files of processes that are gone that can be neither read nor set aside, such as those of another version's format: their events wait."},
	{"kong_meter_spools_orphaned", "Spool directories of connections that are no longer configured."},
	{"kong_meter_relay_retries_total", "Attempts to publish that failed and were repeated."},
	{"kong_meter_relay_failures_consecutive", "Failed attempts since everything could be published."},
	{"kong_meter_relay_blocked_partitions", "Partitions, and topics as a whole, that cannot be written and are tried again; the rest is published."},
}

// registerMetrics offers, beside the ledger's exchanges, where records are. For each pipeline of this process
// adopted + appended = published + dead-lettered + rejected + expired + evicted + set aside + pending holds at every quiet moment.
func (p *process) registerMetrics() {
	gauge := func(name string, value func(spool.Stats, relay.Stats) int64) {
		p.ledger.set.NewGauge(name, func() float64 {
			var sum int64
			for _, l := range p.running() {
				sum += value(l.stats())
			}
			return float64(sum)
		})
	}
	record := func(outcome string, value func(spool.Stats, relay.Stats) int64) {
		gauge(fmt.Sprintf("kong_meter_records_total{outcome=%q}", outcome), value)
	}
	record("spooled", func(s spool.Stats, _ relay.Stats) int64 { return s.Appended + s.Adopted })
	record("published", func(_ spool.Stats, r relay.Stats) int64 { return r.Published })
	record("dead_lettered", func(_ spool.Stats, r relay.Stats) int64 { return r.DeadLettered })
	record("rejected", func(_ spool.Stats, r relay.Stats) int64 { return r.Rejected })
	record("expired", func(_ spool.Stats, r relay.Stats) int64 { return r.Expired })
	record("evicted", func(s spool.Stats, _ relay.Stats) int64 { return s.Evicted })
	record("set_aside", func(s spool.Stats, _ relay.Stats) int64 { return s.SetAside })
	gauge("kong_meter_spool_pending_records", func(s spool.Stats, _ relay.Stats) int64 { return s.Pending })
	gauge("kong_meter_spool_pending_bytes", func(s spool.Stats, _ relay.Stats) int64 { return s.PendingBytes })
	gauge("kong_meter_spool_rejected_bytes", func(s spool.Stats, _ relay.Stats) int64 { return s.RejectedBytes })
	gauge("kong_meter_spool_degraded", func(s spool.Stats, _ relay.Stats) int64 {
		if s.Trouble != nil {
			return 1
		}
		return 0
	})
	gauge("kong_meter_spool_memory_records", func(s spool.Stats, _ relay.Stats) int64 { return s.InMemory })
	gauge("kong_meter_spool_files_unreadable", func(s spool.Stats, _ relay.Stats) int64 { return int64(s.Unreadable) })
	gauge("kong_meter_relay_retries_total", func(_ spool.Stats, r relay.Stats) int64 { return r.Retried })
	gauge("kong_meter_relay_failures_consecutive", func(_ spool.Stats, r relay.Stats) int64 { return r.ConsecutiveFailures })
	gauge("kong_meter_relay_blocked_partitions", func(_ spool.Stats, r relay.Stats) int64 { return int64(r.Blocked) })
	p.ledger.set.NewGauge("kong_meter_imbalance_exchanges", func() float64 {
		exchanges, _ := p.watch.imbalance()
		return float64(exchanges)
	})
	p.ledger.set.NewGauge("kong_meter_imbalance_records", func() float64 {
		_, records := p.watch.imbalance()
		return float64(records)
	})
	p.ledger.set.NewGauge("kong_meter_spool_oldest_pending_age_seconds", func() float64 {
		var oldest time.Duration
		for _, l := range p.running() {
			oldest = max(oldest, l.oldestAge(p.now()))
		}
		return oldest.Seconds()
	})
	p.ledger.set.NewGauge("kong_meter_spools_orphaned", func() float64 { return float64(len(p.orphans())) })
}

// running returns the pipelines of the process.
func (p *process) running() []*pipeline {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*pipeline, 0, len(p.pipelines))
	for _, l := range p.pipelines {
		all = append(all, l)
	}
	return all
}

// stats returns zeros for what does not run.
func (l *pipeline) stats() (s spool.Stats, r relay.Stats) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spool != nil {
		s = l.spool.Stats()
	}
	if l.relay != nil {
		r = l.relay.Stats()
	}
	return s, r
}

// oldestAge returns how old the oldest pending record is at a time; 0 when none is pending.
func (l *pipeline) oldestAge(now time.Time) time.Duration {
	l.mu.Lock()
	s := l.spool
	l.mu.Unlock()
	if s == nil {
		return 0
	}
	at, pending := s.Oldest()
	if !pending {
		return 0
	}
	return max(now.Sub(at), 0)
}
