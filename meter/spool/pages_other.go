//go:build !linux

package spool

// unmap leaves it to the kernel.
func unmap(_, _ uintptr) {}
