package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"kafka-metering/meter"
	"kafka-metering/plugin/lane"
	"kafka-metering/plugin/record"
)

const (
	// laneSocket is the lane's socket in Kong's prefix, laneLost the file in which workers leave word of what they lost, and
	// laneTaken those in which processes do of what they had.
	laneSocket = pluginName + ".lane.socket"
	laneLost   = pluginName + ".lane.lost"
	laneTaken  = pluginName + ".lane.taken"
	// laneInterval is how often the socket's path and that file are looked at.
	laneInterval = time.Second
	// laneReadLimit bounds how long a worker may take to send a message that it has begun.
	laneReadLimit = 30 * time.Second
)

// laneServer is the process's end of the Lua front: it takes the workers' batches and acknowledges each when its events are
// in the spool. Package lane describes the protocol.
//
// What a worker sends again, because the acknowledgement did not reach it, becomes no second event: this process knows the
// numbers of the batches that it took, and the ids of the exchanges in the spools that it adopted from processes that are
// gone. Exchanges without an id (Kong before 3.5) are recognised by the number alone.
type laneServer struct {
	p      *process
	prefix string
	grace  time.Duration   // see laneGrace
	limit  time.Duration   // see laneReadLimit
	lost   map[string]bool // files of what workers lost that were taken in; watch's

	mu        sync.Mutex
	listener  *net.UnixListener
	socket    os.FileInfo
	sessions  map[net.Conn]struct{}
	workers   map[string]*laneWorker
	instances map[string]*laneInstance // by their configuration
	stopping  bool
	stop      chan struct{}
	running   sync.WaitGroup
}

// laneInstance is an instance that connections share: of all workers, and of Kong's readings of one configuration.
type laneInstance struct {
	*instance
	started sync.Once
	config  *Config

	users int  // connections; guarded by laneServer.mu
	ready bool // started; likewise
}

// serveLane begins to listen in p's prefix. The socket appears there under its name only when it listens and has its mode,
// in place of what was there before: of an earlier process that is still about, whose connections go on. After an error it is
// tried again.
func (p *process) serveLane(prefix string) (*laneServer, error) {
	l := &laneServer{
		p: p, prefix: prefix, grace: laneGrace, limit: laneReadLimit, lost: map[string]bool{}, sessions: map[net.Conn]struct{}{}, workers: map[string]*laneWorker{},
		instances: map[string]*laneInstance{}, stop: make(chan struct{}),
	}
	p.lane = l
	err := l.listen()
	l.running.Go(l.watch)
	return l, err
}

func (l *laneServer) listen() error {
	path := filepath.Join(l.prefix, laneSocket)
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listen for Kong's workers: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for Kong's workers: %w", err)
	}
	listener.SetUnlinkOnClose(false) // the name is another's then
	err = os.Chmod(fresh, 0o660)
	var socket os.FileInfo
	if err == nil {
		socket, err = os.Stat(fresh)
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		_ = listener.Close()
		return fmt.Errorf("listen for Kong's workers: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopping {
		return listener.Close()
	}
	if l.listener != nil {
		_ = l.listener.Close() // nobody can reach it any more
	}
	l.listener, l.socket = listener, socket
	l.running.Go(func() { l.accept(listener) })
	return nil
}

// watch puts the socket back where workers find none, and reads what they left word of.
func (l *laneServer) watch() {
	tick := time.NewTicker(laneInterval)
	defer tick.Stop()
	if _, err := l.readTaken(); err != nil { // and remove what is old
		l.p.log.Error("read what processes have left word of", "error", err)
	}
	for {
		l.readLost()
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		if l.reachable() {
			continue
		}
		if err := l.listen(); err == nil {
			l.p.log.Warn("workers could not reach any process any more; the socket is back")
		} else if l.p.reports.due("lane", l.p.now()) {
			l.p.log.Error("the Lua front cannot hand anything over", "error", err)
		}
	}
}

// reachable reports whether a worker that connects finds this process, or another that has taken the socket over.
func (l *laneServer) reachable() bool {
	path := filepath.Join(l.prefix, laneSocket)
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	l.mu.Lock()
	own := l.socket
	l.mu.Unlock()
	if own != nil && os.SameFile(info, own) {
		return true
	}
	conn, err := net.DialTimeout("unix", path, laneInterval)
	if err != nil {
		return !errors.Is(err, syscall.ECONNREFUSED) // what else there may be is no sign that nobody listens
	}
	_ = conn.Close()
	return true
}

