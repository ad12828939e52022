package command

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

const spoolVerifyAbout = `Reads every record of the spool files and compares it with its checksum, and their number with what the file counts.

  kafka-metering spool verify
  kafka-metering spool verify /usr/local/kong/kafka-metering.spool/process/*.damaged

It changes nothing. The exit status is 1 when anything is damaged. What is intact in a damaged file, kafka-metering spool
export FILE shows.`

// runSpoolVerify runs the command spool verify.
func runSpoolVerify(args []string, out, errs io.Writer) error {
	flags := spoolFlags("verify", errs)
	if err := parseFiles(flags, args, spoolVerifyAbout, out); err != nil {
		return err
	}
	paths, err := spoolPaths(flags.Args())
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		fmt.Fprintln(out, "no spool files: nothing is pending")
	}
	p := newPace(errs)
	var damaged, unsure, foreign int64
	for i, path := range paths {
		v, err := look(path)
		if v == nil {
			continue
		}
		if err == nil {
			var read int64
			err = v.Verify(func() {
				if read++; read%1000 == 0 {
					p.say(func() string {
						return fmt.Sprintf("file %d of %d: %d of %s", i+1, len(paths), read, count(v.Pending+v.Rejected, "record"))
					})
				}
			})
		}
		p.end()
		switch {
		case err == nil:
			fmt.Fprintf(out, "ok       %s: %d pending, %d rejected (%s)\n", path, v.Pending, v.Rejected, owner(v))
		case v.Foreign:
			foreign++
			fmt.Fprintf(out, "unknown  %s\n         %v\n", path, err)
		case v.Moving:
			unsure++
			fmt.Fprintf(out, "moving   %s\n", path)
			fmt.Fprintf(errs, "kafka-metering spool verify: %v\n", err)
		default:
			damaged++
			fmt.Fprintf(out, "DAMAGED  %s (%s)\n", path, owner(v))
			for line := range strings.SplitSeq(err.Error(), "\n") {
				fmt.Fprintf(out, "         %s\n", line)
			}
		}
		_ = v.Close() // it was only read
	}
	if damaged > 0 {
		return fmt.Errorf("%s of %d damaged or not readable: keep copies, and see what kafka-metering spool export FILE still finds", count(damaged, "file"), len(paths))
	}
	if foreign > 0 {
		return fmt.Errorf("%s of %d of another version, and not verified", count(foreign, "file"), len(paths))
	}
	if unsure > 0 {
		return errors.New("not every file could be verified: try again when there is less traffic")
	}
	return nil
}
