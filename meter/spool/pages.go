package spool

import bolt "go.etcd.io/bbolt"

// readPages is how many bytes of a file may be read before its pages are given
// back: what was read once, of a backlog of any size, does not stay resident.
const readPages = 8 << 20

// giveBackRead gives the pages back when enough of them were read. The caller holds
// f.reading.
func (f *file) giveBackRead() {
	if f.read >= readPages {
		f.read = 0
		f.giveBack()
	}
}

// giveBack takes the file's pages out of the process's memory. They stay in the
// kernel's cache, and come back when they are read.
func (f *file) giveBack() {
	f.moving.RLock()
	defer f.moving.RUnlock()
	var err error // of a page that the disk does not deliver: whoever reads it finds it
	defer guard(&err)()
	_ = f.db.View(func(tx *bolt.Tx) error { // meanwhile the mapping stays where it is
		unmap(f.db.Info().Data, uintptr(tx.Size()))
		return nil
	})
}
