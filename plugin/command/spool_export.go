package command

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"kafka-metering/meter/relay"
	"kafka-metering/meter/spool"
)

const spoolExportAbout = `Writes the records of the spool files as JSON lines: when each was spooled, its topic, key, headers and event, and, where
Kafka refused it for good, why. It changes nothing in the files.

  kafka-metering spool export /var/lib/kafka-metering > pending.jsonl
  kafka-metering spool export -rejected | jq -r '[.rejected, .event.id] | @tsv'

A value that is no JSON is base64 in value_base64. A record that is damaged has its error in damaged, and nothing else.`

// exportLine is one record.
type exportLine struct {
	File        string          `json:"file"`
	Time        string          `json:"time,omitempty"`     // when it was spooled
	Rejected    string          `json:"rejected,omitempty"` // why Kafka refused it; absent: it is pending
	Damaged     string          `json:"damaged,omitempty"`
	DeadLetter  string          `json:"dead_letter,omitempty"` // why it is meant for the dead-letter topic
	Topic       string          `json:"topic,omitempty"`
	Key         *string         `json:"key,omitempty"`
	Headers     []exportHeader  `json:"headers,omitempty"`
	Event       json.RawMessage `json:"event,omitempty"`
	ValueBase64 []byte          `json:"value_base64,omitempty"`
}

type exportHeader struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// runSpoolExport runs the command spool export.
func runSpoolExport(args []string, out, errs io.Writer) error {
	flags := spoolFlags("export", errs)
	rejected := flags.Bool("rejected", false, "only the records that Kafka refused")
	pending := flags.Bool("pending", false, "only the records that are still to be published")
	if err := parseFiles(flags, args, spoolExportAbout, out); err != nil {
		return err
	}
	if *rejected && *pending {
		return errors.New("-rejected and -pending exclude each other: give neither for both kinds")
	}
	paths, err := spoolPaths(flags.Args())
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(out)
	x := exporter{lines: json.NewEncoder(buffered), pace: newPace(errs), errs: errs}
	x.lines.SetEscapeHTML(false)
	for _, path := range paths {
		if err := x.file(path, !*rejected, !*pending); err != nil {
			return fmt.Errorf("write the records: %w", err)
		}
	}
	x.pace.end()
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write the records: %w", err)
	}
	if x.faults > 0 {
		return fmt.Errorf("%s damaged or not readable: kafka-metering spool verify says more", count(x.faults, "record or file"))
	}
	return nil
}

type exporter struct {
	lines  *json.Encoder
	pace   *pace
	errs   io.Writer
	done   int64
	faults int64
}

// file exports one file. The error is that of writing; what cannot be read is counted.
func (x *exporter) file(path string, pending, rejected bool) error {
	v, err := look(path)
	if v == nil {
		return nil
	}
	defer v.Close() //nolint:errcheck // it was only read
	if err != nil {
		x.fault(err)
		return nil
	}
	if v.Moving {
		x.fault(fmt.Errorf("%s: its process writes to it all the time: pending records may be missing; try again when there is less traffic", path))
	}
	if pending {
		for e, err := range v.Entries() {
			if err != nil {
				x.fault(err)
				break
			}
			if err := x.write(newExportLine(path, e.Time, e.Record, e.Err)); err != nil {
				return err
			}
		}
	}
	if rejected {
		for r, err := range v.RejectedRecords() {
			if err != nil && r.Time.IsZero() {
				x.fault(err)
				break
			}
			line := newExportLine(path, r.Time, r.Record, err)
			line.Rejected = r.Reason
			if err := x.write(line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *exporter) write(line exportLine) error {
	if line.Damaged != "" {
		x.faults++
	}
	x.done++
	x.pace.say(func() string { return count(x.done, "record") })
	return x.lines.Encode(line)
}

func (x *exporter) fault(err error) {
	x.faults++
	fmt.Fprintf(x.errs, "kafka-metering spool export: %v\n", err)
}

func newExportLine(path string, at time.Time, record []byte, damage error) exportLine {
	line := exportLine{File: path}
	if !at.IsZero() {
		line.Time = at.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	if errors.Is(damage, spool.ErrCorrupt) {
		line.Damaged = damage.Error()
		return line
	}
	r, err := relay.ParseRecord(record)
	if err != nil {
		line.Damaged = err.Error()
		return line
	}
	line.Topic, line.DeadLetter = r.Topic, r.Dead
	if r.Key != nil {
		key := string(r.Key)
		line.Key = &key
	}
	for _, h := range r.Headers {
		line.Headers = append(line.Headers, exportHeader{h.Key, string(h.Value)})
	}
	if json.Valid(r.Value) && utf8.Valid(r.Value) {
		line.Event = r.Value
	} else {
		line.ValueBase64 = r.Value
	}
	return line
}
