package main

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// problemsKept bounds the plugins whose problems are remembered.
const problemsKept = 1000

// problem is what is wrong with the configuration of one plugin.
type problem struct {
	Plugin string // Kong's id of it
	Route  string // Kong's id of the route it is for; "" where it is not for one
	Text   string // "" since it was mended
	Since  time.Time

	version configVersion
}

// problemBook remembers the problems of each plugin's newest configuration.
type problemBook struct {
	mu    sync.Mutex
	pages map[string]problem
}

// set replaces what is known of p's plugin, unless that is of a newer configuration. Without a text there is no problem.
func (b *problemBook) set(p problem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, known := b.pages[p.Plugin]
	switch {
	case known && p.version.olderThan(old.version), !known && p.Text == "":
		return
	case known && old.Text == p.Text:
		p.Since = old.Since
	case !known && len(b.pages) >= problemsKept:
		oldest := slices.MinFunc(slices.Collect(maps.Values(b.pages)), func(a, b problem) int { return a.Since.Compare(b.Since) })
		delete(b.pages, oldest.Plugin)
	}
	if b.pages == nil {
		b.pages = map[string]problem{}
	}
	b.pages[p.Plugin] = p
}

// all returns the problems that there are, by plugin.
func (b *problemBook) all() []problem {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []problem
	for _, p := range b.pages {
		if p.Text != "" {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b problem) int { return cmp.Compare(a.Plugin, b.Plugin) })
	return all
}

// reportClock bounds how often the same is reported. It belongs to the process: Kong starts new instances as it likes, now and
// then for every exchange.
type reportClock struct {
	mu   sync.Mutex
	next map[string]time.Time
}

// due reports whether what key stands for may be reported now, which it then may not for [reportInterval].
func (c *reportClock) due(key string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.next[key]) {
		return false
	}
	if c.next == nil || len(c.next) >= problemsKept {
		c.next = map[string]time.Time{}
	}
	c.next[key] = now.Add(reportInterval)
	return true
}
