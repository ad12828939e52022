package main

import (
	"bytes"
	"cmp"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kafka-metering/meter/spool"
)

// Defaults of what neither an instance nor the process's file gives.
const (
	defaultTopic       = "kong.metering"
	defaultClusterName = "default"
)

// process is the state of the plugin server. All of it belongs to the process and none to an instance, because Kong
// starts and drops instances as it likes.
type process struct {
	ledger   *ledger
	recent   *recent
	watch    watch
	book     problemBook
	reports  reportClock
	log      *slog.Logger
	now      func() time.Time
	started  time.Time
	prefix   string // of Kong
	node     string
	spoolDir string
	file     processFile

	problems []error // of the file: every instance that uses it reports them

	openSpool func(dir string, o spool.Options) (*spool.Spool, error) // [spool.Open]

	lane *laneServer // nil until it serves

	recording sync.Once
	records   *recorder // see recorder()

	leaving atomic.Bool // it exits as soon as what can be published is; see repeats

	mu        sync.Mutex
	pipelines map[string]*pipeline
	topics    map[string][]string // that a pipeline, by its directory, has events for
	lastRun   atomic.Int64        // see runStart
	panics    atomic.Int64
}

// newProcess returns the state of a plugin server that keeps its spools below prefix.
func newProcess(prefix string, log *slog.Logger) *process {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	p := &process{
		ledger: newLedger(), recent: newRecent(), log: log, now: time.Now, started: time.Now(),
		prefix: prefix, node: host,
		spoolDir:  filepath.Join(prefix, pluginName+".spool"),
		file:      processFile{Connection: defaultConnection()},
		openSpool: spool.Open,
		pipelines: map[string]*pipeline{}, topics: map[string][]string{},
	}
	p.registerMetrics()
	return p
}

// repeats reports whether an exchange has come too late for this process, which is about to exit. Its handler then does not return:
// Kong takes the end of its connection for a process that died, and hands the exchange over to the next one.
func (p *process) repeats(err error) bool {
	return p.leaving.Load() && errors.Is(err, spool.ErrClosed)
}

// connection returns the connection that c uses: its own where it names brokers, else the process's, whose topic and
// cluster name it may replace. shared tells which.
func (p *process) connection(c *Config) (_ Connection, shared bool, _ error) {
	connection := c.Connection
	if len(connection.BootstrapServers) == 0 {
		shared = true
		connection = p.file.Connection
	}
	connection.Topic = cmp.Or(c.Topic, p.file.Topic, defaultTopic)
	connection.ClusterName = cmp.Or(c.ClusterName, p.file.ClusterName, defaultClusterName)
	connection.DeadLetterTopic = cmp.Or(c.DeadLetterTopic, p.file.DeadLetterTopic)
	if !shared {
		return connection, false, nil
	}
	errs := slices.Clone(p.problems)
	if len(connection.BootstrapServers) == 0 {
		errs = append(errs, errors.New("bootstrap_servers: neither the plugin nor the process (-config in Kong's start_cmd) names a Kafka broker: events are kept in the spool"))
	}
	return connection, true, errors.Join(errs...)
}

// configVersion tells which of two configurations is the newer one. Kong numbers them (__seq__) from 1 on each time that it is
// started or reloaded, and this process may outlive both.
type configVersion struct {
	kong string // which start or reload of Kong; "" where that is not known
	seq  int
}

// olderThan reports whether v is of the same run of Kong as o, and of a lower number.
func (v configVersion) olderThan(o configVersion) bool { return v.kong == o.kong && v.seq < o.seq }

// configVersion is that of a configuration which Kong hands over now. A start of Kong is known by nginx's pid file, and a reload
// by .kong_env, which Kong writes anew then (kong/cmd/utils/prefix_handler.lua).
func (p *process) configVersion(seq int) configVersion {
	path := filepath.Join(p.prefix, "pids", "nginx.pid")
	pid, err := os.ReadFile(path)
	if err != nil {
		return configVersion{seq: seq}
	}
	info, err := os.Stat(path)
	if err != nil {
		return configVersion{seq: seq}
	}
	kong := string(bytes.TrimSpace(pid)) + " " + info.ModTime().String()
	if env, err := os.Stat(filepath.Join(p.prefix, ".kong_env")); err == nil {
		kong += " " + env.ModTime().String() // a reload writes it anew, and numbers from 1 on again
	}
	return configVersion{kong: kong, seq: seq}
}

// pipeline returns the pipeline of a connection, which it starts when it is new. Of several instances with one
// connection the newest decides its settings. The pipeline is never nil.
func (p *process) pipeline(connection Connection, shared bool, v configVersion, plugin string) (*pipeline, error) {
	key := connection.key(shared)
	p.mu.Lock()
	running := p.pipelines[key]
	if running == nil {
		running = newPipeline(p, filepath.Join(p.spoolDir, key))
		p.pipelines[key] = running
	}
	p.mu.Unlock()
	return running, running.configure(connection, v, plugin)
}

// uses remembers that events go to a topic through a pipeline.
func (p *process) uses(l *pipeline, topic string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.topics[l.dir], topic) {
		p.topics[l.dir] = append(p.topics[l.dir], topic)
		slices.Sort(p.topics[l.dir])
	}
}

func (p *process) topicsOf(l *pipeline) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.topics[l.dir])
}

// runStart returns the start of a new run of events, as package record numbers them: now, or a little later, because no two runs
// of a process may have the same.
func (p *process) runStart() int64 {
	for {
		last := p.lastRun.Load()
		start := max(p.now().UnixMilli(), last+1)
		if p.lastRun.CompareAndSwap(last, start) {
			return start
		}
	}
}

// reportPanic logs a recovered panic, the first few in full: a panic for each exchange must not fill Kong's log.
func (p *process) reportPanic(cause any) {
	const inFull = 10
	if p.panics.Add(1) <= inFull {
		p.log.Error("panic while metering an exchange; please report this", "cause", cause, "stack", string(bytes.TrimSpace(debug.Stack())))
	}
}
