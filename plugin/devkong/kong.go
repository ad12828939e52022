package devkong

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kafka-metering/schema"
)

const (
	// maxTimers is Kong's lua_max_running_timers for each worker: beyond it Log phases are dropped.
	maxTimers = 4096

	// defaultWorkers is nginx_worker_processes of the recordings.
	defaultWorkers = 2

	// quitTimeout is how long requests and Log phases that are running may take when Kong quits.
	quitTimeout = 10 * time.Second
)

// Options are the options of Start: the settings of kong.conf that matter here, and the file.
type Options struct {
	Declarative   []byte         // a kong.yml
	PluginServers []PluginServer // the external plugins

	// Resolve replaces addresses of upstreams, as curl's --resolve does: "upstream:8080" → "127.0.0.1:34567".
	Resolve map[string]string

	// Override may change the configuration of a plugin, as it stands in the file, before it is checked.
	Override func(plugin string, config map[string]any)

	// Lua hands exchanges over as a plugin's Lua front does (plugin/lua): bodies are tapped while they pass, and batches go
	// over the lane, the socket beside the plugin server's own. Without it the Log phase runs over Kong's plugin protocol.
	Lua bool

	Listen    string        // defaults to a free port on loopback
	Workers   int           // defaults to 2
	StopGrace time.Duration // from SIGTERM to SIGKILL of a plugin server; defaults to Kong's 20 ms
	Log       *slog.Logger  // defaults to none

	// Cut is a fault hook: see WorkersOptions.
	Cut func(Moment) bool
}

// Kong is a running stand-in.
type Kong struct {
	log     *slog.Logger
	options Options
	workers *Workers

	plugins map[string]*external
	current atomic.Pointer[configuration]

	listener  net.Listener
	server    *http.Server
	transport *http.Transport
	accepted  atomic.Int64

	base    context.Context // of the Log phases
	running running
	closing sync.Once
}

// external is a plugin that a plugin server brings.
type external struct {
	plugin  *Plugin
	schema  *schema.Field
	server  PluginServer
	process *process // nil where somebody else runs it
}

// Start starts a stand-in. It asks the plugin servers what they are, checks the configuration against their schemas,
// starts them, and accepts requests when it returns. The error names every problem of the configuration with its path.
// The context ends the start, not the running stand-in: Close does that.
func Start(ctx context.Context, o Options) (*Kong, error) {
	k := &Kong{options: o, log: o.Log, base: context.WithoutCancel(ctx), plugins: map[string]*external{}}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if k.options.Workers <= 0 {
		k.options.Workers = defaultWorkers
	}
	if k.options.StopGrace <= 0 {
		k.options.StopGrace = defaultStopGrace
	}
	k.workers = NewWorkers(k.options.Workers, WorkersOptions{Log: k.log, Cut: o.Cut})
	var errs []error
	for _, s := range o.PluginServers {
		p, config, err := queryPlugin(ctx, s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		k.plugins[p.Name] = &external{plugin: p, schema: config, server: s}
		k.log.Info("loaded external plugin", "name", p.Name, "phases", p.Phases, "priority", p.Priority, "socket", p.Socket)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := k.Reconfigure(o.Declarative); err != nil {
		return nil, err
	}
	if err := k.start(ctx); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

func (k *Kong) start(ctx context.Context) error {
	for _, ext := range k.plugins {
		if len(ext.server.StartCmd) > 0 {
			ext.process = startProcess(ctx, ext.server, k.options.StopGrace, k.log)
		}
	}
	for _, ext := range k.plugins {
		if err := awaitSocket(ctx, ext.plugin.Socket, ext.process); err != nil {
			return err
		}
	}
	address := cmp.Or(k.options.Listen, "127.0.0.1:0")
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	k.listener = l
	k.transport = &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: 512, IdleConnTimeout: time.Minute,
		DialContext: (&net.Dialer{Timeout: time.Minute}).DialContext,
	}
	k.server = &http.Server{
		Handler:  http.HandlerFunc(k.serve),
		ErrorLog: slog.NewLogLogger(k.log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			// A connection belongs to one worker, as with nginx.
			n := k.accepted.Add(1) - 1
			return context.WithValue(ctx, workerKey{}, k.workers.Worker(int(n)%k.workers.Len()))
		},
	}
	go func() {
		if err := k.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			k.log.Error("stopped serving", "error", err)
		}
	}()
	return nil
}

// running counts what Wait waits for: Log phases, and requests that may have one yet. A WaitGroup would not do, for
// requests may begin while somebody waits.
type running struct {
	mu   sync.Mutex
	n    int
	zero chan struct{} // closed when n gets to 0; nil when nobody waits
}

func (r *running) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
}

func (r *running) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n--
	if r.n == 0 && r.zero != nil {
		close(r.zero)
		r.zero = nil
	}
}

// none returns a channel that is closed once nothing runs.
func (r *running) none() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == 0 {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	if r.zero == nil {
		r.zero = make(chan struct{})
	}
	return r.zero
}

// workerKey is the context key of the worker of a connection.
type workerKey struct{}

// Addr returns the address of the proxy, for example 127.0.0.1:8000.
func (k *Kong) Addr() string { return k.listener.Addr().String() }

// URL returns the proxy's base URL without a slash at its end.
func (k *Kong) URL() string { return "http://" + k.Addr() }

// Workers returns the workers, for the faults that tests inject.
func (k *Kong) Workers() *Workers { return k.workers }

// Stats returns what became of the Log phases so far.
func (k *Kong) Stats() Stats { return k.workers.Stats() }

