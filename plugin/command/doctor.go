package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kafka-metering/meter/relay"
	"kafka-metering/meter/spool"
)

const doctorAbout = `Looks at everything that the plugin server needs, from where it runs: brokers, TLS, authentication, topics and their settings, the
spool's disk, the clock, and Kong's sockets. Each line says what is wrong and what to do. It changes nothing.

  kafka-metering doctor -config /etc/kafka-metering.yml -kong-prefix /usr/local/kong -spool-dir /var/lib/kafka-metering
  kafka-metering doctor -brokers kafka:9092 -topic kong.metering -dead-letter-topic kong.metering.dead

Run it as the user that Kong runs as. The exit status is 1 if there is a problem.`

// verdict is how a check ended.
type verdict string

const (
	checkOK      verdict = "ok"
	checkWarning verdict = "warning"
	checkProblem verdict = "problem"
)

// checkResult is a line of the command.
type checkResult struct {
	Check   string  `json:"check"`
	Verdict verdict `json:"verdict"`
	Text    string  `json:"text"`
}

// doctor is one run of the command.
type doctor struct {
	settings        relay.Settings
	topic           string
	spool           string
	prefix, handler string
	version         string
	results         []checkResult
}

func (d *doctor) note(check string, v verdict, format string, args ...any) {
	d.results = append(d.results, checkResult{check, v, fmt.Sprintf(format, args...)})
}

// runDoctor runs the command doctor.
func runDoctor(args []string, out, errs io.Writer, host Host) error {
	d := doctor{version: host.Version}
	var f replayFlags
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	flags.SetOutput(errs)
	f.register(flags)
	flags.StringVar(&d.topic, "topic", "", topicUsage)
	flags.StringVar(&f.deadLetterTopic, "dead-letter-topic", "", "`topic` for records that Kafka refuses for good (default: that of -config)")
	flags.StringVar(&d.spool, "spool-dir", "", "`directory` of the spools (default: that of -config, else kafka-metering.spool in -kong-prefix or in /usr/local/kong)")
	flags.StringVar(&d.prefix, "kong-prefix", "", "`directory` of Kong's prefix: looks at the sockets in it")
	flags.StringVar(&d.handler, "lua", "/usr/local/share/lua/5.1/kong/plugins/kafka-metering/handler.lua", "`file` of the Lua front, if there is one")
	format := flags.String("format", "text", "text or json")
	if err := parse(flags, args, doctorAbout); err != nil {
		return err
	}
	settings, dir, err := f.settings(host.ReadConnection)
	if err != nil {
		return err
	}
	d.topic = f.topicOr(d.topic)
	d.settings, d.spool = settings, cmp.Or(d.spool, dir)
	if usual := filepath.Join(cmp.Or(d.prefix, filepath.Dir(defaultSpool)), filepath.Base(defaultSpool)); d.spool == "" {
		if _, err := os.Stat(usual); err == nil {
			d.spool = usual
		}
	}
	d.settings.Timeout = min(cmp.Or(d.settings.Timeout, 5*time.Second), 5*time.Second)
	d.kafka()
	d.disk()
	d.clock()
	d.kong()
	return d.print(out, *format)
}

func (d *doctor) print(out io.Writer, format string) error {
	problems := 0
	for _, r := range d.results {
		if r.Verdict == checkProblem {
			problems++
		}
	}
	switch format {
	case "json":
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(d.results); err != nil {
			return err
		}
	case "text":
		for _, r := range d.results {
			fmt.Fprintf(out, "%-8s %-16s %s\n", r.Verdict, r.Check, r.Text)
		}
	default:
		return fmt.Errorf("-format %q: must be text or json", format)
	}
	if problems > 0 {
		return fmt.Errorf("%s", count(int64(problems), "problem"))
	}
	return nil
}

// kafka looks at each broker, and at the topics.
func (d *doctor) kafka() {
	reached := 0
	for _, address := range d.settings.Brokers {
		if d.broker(address) {
			reached++
		}
	}
	if reached == 0 {
		return // nobody could be asked for a topic
	}
	d.topicOf("topic", d.topic)
	if d.settings.DeadLetterTopic == "" {
		d.note("dead letters", checkWarning, "there is no dead_letter_topic: records that Kafka refuses for good stay in the spool, for kafka-metering spool export -rejected")
	} else {
		d.topicOf("dead letters", d.settings.DeadLetterTopic)
	}
}

