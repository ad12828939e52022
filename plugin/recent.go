package main

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"
)

// recentIDs is how many request ids each of the two generations of recent holds: at 20,000 exchanges a second the last
// six seconds and more, while Kong repeats an event at once.
const recentIDs = 1 << 17

// recent remembers the exchanges that were taken lately. Kong runs an event again when its connection closes, also when
// the first run had been taken: the repeat must not become a second record.
type recent struct {
	mu         sync.Mutex
	generation map[[16]byte]struct{}
	older      map[[16]byte]struct{}
	underway   map[[16]byte]chan struct{}
}

func newRecent() *recent {
	return &recent{generation: map[[16]byte]struct{}{}, underway: map[[16]byte]chan struct{}{}}
}

// claim takes id for the caller, who calls done when the exchange has its place. A nil done means that id was taken
// before; then first is closed once the first run has its place, and nil if it has it already.
func (r *recent) claim(id string) (done func(), first <-chan struct{}) {
	key := recentKey(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	_, fresh := r.generation[key]
	_, old := r.older[key]
	if fresh || old {
		return nil, r.underway[key]
	}
	if len(r.generation) >= recentIDs {
		r.older, r.generation = r.generation, make(map[[16]byte]struct{}, recentIDs)
	}
	r.generation[key] = struct{}{}
	finished := make(chan struct{})
	r.underway[key] = finished
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.underway, key)
		close(finished)
	}, nil
}

// has reports whether id was taken.
func (r *recent) has(id string) bool {
	key := recentKey(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	_, fresh := r.generation[key]
	_, old := r.older[key]
	return fresh || old
}

// add makes id one that was taken.
func (r *recent) add(id string) {
	if done, _ := r.claim(id); done != nil {
		done()
	}
}

// recentKey is the id itself, which Kong makes of 16 bytes in hexadecimal, or a hash of any other.
func recentKey(id string) (key [16]byte) {
	if len(id) == 2*len(key) {
		if _, err := hex.Decode(key[:], []byte(id)); err == nil {
			return key
		}
	}
	sum := sha256.Sum256([]byte(id))
	copy(key[:], sum[:])
	return key
}
