// Package disktest gives tests disks of their own that become full or read-only. They are file systems in memory, which
// only root can mount, on Linux; elsewhere the tests are skipped, and say so.
package disktest

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// New returns a directory that is a file system of so many bytes, or skips the test.
func New(t testing.TB, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := mount(dir, bytes); err != nil {
		t.Skipf("A FULL DISK IS NOT TESTED: a small file system cannot be mounted, which needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Fill writes a file until the disk is full.
func Fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // what it could not take is the point
	block := make([]byte, 4096)
	for len(block) > 0 {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// ReadOnly makes the disk at dir read-only, or writable again.
func ReadOnly(t testing.TB, dir string, yes bool) {
	t.Helper()
	if err := remount(dir, yes); err != nil {
		t.Fatal(err)
	}
}
