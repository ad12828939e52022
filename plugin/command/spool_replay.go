package command

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"kafka-metering/meter/relay"
	"kafka-metering/meter/spool"
	"kafka-metering/plugin/record"
)

const spoolReplayAbout = `Publishes what processes that are gone have left in the spool of one connection, and, with -rejected, once more what Kafka
refused for good, after you have mended the reason, or what was too old (queue.max_event_age), if whoever bills wants it all
the same. Files of a living process are left to it.

  kafka-metering spool replay -config /etc/kong/kafka-metering.yml
  kafka-metering spool replay -brokers kafka-1:9092,kafka-2:9092 /usr/local/kong/kafka-metering.spool/kafka-gone-0a1b2c3d
  kafka-metering spool replay -rejected -config /etc/kong/kafka-metering.yml

A record leaves the spool when Kafka has acknowledged it, as from the plugin server itself; whatever ends this command,
nothing is lost, and it can be run again. Consumers may see an event twice, with the same source and id. Rejected records
that a living process holds are published as copies: that process keeps its own.`

// ReadConnection reads the file of the plugin server's flag -config: how to reach Kafka, the topic of the events, and the
// directory of the spools, "" where the file names none.
type ReadConnection func(file string) (settings relay.Settings, topic, spoolDir string, err error)

// replayer is one run of the command.
type replayer struct {
	dir      string
	settings relay.Settings
	rejected bool
	giveUp   time.Duration
	out      io.Writer
	errs     io.Writer
}

// replayFlags are the flags that say where Kafka is.
type replayFlags struct {
	config, brokers, ca, mechanism, user, passwordFile, deadLetterTopic string
	configTopic                                                         string // once settings has read the file
	tls                                                                 bool
}