func (l *laneServer) accept(listener *net.UnixListener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file descriptors, most likely
			if l.p.reports.due("accept", l.p.now()) {
				l.p.log.Error("accept a worker's connection", "error", err)
			}
			select {
			case <-l.stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		l.mu.Lock()
		if l.stopping {
			l.mu.Unlock()
			_ = conn.Close()
			return
		}
		l.sessions[conn] = struct{}{}
		l.running.Go(func() { l.serve(conn) })
		l.mu.Unlock()
	}
}

// close takes no more batches, and returns when those that were being taken are in the spool and acknowledged, or there is
// word of them. What comes later the workers keep for the next process.
func (l *laneServer) close() {
	l.mu.Lock()
	if !l.stopping {
		l.stopping = true
		close(l.stop)
		if l.listener != nil {
			_ = l.listener.Close()
		}
	}
	for conn := range l.sessions {
		_ = conn.SetReadDeadline(time.Now()) // a session that waits for a message ends; one that commits, after its answer
	}
	l.mu.Unlock()
	l.running.Wait()
	l.leaveWord()
}

// serve is one connection.
func (l *laneServer) serve(conn net.Conn) {
	s := &laneSession{l: l, conn: conn, reader: lane.NewReader(conn), configs: map[int64]*laneConfig{}}
	err := s.run()
	l.mu.Lock()
	delete(l.sessions, conn)
	stopping := l.stopping
	for _, c := range s.configs {
		l.release(c.laneInstance)
	}
	l.mu.Unlock()
	if errors.Is(err, lane.ErrProtocol) {
		s.part(lane.AppendError(nil, err))
		if l.p.reports.due("protocol", l.p.now()) { // a worker of another release comes again four times a second
			l.p.log.Error("the lane", "error", err)
		}
	}
	_ = conn.Close()
	if s.worker != nil {
		s.worker.leave(s.bye, stopping)
	}
}

// laneConfig is a configuration as a connection has registered it.
type laneConfig struct {
	*laneInstance
	excerpts map[lane.List]*meter.Excerpt // of Kong's log, by the lists that the worker keeps to
}

// laneSession is a connection of a worker.
type laneSession struct {
	l       *laneServer
	conn    net.Conn
	reader  *lane.Reader
	worker  *laneWorker
	configs map[int64]*laneConfig // by the worker's numbers
	bye     bool

	// The memory of a batch, which the next one uses again.
	exchanges   []laneExchange
	records     record.Buffer
	observation meter.Observation
}

func (s *laneSession) run() error {
	for {
		if err := s.reader.Await(); err != nil {
			return quiet(err)
		}
		s.patience(s.l.limit)
		m, err := s.reader.Message()
		if err != nil {
			return quiet(err)
		}
		if _, first := m.(*lane.Hello); first == (s.worker != nil) {
			return fmt.Errorf("%w: HELLO is the first message of a connection, and no other", lane.ErrProtocol)
		}
		s.bye = false
		var answer []byte
		switch m := m.(type) {
		case *lane.Hello:
			s.worker = s.l.join(m)
			answer = lane.AppendOK(nil, lane.Version)
		case *lane.Config:
			if answer, err = s.register(m); err != nil {
				return err
			}
		case *lane.Batch:
			if err := s.take(m); err != nil {
				if !errors.Is(err, lane.ErrProtocol) {
					s.part(lane.AppendLater(nil, err)) // Kong's error log then says why
				}
				return quiet(err)
			}
			answer = lane.AppendOK(nil, m.Number)
		case lane.Bye:
			s.bye = true
		}
		s.patience(0)
		if _, err := s.conn.Write(answer); err != nil {
			return nil //nolint:nilerr // the worker is gone, and sends again what it has no answer to
		}
	}
}

// part sends a last answer.
func (s *laneSession) part(answer []byte) {
	_ = s.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = s.conn.Write(answer)
}

// patience bounds how long the worker may take for what it has begun to say; 0 is no bound. Where the process stops the deadline
// stands that ends the session after the message at hand.
func (s *laneSession) patience(limit time.Duration) {
	var deadline time.Time
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if !s.l.stopping {
		_ = s.conn.SetReadDeadline(deadline)
	}
}

