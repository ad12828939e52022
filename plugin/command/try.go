package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kversion"

	"kafka-metering/meter/relay"
	"kafka-metering/plugin/devkong"
	"kafka-metering/plugin/devkong/replay"
	"kafka-metering/plugin/record"
)

const tryAbout = `Runs the whole path on this machine, with nothing installed: an embedded Kafka broker, a stand-in for Kong that reads
kong.yml and hands exchanges over as Kong does, the plugin server in a process of its own, and an upstream that replays LLM
answers. It sends LLM and API calls, prints each event as it arrives on the topic, adds the events up, and checks the
sums against what the upstream declared, to the token. The exit status is 1 if they differ.

Example:
  kafka-metering try
  kafka-metering try -serve      stay up, to send requests of your own
  kafka-metering try -front pdk  without the Lua front: Kong's plugin protocol, buffered responses
  kafka-metering try -serve -f my-kong.yml
                                 a file of your own, without the routes of the demonstration`

// pluginName is the plugin's name: the name that its executable has to have, and that kong.yml enables.
const pluginName = "kafka-metering"

const (
	// tryLimit bounds the wait for events that do not come.
	tryLimit = 30 * time.Second
	// tryDrain is what the plugin server gets from SIGTERM to SIGKILL. Kong gives it 20 ms, and what is left is published
	// by the next process; here there is none.
	tryDrain = 10 * time.Second
)

// errInterrupted is returned where try was ended before its end.
var errInterrupted = errors.New("interrupted")

// runTry is the command try.
func runTry(args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("try", flag.ContinueOnError)
	file := flags.String("f", "kong.yml", "declarative configuration `file` of Kong")
	serve := flags.Bool("serve", false, "stay up for requests of your own, until Ctrl-C")
	front := flags.String("front", "lua", "how exchanges reach the plugin server: lua, as the Lua front hands them over, or pdk, over Kong's plugin protocol")
	listen := flags.String("listen", "127.0.0.1:0", "`address` of the stand-in for Kong")
	verbose := flags.Bool("v", false, "print the logs of the stand-in and of the plugin server to standard error")
	if err := parse(flags, args, tryAbout); err != nil {
		return err
	}
	// Whatever ends it, it leaves no process and no file: also the end of who reads its output, as in try | head.
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE}
	if !signal.Ignored(syscall.SIGHUP) { // by nohup
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	defer func() {
		if err != nil && ctx.Err() != nil && !*serve {
			err = errInterrupted
		}
	}()
	if *front != "lua" && *front != "pdk" {
		return fmt.Errorf("-front %q: must be lua or pdk", *front)
	}
	s, err := newStage(ctx, *file, stageOptions{listen: *listen, lua: *front == "lua", record: *serve, verbose: *verbose})
	if err != nil {
		return err
	}
	defer s.close()
	s.describe(out)

	live, quiet := context.WithCancel(context.Background())
	defer quiet()
	seen := newSeen()
	followed := make(chan error, 1)
	go func() {
		followed <- relay.Follow(live, s.kafka, s.topic, func(m relay.Message) {
			if e, ok := parseEvent(m.Value); ok {
				fmt.Fprintln(out, e.line())
				seen.add(e)
			}
		})
	}()
	var sent []answer
	if *serve {
		s.invite(out, *file)
		<-ctx.Done()
		stop() // the second Ctrl-C does not wait
		signal.Ignore(syscall.SIGPIPE)
		fmt.Fprintln(out, "\nStopping.")
	} else {
		fmt.Fprintf(out, "Sending %d requests of three customers. Their events, as they arrive on the topic:\n\n", len(mixedLoad()))
		sent, err = s.load(ctx)
		if err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, tryLimit)
		defer cancel()
		seen.wait(wait, s.expected(sent))
		printStream(out, sent)
	}
	// As Kong stops: the plugin server gets SIGTERM and publishes what is left.
	if err := s.kong.Close(); err != nil {
		return err
	}
	sums := newTotals(s.aggregations)
	var events []event
	read, cancel := context.WithTimeout(context.Background(), tryLimit)
	defer cancel()
	if err := relay.ReadAll(read, s.kafka, s.topic, func(m relay.Message) {
		if e, ok := parseEvent(m.Value); ok && !e.ofMetering() && sums.add(e) {
			events = append(events, e)
		}
	}); err != nil {
		return err
	}
	quiet()
	if err := <-followed; err != nil {
		return err
	}
	fmt.Fprintf(out, "\nTotals, read back from the topic %s: %d events.\n\n", s.topic, len(events))
	if err := sums.print(out); err != nil {
		return err
	}
	fmt.Fprintln(out)
	if *serve {
		return s.verify(read, out)
	}
	return errors.Join(s.check(out, sent, events), s.verify(read, out))
}

