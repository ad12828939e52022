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

const topicUsage = "`topic` of the events (default: that of -config, else " + defaultTopic + ")"

// tailing is one run of the command.
type tailing struct {
	out, errs          io.Writer
	subject, eventType string
	json               bool
}

// runTail runs the command tail.
func runTail(args []string, out, errs io.Writer, read ReadConnection) error {
	x := tailing{out: out, errs: errs}
	var f replayFlags
	flags := flag.NewFlagSet("tail", flag.ContinueOnError)
	flags.SetOutput(errs)
	f.register(flags)
	topic := flags.String("topic", "", topicUsage)
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
	*topic = f.topicOr(*topic)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	follow := relay.Follow
	if *fresh {
		follow = relay.FollowNew
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var unwritten error
	err = follow(ctx, settings, *topic, func(m relay.Message) {
		if unwritten == nil {
			if unwritten = x.print(m); unwritten != nil {
				cancel()
			}
		}
	})
	return cmp.Or(unwritten, err)
}

func (x *tailing) print(m relay.Message) (err error) {
	e, whole, ok := eventOf(m)
	switch {
	case !ok:
		_, err = fmt.Fprintf(x.errs, "partition %d, offset %d: no event of this plugin\n", m.Partition, m.Offset)
	case x.subject != "" && e.subject != x.subject, x.eventType != "" && e.eventType != x.eventType:
	case x.json:
		_, err = fmt.Fprintln(x.out, gjson.Get(whole, "@ugly").Raw) // one line
	default:
		_, err = fmt.Fprintln(x.out, e.line())
	}
	return err
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
