package command

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"kafka-metering/meter/relay"
	"kafka-metering/plugin/record"
)

const verifyAbout = `Proves from a topic alone that it has every event that was recorded for it, unchanged: by the events' sequences, and by the
kong.metering_checkpoint events with their counts and hashes. It names what is missing, changed, or under a wrong number.

  kafka-metering verify -brokers kafka:9092
  kafka-metering verify -config /etc/kong/kafka-metering.yml -from 2026-11-01 -format json

What stands there more than once, the same to the byte, is a redelivery: harmless for who deduplicates by source and id. Numbers on the
dead-letter topic are accounted for. What the topic's retention may have removed is not judged. It reads the whole topic, and needs some
170 bytes of memory for each event, and 200 MB beside. The exit status is 1 if there is a problem.`

// runVerify runs the command verify.
func runVerify(args []string, out, errs io.Writer, read ReadConnection) error {
	var f replayFlags
	var from time.Time
	flags := flag.NewFlagSet("verify", flag.ContinueOnError)
	flags.SetOutput(errs)
	f.register(flags)
	topic := flags.String("topic", "", topicUsage)
	flags.StringVar(&f.deadLetterTopic, "dead-letter-topic", "", "`topic` for records that Kafka refused for good (default: that of -config)")
	flags.Func("from", "do not judge what was recorded before this `time`, such as 2026-11-01 or 2026-11-01T12:00:00Z", parseTime(&from))
	format := flags.String("format", "table", "table or json")
	if err := parse(flags, args, verifyAbout); err != nil {
		return err
	}
	if *format != "table" && *format != "json" {
		return fmt.Errorf("-format %q: must be table or json", *format)
	}
	settings, _, err := f.settings(read)
	if err != nil {
		return err
	}
	*topic = f.topicOr(*topic)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	proof, err := verify(ctx, settings, *topic, from, errs)
	if err != nil {
		return err
	}
	if *format == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(proof)
	} else {
		err = printProof(out, proof)
	}
	if err != nil {
		return err
	}
	if proof.Problems > 0 {
		return errors.New(count(int64(proof.Problems), "problem"))
	}
	if proof.Events == 0 {
		return fmt.Errorf("there are no events on %s: nothing is proven", *topic)
	}
	return nil
}

// verify reads a topic, and the dead-letter topic if the settings have one.
func verify(ctx context.Context, settings relay.Settings, topic string, from time.Time, errs io.Writer) (*record.Proof, error) {
	v := record.NewVerifier(topic)
	v.From(from)
	p, n, start := newPace(errs), int64(0), time.Now()
	err := relay.ReadAll(ctx, settings, topic, func(m relay.Message) {
		v.Add(m)
		n++
		p.say(func() string {
			return fmt.Sprintf("%s, %.0f a second", count(n, "record"), float64(n)/time.Since(start).Seconds())
		})
	})
	p.end()
	if err != nil {
		return nil, err
	}
	if err := emptied(ctx, settings, topic, v, errs); err != nil {
		return nil, err
	}
	if dead := settings.DeadLetterTopic; dead != "" && dead != topic {
		if err := relay.ReadAll(ctx, settings, dead, v.AddDead); err != nil {
			return nil, err
		}
	}
	return v.Proof(time.Now()), nil
}

// emptied leaves out of judgement what may have stood on partitions that have nothing any more.
func emptied(ctx context.Context, settings relay.Settings, topic string, v *record.Verifier, errs io.Writer) error {
	partitions, err := relay.Emptied(ctx, settings, topic)
	if err != nil || len(partitions) == 0 {
		return err
	}
	horizon := time.Now()
	if t, err := relay.Inspect(ctx, settings, topic); err == nil && t.Config["cleanup.policy"] == "delete" && t.Config["retention.bytes"] == "-1" {
		if ms, err := strconv.ParseInt(t.Config["retention.ms"], 10, 64); err == nil && ms > 0 {
			horizon = horizon.Add(-time.Duration(ms) * time.Millisecond)
		}
	}
	fmt.Fprintf(errs, "kafka-metering verify: %s of %s had records and have none any more: what was recorded before %s is not judged\n",
		count(int64(len(partitions)), "partition"), topic, horizon.UTC().Format(time.RFC3339))
	v.From(horizon)
	return nil
}

// printProof prints a proof for a reader.
func printProof(out io.Writer, p *record.Proof) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SOURCE\tPROCESS STARTED\tSTATE\tEVENTS\tPROVEN\tREDELIVERED\tPROBLEMS")
	for i := range p.Runs {
		r := &p.Runs[i]
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%d\t%d\n", r.Source, r.Started, r.State, r.Events, r.Proven, r.Redelivered, r.Problems)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	const shown = 100 // of each source's findings a reader wants the first
	for i := range p.Findings[:min(shown, len(p.Findings))] {
		f := &p.Findings[i]
		which := f.First
		if f.First != f.Last {
			_, last, _ := strings.Cut(f.Last, "-")
			which += " to " + last
		}
		fmt.Fprintf(out, "\n%s: %s, %s\n  %s\n  %s\n", f.Kind, count(int64(f.Events), "event"), which, f.Source, f.Text)
	}
	if more := len(p.Findings) - shown; more > 0 {
		fmt.Fprintf(out, "\nand %d more: -format json has all\n", more)
	}
	for _, g := range p.Gaps {
		fmt.Fprintf(out, "\nnot metered, says kong.metering_gap: %s, %s (%s)\n", g.Source, count(g.Exchanges, "exchange"), g.Reason)
	}
	fmt.Fprintf(out, "\n%s\n", summary(p))
	return nil
}

// summary is the proof in one line.
func summary(p *record.Proof) string {
	redelivered := p.Repeated
	var proven uint64
	for i := range p.Runs {
		redelivered += p.Runs[i].Redelivered
		proven += p.Runs[i].Proven
	}
	verdict := fmt.Sprintf("Verified: %s of %s, each once", count(int64(p.Events), "event"), count(int64(len(p.Runs)), "process start"))
	if p.Problems > 0 {
		verdict = fmt.Sprintf("NOT VERIFIED: %s with %s", count(int64(p.Events), "event"), count(int64(p.Problems), "problem"))
	}
	verdict += fmt.Sprintf(", %d proven by checkpoints, %d redelivered", proven, redelivered)
	if p.Foreign > 0 {
		verdict += "; " + count(int64(p.Foreign), "record") + " of somebody else"
	}
	return verdict + "."
}
