package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// status is what the status page shows of one moment. It holds no secrets.
type status struct {
	Version, Node, Now, Started, Uptime string
	Unready                             []string // why the process is not ready

	Observed    string
	Exchanges   []countStatus // where they ended; what never happened is left out
	Extractions []countStatus
	Pipelines   []pipelineStatus
	FileFaults  []string // problems of the file of -config
	Problems    []problem
	Orphans     []string
	Balances    []balanceStatus
}

// countStatus is one count and its rate in the last minute.
type countStatus struct {
	Outcome, Reason, Count, Rate string
	Bad                          bool // something was lost
}

// pipelineStatus is one way to Kafka.
type pipelineStatus struct {
	Key              string
	Brokers, Topics  []string
	State            string // how publishing goes, in a few words
	Bad              bool
	Spooled          string
	Published        string
	DeadLettered     string
	Rejected         string
	Pending, Bytes   string
	Oldest           string // age of the oldest pending record; "" when none is pending
	LastPublish      string
	Errors           []errorStatus // the last of each kind
	rejected, losses int64
	expired          int64
	inMemory         int64
	unreadable       int
}

type errorStatus struct{ What, Text, At, Ago string }

// balanceStatus is one sum of counts that must balance.
type balanceStatus struct {
	What, Left, Right string
	Terms             []termStatus
	Missing           string // "" when it balances
}

type termStatus struct{ Name, Count string }

// status returns a snapshot.
func (p *process) status(unready []string) status {
	now := p.now()
	s := status{
		Version: version, Node: p.node, Now: clock(now), Started: clock(p.started), Uptime: duration(now.Sub(p.started)),
		Observed: number(int64(p.ledger.observed.Get())), Problems: p.book.all(), Orphans: p.orphans(),
		Balances: []balanceStatus{p.exchangeBalance(), p.recordBalance()},
	}
	for _, reason := range unready {
		s.Unready = append(s.Unready, p.redact(reason))
	}
	for _, err := range p.problems {
		s.FileFaults = append(s.FileFaults, p.redact(err.Error()))
	}
	for i := range s.Problems {
		s.Problems[i].Text = p.redact(s.Problems[i].Text)
	}
	s.Exchanges, s.Extractions = p.counts(now)
	for _, l := range p.running() {
		s.Pipelines = append(s.Pipelines, p.pipelineStatus(l, p.topicsOf(l), now))
	}
	slices.SortFunc(s.Pipelines, func(a, b pipelineStatus) int { return cmp.Compare(a.Key, b.Key) })
	return s
}

// counts returns where exchanges and extractions ended, in the order of the ledger.
func (p *process) counts(now time.Time) (exchanges, extracted []countStatus) {
	before, sampled := p.watch.oldest()
	rate := func(count, old uint64) string {
		elapsed := now.Sub(before.at).Seconds()
		if !sampled || elapsed < 1 || count < old {
			return "–"
		}
		return strconv.FormatFloat(float64(count-old)/elapsed, 'f', 1, 64)
	}
	for _, place := range places {
		if n := p.ledger.ends[place].Get(); n > 0 {
			exchanges = append(exchanges, countStatus{
				Outcome: place.outcome, Reason: place.reason, Count: number(int64(n)), Rate: rate(n, before.ends[place]),
				Bad: place.outcome == "dropped" || place.outcome == "failed",
			})
		}
	}
	for _, e := range extractions {
		if n := p.ledger.extractions[e].Get(); n > 0 {
			extracted = append(extracted, countStatus{Outcome: string(e), Count: number(int64(n)), Rate: rate(n, before.extractions[e])})
		}
	}
	return exchanges, extracted
}