// PluginServerPID returns the process id of a plugin's server that runs now, or 0.
func (k *Kong) PluginServerPID(plugin string) int {
	if ext := k.plugins[plugin]; ext != nil && ext.process != nil {
		return ext.process.pid()
	}
	return 0
}

// Wait waits until no request and no Log phase is running: whoever has its response has been logged then.
func (k *Kong) Wait(ctx context.Context) error {
	select {
	case <-k.running.none():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the Log phases: %w", context.Cause(ctx))
	}
}

// Close stops as "kong quit" does: requests and Log phases that are running finish, within 10 seconds, then the plugin
// servers get SIGTERM, and SIGKILL after the grace.
func (k *Kong) Close() error {
	var errs []error
	k.closing.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), quitTimeout)
		defer cancel()
		if k.server != nil {
			if err := k.server.Shutdown(ctx); err != nil {
				errs = append(errs, fmt.Errorf("shut the proxy down: %w", err), k.server.Close())
			}
		}
		if err := k.Wait(ctx); err != nil {
			errs = append(errs, err)
		}
		k.workers.closeLanes()
		k.workers.Close()
		if k.transport != nil {
			k.transport.CloseIdleConnections()
		}
		for _, ext := range k.plugins {
			if ext.process != nil {
				ext.process.close()
			}
		}
	})
	return errors.Join(errs...)
}

// Reconfigure replaces the declarative configuration, as POST /config and "kong reload" do. As with Kong, any change
// restarts the instances of all plugin configurations, each with its next event, and a refused configuration leaves the
// old one in place. The error names every problem with its path.
func (k *Kong) Reconfigure(declarative []byte) error {
	c, err := k.configure(declarative)
	if err != nil {
		return err
	}
	k.current.Store(c)
	return nil
}

// configuration is a declarative configuration ready for use.
type configuration struct {
	entities *entities
	router   *router
	plugins  []*configuredPlugin // those with the highest priority first
}

// configuredPlugin is a plugin with all its configurations.
type configuredPlugin struct {
	name     string
	priority int
	external *Plugin // nil for key-auth
	configs  map[scope]*pluginConfig
}

// scope is what a configuration is bound to; empty ids stand for anything.
type scope struct{ route, service, consumer string }

// pluginConfig is one configuration of a plugin; one of its fields is set.
type pluginConfig struct {
	keyAuth  *keyAuth
	external *Configuration
}

func (k *Kong) configure(declarative []byte) (*configuration, error) {
	e := parseDeclarative(declarative, time.Now().Unix())
	byName := map[string]*configuredPlugin{}
	for _, p := range e.plugins {
		if !p.enabled() {
			continue
		}
		if k.options.Override != nil {
			if p.Config == nil {
				p.Config = map[string]any{}
			}
			k.options.Override(p.Name, p.Config)
		}
		config := k.checkPlugin(e, p)
		if config == nil {
			continue
		}
		into := byName[p.Name]
		if into == nil {
			into = &configuredPlugin{name: p.Name, priority: keyAuthPriority, configs: map[scope]*pluginConfig{}}
			if config.external != nil {
				into.external, into.priority = config.external.Plugin, config.external.Plugin.Priority
			}
			byName[p.Name] = into
		}
		into.configs[scope{p.routeID(), p.serviceID(), p.consumerID()}] = config
	}
	if len(e.problems) > 0 {
		return nil, fmt.Errorf("parse declarative config: %w", errors.Join(e.problems...))
	}
	routes := slices.DeleteFunc(slices.Clone(e.routes), func(r *Route) bool { return !r.service.enabled() })
	c := &configuration{entities: e, router: newRouter(routes), plugins: slices.Collect(maps.Values(byName))}
	slices.SortFunc(c.plugins, func(a, b *configuredPlugin) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(b.name, a.name))
	})
	return c, nil
}

// checkPlugin checks and completes the configuration of one plugin entry.
func (k *Kong) checkPlugin(e *entities, p *pluginEntry) *pluginConfig {
	fields := keyAuthSchema()
	ext, isExternal := k.plugins[p.Name]
	switch {
	case isExternal:
		fields = ext.schema
	case p.Name != "key-auth":
		e.fail(p.path+".name", "plugin '%s' not enabled; the stand-in has key-auth and the external plugins", p.Name)
		return nil
	case p.consumer != nil:
		e.fail(p.path+".consumer", "value must be null") // key-auth cannot be bound to a consumer
		return nil
	}
	complete, problems := fields.Validate(p.Config)
	for _, problem := range problems {
		e.problems = append(e.problems, fmt.Errorf("%s.%w", p.path, problem))
	}
	if len(problems) > 0 {
		return nil
	}
	if !isExternal {
		auth, missing := newKeyAuth(complete)
		if missing != "" {
			e.fail(p.path+".config", "%s", missing)
		}
		return &pluginConfig{keyAuth: auth}
	}
	return &pluginConfig{external: &Configuration{
		Plugin: ext.plugin, ID: p.ID, RouteID: p.routeID(), ServiceID: p.serviceID(), ConsumerID: p.consumerID(),
		InstanceName: p.InstanceName, Config: complete,
	}}
}

// lookup returns the configuration of a plugin that fits best, in Kong's order, or nil.
func (p *configuredPlugin) lookup(route, service, consumer string) *pluginConfig {
	for _, s := range [...]scope{
		{route, service, consumer},
		{route, "", consumer},
		{"", service, consumer},
		{route, service, ""},
		{"", "", consumer},
		{route, "", ""},
		{"", service, ""},
		{},
	} {
		if c := p.configs[s]; c != nil {
			return c
		}
	}
	return nil
}
