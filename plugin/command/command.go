// Package command holds the commands of the binary beside the plugin server itself: one file for each. They read flags,
// call the packages that do the work, and print.
package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
)

// Usage lists the commands.
const Usage = `Commands:
  try       the whole path on this machine, with nothing installed: calls become events on a topic
  lint      what is wrong with a configuration, before Kong and the customers find out
  explain   what the plugin makes of one exchange, and why
  simulate  what other meters would have made of past exchanges
  export    the set-up of consumers: OpenMeter's meters and collector, AsyncAPI, JSON Schema
  tail      the events of a topic, as they arrive
  report    the totals of a topic, as the meters declare them, each event once
  verify    whether a topic has every event, once and unchanged: gaps, duplicates and changes, by name
  extract   the usage that LLM response bodies declare, as JSON lines
  spool     what Kafka does not have yet, and what it refused: list, export, verify, replay
  doctor    brokers, topics, disk, clock and sockets: what is wrong and what to do
  upstream  an upstream that replays LLM answers, for trying things out
  version   the version of this binary

Each has -h with an example.
`

// errUsage is returned for flags that were explained to the user already.
var errUsage = errors.New("usage")

// Run runs the named command and returns the process's exit status: 0 for success, 1 for failure, 2 for wrong use.
func Run(name string, args []string, host Host) int {
	var err error
	switch name {
	case "try":
		err = runTry(args, os.Stdout)
	case "lint":
		err = runLint(args, os.Stdin, os.Stdout, os.Stderr, host)
	case "explain":
		err = runExplain(args, os.Stdin, os.Stdout, os.Stderr, host)
	case "simulate":
		err = runSimulate(args, os.Stdout, os.Stderr, host)
	case "doctor":
		err = runDoctor(args, os.Stdout, os.Stderr, host)
	case "tail":
		err = runTail(args, os.Stdout, os.Stderr, host.ReadConnection)
	case "report":
		err = runReport(args, os.Stdout, os.Stderr, host)
	case "verify":
		err = runVerify(args, os.Stdout, os.Stderr, host.ReadConnection)
	case "export":
		err = runExport(args, os.Stdout, os.Stderr, host)
	case "extract":
		err = runExtract(args, os.Stdin, os.Stdout, os.Stderr)
	case "spool":
		err = runSpool(args, os.Stdout, os.Stderr, host.ReadConnection)
	case "upstream":
		err = runUpstream(args, os.Stdout)
	case "version":
		fmt.Println(versionLine(host.Version))
	case "help":
		fmt.Print(Usage)
	default:
		fmt.Fprintf(os.Stderr, "kafka-metering: unknown command %q\n\n%s", name, Usage)
		return 2
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	case err != nil:
		fmt.Fprintf(os.Stderr, "kafka-metering %s: %v\n", name, err)
		return 1
	}
	return 0
}

// versionLine says what this binary is, and what it was built from.
func versionLine(version string) string {
	line := fmt.Sprintf("kafka-metering %s, %s %s/%s", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return line
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			line += ", revision " + s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			line += " and changes"
		}
	}
	return line
}

// parse parses args for a command that takes flags alone. A wrong flag is explained on standard error.
func parse(flags *flag.FlagSet, args []string, about string) error {
	flags.Usage = func() { printHelp(flags.Output(), about, flags) }
	for _, arg := range args {
		if arg == "-h" || arg == "-help" || arg == "--help" {
			flags.SetOutput(io.Writer(os.Stdout))
			flags.Usage()
			return flag.ErrHelp
		}
	}
	if err := flags.Parse(args); err != nil {
		return errUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(flags.Output(), "unexpected argument %q\n\n", flags.Arg(0))
		flags.Usage()
		return errUsage
	}
	return nil
}
