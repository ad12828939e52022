package command

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tidwall/gjson"

	"kafka-metering/meter/relay"
)

const tailAbout = `Prints the events of a topic as they arrive, one readable line for each, until Ctrl-C.

  kafka-metering tail -brokers kafka-1:9092,kafka-2:9092
  kafka-metering tail -config /etc/kong/kafka-metering.yml -topic kong.metering -subject cust-0001 -json | jq .data

It reads the topic from its beginning; -new leaves out what stands there already.`

// defaultTopic is the topic of a plugin that names none.
const defaultTopic = "kong.metering"

// tailing is one run of the command.
type tailing struct {
	out                io.Writer
	subject, eventType string
	json               bool
}

// runTail runs the command tail.
func runTail(args []string, out, errs io.Writer, read ReadConnection) error {
	x := tailing{out: out}
	var f replayFlags
	flags := flag.NewFlagSet("tail", flag.ContinueOnError)
	flags.SetOutput(errs)
	f.register(flags)
	topic := flags.String("topic", defaultTopic, "`topic` of the events")
	fresh := flags.Bool("new", false, "only events that arrive from now on")
	flags.StringVar(&x.subject, "subject", "", "only events of this `customer`")
	flags.StringVar(&x.eventType, "type", "", "only events of this `type`")
	flags.BoolVar(&x.json, "json", false, "print whole events, as JSON lines")
	if err := parse(flags, args, tailAbout); err != nil {
		return err
	}
	settings, _, err := f.settings(read)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	old := map[int]int64{} // by partition: the last offset that stands there already
	if *fresh {
		if err := relay.ReadAll(ctx, settings, *topic, func(m relay.Message) { old[m.Partition] = m.Offset + 1 }); err != nil {
			return err
		}
	}
	return relay.Follow(ctx, settings, *topic, func(m relay.Message) {
		if m.Offset >= old[m.Partition] {
			x.print(m)
		}
	})
}

func (x *tailing) print(m relay.Message) {
	e, whole, ok := eventOf(m)
	switch {
	case !ok:
		fmt.Fprintf(x.out, "partition %d, offset %d: no event of this plugin\n", m.Partition, m.Offset)
	case x.subject != "" && e.subject != x.subject, x.eventType != "" && e.eventType != x.eventType:
	case x.json:
		fmt.Fprintln(x.out, whole)
	default:
		fmt.Fprintln(x.out, e.line())
	}
}

// eventOf reads a record in either of CloudEvents' modes. whole is the event as one JSON object.
func eventOf(m relay.Message) (e event, whole string, ok bool) {
	headers := map[string]string{}
	for _, h := range m.Headers {
		headers[h.Key] = string(h.Value)
	}
	if strings.HasPrefix(headers["content-type"], "application/cloudevents") || headers["ce_specversion"] == "" {
		e, ok = parseEvent(m.Value)
		return e, string(m.Value), ok
	}
	if !gjson.ValidBytes(m.Value) {
		return e, "", false
	}
	var b strings.Builder // binary mode: the attributes are headers
	b.WriteByte('{')
	for _, h := range m.Headers {
		if name, attribute := strings.CutPrefix(h.Key, "ce_"); attribute {
			fmt.Fprintf(&b, "%q:%s,", name, gjson.AppendJSONString(nil, string(h.Value)))
		}
	}
	fmt.Fprintf(&b, `"datacontenttype":%q,"data":%s}`, cmp.Or(headers["content-type"], "application/json"), m.Value)
	e, ok = parseEvent([]byte(b.String()))
	return e, b.String(), ok
}