// quiet returns an error that is worth a line in the log: not that a worker, or this process, ended the connection.
func quiet(err error) error {
	if errors.Is(err, lane.ErrProtocol) {
		return err
	}
	return nil
}

// register answers a configuration with what it needs.
func (s *laneSession) register(m *lane.Config) (answer []byte, err error) {
	in := s.l.instance(m.JSON)
	c := &laneConfig{laneInstance: in}
	s.l.mu.Lock()
	if old := s.configs[m.ID]; old != nil {
		s.l.release(old.laneInstance)
	}
	s.configs[m.ID] = c
	s.l.mu.Unlock()
	needs := &lane.Needs{Body: lane.BodyNone, Problems: in.problems}
	if in.recorder == nil {
		needs.Log, needs.Calls = in.program.LogPaths()
	}
	lists := needs
	if len(m.Lists) > 0 {
		if lists, err = m.ParseLists(); err != nil {
			return nil, err
		}
	}
	if lists.Log != nil {
		c.excerpts = map[lane.List]*meter.Excerpt{lane.ListLog: in.program.Excerpt(lists.Log), lane.ListCalls: in.program.Excerpt(lists.Calls)}
	}
	switch {
	case in.program.ReadsBody():
		needs.Body = lane.BodyAny
	case in.program.ReadsLLM():
		needs.Body = lane.BodyLLM
	}
	return needs.Append(nil), nil
}

// instance returns the instance of a configuration, which the caller must release.
func (l *laneServer) instance(config []byte) *laneInstance {
	key, seq := configKey(config)
	l.mu.Lock()
	in := l.instances[key]
	if in == nil {
		in = &laneInstance{config: newConfig(l.p)}
		l.instances[key] = in
	}
	in.users++
	l.mu.Unlock()
	started := false
	in.started.Do(func() {
		_ = in.config.UnmarshalJSON(config) // its problems are reported, it refuses nothing
		in.instance = l.p.newInstance(in.config)
		started = true
		l.mu.Lock()
		in.ready = true
		l.mu.Unlock()
	})
	if !started {
		l.p.renew(in.instance, in.config, seq)
	}
	return in
}

// configKey returns what tells a configuration from others, and its number: Kong numbers configurations anew each time that it
// reads them, in each worker, also those that have not changed.
func configKey(config []byte) (key string, seq int) {
	const number = "__seq__"
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(config))
	d.UseNumber()
	if d.Decode(&fields) != nil {
		return string(config), 0
	}
	if n, ok := fields[number].(json.Number); ok {
		seq, _ = strconv.Atoi(n.String())
	}
	delete(fields, number)
	text, err := json.Marshal(fields)
	if err != nil {
		return string(config), 0
	}
	return string(text), seq
}

// release gives up an instance. The caller holds mu.
func (l *laneServer) release(in *laneInstance) {
	if in.users--; in.users > 0 {
		return
	}
	for key, other := range l.instances {
		if other == in {
			delete(l.instances, key)
		}
	}
}

// take reads a batch to its end and commits it. An error leaves it to the worker, which sends it again.
func (s *laneSession) take(b *lane.Batch) error {
	end, err := s.worker.begin()
	if err != nil {
		return err
	}
	defer end()
	l := &laneBatch{batch: b, session: s, exchanges: s.exchanges}
	began := time.Now()
	s.records.Reset() // of the last batch, which the spool has had
	known := s.worker.has(b.Number)
	var x lane.Exchange
	for range b.Entries {
		if err := s.reader.Exchange(&x); err != nil {
			return err
		}
		c := s.configs[x.Config]
		if c == nil {
			return fmt.Errorf("%w: an exchange of configuration %d, which this connection has not registered", lane.ErrProtocol, x.Config)
		}
		l.last = max(l.last, x.Number)
		if !known {
			l.exchanges = append(l.exchanges, c.observe(&x, &s.observation, &s.records))
		}
	}
	err = s.worker.commit(l)
	if err == nil && !known {
		s.l.p.ledger.batchHandOvers.UpdateDuration(began)
	}
	clear(l.exchanges) // of what they hold
	s.exchanges = l.exchanges[:0]
	return err
}
