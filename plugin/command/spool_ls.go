package command

import (
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"
)

const spoolLsAbout = `Lists spool files: whose they are, how many records wait in them, how many Kafka refused, and since when they wait.

  kafka-metering spool ls
  kafka-metering spool ls /var/lib/kafka-metering

The owner is the living process that uses a file, or "gone": the next process of the same connection adopts it, and so does
kafka-metering spool replay. "other version" has a format that this version does not know: leave it to the one that wrote it. A file that is damaged was set aside; kafka-metering spool verify says what is in it.`

// runSpoolLs runs the command spool ls.
func runSpoolLs(args []string, out, errs io.Writer) error {
	flags := spoolFlags("ls", errs)
	if err := parseFiles(flags, args, spoolLsAbout, out); err != nil {
		return err
	}
	paths, err := spoolPaths(flags.Args())
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CONNECTION\tFILE\tOWNER\tPENDING\tBYTES\tREJECTED\tFILE SIZE\tOLDEST PENDING")
	now := time.Now()
	var files, pending, bytes, rejected, unreadable int64
	for _, path := range paths {
		v, err := look(path)
		if v == nil {
			continue
		}
		files++
		connection, name := filepath.Base(filepath.Dir(path)), filepath.Base(path)
		if err != nil {
			unreadable++
			fmt.Fprintf(table, "%s\t%s\t%s\t?\t?\t?\t%d\t?\n", connection, name, owner(v), v.Size)
			fmt.Fprintf(errs, "kafka-metering spool ls: %v\n", err)
		} else {
			oldest := "-"
			if at, ok := v.Oldest(); ok {
				oldest = fmt.Sprintf("%s (%v)", at.UTC().Format(time.RFC3339), now.Sub(at).Round(time.Second))
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", connection, name, owner(v), v.Pending, v.PendingBytes, v.Rejected, v.Size, oldest)
			pending += v.Pending
			bytes += v.PendingBytes
			rejected += v.Rejected
		}
		_ = v.Close() // it was only read
	}
	if files == 0 {
		fmt.Fprintln(out, "no spool files: nothing is pending")
		return nil
	}
	fmt.Fprintf(table, "total\t%s\t\t%d\t%d\t%d\t\t\n", count(files, "file"), pending, bytes, rejected)
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write the list: %w", err)
	}
	if unreadable > 0 {
		return fmt.Errorf("%s cannot be read: kafka-metering spool verify says more", count(unreadable, "file"))
	}
	return nil
}
