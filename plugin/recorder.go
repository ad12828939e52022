package main

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Bounds of what config.record keeps.
const (
	recordedDir    = "observations" // below the spools' directory
	recordedSuffix = ".jsonl"
	recordedAge    = 7 * 24 * time.Hour
	recordedBytes  = 1 << 30
	recordedFile   = 64 << 20 // when the next file is begun, in bytes
	recordedQueue  = 4096     // documents that wait for the disk
)

// recorder keeps observations in files of at most an hour each, one JSON document a line, for the commands simulate and explain.
// The metering never waits for it: what the disk does not take in time is dropped, and counted.
type recorder struct {
	dir     string
	pid     int
	now     func() time.Time
	log     *slog.Logger
	kept    *metrics.Counter
	dropped *metrics.Counter
	queue   chan []byte

	path   string // of the file that is written; the rest is run's alone
	hour   string
	number int
}

// recorder returns the process's recorder, which it starts.
func (p *process) recorder() *recorder {
	p.recording.Do(func() {
		p.records = &recorder{
			dir: filepath.Join(p.spoolDir, recordedDir), pid: os.Getpid(), now: p.now, log: p.log,
			kept: p.ledger.observationsKept, dropped: p.ledger.observationsDropped, queue: make(chan []byte, recordedQueue),
		}
		go p.records.run()
	})
	return p.records
}

// add keeps a document. It does not wait.
func (r *recorder) add(document []byte) {
	select {
	case r.queue <- document:
	default:
		r.dropped.Inc()
	}
}

// run writes what is added, for as long as the process lives.
func (r *recorder) run() {
	for document := range r.queue {
		r.write(document)
	}
}

// write appends a document, and those that wait behind it, to the file of this hour.
func (r *recorder) write(document []byte) {
	waiting := append(make([][]byte, 0, 1+len(r.queue)), document)
	for range len(r.queue) {
		waiting = append(waiting, <-r.queue)
	}
	err := r.append(waiting)
	if err != nil {
		r.dropped.Add(len(waiting))
		r.log.Error("keep observations (config.record)", "error", err)
		time.Sleep(time.Second) // the next ones wait, or are dropped
		return
	}
	r.kept.Add(len(waiting))
}

func (r *recorder) append(documents [][]byte) error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	hour := r.now().UTC().Format("2006-01-02T15")
	info, err := os.Stat(r.path)
	if err != nil || hour != r.hour || info.Size() > recordedFile {
		r.number++
		r.hour, r.path = hour, filepath.Join(r.dir, fmt.Sprintf("%s-%d-%05d%s", hour, r.pid, r.number, recordedSuffix))
		r.clean()
	}
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<16)
	for _, d := range documents {
		_, _ = w.Write(d)
		_ = w.WriteByte('\n') // an error comes back from Flush
	}
	err = w.Flush()
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

// clean removes files that are too old, and the oldest while all are too large.
func (r *recorder) clean() {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return
	}
	var total int64
	slices.Reverse(entries) // the newest first: the names begin with the hour
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !strings.HasSuffix(entry.Name(), recordedSuffix) {
			continue
		}
		total += info.Size()
		if total > recordedBytes || r.now().Sub(info.ModTime()) > recordedAge {
			_ = os.Remove(filepath.Join(r.dir, entry.Name())) // tried again in an hour
		}
	}
}