func (p *process) pipelineStatus(l *pipeline, topics []string, now time.Time) pipelineStatus {
	spooled, relayed := l.stats()
	l.mu.Lock()
	brokers, publishing := l.settings.Brokers, l.relay != nil
	l.mu.Unlock()
	s := pipelineStatus{
		Key: filepath.Base(l.dir), Brokers: brokers, Topics: topics,
		Spooled: number(spooled.Appended + spooled.Adopted), Published: number(relayed.Published),
		DeadLettered: number(relayed.DeadLettered), Rejected: number(spooled.RejectedHeld),
		Pending: number(spooled.Pending), Bytes: size(spooled.PendingBytes),
		rejected: spooled.RejectedHeld, losses: spooled.Evicted + spooled.SetAside,
		expired: relayed.Expired, inMemory: spooled.InMemory, unreadable: spooled.Unreadable,
	}
	if age := l.oldestAge(now); age > 0 {
		s.Oldest = duration(age)
	}
	if !relayed.LastPublish.IsZero() {
		s.LastPublish = duration(now.Sub(relayed.LastPublish)) + " ago"
	}
	switch {
	case spooled.Trouble != nil:
		s.State, s.Bad = "the spool's disk cannot be written: events are in memory, or stay with Kong's workers", true
	case !publishing:
		s.State, s.Bad = "nothing is published: no usable connection; events stay in the spool", true
	case relayed.Connected && relayed.Blocked > 0:
		s.State, s.Bad = fmt.Sprintf("publishing fails for %s of its partitions and topics; their events stay in the spool, the rest is published", number(int64(relayed.Blocked))), true
	case relayed.ConsecutiveFailures > 0:
		s.State, s.Bad = fmt.Sprintf("publishing fails, %s attempts in a row; events stay in the spool", number(relayed.ConsecutiveFailures)), true
	case relayed.LastPublish.IsZero():
		s.State = "nothing published yet"
	default:
		s.State = "publishing"
	}
	for _, e := range []struct {
		what string
		err  error
		at   time.Time
	}{{"publishing", relayed.LastError, relayed.LastErrorTime}, {"spool", spooled.LastError, spooled.LastErrorTime}} {
		if e.err != nil {
			s.Errors = append(s.Errors, errorStatus{e.what, p.redact(e.err.Error()), clock(e.at), duration(now.Sub(e.at)) + " ago"})
		}
	}
	return s
}

// Notes says what somebody should look at although publishing goes on.
func (s pipelineStatus) Notes() []string {
	var notes []string
	if s.rejected > 0 {
		notes = append(notes, fmt.Sprintf("%s records were refused by Kafka for good, have expired, or name no customer where there is no dead_letter_topic: kafka-metering spool export -rejected shows them and why", number(s.rejected)))
	}
	if s.expired > 0 {
		notes = append(notes, fmt.Sprintf("%s records were not published because they were older than queue.max_event_age: they are on the dead-letter topic, or kept in the spool", number(s.expired)))
	}
	if s.inMemory > 0 {
		notes = append(notes, fmt.Sprintf("%s records are in memory alone, and would be lost with the process: make room on the spool's disk, or make it writable", number(s.inMemory)))
	}
	if s.unreadable > 0 {
		notes = append(notes, fmt.Sprintf("%d spool files of processes that are gone cannot be read, and their events wait: kafka-metering spool ls says why", s.unreadable))
	}
	if s.losses > 0 {
		notes = append(notes, fmt.Sprintf("%s records were evicted or set aside with a damaged file", number(s.losses)))
	}
	return notes
}

// exchangeBalance is observed = spooled + skipped + dropped + failed.
func (p *process) exchangeBalance() balanceStatus {
	sums := map[string]int64{}
	for place, c := range p.ledger.ends {
		sums[place.outcome] += int64(c.Get())
	}
	b := balanceStatus{What: "Exchanges", Left: "observed", Right: number(int64(p.ledger.observed.Get()))}
	for _, outcome := range [...]string{"spooled", "skipped", "dropped", "failed"} {
		b.Terms = append(b.Terms, termStatus{outcome, number(sums[outcome])})
	}
	b.Terms = append(b.Terms, termStatus{"under way", number(max(p.ledger.balance(), 0))})
	missing, _ := p.watch.imbalance()
	b.Missing = missingText(missing)
	return b
}

// recordBalance is spooled = published + dead-lettered + rejected + expired + evicted + set aside + pending.
func (p *process) recordBalance() balanceStatus {
	var taken, published, dead, rejected, expired, evicted, aside, pending int64
	for _, l := range p.running() {
		s, r := l.stats()
		taken += s.Appended + s.Adopted
		published += r.Published
		dead += r.DeadLettered
		rejected += r.Rejected
		expired += r.Expired
		evicted += s.Evicted
		aside += s.SetAside
		pending += s.Pending
	}
	_, missing := p.watch.imbalance()
	return balanceStatus{
		What: "Records", Left: "spooled", Right: number(taken), Missing: missingText(missing),
		Terms: []termStatus{
			{"published", number(published)},
			{"dead-lettered", number(dead)},
			{"rejected", number(rejected)},
			{"expired", number(expired)},
			{"evicted", number(evicted)},
			{"set aside", number(aside)},
			{"pending", number(pending)},
		},
	}
}

func missingText(n int64) string {
	switch {
	case n > 0:
		return number(n) + " have been missing for a minute"
	case n < 0:
		return number(-n) + " have been counted twice for a minute"
	default:
		return ""
	}
}

// clock formats a moment.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// duration formats d in its two largest units.
func duration(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return "under 1 s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

// number formats n with its thousands apart.
func number(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	return digits
}

// size formats a number of bytes.
func size(bytes int64) string {
	value, unit := float64(bytes), "B"
	for _, larger := range [...]string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, larger
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}
