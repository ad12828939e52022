package devkong

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kafka-metering/plugin/lane"
)

const (
	laneBatch   = 100                    // exchanges that are sent at once
	laneDelay   = 100 * time.Millisecond // or after this time
	laneRetry   = 100 * time.Millisecond
	laneTimeout = 10 * time.Second
)

// laneFront does what the Lua front of a plugin does in one worker: it numbers the worker's exchanges, sends them in
// batches over the lane (plugin/lane), with what the process needs of Kong's log, and keeps them until they are
// acknowledged. Its queue has no bound: nobody proxies a day's traffic here.
type laneFront struct {
	kong *Kong
	path string
	name string
	done sync.WaitGroup
	wake chan struct{} // cap 1
	quit chan struct{}

	mu     sync.Mutex
	queue  []laneEntry
	number int64

	// Of the sender alone.
	conn       net.Conn
	r          *bufio.Reader
	registered map[*Configuration]*lane.Needs
	ids        map[*Configuration]int64
	counted    int64
	batches    int64
	again      bool
}

type laneEntry struct {
	conf     *Configuration
	exchange lane.Exchange
}

var laneNames atomic.Int64

// startLane starts the front of a worker for a plugin.
func startLane(k *Kong, plugin *Plugin) *laneFront {
	f := &laneFront{
		kong: k, path: filepath.Join(filepath.Dir(plugin.Socket), plugin.Name+".lane.socket"),
		name: fmt.Sprintf("devkong.%d.%d", time.Now().UnixMilli(), laneNames.Add(1)),
		wake: make(chan struct{}, 1), quit: make(chan struct{}), ids: map[*Configuration]int64{},
	}
	f.done.Go(f.run)
	return f
}

// close sends what is queued and says goodbye.
func (f *laneFront) close() {
	close(f.quit)
	f.done.Wait()
}

// add queues an exchange.
func (f *laneFront) add(conf *Configuration, x lane.Exchange) {
	f.kong.running.begin()
	f.mu.Lock()
	f.number++
	x.Number = f.number
	f.queue = append(f.queue, laneEntry{conf, x})
	full := len(f.queue) >= laneBatch
	f.mu.Unlock()
	if full {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

func (f *laneFront) run() {
	tick := time.NewTicker(laneDelay)
	defer tick.Stop()
	for closing := false; ; {
		f.mu.Lock()
		n := min(len(f.queue), laneBatch)
		entries := f.queue[:n:n]
		f.mu.Unlock()
		if n > 0 {
			f.deliver(entries)
			f.mu.Lock()
			f.queue = f.queue[n:]
			f.mu.Unlock()
			continue
		}
		if closing {
			if f.conn != nil {
				_, _ = f.conn.Write(lane.Bye{}.Append(nil))
				_ = f.conn.Close()
			}
			return
		}
		select {
		case <-tick.C:
		case <-f.wake:
		case <-f.quit:
			closing = true
		}
	}
}

// deliver sends entries until the process has acknowledged them, or until there is no process to wait for any more.
func (f *laneFront) deliver(entries []laneEntry) {
	f.batches++
	for f.again = false; ; f.again = true {
		err := f.send(entries)
		if err == nil {
			break
		}
		f.kong.log.Warn("the lane", "error", err)
		if f.conn != nil {
			_ = f.conn.Close()
			f.conn = nil
		}
		select {
		case <-time.After(laneRetry):
		case <-f.kong.base.Done():
			f.settle(entries, &f.kong.workers.count.failed)
			return
		}
	}
	f.counted += int64(len(entries))
	f.settle(entries, &f.kong.workers.count.delivered)
}

func (f *laneFront) settle(entries []laneEntry, into *atomic.Int64) {
	into.Add(int64(len(entries)))
	for range entries {
		f.kong.running.end()
	}
}

// send sends one batch and waits for its acknowledgement.
func (f *laneFront) send(entries []laneEntry) error {
	if f.conn == nil {
		conn, err := net.Dial("unix", f.path)
		if err != nil {
			return err
		}
		f.conn, f.r, f.registered = conn, bufio.NewReader(conn), map[*Configuration]*lane.Needs{}
		if _, err := f.ask((&lane.Hello{Worker: f.name, Counted: f.counted}).Append(nil), lane.Version); err != nil {
			return err
		}
	}
	var exchanges []byte
	for i := range entries {
		e := &entries[i]
		if err := f.register(e.conf); err != nil {
			return err
		}
		x := e.exchange.Pick(f.registered[e.conf])
		x.Config = f.ids[e.conf]
		exchanges = x.Append(exchanges)
	}
	batch := lane.Batch{Number: f.batches, Again: f.again, Entries: len(entries)}
	_, err := f.ask(batch.Append(nil, exchanges), f.batches)
	return err
}

// register tells the process of a configuration, once for each connection.
func (f *laneFront) register(conf *Configuration) error {
	if f.registered[conf] != nil {
		return nil
	}
	if f.ids[conf] == 0 {
		f.ids[conf] = int64(len(f.ids) + 1)
	}
	size, err := f.ask((&lane.Config{ID: f.ids[conf], JSON: conf.document(f.ids[conf])}).Append(nil), -1)
	if err != nil {
		return err
	}
	text, needs := make([]byte, size), new(lane.Needs)
	if _, err := io.ReadFull(f.r, text); err != nil {
		return err
	}
	if err := json.Unmarshal(text, needs); err != nil {
		return err
	}
	f.registered[conf] = needs
	return nil
}

// ask sends a message and returns the number in the answer, which must be want unless that is negative.
func (f *laneFront) ask(message []byte, want int64) (int64, error) {
	if err := f.conn.SetDeadline(time.Now().Add(laneTimeout)); err != nil {
		return 0, err
	}
	if _, err := f.conn.Write(message); err != nil {
		return 0, err
	}
	line, err := f.r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	number, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(line, "OK "), "\n"), 10, 64)
	if err != nil || want >= 0 && number != want {
		return 0, fmt.Errorf("the process answered %q", line)
	}
	return number, nil
}

