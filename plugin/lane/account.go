package lane

// Account checks that every exchange of a worker is either handed over or reported as dropped. The zero value is the
// account of a worker that begins.
type Account struct{ counted int64 }

// NewAccount goes on with what another process has acknowledged.
func NewAccount(h *Hello) *Account { return &Account{counted: h.Counted} }

// Heard takes in what a worker that comes back says: another process may have acknowledged some meanwhile.
func (a *Account) Heard(h *Hello) { a.counted = max(a.counted, h.Counted) }

// Batch takes in a batch of so many exchanges and drops, whose last exchange has a number: 0 for none. It returns how many
// of the worker's exchanges up to there nobody has seen or heard of.
func (a *Account) Batch(exchanges, drops, last int64) (gap int64) {
	a.counted += exchanges + drops
	if gap = last - a.counted; gap <= 0 {
		return 0
	}
	a.counted = last
	return gap
}
