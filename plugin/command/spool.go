package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"kafka-metering/meter/spool"
)

// defaultSpool is where the plugin server keeps its spools unless it is told otherwise.
const defaultSpool = "/usr/local/kong/kafka-metering.spool"

const spoolAbout = `Looks into the spools: what Kafka does not have yet, and what it refused for good. The plugin server may run meanwhile.

  kafka-metering spool ls                          what is there, whose it is, how old
  kafka-metering spool verify                      whether every record is what was written
  kafka-metering spool export -rejected > r.jsonl  the records that Kafka refused, and why
  kafka-metering spool replay -config kafka.yml    publish what a process that is gone has left

Each takes a spool directory, one of its connections' directories, or single files; without one it takes
` + defaultSpool + `. Run it as the user that Kong runs as. Each has -h.
`

// runSpool runs the command spool.
func runSpool(args []string, out, errs io.Writer, read ReadConnection) error {
	if len(args) == 0 {
		fmt.Fprint(errs, refill(spoolAbout))
		return errUsage
	}
	switch rest := args[1:]; args[0] {
	case "ls":
		return runSpoolLs(rest, out, errs)
	case "export":
		return runSpoolExport(rest, out, errs)
	case "verify":
		return runSpoolVerify(rest, out, errs)
	case "replay":
		return runSpoolReplay(rest, out, errs, read)
	case "-h", "-help", "--help", "help":
		fmt.Fprint(out, refill(spoolAbout))
		return flag.ErrHelp
	default:
		fmt.Fprintf(errs, "unknown command %q\n\n%s", args[0], refill(spoolAbout))
		return errUsage
	}
}

// spoolFlags returns the flags of one of the commands.
func spoolFlags(name string, errs io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet("spool "+name, flag.ContinueOnError)
	flags.SetOutput(errs)
	return flags
}

// spoolPaths returns the spool files that args name, in the order of the directories and of their names.
func spoolPaths(args []string) ([]string, error) {
	if len(args) == 0 {
		args = []string{defaultSpool}
	}
	var paths []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("there is no %s: give the plugin server's -spool-dir, or kafka-metering.spool in Kong's prefix", arg)
		case err != nil:
			return nil, fmt.Errorf("look for spools: %w (run this as the user that Kong runs as)", err)
		case !info.IsDir():
			paths = append(paths, arg)
			continue
		}
		dirs, err := spoolDirs(arg)
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			files, err := spool.Files(dir)
			if err != nil {
				return nil, fmt.Errorf("%w (run this as the user that Kong runs as)", err)
			}
			paths = append(paths, files...)
		}
	}
	return paths, nil
}

// spoolDirs returns dir and the directories in it.
func spoolDirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for spools: %w (run this as the user that Kong runs as)", err)
	}
	dirs := []string{dir}
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(dir, e.Name()))
		}
	}
	return dirs, nil
}

// otherVersion says what to do about a file of another format.
const otherVersion = "nothing is wrong with it; kafka-metering spool replay of the version that wrote it publishes it"

// look opens a view of a spool file; nil and no error where the file is gone meanwhile, which is how files end.
func look(path string) (*spool.View, error) {
	v, err := spool.Look(path)
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, fs.ErrNotExist):
		_ = v.Close()
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w (run this as the user that Kong runs as)", err)
	case errors.Is(err, spool.ErrFormat):
		err = fmt.Errorf("%w: %s", err, otherVersion)
	}
	return v, err
}

// owner says in a word or two whose file it is.
func owner(v *spool.View) string {
	switch {
	case v.InUse:
		return fmt.Sprintf("process %d", v.PID)
	case v.Damaged:
		return "set aside"
	case v.Foreign:
		return "other version"
	default:
		return "gone"
	}
}

// pace lets long work say from time to time how far it is: often on a terminal, rarely in a log.
type pace struct {
	*progress
	shown bool
}

func newPace(out io.Writer) *pace { return &pace{progress: newProgress(out)} }

// say shows a line when it is time to.
func (p *pace) say(line func() string) {
	now := time.Now()
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(p.interval())
	p.shown = true
	if p.terminal {
		fmt.Fprintf(p.out, "\r%s\033[K", line())
		return
	}
	fmt.Fprintln(p.out, line())
}

// end takes the line away.
func (p *pace) end() {
	if p.terminal && p.shown {
		fmt.Fprint(p.out, "\r\033[K")
	}
}

// count formats a number of things.
func count(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
