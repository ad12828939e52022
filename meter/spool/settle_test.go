package spool

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSettlePassesOverWhatStays settles random parts of batches, rewinds to
// random records, and compares each Peek with a list.
func TestSettlePassesOverWhatStays(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			s, err := Open(t.TempDir(), Options{SegmentBytes: 20_000})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var pending []string // in order
			passed := -1         // the number of the last record that was passed over
			positions := map[string]Pos{}
			next, acked, rejected := 0, int64(0), int64(0)
			number := func(record string) (n int) {
				if _, err := fmt.Sscanf(record, "%d ", &n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			var waits []func() error
			for range 200 {
				switch random.IntN(6) {
				case 0, 1:
					var records [][]byte
					for range random.IntN(20) {
						record := fmt.Sprintf("%d %0*d", next, random.IntN(300), 0)
						next++
						records, pending = append(records, []byte(record)), append(pending, record)
					}
					if err := s.Append(t.Context(), records...); err != nil {
						t.Fatal(err)
					}
				case 2, 3, 4:
					entries, err := s.Peek(nil, 1+random.IntN(15), 1<<20)
					if err != nil {
						t.Fatal(err)
					}
					after := slices.DeleteFunc(slices.Clone(pending), func(r string) bool { return number(r) <= passed })
					if len(entries) == 0 && len(after) > 0 {
						t.Fatalf("nothing is returned, %d records wait", len(after))
					}
					var placed []Pos
					var rejects []Reject
					for i, e := range entries {
						if string(e.Record) != after[i] {
							t.Fatalf("record %d is %q, want %q", i, e.Record, after[i])
						}
						if p, ok := positions[after[i]]; ok && p.Compare(e.Pos) != 0 {
							t.Fatal("a record has moved")
						}
						positions[after[i]] = e.Pos
						if i > 0 && entries[i-1].Pos.Compare(e.Pos) != -1 {
							t.Fatal("positions do not ascend")
						}
						passed = number(after[i])
						switch random.IntN(3) {
						case 0:
							continue // stays
						case 1:
							rejects = append(rejects, Reject{Pos: e.Pos, Reason: "test"})
							rejected++
						default:
							placed = append(placed, e.Pos)
							acked++
						}
						pending = slices.DeleteFunc(pending, func(r string) bool { return r == after[i] })
					}
					if len(entries) > 0 {
						wait := s.Settle(entries[len(entries)-1].Pos, placed, rejects)
						if waits = append(waits, wait); random.IntN(2) == 0 {
							for _, wait := range waits {
								if err := wait(); err != nil {
									t.Fatal(err)
								}
							}
							waits = nil
						}
					}
				default:
					if random.IntN(4) == 0 {
						s.Rewind(Pos{})
						passed = -1
						continue
					}
					known := slices.DeleteFunc(slices.Clone(pending), func(r string) bool { return positions[r].file == nil })
					if len(known) == 0 {
						continue
					}
					to := known[random.IntN(len(known))]
					from, err := s.PeekFrom(positions[to], nil, 3, 1<<20)
					if err != nil || string(from[0].Record) != to {
						t.Fatalf("from %q: %v, %v", to, from, err)
					}
					s.Rewind(positions[to])
					passed = min(passed, number(to)-1)
				}
			}
			for _, wait := range waits {
				if err := wait(); err != nil {
					t.Fatal(err)
				}
			}
			if st := s.Stats(); st.Pending != int64(len(pending)) || st.Acked != acked || st.Rejected != rejected || st.Appended != int64(next) {
				t.Errorf("%+v, want %d pending, %d acknowledged, %d rejected", st, len(pending), acked, rejected)
			}
		})
	}
}

func TestWhatWasPassedOverIsEvictedFirst(t *testing.T) {
	s, err := Open(t.TempDir(), Options{MaxBytes: 1000, WhenFull: DropOldest})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	record := func(c byte) []byte { return slices.Repeat([]byte{c}, 100) }
	for c := range byte(10) {
		if err := s.Append(t.Context(), record('a'+c)); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := s.Peek(nil, 4, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(entries[3].Pos, []Pos{entries[1].Pos}, nil)(); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), record('k'), record('l')); err != nil {
		t.Fatal(err)
	}
	s.Rewind(Pos{})
	entries, err = s.Peek(nil, 100, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var left []byte
	for _, e := range entries {
		left = append(left, e.Record[0])
	}
	if string(left) != "cdefghijkl" {
		t.Errorf("%q are left, want a evicted", left)
	}
}