// limits of what is worth a warning.
const (
	certificateWarning = 14 * 24 * time.Hour
	retentionWarning   = 7 * 24 * time.Hour
	freeWarning        = 1 << 30
)

// topicOf looks at a topic.
func (d *doctor) topicOf(check, name string) {
	t, err := relay.Inspect(context.Background(), d.settings, name)
	if d.settings.CreateTopics && relay.IsMissing(err) {
		d.note(check, checkWarning, "%s does not exist yet: the first event creates it, with the brokers' default number of partitions and replicas", name)
		return
	}
	if err != nil {
		d.note(check, checkProblem, "%v", err)
		return
	}
	d.note(check, checkOK, "%s: %s, %s of each", name, count(int64(t.Partitions), "partition"), count(int64(t.Replicas), "replica"))
	if t.Leaderless > 0 {
		d.note(check, checkProblem, "%s: %d of %d partitions have no leader: their events wait in the spool; bring the brokers back", name, t.Leaderless, t.Partitions)
	}
	if t.UnderISR > 0 {
		d.note(check, checkWarning, "%s: %d of %d partitions have replicas that are not in sync", name, t.UnderISR, t.Partitions)
	}
	if t.Operations.Known() && !t.Operations.Write() {
		d.note(check, checkProblem, "user %q may not write to %s: grant it the ACL operation WRITE", d.settings.User, name)
	}
	if t.Config == nil {
		d.note(check, checkWarning, "the settings of %s cannot be seen (%v): grant the ACL operation DESCRIBE_CONFIGS to have them looked at", name, t.ConfigError)
		return
	}
	d.topicConfig(check, name, t)
}

func (d *doctor) topicConfig(check, name string, t *relay.Topic) {
	number := func(key string) (int64, bool) {
		n, err := strconv.ParseInt(t.Config[key], 10, 64)
		return n, err == nil
	}
	isr, known := number("min.insync.replicas")
	switch {
	case t.Replicas < 2:
		d.note(check, checkWarning, "%s has one replica: the loss of a broker's disk loses acknowledged events; three are usual", name)
	case known && isr < 2:
		d.note(check, checkWarning, "%s has min.insync.replicas %d: an event that only the leader has is acknowledged, and lost with it; set 2", name, isr)
	case known && int(isr) >= t.Replicas:
		d.note(check, checkWarning, "%s has min.insync.replicas %d of %d replicas: a single broker that is away stops publishing", name, isr, t.Replicas)
	}
	if strings.Contains(t.Config["cleanup.policy"], "compact") {
		d.note(check, checkProblem, "%s has cleanup.policy %s: of a customer's events Kafka keeps the last; set delete", name, t.Config["cleanup.policy"])
	}
	if ms, ok := number("retention.ms"); ok && ms >= 0 && time.Duration(ms)*time.Millisecond < retentionWarning {
		d.note(check, checkWarning, "%s keeps events for %v only (retention.ms): a consumer that is away for longer loses them", name, time.Duration(ms)*time.Millisecond)
	}
	if limit, ok := number("max.message.bytes"); ok && d.settings.MaxBatchBytes > 0 && limit < int64(d.settings.MaxBatchBytes) {
		d.note(check, checkWarning, "%s takes batches of at most %d bytes (max.message.bytes), and producer_request_limits_bytes_per_request is %d: full batches are sent again in halves", name, limit, d.settings.MaxBatchBytes)
	}
}

