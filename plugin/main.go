// Kafka-metering is a Kong plugin server that meters API requests and LLM tokens and publishes the events to Kafka.
//
// Kong starts it as it starts every external plugin, and it is its own tool box: `kafka-metering try` shows the whole
// path on one machine. The plugin's name is the name of the executable's file, which must be kafka-metering.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/Kong/go-pdk/server"

	"kafka-metering/plugin/command"
	"kafka-metering/schema"
)

const (
	pluginName = "kafka-metering"
	version    = "0.1.0"
	// priority orders this plugin's Log among Kong's log plugins: after those that add to the serialized log.
	priority = 5
	// drainLimit bounds how long a stop waits for Kafka. Kong itself kills the process 20 ms after SIGTERM; nothing
	// depends on the drain, because what is in the spool is published by the next process.
	drainLimit = 10 * time.Second
	// endLimit bounds the whole stop: a disk that does not answer must not keep the process.
	endLimit = 20 * time.Second
)

const usage = `kafka-metering: Kong plugin server that publishes metering events to Kafka

As Kong runs it (kong.conf):
  pluginserver_names = kafka-metering
  pluginserver_kafka_metering_start_cmd = /usr/local/bin/kafka-metering -kong-prefix /usr/local/kong
  pluginserver_kafka_metering_query_cmd = /usr/local/bin/kafka-metering -kong-prefix /usr/local/kong -dump

Flags:
`

// host is what commands get of the plugin server.
var host = command.Host{ReadConnection: readConnection, NewEvaluator: newEvaluator, Check: check, Version: version}

func main() {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Exit(command.Run(os.Args[1], os.Args[2:], host))
	}
	// Kong's worker may be gone before this process: a log line into its closed pipe must not end the drain.
	signal.Ignore(syscall.SIGPIPE)
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "kafka-metering:", err)
		os.Exit(1)
	}
}

// serve runs the plugin server, or prints what Kong asks of it. The flags kong-prefix, dump and help are go-pdk's.
func serve() error {
	var (
		config   = flag.String("config", "", "YAML `file` with the connection to Kafka, for plugins that name no bootstrap_servers")
		spoolDir = flag.String("spool-dir", "", "`directory` for events that Kafka has not acknowledged (default: "+pluginName+".spool in the Kong prefix)")
		buffered = flag.Bool("buffered", false, "with -dump: have Kong buffer responses, so that their bodies can be metered; streams then arrive whole, and gRPC breaks")
		listen   = flag.String("metrics", "", "`address` for a status page at /, Prometheus metrics at /metrics, and /healthz and /readyz, such as 127.0.0.1:9542; without a host, of this machine alone (default: none)")
	)
	versions := flag.Bool("version", false, "print the version, and nothing else")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		command.PrintFlags(flag.CommandLine.Output(), flag.CommandLine)
		fmt.Fprint(flag.CommandLine.Output(), "\n"+command.Usage)
	}
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: commands come first, flags after them", flag.Arg(0))
	}
	if flag.Lookup("help").Value.String() == "true" {
		flag.Usage()
		return nil
	}
	if *versions {
		command.Run("version", nil, host)
		return nil
	}
	prefix := flag.Lookup("kong-prefix").Value.String()
	if flag.Lookup("dump").Value.String() == "true" {
		return dump(prefix, *buffered)
	}
	if info, err := os.Stat(prefix); err != nil || !info.IsDir() {
		return fmt.Errorf("there is no directory %s, Kong's prefix: this is a plugin server, which Kong starts (-kong-prefix says where).\n"+
			"To see it at work without Kong, run it with the word try; -h has all that it can do", prefix)
	}
	p := newProcess(prefix, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if *config != "" {
		p.readFile(*config)
	}
	if *spoolDir != "" {
		p.spoolDir = *spoolDir
	}
	if *listen != "" {
		if err := p.listen(*listen); err != nil {
			p.log.Error("serve metrics; metering goes on without", "error", err)
		}
	}
	p.resume()
	if _, err := p.serveLane(prefix); err != nil {
		p.log.Error("the Lua front cannot hand anything over; it is tried again", "error", err)
	}
	go p.drainOnSignal()
	closeToOthers()
	return server.StartServer(func() any { return newConfig(p) }, version, priority)
}

// closeToOthers has what this process makes from now on, go-pdk's socket above all, closed to other users: whoever may write to
// it can invent usage. Kong starts its plugin servers with umask 0, as the user of its workers.
func closeToOthers() {
	const others = 0o007
	syscall.Umask(others | syscall.Umask(others))
}

// dump prints what Kong's query_cmd reads: nothing else may be on standard output.
func dump(prefix string, buffered bool) error {
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the executable's name, which is the plugin's: %w", err)
	}
	name := filepath.Base(executable)
	if name != pluginName {
		fmt.Fprintf(os.Stderr, "kafka-metering: Kong takes the name of a plugin from the executable's file, and this one is called %s, not %s\n", name, pluginName)
	}
	phases := []string{"log"}
	if buffered {
		phases = []string{"response", "log"}
	}
	document, err := schema.Dump(name, version, priority, phases, filepath.Join(prefix, name+".socket"))
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(document, '\n'))
	return err
}

// drainOnSignal publishes what it can when Kong stops the process, and exits.
func (p *process) drainOnSignal() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	if err := p.end(drainLimit, endLimit); err != nil {
		p.log.Warn("stop; the next process publishes what is left in the spool", "error", err)
	}
	os.Exit(0)
}

// end takes nothing more, publishes what it can while drain lasts, and closes what there is; it returns after limit at the
// latest, whatever the disk does.
func (p *process) end(drain, limit time.Duration) error {
	p.leaving.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.lane.close()
		err = p.close(ctx)
	}()
	if !waitFor(done, limit) {
		return fmt.Errorf("the disk of the spool %s has not answered for %v: what it has not taken by now is lost, or stays with Kong's workers", p.spoolDir, limit)
	}
	return err
}
