package command

import (
	"syscall"
	"time"
)

// clockError returns how far this machine's clock may be off, and whether something keeps it right, after adjtimex(2).
func clockError() (most time.Duration, kept bool, err error) {
	const unsynchronised = 0x40 // STA_UNSYNC
	var t syscall.Timex
	_, err = syscall.Adjtimex(&t)
	return time.Duration(t.Maxerror) * time.Microsecond, t.Status&unsynchronised == 0, err
}
