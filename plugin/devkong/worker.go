package devkong

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"google.golang.org/protobuf/proto"
)

// The errors of an event that a caller may want to tell apart.
var (
	// ErrCallFailed says that the plugin made a PDK call that fails in Lua: Kong closes the connection without an answer
	// and does not repeat the event.
	ErrCallFailed = errors.New("PDK call failed")

	// ErrNoInstance says that no instance could be started: the plugin refused its configuration, or is away. Kong loses
	// the event.
	ErrNoInstance = errors.New("no instance")
)

const (
	// claimWait is how long an event waits for an instance that another one is starting.
	claimWait = 10 * time.Second

	// maxRepeats ends what a real Kong does for ever: repeat an event whose connection the plugin closes each time.
	maxRepeats = 100
)

// Phases that a plugin can have.
const (
	PhaseAccess   = "access"
	PhaseResponse = "response"
	PhaseLog      = "log"
)

// Plugin is an external plugin as Kong knows it: from its plugin server's -dump.
type Plugin struct {
	Name     string
	Socket   string // the unix socket of its server
	Phases   []string
	Priority int
	Version  string
}

// Configuration is one configuration of a plugin: global, or for a route, a service, a consumer or several of them. A
// changed configuration is another Configuration with the same ID: Kong then starts new instances and closes the old.
type Configuration struct {
	Plugin       *Plugin
	ID           string // of the plugin entity; the key of its instances
	RouteID      string // and the others: empty where the configuration is not bound to one
	ServiceID    string
	ConsumerID   string
	InstanceName string
	WorkspaceID  string // defaults to DefaultWorkspace

	Config map[string]any // complete: defaults are filled in
}

// DefaultWorkspace is the id of the workspace "default", the one on the recordings.
const DefaultWorkspace = "0dc6f45b-8f8d-40d2-a504-473544ee190b"

// document returns the configuration as the JSON of cmd_start_instance: the fields, and the metadata that Kong's plugins
// iterator adds.
func (c *Configuration) document(seq int64) []byte {
	workspace := c.WorkspaceID
	if workspace == "" {
		workspace = DefaultWorkspace
	}
	doc := make(map[string]any, len(c.Config)+8)
	maps.Copy(doc, c.Config)
	doc["__seq__"] = seq
	doc["__plugin_id"] = c.ID
	doc["__ws_id"] = workspace
	doc["__key__"] = "plugins:" + c.Plugin.Name + ":" + c.RouteID + ":" + c.ServiceID + ":" + c.ConsumerID + "::" + workspace
	for i, value := range []string{c.RouteID, c.ServiceID, c.ConsumerID, c.InstanceName} {
		if value != "" {
			doc[metadata[i]] = value
		}
	}
	return appendJSON(nil, doc)
}

// metadata are the members that Kong adds to a configuration, beside those whose names begin with two underscores.
var metadata = []string{"route_id", "service_id", "consumer_id", "plugin_instance_name"}

// Point is a moment of an event at which a connection can be cut.
type Point int

// The points, in the order in which an event passes them.
const (
	EventSent   Point = iota // the plugin has the event, and no answer yet
	CallDone                 // the plugin has the answer to a PDK call
	ReturnReady              // the plugin has finished and sent its return message, which Kong does not see
)

// Moment is where an event is.
type Moment struct {
	Worker  int
	Phase   string
	Point   Point
	Attempt int // 1 for the first, 2 for the first repeat
}

// WorkersOptions are the options of NewWorkers. The zero value will do.
type WorkersOptions struct {
	Log *slog.Logger // defaults to none; gets what a plugin writes with kong.log, and what Kong would write

	// Cut, where it returns true, cuts the connection at that moment, as when the plugin server's process dies there:
	// Kong then sees "closed", resets the plugin's instances and repeats the event. It is called concurrently.
	Cut func(Moment) bool
}

// Workers are the worker processes of one Kong node. They share nothing but the numbering of instances and the news that
// a plugin server has gone.
type Workers struct {
	log   *slog.Logger
	cut   func(Moment) bool
	seq   atomic.Int64 // "a unique sequence across workers"
	count counters
	all   []*Worker
}

// NewWorkers returns n workers, which is Kong's nginx_worker_processes.
func NewWorkers(n int, o WorkersOptions) *Workers {
	w := &Workers{log: o.Log, cut: o.Cut}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	for i := range max(n, 1) {
		w.all = append(w.all, &Worker{
			id: i, node: w,
			instances: map[string]*instance{}, sequences: map[*Configuration]int64{},
			pools: map[string]*pool{}, messages: map[string]int64{}, lanes: map[string]*laneFront{},
		})
	}
	return w
}

// Len returns the number of workers.
func (w *Workers) Len() int { return len(w.all) }

// Worker returns worker i, counted from 0.
func (w *Workers) Worker(i int) *Worker { return w.all[i] }

// Stats returns the counts so far.
func (w *Workers) Stats() Stats { return w.count.stats() }

// Close closes the idle connections. Events that are running go on.
func (w *Workers) Close() {
	for _, worker := range w.all {
		worker.mu.Lock()
		for _, p := range worker.pools {
			p.close()
		}
		worker.mu.Unlock()
	}
}