// verify prints whether the topic proves that it has every event.
func (s *stage) verify(ctx context.Context, out io.Writer) error {
	proof, err := verify(ctx, s.kafka, s.topic, time.Time{}, io.Discard)
	switch {
	case err != nil:
		return err
	case proof.Problems > 0:
		if err := printProof(out, proof); err != nil {
			return err
		}
		return errors.New("the topic does not prove that it has every event: see above")
	}
	for i := range proof.Runs {
		if r := &proof.Runs[i]; r.State != record.StateComplete || r.Proven != uint64(r.Events) {
			return fmt.Errorf("of %s the topic proves %d of %d events", r.Source, r.Proven, r.Events)
		}
	}
	fmt.Fprintln(out, summary(proof))
	return nil
}

// stage is everything that try runs.
type stage struct {
	dir          string
	broker       *kfake.Cluster
	kafka        relay.Settings // of a consumer of the topic
	topic        string
	aggregations map[[2]string]string
	upstream     *replay.Server
	replaying    *http.Server
	kong         *devkong.Kong
	lua          bool // with the Lua front
}

// stageOptions are the choices of try.
type stageOptions struct {
	listen               string
	lua, record, verbose bool
}

// newStage starts everything. The error says what could not be started, and what to do.
func newStage(ctx context.Context, file string, o stageOptions) (_ *stage, err error) {
	declarative, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: run it in the project's directory, or name a file with -f", err)
	}
	if err != nil {
		return nil, err
	}
	s := &stage{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	settings, err := pluginSettings(declarative)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	s.topic, s.aggregations = cmp.Or(settings.Topic, "kong.metering"), settings.aggregations()
	if s.dir, err = makePrefix(); err != nil {
		return nil, err
	}
	topics := []string{s.topic}
	if settings.DeadLetterTopic != "" {
		topics = append(topics, settings.DeadLetterTopic)
	}
	const partitions = 6
	asOf := kfake.MaxVersions(kversion.V3_0_0()) // what it answers to later requests Java's clients do not understand
	if s.broker, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topics...), asOf); err != nil {
		return nil, fmt.Errorf("start the embedded Kafka broker: %w", err)
	}
	s.kafka = relay.Settings{Brokers: s.broker.ListenAddrs()}

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the upstream: %w", err)
	}
	s.upstream = &replay.Server{}
	s.replaying = &http.Server{Handler: s.upstream, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.replaying.Serve(listener) }()

	server, err := installSelf(s.dir)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	if o.verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	host, port, err := net.SplitHostPort(s.kafka.Brokers[0])
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	query := []string{server, "-kong-prefix", s.dir, "-dump"}
	if s.lua = o.lua; !o.lua {
		query = append(query, "-buffered") // or nobody would see the answers
	}
	s.kong, err = devkong.Start(ctx, devkong.Options{
		Declarative: declarative,
		PluginServers: []devkong.PluginServer{{
			Name:     pluginName,
			QueryCmd: query,
			StartCmd: []string{server, "-kong-prefix", s.dir},
		}},
		Resolve: map[string]string{"upstream:8080": listener.Addr().String()},
		Override: func(plugin string, config map[string]any) {
			if plugin == pluginName {
				config["bootstrap_servers"] = []any{map[string]any{"host": host, "port": number}}
				if o.record {
					config["record"] = true
				}
				delete(config, "authentication")
				delete(config, "security")
			}
		},
		Lua: o.lua, Listen: o.listen, Workers: 2, StopGrace: tryDrain, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("start the stand-in for Kong with %s: %w", file, err)
	}
	return s, nil
}