// watched is what the tap saw of a response's body.
type watched struct {
	body           []byte
	kind, encoding string // as the upstream sent them
	began          time.Time
	bytes          int64
	ended          bool
}

// watch begins to watch a response that comes with a body.
func (t *transaction) watch(h http.Header) {
	if t.kong.options.Lua && !t.bodiless() {
		t.tapped = &watched{kind: h.Get("Content-Type"), encoding: h.Get("Content-Encoding")}
	}
}

// see notes a piece of the body that has passed, and its end.
func (p *watched) see(piece []byte, ended bool) {
	if p == nil {
		return
	}
	if p.began.IsZero() {
		p.began = time.Now()
	}
	p.bytes += int64(len(piece))
	p.body = append(p.body, piece...)
	p.ended = p.ended || ended
}

// overLane hands the finished exchange to the worker's front.
func (t *transaction) overLane(conf *Configuration, log []byte, delivered bool) {
	x := lane.Exchange{Delivered: delivered, FirstByte: -1, Log: log, Request: t.body}
	if p := t.tapped; p != nil {
		x.HasBody, x.Ended, x.Bytes = true, p.ended, p.bytes
		x.Type, x.Encoding = []byte(p.kind), []byte(p.encoding)
		if !p.began.IsZero() {
			x.FirstByte = p.began.Sub(t.start).Milliseconds()
		}
		// The window of max_body_bytes.
		window, _ := conf.Config["max_body_bytes"].(int64)
		x.Tapped, x.Head = true, p.body
		if half := int(window / 2); window > 0 && len(p.body) > int(window) {
			x.Head, x.Tail, x.Skipped = p.body[:half], p.body[len(p.body)-half:], int64(len(p.body)-2*half)
		}
	}
	t.kong.workers.count.events.Add(1)
	t.worker.lane(t.kong, conf.Plugin).add(conf, x)
}

// lane returns the worker's front of a plugin.
func (w *Worker) lane(k *Kong, plugin *Plugin) *laneFront {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lanes[plugin.Name] == nil {
		w.lanes[plugin.Name] = startLane(k, plugin)
	}
	return w.lanes[plugin.Name]
}

// closeLanes ends the fronts of all workers.
func (w *Workers) closeLanes() {
	for _, worker := range w.all {
		worker.mu.Lock()
		lanes := worker.lanes
		worker.lanes = map[string]*laneFront{}
		worker.mu.Unlock()
		for _, f := range lanes {
			f.close()
		}
	}
}