// Expire closes every instance of the plugin behind Kong's back, as go-pdk does by itself: any CloseInstance also drops
// all instances older than 60 seconds. Kong goes on using their ids, is cut off, and heals with one repeat.
func (w *Workers) Expire(ctx context.Context, plugin *Plugin) error {
	var errs []error
	for _, worker := range w.all {
		for _, id := range worker.running(plugin) {
			if err := worker.closeInstance(ctx, plugin, id); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// reset makes all workers forget the instances of a plugin, whatever configuration they have. Kong does it over its
// worker events, with some delay.
func (w *Workers) reset(plugin *Plugin) {
	w.count.resets.Add(1)
	for _, worker := range w.all {
		worker.forget(plugin)
	}
}

// Worker is one worker of Kong: it runs the phases of plugins, each event on a connection of its own. Its methods may be
// called concurrently, as an nginx worker runs many requests at once.
type Worker struct {
	id   int
	node *Workers

	timers atomic.Int64 // running ones of the Log phase

	mu        sync.Mutex
	instances map[string]*instance     // by the plugin entity's id
	sequences map[*Configuration]int64 // __seq__, given when a configuration is first used
	pools     map[string]*pool         // by socket
	messages  map[string]int64         // the last message number, by plugin
	lanes     map[string]*laneFront    // by plugin
}

// instance is one started instance, or the claim of the event that is starting it. The worker's mutex guards it.
type instance struct {
	plugin  *Plugin
	conf    *Configuration
	started bool
	known   bool // has been started once; Kong's reset overlooks first claims, which do not name their plugin yet
	id      int32
	settled chan struct{} // closed when the claim is settled: started, given up or forgotten
}

// Log runs the Log phase of one plugin configuration for one finished exchange and returns when the plugin server has
// answered. It repeats and fails as Kong does: an error means that the plugin may or may not have seen the event, and
// that Kong will not come back to it. Kong calls it from a timer, after the response has gone out.
func (w *Worker) Log(ctx context.Context, conf *Configuration, e *Exchange) error {
	w.node.count.events.Add(1)
	err := w.Event(ctx, conf, PhaseLog, e)
	if err != nil {
		w.node.count.failed.Add(1)
	} else {
		w.node.count.delivered.Add(1)
	}
	return err
}

// Event runs any phase of one plugin configuration.
func (w *Worker) Event(ctx context.Context, conf *Configuration, phase string, e *Exchange) error {
	for attempt := 1; ; attempt++ {
		id, err := w.instanceID(ctx, conf)
		if err == nil {
			call := &kong_plugin_protocol.RpcCall{Call: &kong_plugin_protocol.RpcCall_CmdHandleEvent{
				CmdHandleEvent: &kong_plugin_protocol.CmdHandleEvent{InstanceId: id, EventName: phase},
			}}
			_, err = w.call(ctx, conf.Plugin, call, &event{worker: w, plugin: conf.Plugin, phase: phase, attempt: attempt, exchange: e})
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, errClosed) || attempt > maxRepeats || ctx.Err() != nil {
			return fmt.Errorf("run phase %s of plugin %s: %w", phase, conf.Plugin.Name, err)
		}
		w.node.reset(conf.Plugin)
		w.node.count.repeated.Add(1)
		w.node.log.Warn("plugin server closed the connection, repeating the event", "plugin", conf.Plugin.Name, "phase", phase, "error", err)
	}
}

// instanceID returns the id of the running instance of a configuration, or starts it. As in Kong, a failure to start is
// never repeated, and a claim whose start fails in writing stays: the others wait for it for ten seconds.
func (w *Worker) instanceID(ctx context.Context, conf *Configuration) (int32, error) {
	limit := time.Now().Add(claimWait)
	w.mu.Lock()
	seq, ok := w.sequences[conf]
	if !ok {
		seq = w.node.seq.Add(1)
		w.sequences[conf] = seq
	}
	in := w.instances[conf.ID]
	for in != nil && !in.started {
		settled := in.settled
		w.mu.Unlock()
		timer := time.NewTimer(time.Until(limit))
		select {
		case <-settled:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		w.mu.Lock()
		if !time.Now().Before(limit) {
			if w.instances[conf.ID] == in {
				delete(w.instances, conf.ID)
				in.settle()
			}
			w.mu.Unlock()
			return 0, fmt.Errorf("%w: could not claim instance_id for %s (key: %s)", ErrNoInstance, conf.Plugin.Name, conf.ID)
		}
		in = w.instances[conf.ID]
	}
	if in != nil && in.conf == conf {
		defer w.mu.Unlock()
		return in.id, nil
	}
	var old int32
	hadOld := in != nil
	if in == nil {
		in = &instance{plugin: conf.Plugin, conf: conf}
		w.instances[conf.ID] = in
	} else {
		old = in.id
		in.started = false // the claim, over the old instance
	}
	in.settled = make(chan struct{})
	w.mu.Unlock()

	id, err := w.startInstance(ctx, conf, seq)
	if err != nil && errors.Is(err, errWrite) {
		return 0, fmt.Errorf("%w: %w", ErrNoInstance, unrepeatable(err))
	}
	w.mu.Lock()
	if err != nil {
		delete(w.instances, conf.ID)
		in.settle()
		w.mu.Unlock()
		w.node.log.Error("starting instance", "plugin", conf.Plugin.Name, "error", err)
		return 0, fmt.Errorf("%w: %w", ErrNoInstance, unrepeatable(err))
	}
	in.id, in.conf, in.started, in.known = id, conf, true, true
	in.settle()
	w.mu.Unlock()
	if hadOld {
		_ = w.closeInstance(ctx, conf.Plugin, old) // Kong does not care either: perhaps it is gone
	}
	return id, nil
}

func (in *instance) settle() {
	select {
	case <-in.settled:
	default:
		close(in.settled)
	}
}

// unrepeatable hides errClosed: Kong raises a failed start as a Lua error, past the code that repeats.
func unrepeatable(err error) error { return errors.New(err.Error()) }

func (w *Worker) forget(plugin *Plugin) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, in := range w.instances {
		if in.plugin.Name == plugin.Name && in.known {
			delete(w.instances, key)
			in.settle()
		}
	}
}

// running returns the ids of the started instances of a plugin.
func (w *Worker) running(plugin *Plugin) []int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []int32
	for _, in := range w.instances {
		if in.plugin.Name == plugin.Name && in.started {
			ids = append(ids, in.id)
		}
	}
	return ids
}

func (w *Worker) startInstance(ctx context.Context, conf *Configuration, seq int64) (int32, error) {
	ret, err := w.call(ctx, conf.Plugin, &kong_plugin_protocol.RpcCall{Call: &kong_plugin_protocol.RpcCall_CmdStartInstance{
		CmdStartInstance: &kong_plugin_protocol.CmdStartInstance{Name: conf.Plugin.Name, Config: conf.document(seq)},
	}}, nil)
	if err != nil {
		return 0, fmt.Errorf("start instance: %w", err)
	}
	status := ret.GetInstanceStatus()
	if status == nil {
		return 0, errors.New("start instance: the answer has no instance_status")
	}
	w.node.count.started.Add(1)
	return status.GetInstanceId(), nil
}

func (w *Worker) closeInstance(ctx context.Context, plugin *Plugin, id int32) error {
	_, err := w.call(ctx, plugin, &kong_plugin_protocol.RpcCall{Call: &kong_plugin_protocol.RpcCall_CmdCloseInstance{
		CmdCloseInstance: &kong_plugin_protocol.CmdCloseInstance{InstanceId: id},
	}}, nil)
	if err != nil {
		return fmt.Errorf("close instance %d of %s: %w", id, plugin.Name, err)
	}
	w.node.count.closed.Add(1)
	return nil
}

// errWrite marks what Kong raises as a Lua error: sending on a connection that is broken.
var errWrite = errors.New("send")

// call sends one RpcCall and returns its RpcReturn. For an event it answers the PDK calls in between.
func (w *Worker) call(ctx context.Context, plugin *Plugin, call *kong_plugin_protocol.RpcCall, e *event) (*kong_plugin_protocol.RpcReturn, error) {
	w.mu.Lock()
	// Kong adds one to the number twice, so that the first message of a plugin has number 2.
	w.messages[plugin.Name]++
	call.Sequence = w.messages[plugin.Name] + 1
	idle := w.pools[plugin.Socket]
	if idle == nil {
		idle = &pool{}
		w.pools[plugin.Socket] = idle
	}
	w.mu.Unlock()
	message, err := proto.Marshal(call)
	if err != nil {
		return nil, fmt.Errorf("encode call: %w", err)
	}
	c := idle.take()
	if c == nil {
		dialer := net.Dialer{Timeout: socketTimeout}
		nc, err := dialer.DialContext(ctx, "unix", plugin.Socket)
		if err != nil {
			return nil, fmt.Errorf("connect to plugin server: %w", err)
		}
		c = &conn{Conn: nc, r: bufio.NewReader(nc)}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	ret, err := exchangeFrames(c, message, call.GetSequence(), e)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	idle.put(c)
	return ret, nil
}

func exchangeFrames(c *conn, message []byte, sequence int64, e *event) (*kong_plugin_protocol.RpcReturn, error) {
	if err := c.write(message); err != nil {
		return nil, fmt.Errorf("%w: %w", errWrite, err)
	}
	if e != nil {
		if err := e.serve(c); err != nil {
			return nil, err
		}
	}
	answer, err := c.read()
	if err != nil {
		return nil, err
	}
	if e != nil && e.cut(ReturnReady) {
		return nil, fmt.Errorf("cut: %w", errClosed)
	}
	ret := &kong_plugin_protocol.RpcReturn{}
	if err := proto.Unmarshal(answer, ret); err != nil {
		return nil, fmt.Errorf("decode return: %w", err)
	}
	if ret.GetSequence() != sequence {
		return nil, fmt.Errorf("decode return: number %d answers call %d", ret.GetSequence(), sequence)
	}
	return ret, nil
}