// makePrefix makes a directory for Kong's prefix. Not in the usual place for temporary files where that is far down: a unix
// socket's path is at most 107 bytes long, on some systems 103.
func makePrefix() (string, error) {
	const longest = 103 - len("/"+pluginName+".lane.socket.4194304")
	dir, err := os.MkdirTemp("", "kong")
	if err == nil && len(dir) > longest {
		_ = os.Remove(dir)
		dir, err = os.MkdirTemp("/tmp", "kong")
	}
	if err != nil {
		return "", fmt.Errorf("make a directory for this run: %w: name another place for it with TMPDIR", err)
	}
	return dir, nil
}

// close stops what runs and removes what it left.
func (s *stage) close() {
	if s.kong != nil {
		_ = s.kong.Close() // the second time does nothing
	}
	if s.replaying != nil {
		_ = s.replaying.Close()
	}
	if s.broker != nil {
		s.broker.Close()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

// installSelf puts this executable into dir under the plugin's name, which go-pdk takes from the file, and returns its
// path.
func installSelf(dir string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this executable: %w", err)
	}
	path := filepath.Join(dir, pluginName)
	if os.Link(self, path) == nil {
		return path, nil
	}
	binary, err := os.ReadFile(self) // another file system
	if err == nil {
		err = os.WriteFile(path, binary, 0o700)
	}
	if err != nil {
		return "", fmt.Errorf("copy this executable to %s: %w", path, err)
	}
	return path, nil
}

// settings are what try reads of the plugin's configuration itself.
type settings struct {
	Topic           string `json:"topic"`
	DeadLetterTopic string `json:"dead_letter_topic"`
	Meters          []struct {
		EventType     string `json:"event_type"`
		Aggregation   string `json:"aggregation"`
		ValueProperty string `json:"value_property"`
	} `json:"meters"`
}

// pluginSettings finds the plugin in a declarative configuration: the first of that name, wherever it is enabled.
func pluginSettings(declarative []byte) (settings, error) {
	var s settings
	uses, err := parseKongFile(declarative)
	if err != nil {
		return s, err
	}
	if len(uses) == 0 {
		return s, fmt.Errorf("the plugin %s is enabled nowhere", pluginName)
	}
	raw, err := json.Marshal(uses[0].config)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(raw, &s)
}

// aggregations says how the declared meters fold their values: by event type and property.
func (s settings) aggregations() map[[2]string]string {
	all := map[[2]string]string{}
	for _, m := range s.Meters {
		all[[2]string{cmp.Or(m.EventType, "kong.meter"), cmp.Or(m.ValueProperty, "value")}] = m.Aggregation
	}
	return all
}

// describe tells what runs where.
func (s *stage) describe(out io.Writer) {
	handOver := "Kong's plugin protocol, over a unix socket"
	if s.lua {
		handOver = "the Lua front's lane: acknowledged batches, over a unix socket"
	}
	fmt.Fprintf(out, `Everything runs on this machine, and is gone afterwards:

  client -> stand-in for Kong -> upstream that replays LLM answers
            %s
              | %s
            kafka-metering -> spool on disk -> Kafka (embedded), topic %s
                                               %s

`, s.kong.Addr(), handOver, s.topic, s.kafka.Brokers[0])
}

// invite prints what to try.
func (s *stage) invite(out io.Writer, file string) {
	fmt.Fprintf(out, `Send requests of your own, and watch their events here. Ctrl-C ends it and prints the totals.

  curl %[1]s/openai/v1/chat/completions -H 'apikey: acme-key' -H 'content-type: application/json' \
    -d '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}'

  curl -N %[1]s/openai/v1/chat/completions -H 'apikey: acme-key' -H 'content-type: application/json' \
    -d '{"model": "gpt-4o-mini", "stream": true, "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "Why?"}]}'

  curl %[1]s/anthropic/v1/messages -H 'apikey: globex-key' -H 'content-type: application/json' \
    -d '{"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}'

  curl %[1]s/orders/42 -H 'apikey: initech-key' -H 'x-department: research'

  curl %[1]s/orders/42        # without a key: Kong rejects it, and that is metered too

What became of the last request, and why (-request for the one with that X-Kong-Request-Id), in another terminal:

  %[2]s explain -config %[3]s %[4]s

`, s.kong.URL(), filepath.Join(s.dir, pluginName), file, filepath.Join(s.dir, pluginName+".spool", "observations"))
}
