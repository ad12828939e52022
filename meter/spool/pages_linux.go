package spool

import "syscall"

// unmap forgets the pages of a mapped file. It is an advice: failing, it costs memory.
func unmap(address, size uintptr) {
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, address, size, syscall.MADV_DONTNEED)
}