// runSpoolReplay runs the command spool replay.
func runSpoolReplay(args []string, out, errs io.Writer, read ReadConnection) error {
	x := replayer{out: out, errs: errs}
	var f replayFlags
	flags := spoolFlags("replay", errs)
	f.register(flags)
	flags.StringVar(&f.deadLetterTopic, "dead-letter-topic", "", "`topic` for records that Kafka refuses for good (default: they stay in the spool)")
	flags.BoolVar(&x.rejected, "rejected", false, "also publish once more what Kafka refused")
	flags.DurationVar(&x.giveUp, "give-up", time.Minute, "stop when nothing could be published for this `time`")
	dry := flags.Bool("dry-run", false, "only say what would be published")
	if err := parseFiles(flags, args, spoolReplayAbout, out); err != nil {
		return err
	}
	if flags.NArg() > 1 {
		return fmt.Errorf("%d directories: give one, because the flags are of one connection", flags.NArg())
	}
	settings, dir, err := f.settings(read)
	if err != nil {
		return err
	}
	x.settings = settings
	if dir == "" {
		dir = defaultSpool
	}
	if f.config != "" && flags.NArg() == 0 {
		dir = filepath.Join(dir, "process") // where the plugin server keeps the spool of that file's connection
	}
	if flags.NArg() == 1 {
		dir = flags.Arg(0)
	}
	if x.dir, err = connectionDir(dir); err != nil {
		return err
	}
	if *dry {
		return x.tell()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return x.run(ctx)
}

// register declares the flags that say how to reach Kafka.
func (f *replayFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&f.config, "config", "", "YAML `file` with the connection to Kafka, as the plugin server's")
	flags.StringVar(&f.brokers, "brokers", "", "`host:port,…` of Kafka, instead of -config")
	flags.BoolVar(&f.tls, "tls", false, "with -brokers: use TLS")
	flags.StringVar(&f.ca, "ca", "", "with -tls: PEM `file` of the authorities (default: the system's)")
	flags.StringVar(&f.mechanism, "mechanism", "", "with -brokers: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
	flags.StringVar(&f.user, "user", "", "with -mechanism: `name` of the user")
	flags.StringVar(&f.passwordFile, "password-file", "", "with -mechanism: `file` that holds the password")
}

// topicOr returns the topic of the events: that of the flag -topic, of the file of -config, or the default.
func (f *replayFlags) topicOr(flag string) string { return cmp.Or(flag, f.configTopic, defaultTopic) }

// settings returns how to reach Kafka, and the spool directory of the file of -config.
func (f *replayFlags) settings(read ReadConnection) (settings relay.Settings, dir string, err error) {
	switch {
	case (f.config == "") == (f.brokers == ""):
		return settings, "", errors.New("give either -config or -brokers, so that it is known where Kafka is")
	case f.config != "" && (f.tls || f.ca != "" || f.mechanism != "" || f.user != "" || f.passwordFile != ""):
		return settings, "", errors.New("-tls, -ca, -mechanism, -user and -password-file go with -brokers: what -config names has its own")
	case f.config != "":
		settings, f.configTopic, dir, err = read(f.config)
		if f.deadLetterTopic != "" {
			settings.DeadLetterTopic = f.deadLetterTopic
		}
		return settings, dir, err
	}
	settings = relay.Settings{
		Brokers: strings.Split(f.brokers, ","), ClientID: "kafka-metering", Compression: "zstd",
		Mechanism: f.mechanism, User: f.user, DeadLetterTopic: f.deadLetterTopic,
	}
	if f.passwordFile != "" {
		password, err := os.ReadFile(f.passwordFile)
		if err != nil {
			return settings, "", fmt.Errorf("read -password-file: %w", err)
		}
		settings.Password = strings.TrimRight(string(password), "\r\n")
	}
	if f.tls {
		settings.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return settings, "", fmt.Errorf("read -ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return settings, "", fmt.Errorf("-ca %s holds no certificate in PEM form", f.ca)
		}
		settings.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	return settings, "", nil
}

// connectionDir returns the directory of one connection: dir, or the only one in it that has spool files.
func connectionDir(dir string) (string, error) {
	if _, err := spoolPaths([]string{dir}); err != nil {
		return "", err
	}
	dirs, err := spoolDirs(dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, d := range dirs {
		files, err := spool.Files(d)
		if err != nil {
			return "", err
		}
		if len(files) > 0 {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return dir, nil
	case 1:
		return found[0], nil
	default:
		return "", fmt.Errorf("%s has the spools of %d connections: give the directory of one of them:\n  %s", dir, len(found), strings.Join(found, "\n  "))
	}
}

// tell says what run would do.
func (x *replayer) tell() error {
	paths, err := spool.Files(x.dir)
	if err != nil {
		return err
	}
	var pending, rejected, living int64
	for _, path := range paths {
		v, err := look(path)
		if v == nil {
			continue
		}
		switch {
		case err != nil:
			fmt.Fprintf(x.errs, "kafka-metering spool replay: %v\n", err)
		case v.Damaged:
		case v.InUse:
			living++
			rejected += v.Rejected
		default:
			pending += v.Pending
			rejected += v.Rejected
		}
		_ = v.Close() // it was only read
	}
	fmt.Fprintf(x.out, "would publish %s", count(pending, "pending record"))
	if x.rejected {
		fmt.Fprintf(x.out, " and %d rejected", rejected)
	}
	fmt.Fprintf(x.out, " of %s to %s; %s in use by living processes\n", x.dir, strings.Join(x.settings.Brokers, ","), count(living, "file"))
	return nil
}

// run publishes until nothing is left, ctx ends, or nothing goes forward.
func (x *replayer) run(ctx context.Context) (err error) {
	living, err := x.living() // before this process has a file of its own there
	if err != nil {
		return err
	}
	// As a journal it only ends what processes that are gone had begun: all records here have their numbers.
	journal := record.NewNumbers(time.Now, func() int64 { return time.Now().UnixMilli() })
	s, err := spool.Open(x.dir, spool.Options{Journal: journal})
	if err != nil {
		return fmt.Errorf("%w (run this as the user that Kong runs as)", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r, err := relay.New(x.settings, s)
	if err != nil {
		return err
	}
	unread, err := x.fill(ctx, s, living)
	if err != nil {
		return err
	}
	stopped := x.publish(ctx, s, r)
	published, left := r.Stats(), s.Stats()
	fmt.Fprintf(x.out, "%s published, %d dead-lettered, %d rejected, %d expired, %d left in the spool\n",
		count(published.Published, "record"), published.DeadLettered, published.Rejected, published.Expired, left.Pending)
	if left.SetAside > 0 {
		fmt.Fprintf(x.out, "%s LOST IN DAMAGED FILES, which are set aside in %s (*.damaged)\n", count(left.SetAside, "record"), x.dir)
	}
	switch {
	case stopped != nil && left.Pending > 0 && published.LastError != nil:
		return fmt.Errorf("%w: %w", stopped, published.LastError)
	case stopped != nil && left.Pending > 0:
		return stopped
	case published.Expired > 0:
		return fmt.Errorf("%s older than queue.max_event_age: kafka-metering spool replay -rejected publishes what stays in the spool after all", count(published.Expired, "record"))
	case published.Rejected > 0:
		return fmt.Errorf("kafka refused %s for good: kafka-metering spool export -rejected %s says why", count(published.Rejected, "record"), x.dir)
	case unread != nil:
		return errors.New("a file could not be read as a whole: see above, and kafka-metering spool ls")
	case left.SetAside > 0:
		return fmt.Errorf("a file is damaged: %s of it could not be read; kafka-metering spool verify says more", count(left.SetAside, "record"))
	}
	return nil
}

// living returns the files that living processes use.
func (x *replayer) living() (paths []string, err error) {
	all, err := spool.Files(x.dir)
	if err != nil {
		return nil, err
	}
	for _, path := range all {
		v, err := look(path)
		if v == nil {
			continue
		}
		if err == nil && v.InUse {
			paths = append(paths, path)
		}
		_ = v.Close() // it was only read
	}
	return paths, nil
}

// fill puts into s what is to be published.
func (x *replayer) fill(ctx context.Context, s *spool.Spool, living []string) (unread, err error) {
	adopted, unread := s.Adopt()
	if unread != nil {
		fmt.Fprintf(x.errs, "kafka-metering spool replay: %v\n", unread) // the others are adopted
	}
	var moved, copied int64
	if x.rejected {
		if moved, err = s.Requeue(func(spool.Rejected) bool { return true }); err != nil {
			return unread, err
		}
		for _, path := range living {
			n, err := x.copyRejected(ctx, s, path)
			if err != nil {
				return unread, err
			}
			copied += n
		}
	}
	fmt.Fprintf(x.out, "%s of processes that are gone", count(adopted, "pending record"))
	if x.rejected {
		fmt.Fprintf(x.out, ", %s, copies of %d more that a living process keeps", count(moved, "rejected record"), copied)
	}
	if len(living) > 0 {
		fmt.Fprintf(x.out, "; %s left to living processes", count(int64(len(living)), "file"))
	}
	fmt.Fprintln(x.out)
	return unread, nil
}

// copyRejected appends the rejected records of a living process's file to s.
func (x *replayer) copyRejected(ctx context.Context, s *spool.Spool, path string) (copied int64, err error) {
	v, err := look(path)
	if v == nil {
		return 0, nil
	}
	defer v.Close() //nolint:errcheck // it was only read
	if err != nil {
		return 0, err
	}
	if !v.InUse {
		return 0, nil // its process has ended since; the next run adopts it
	}
	for r, err := range v.RejectedRecords() {
		if err != nil {
			fmt.Fprintf(x.errs, "kafka-metering spool replay: %v\n", err)
			continue
		}
		if strings.HasPrefix(r.Reason, spool.ErrCorrupt.Error()) {
			continue // nobody knows what it was
		}
		if err := s.Append(ctx, r.Record); err != nil {
			return copied, fmt.Errorf("copy rejected records of %q: %w", path, err)
		}
		copied++
	}
	return copied, nil
}

// publish runs r until s is empty, and returns why it stopped before.
func (x *replayer) publish(ctx context.Context, s *spool.Spool, r *relay.Relay) error {
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.Run(running) // ends with running
	}()
	drained := make(chan error, 1)
	go func() { drained <- r.Drain(running) }()
	total, start, p := s.Stats().Pending, time.Now(), newPace(x.errs)
	tick := time.NewTicker(progressTerminal)
	defer tick.Stop()
	var stopped error
	forward, since := int64(0), start
	for done := false; !done; {
		select {
		case err := <-drained:
			if done = true; err != nil {
				stopped = errors.New("interrupted: what is left stays in the spool")
			}
		case <-tick.C:
			st := r.Stats()
			if n := st.Published + st.DeadLettered + st.Rejected + st.Expired; n > forward {
				forward, since = n, time.Now()
			}
			p.say(func() string {
				line := fmt.Sprintf("%d of %s, %.0f a second", forward, count(total, "record"), float64(forward)/time.Since(start).Seconds())
				if st.ConsecutiveFailures > 0 {
					line += ": " + st.LastError.Error()
				}
				return line
			})
			if time.Since(since) > x.giveUp {
				stopped, done = fmt.Errorf("nothing could be published for %v: what is left stays in the spool", x.giveUp), true
			}
		}
	}
	cancel(nil)
	<-ended
	p.end()
	return stopped
}
