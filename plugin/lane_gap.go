package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"kafka-metering/meter"
	"kafka-metering/meter/spool"
	"kafka-metering/plugin/lane"
	"kafka-metering/plugin/record"
	"kafka-metering/schema"
)

// typeGap is the type of the events that say what was not metered.
const typeGap = "kong.metering_gap"

// Reasons of a gap that no worker reports.
const (
	reasonGap        = "gap"         // numbers of exchanges that nobody has seen or heard of
	reasonWorkerLost = "worker_lost" // a worker died; how many exchanges it had is not known
)

// The places of exchanges that never came.
var (
	placeWorkerQueueFull = place{"dropped", "worker_queue_full"} // the process was away, or slow, for too long
	placeWorkerLog       = place{"dropped", "worker_log"}        // Kong's log could not be encoded, or is too long
	placeWorkerError     = place{"dropped", "worker_error"}      // the Lua front failed
	placeWorkerRefused   = place{"dropped", "worker_refused"}    // the process answered with an error
	placeWorkerExit      = place{"dropped", "worker_exit"}       // a worker ended before it could hand them over
	placeGap             = place{"dropped", reasonGap}
)

// dropPlaces are the places of the reasons that workers give.
var dropPlaces = [...]place{placeWorkerQueueFull, placeWorkerLog, placeWorkerError, placeWorkerRefused, placeWorkerExit}

// placeOfDrop returns the place of a worker's reason. One that is not known, of another version, is an error of the front.
func placeOfDrop(reason string) place {
	for _, p := range dropPlaces {
		if p.reason == reason {
			return p
		}
	}
	return placeWorkerError
}

// lose counts exchanges that never came.
func (l *ledger) lose(p place, n int64) {
	l.observed.AddInt64(n)
	l.ends[p].AddInt64(n)
}

// gap is the data of an event of [typeGap].
type gap struct {
	Exchanges int64  `json:"exchanges,omitempty"` // 0: how many is not known
	Reason    string `json:"reason"`
	Worker    string `json:"worker"`
	Plugin    string `json:"plugin_id,omitempty"`
}

// gapEvent is a gap that is told through an instance.
type gapEvent struct {
	in  *instance
	gap gap
	id  string
}

// records returns the event's record. Its subject is the source: nobody is billed for it.
func (g gapEvent) records() [][]byte {
	data, err := json.Marshal(g.gap)
	if err != nil {
		panic("bug: " + err.Error())
	}
	now := meter.FormatTime(g.in.process.now())
	e := meter.Event{
		ID: g.id, Source: g.in.source, Type: typeGap, Subject: g.in.source, Time: now, DataSchema: schema.DataSchema(typeGap),
		Sequence: record.Unnumbered, RecordedTime: now, Data: data,
	}
	return new(record.Buffer).Encode([]meter.Event{e}, g.in.topic, "", g.in.binary)
}

// gaps returns the events that tell of a batch's drops, and of the exchanges that are missing.
func (w *laneWorker) gaps(b *laneBatch, missing int64, sinks []*instance) []gapEvent {
	var events []gapEvent
	for i, d := range b.batch.Drops {
		g := gap{Exchanges: d.Count, Reason: placeOfDrop(d.Reason).reason, Worker: w.name, Plugin: d.Plugin}
		events = append(events, eventsOf(g, fmt.Sprintf("%s-%d-%d", w.name, b.batch.Number, i), sinks)...)
	}
	if missing > 0 {
		w.l.p.log.Error("exchanges of a worker are missing; please report this", "worker", w.name, "exchanges", missing, "before", b.last)
		g := gap{Exchanges: missing, Reason: reasonGap, Worker: w.name}
		events = append(events, eventsOf(g, fmt.Sprintf("%s-%d-gap", w.name, b.batch.Number), sinks)...)
	}
	// A process that is gone may have spooled them, and not lived to say so; see recall.
	return slices.DeleteFunc(events, func(e gapEvent) bool {
		return w.l.p.recent.has(strings.TrimSuffix(e.id, "/"+typeGap))
	})
}

