package kafkatest

import (
	"os/exec"
	"runtime"
	"syscall"
)

// startGroup starts cmd in a process group of its own, which dies with the test
// binary, and returns a channel with the result of its end.
func startGroup(cmd *exec.Cmd) (<-chan error, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		// Linux sends Pdeathsig when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	return ended, <-started
}
