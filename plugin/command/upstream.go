package command

import (
	"io"
)

func runUpstream(args []string, w io.Writer) error { return nil }
func runTry(args []string, w io.Writer) error      { return nil }
