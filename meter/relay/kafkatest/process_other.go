//go:build !linux

package kafkatest

import (
	"os/exec"
	"syscall"
)

// startGroup starts cmd in a process group of its own and returns a channel with
// the result of its end.
func startGroup(cmd *exec.Cmd) (<-chan error, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended, nil
}
