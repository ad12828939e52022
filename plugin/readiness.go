package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"kafka-metering/meter/spool"
)

// readyLimit bounds how long a readiness check waits for the disk.
const readyLimit = 2 * time.Second

// readiness runs a check that may hang with the disk. Whoever asks while it runs waits for the same one.
type readiness struct {
	check func() []string

	mu      sync.Mutex
	running *readyCheck
}

type readyCheck struct {
	done   chan struct{}
	result []string // of the finished check
}

// problems returns what keeps the process from being ready, after at most [readyLimit].
func (r *readiness) problems() []string {
	r.mu.Lock()
	c := r.running
	if c == nil {
		c = &readyCheck{done: make(chan struct{})}
		r.running = c
		go func() {
			c.result = r.check()
			r.mu.Lock()
			r.running = nil
			r.mu.Unlock()
			close(c.done)
		}()
	}
	r.mu.Unlock()
	limit := time.NewTimer(readyLimit)
	defer limit.Stop()
	select {
	case <-c.done:
		return c.result
	case <-limit.C:
		return []string{fmt.Sprintf("the disk of the spool has not answered for %v", readyLimit)}
	}
}

// unready returns what keeps the process from keeping events: a directory that cannot be written, and pipelines whose
// spool is not on disk.
func (p *process) unready() []string {
	var problems []string
	if err := errors.Join(os.MkdirAll(p.spoolDir, 0o700), probeDir(p.spoolDir)); err != nil {
		problems = append(problems, fmt.Sprintf("the spool cannot be written: %v", err))
	}
	for _, l := range p.running() {
		name := filepath.Base(l.dir)
		if s, _ := l.stats(); s.Trouble != nil {
			problems = append(problems, fmt.Sprintf("pipeline %s: the spool's disk cannot be written, %d records are in memory: %v", name, s.InMemory, s.Trouble))
			continue
		}
		if err := probeDir(l.dir); err != nil {
			problems = append(problems, fmt.Sprintf("pipeline %s: its spool cannot be written: %v", name, err))
			continue
		}
		// An open spool has a file. What is written to one that somebody deleted ends with the process.
		if files, err := spool.Files(l.dir); err == nil && len(files) == 0 {
			problems = append(problems, fmt.Sprintf("pipeline %s: its files were deleted from %s: restart the plugin server", name, l.dir))
		}
	}
	return problems
}

// probeDir writes a file of one byte in dir and removes it.
func probeDir(dir string) error {
	f, err := os.CreateTemp(dir, ".ready-*")
	if err != nil {
		return err
	}
	_, err = f.Write([]byte{0})
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}