// eventsOf returns one event for each topic that a gap concerns: the plugin's, or every one.
func eventsOf(g gap, id string, sinks []*instance) []gapEvent {
	if g.Plugin == "-" {
		g.Plugin = ""
	}
	if i := slices.IndexFunc(sinks, func(in *instance) bool { return g.Plugin != "" && in.plugin == g.Plugin }); i >= 0 {
		sinks = sinks[i : i+1]
	}
	var events []gapEvent
	for _, in := range sinks {
		told := slices.ContainsFunc(events, func(e gapEvent) bool {
			return e.in.sink == in.sink && e.in.topic == in.topic && e.in.source == in.source
		})
		if !in.dryRun && !told {
			events = append(events, gapEvent{in: in, gap: g, id: id + "/" + typeGap})
		}
	}
	return events
}

// sinks returns the instances of a session, the latest first: of a plugin that Kong has changed it is the one in force.
func (s *laneSession) sinks() []*instance {
	all := make([]*instance, 0, len(s.configs))
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(s.configs))) {
		all = append(all, s.configs[id].instance)
	}
	return all
}

// report tells of a gap outside a batch, and returns when the events are in the spool.
func (l *laneServer) report(g gap, id string, sinks []*instance) {
	for _, e := range eventsOf(g, g.Worker+"-"+id, sinks) {
		done := make(chan error, 1)
		err := e.in.sink.Hold(e.records(), func(err error) { done <- err })
		if err == nil {
			err = <-done
		}
		if err != nil && !errors.Is(err, spool.ErrMemory) {
			l.p.log.Error("an event of a gap is lost; the metric has it", "error", err)
		}
	}
}

// readLost takes in what workers that exited while the process was away left word of.
func (l *laneServer) readLost() {
	l.mu.Lock()
	var sinks []*instance
	for _, in := range l.instances {
		if in.ready {
			sinks = append(sinks, in.instance)
		}
	}
	l.mu.Unlock()
	if len(sinks) == 0 {
		return // there is no topic yet that could be told
	}
	path := filepath.Join(l.prefix, laneLost)
	if err := os.Rename(path, fmt.Sprintf("%s.%d-%d", path, time.Now().UnixNano(), os.Getpid())); err != nil && !errors.Is(err, os.ErrNotExist) {
		l.p.log.Error("read what workers lost", "error", err)
	}
	// With those of a process that was killed in between.
	taken, err := filepath.Glob(path + ".*")
	if err != nil {
		l.p.log.Error("read what workers lost", "error", err)
	}
	for _, name := range taken {
		if l.lost[name] {
			continue // it cannot be removed
		}
		if err := l.takeLost(name, sinks); err != nil {
			l.p.log.Error("read what workers lost", "file", name, "error", err)
		}
	}
}