// disk looks at the spool's directory.
func (d *doctor) disk() {
	const check = "spool"
	if d.spool == "" {
		d.note(check, checkWarning, "no spool is looked at, for there is none in its usual place: give the plugin server's -spool-dir")
		return
	}
	info, err := os.Stat(d.spool)
	if err != nil {
		d.note(check, checkProblem, "%v: the plugin server makes the directory when it starts; give its -spool-dir, and run this as its user", err)
		return
	}
	probe, err := os.CreateTemp(d.spool, ".doctor-*")
	if err == nil {
		_, err = probe.WriteString("probe")
		err = errors.Join(err, probe.Sync(), probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		d.note(check, checkProblem, "%s cannot be written: %v", d.spool, err)
		return
	}
	if info.Mode().Perm()&0o077 != 0 {
		d.note(check, checkWarning, "%s may be read by others (mode %04o): events name customers; chmod 700", d.spool, info.Mode().Perm())
	}
	d.spoolFiles(check)
	var fs syscall.Statfs_t
	if err := syscall.Statfs(d.spool, &fs); err != nil {
		d.note(check, checkWarning, "%s: its free space is not known: %v", d.spool, err)
		return
	}
	free := fs.Bavail * uint64(fs.Bsize)
	if free < freeWarning {
		d.note(check, checkWarning, "%s has %d MiB free: when the brokers are away the spool grows up to queue.max_bytes", d.spool, free>>20)
		return
	}
	d.note(check, checkOK, "%s can be written, %.1f GiB free", d.spool, float64(free)/(1<<30))
}

// spoolFiles looks for files that no process can take over.
func (d *doctor) spoolFiles(check string) {
	dirs, err := spoolDirs(d.spool)
	if err != nil {
		d.note(check, checkWarning, "%v", err)
		return
	}
	for _, dir := range dirs {
		files, err := spool.Files(dir)
		if err != nil {
			d.note(check, checkWarning, "%v", err)
			continue
		}
		for _, path := range files {
			switch err := spool.Check(path); {
			case errors.Is(err, spool.ErrFormat):
				d.note(check, checkProblem, "%v: %s", err, otherVersion)
			case spool.IsDamaged(path):
				d.note(check, checkWarning, "%s is damaged and was set aside: kafka-metering spool verify says what is wrong, kafka-metering spool export what is intact; then move it away", path)
			case err != nil:
				d.note(check, checkWarning, "%v", err)
			}
		}
	}
}

// clock looks at whether the machine's clock is kept right: the times of events are its.
func (d *doctor) clock() {
	const check = "clock"
	switch most, kept, err := clockError(); {
	case err != nil:
		d.note(check, checkWarning, "it is not known whether the clock is kept right: %v", err)
	case !kept:
		d.note(check, checkWarning, "nothing keeps this machine's clock right (NTP, chrony), or it does not tell: the times of events are this clock's")
	default:
		d.note(check, checkOK, "the clock is kept right, within %v", most)
	}
}

var handlerVersion = regexp.MustCompile(`VERSION = "([^"]+)"`)

// kong looks at the plugin server's sockets in Kong's prefix, and at the Lua front.
func (d *doctor) kong() {
	if d.prefix != "" {
		d.socket("plugin socket", pluginName+".socket")
		d.socket("lane socket", pluginName+".lane.socket")
	}
	source, err := os.ReadFile(d.handler)
	if err != nil {
		if d.prefix != "" {
			d.note("Lua front", checkWarning, "there is none at %s: streams are not seen, and what happens while the process is away is lost", d.handler)
		}
		return
	}
	switch match := handlerVersion.FindSubmatch(source); {
	case match == nil:
		d.note("Lua front", checkWarning, "%s does not tell its version", d.handler)
	case string(match[1]) != d.version:
		d.note("Lua front", checkWarning, "%s is of version %s, this binary of %s: install both from one release", d.handler, match[1], d.version)
	default:
		d.note("Lua front", checkOK, "%s, version %s", d.handler, match[1])
	}
}

// socket looks at a unix socket of the plugin server.
func (d *doctor) socket(check, name string) {
	path := filepath.Join(d.prefix, name)
	info, err := os.Stat(path)
	if err != nil {
		d.note(check, checkProblem, "%v: the plugin server does not run, or has another -kong-prefix", err)
		return
	}
	if err := dialUnix(path, d.settings.Timeout); err != nil {
		d.note(check, checkProblem, "%s: nobody answers: %v", path, err)
		return
	}
	if info.Mode().Perm()&0o007 != 0 {
		d.note(check, checkWarning, "everybody on this machine may write to %s (mode %04o), and so invent usage: Kong's prefix must be closed to others", path, info.Mode().Perm())
		return
	}
	d.note(check, checkOK, "%s answers, mode %04o", path, info.Mode().Perm())
}
