package devkong

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"kafka-metering/schema"
)

const (
	// defaultStopGrace is what was measured between SIGTERM and SIGKILL: Kong does not wait.
	defaultStopGrace = 20 * time.Millisecond

	// respawnInterval is the least time between two starts of a plugin server.
	respawnInterval = time.Second

	// socketWait is how long Start waits for a plugin server's socket. A real Kong does not wait, and loses the events
	// of that moment.
	socketWait = 10 * time.Second
)

// PluginServer is one entry of Kong's pluginserver_names, with its pluginserver_<name>_… settings.
type PluginServer struct {
	Name string // for messages

	// QueryCmd prints what the plugin is: the -dump. It runs in the environment of the caller, as Kong's does.
	QueryCmd []string

	// StartCmd runs the plugin server. Without one, somebody else does: Kong then neither starts nor stops it.
	StartCmd []string

	// Socket defaults to the one that the dump names.
	Socket string

	// Env is the environment of StartCmd, beside PWD: Kong passes nothing else on, short of nginx_main_env. It is added
	// to the environment of QueryCmd.
	Env []string
}

// queryPlugin runs the query command and returns the plugin and the schema of its configuration.
func queryPlugin(ctx context.Context, s PluginServer) (*Plugin, *schema.Field, error) {
	fail := func(err error) (*Plugin, *schema.Field, error) {
		return nil, nil, fmt.Errorf("query plugin server %s: %w", s.Name, err)
	}
	if len(s.QueryCmd) == 0 {
		return fail(errors.New("no info query for it"))
	}
	cmd := exec.CommandContext(ctx, s.QueryCmd[0], s.QueryCmd[1:]...)
	cmd.Env = append(os.Environ(), s.Env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fail(fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String())))
	}
	var dump struct {
		Protocol   string
		SocketPath string
		Plugins    []struct {
			Name     string
			Phases   []string
			Version  string
			Priority *int
			Schema   struct {
				Fields []map[string]json.RawMessage `json:"fields"`
			}
		}
	}
	if err := json.Unmarshal(out, &dump); err != nil {
		return fail(fmt.Errorf("failed decoding plugin info: %w", err))
	}
	if dump.Protocol != "ProtoBuf:1" {
		return fail(fmt.Errorf("unknown protocol implementation: %q", dump.Protocol))
	}
	if len(dump.Plugins) == 0 || dump.Plugins[0].Name == "" || dump.Plugins[0].Priority == nil {
		return fail(errors.New("its dump has no plugin with a name and a priority"))
	}
	info := dump.Plugins[0] // Kong too reads the first one only
	p := &Plugin{Name: info.Name, Socket: s.Socket, Phases: info.Phases, Priority: *info.Priority, Version: info.Version}
	if p.Socket == "" {
		p.Socket = dump.SocketPath
	}
	for _, field := range info.Schema.Fields {
		if raw, ok := field["config"]; ok {
			config, err := schema.Parse(raw)
			if err != nil {
				return fail(err)
			}
			return p, config, nil
		}
	}
	return fail(errors.New("its schema has no field config"))
}

// process keeps a plugin server running, as Kong's worker 0 does.
type process struct {
	server PluginServer
	grace  time.Duration
	log    *slog.Logger

	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex
	cmd   *exec.Cmd
	tail  []string // the last lines of its output
	exits int
	err   error // why it could not be started
}

func startProcess(ctx context.Context, s PluginServer, grace time.Duration, log *slog.Logger) *process {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	p := &process{server: s, grace: grace, log: log, stop: stop, done: make(chan struct{})}
	go p.run(ctx)
	return p
}

func (p *process) run(ctx context.Context) {
	defer close(p.done)
	for ctx.Err() == nil {
		next := time.Now().Add(respawnInterval)
		p.log.Info("starting pluginserver process", "name", p.server.Name)
		err := p.runOnce(ctx)
		p.mu.Lock()
		p.exits++
		p.cmd, p.err = nil, err
		p.mu.Unlock()
		p.log.Info("external pluginserver terminated", "name", p.server.Name, "error", err)
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// runOnce runs the process until it ends, by itself or because ctx does.
func (p *process) runOnce(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, p.server.StartCmd[0], p.server.StartCmd[1:]...)
	cmd.Env = append([]string{}, p.server.Env...)
	if dir, err := os.Getwd(); err == nil {
		cmd.Env = append(cmd.Env, "PWD="+dir)
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = max(p.grace, time.Millisecond) // then it is killed
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("open pipe for plugin server: %w", err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return fmt.Errorf("start plugin server %s: %w", p.server.Name, err)
	}
	p.mu.Lock()
	p.cmd = cmd
	p.mu.Unlock()
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.grabLogs(r, cmd.Process.Pid)
	}()
	if err = cmd.Wait(); errors.Is(err, context.Canceled) {
		err = nil // it ended well when it was told to
	}
	_ = r.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // a grandchild may hold the other end
	<-read
	_ = r.Close()
	return err
}

// grabLogs passes the process's output on at info, line by line, which is where Kong puts it.
func (p *process) grabLogs(r io.Reader, pid int) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line = strings.TrimRight(line, "\n"); line != "" {
			p.log.Info(fmt.Sprintf("[%s:%d] %s", p.server.Name, pid, line))
			p.mu.Lock()
			p.tail = append(p.tail, line)
			if len(p.tail) > 20 {
				p.tail = p.tail[1:]
			}
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// pid returns the process's id, or 0 when none runs.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// close sends SIGTERM, then SIGKILL after the grace, and waits until the process is gone.
func (p *process) close() {
	p.stop()
	<-p.done
}

// awaitSocket waits until somebody listens on a plugin server's socket. The process, if any, is asked why not.
func awaitSocket(ctx context.Context, socket string, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, socketWait)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			return c.Close()
		}
		if p != nil {
			p.mu.Lock()
			exits, why, tail := p.exits, p.err, strings.Join(p.tail, "\n")
			p.mu.Unlock()
			if exits > 0 {
				return fmt.Errorf("start plugin server %s: it ended at once: %w\n%s", p.server.Name, errors.Join(why, err), tail)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the socket of a plugin server: %w", err)
		case <-tick.C:
		}
	}
}
