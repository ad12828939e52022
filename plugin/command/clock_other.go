//go:build !linux

package command

import (
	"errors"
	"time"
)

// clockError is known on Linux only.
func clockError() (most time.Duration, kept bool, err error) {
	return 0, false, errors.ErrUnsupported
}