// takeLost takes one such file in, unless another process is at it, or a worker may be. A process that is killed before it has
// removed the file leaves it to the next one, whose events then have the same ids.
func (l *laneServer) takeLost(name string, sinks []*instance) error {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil // another process has it
	}
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Stat(name); err != nil || !os.SameFile(mine, there) || time.Since(mine.ModTime()) < laneInterval {
		return nil // another process has taken it in, or a worker writes it
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if l.connectedOf(text) {
		return nil // later: its last batch may be in the connection
	}
	worker, n := "unknown", 0
	left := map[lane.Drop]int64{} // of what the worker had when it exited, what nobody has, by plugin
	lose := func(d lane.Drop) {
		p := placeOfDrop(d.Reason)
		l.p.ledger.lose(p, d.Count)
		l.report(gap{Exchanges: d.Count, Reason: p.reason, Worker: worker, Plugin: d.Plugin}, fmt.Sprintf("exit-%d", n), sinks)
		n++
	}
	loseLeft := func() {
		for _, d := range slices.SortedFunc(maps.Keys(left), func(a, b lane.Drop) int { return strings.Compare(a.Plugin, b.Plugin) }) {
			lose(lane.Drop{Plugin: d.Plugin, Reason: d.Reason, Count: left[d]})
		}
		clear(left)
	}
	adoptNow(sinks) // the spools of processes that are gone: what they had taken is no loss
	taken, err := l.readTaken()
	wrong := []error{err}
	var batch int64 // that the lines are about
	for line := range strings.Lines(string(text)) {
		m, err := lane.ParseLost(strings.TrimSuffix(line, "\n"))
		switch m := m.(type) {
		case *lane.Hello:
			loseLeft()
			worker, batch = m.Worker, 0
		case *lane.Drop:
			if batch == 0 || taken[worker] < batch && !l.has(worker, batch) { // else it was told with the batch
				lose(*m)
			}
		case *lane.Sent:
			batch = m.Batch
		case *lane.Left:
			if taken[worker] < batch && !l.has(worker, batch) && !l.p.recent.has(m.ID) {
				left[lane.Drop{Plugin: m.Plugin, Reason: placeWorkerExit.reason}]++
			}
		}
		wrong = append(wrong, err)
	}
	loseLeft()
	if err = os.Remove(name); err != nil {
		l.lost[name] = true
	}
	return errors.Join(append(wrong, err)...)
}

// connectedOf reports whether one of the workers that have left word is connected yet.
func (l *laneServer) connectedOf(word []byte) bool {
	for line := range strings.Lines(string(word)) {
		m, err := lane.ParseLost(strings.TrimSuffix(line, "\n"))
		if h, ok := m.(*lane.Hello); ok && err == nil && l.connected(h.Worker) {
			return true
		}
	}
	return false
}

// connected reports whether a worker has a connection.
func (l *laneServer) connected(worker string) bool {
	l.mu.Lock()
	w := l.workers[worker]
	l.mu.Unlock()
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connections > 0
}

// has reports whether this process has taken a worker's batch.
func (l *laneServer) has(worker string, batch int64) bool {
	l.mu.Lock()
	w := l.workers[worker]
	l.mu.Unlock()
	return w != nil && w.has(batch)
}

// leaveWord tells the next process what this one has taken of workers that may not know: the acknowledgement of the last
// batch does not reach those that end at the same time, as on kong stop, and of what is published by then nothing is left in
// the spool.
func (l *laneServer) leaveWord() {
	var text []byte
	l.mu.Lock()
	for _, w := range l.workers {
		w.mu.Lock()
		if !w.parted && w.batch > 0 {
			text = (&lane.Taken{Worker: w.name, Batch: w.batch}).Append(text)
		}
		w.mu.Unlock()
	}
	l.mu.Unlock()
	if len(text) == 0 {
		return
	}
	name := fmt.Sprintf("%s.%d-%d", filepath.Join(l.prefix, laneTaken), l.p.started.UnixMilli(), os.Getpid())
	if err := os.WriteFile(name, text, 0o600); err != nil {
		l.p.log.Error("leave word of what was taken", "error", err)
	}
}

// readTaken reads what processes have left word of: the last batch of each worker. Files of long ago it removes.
func (l *laneServer) readTaken() (taken map[string]int64, err error) {
	names, err := filepath.Glob(filepath.Join(l.prefix, laneTaken) + ".*")
	taken = map[string]int64{}
	wrong := []error{err}
	for _, name := range names {
		info, err := os.Stat(name)
		if err == nil && time.Since(info.ModTime()) > laneMemory {
			wrong = append(wrong, os.Remove(name))
			continue
		}
		text, err := os.ReadFile(name)
		wrong = append(wrong, err)
		for line := range strings.Lines(string(text)) {
			m, err := lane.ParseLost(strings.TrimSuffix(line, "\n"))
			if t, ok := m.(*lane.Taken); ok && err == nil {
				taken[t.Worker] = max(taken[t.Worker], t.Batch)
			}
			wrong = append(wrong, err)
		}
	}
	return taken, errors.Join(wrong...)
}

func (l *laneServer) isStopping() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopping
}
