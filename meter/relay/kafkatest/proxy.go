package kafkatest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between clients and a broker's [Proxied] listener.
type Proxy struct {
	listener net.Listener
	broker   string

	mu     sync.Mutex
	conns  map[*proxied]struct{}
	closed bool
	cut    *Cut
	delay  time.Duration
	dials  int
}

// Cut ends the connection of an exchange of records after so many bytes.
type Cut struct {
	Response bool // of the answer; otherwise of the request
	After    int

	done   chan struct{}
	length int
}

// proxied is a connection through a Proxy.
type proxied struct {
	client, broker net.Conn
	silent         bool
	produce        chan bool // for each request under way: is it one with records?
	once           sync.Once
}

func (c *proxied) close() {
	c.once.Do(func() {
		_ = c.client.Close()
		_ = c.broker.Close()
	})
}

// maxFrame bounds a request and an answer.
const maxFrame = 64 << 20

// apiProduce is the key of the requests that carry records.
const apiProduce = 0

// Proxy starts the proxy of a broker for one test. Its listener can be used by
// one test at a time.
func (c *Cluster) Proxy(t testing.TB, id int32) *Proxy {
	t.Helper()
	n := c.node(t, id)
	listener, err := net.Listen("tcp", n.advertised(Proxied))
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, broker: fmt.Sprintf("127.0.0.1:%d", n.ports[Proxied]), conns: map[*proxied]struct{}{}}
	go p.accept()
	t.Cleanup(p.close)
	return p
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c := range p.conns {
		c.close()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		broker, err := net.Dial("tcp", p.broker)
		if err != nil {
			_ = client.Close()
			continue
		}
		c := &proxied{client: client, broker: broker, produce: make(chan bool, 1000)}
		p.mu.Lock()
		p.dials++
		p.conns[c] = struct{}{}
		if p.closed {
			c.close()
		}
		p.mu.Unlock()
		go p.pass(c, true)
		go p.pass(c, false)
	}
}

// pass passes requests on, or answers, until one side ends.
func (p *Proxy) pass(c *proxied, requests bool) {
	from, to := c.broker, c.client
	if requests {
		from, to = c.client, c.broker
	}
	for {
		frame, err := readFrame(from)
		if err != nil {
			break
		}
		var records bool
		if requests {
			records = len(frame) >= 6 && binary.BigEndian.Uint16(frame[4:]) == apiProduce
			c.produce <- records
		} else {
			records = <-c.produce
		}
		p.mu.Lock()
		delay, silent := p.delay, c.silent
		var cut *Cut
		if k := p.cut; records && k != nil && k.Response == !requests && k.After <= len(frame) {
			cut, p.cut = k, nil
			k.length = len(frame)
			frame = frame[:k.After]
		}
		p.mu.Unlock()
		if silent {
			continue
		}
		if delay > 0 && !requests {
			time.Sleep(delay)
		}
		_, err = to.Write(frame)
		if cut != nil {
			c.close()
			close(cut.done)
		}
		if err != nil {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.silent || p.closed { // else nobody hears of the end either
		delete(p.conns, c)
		c.close()
	}
}

// readFrame reads a request or an answer, with the length before it.
func readFrame(r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxFrame {
		return nil, errors.New("no frame of Kafka's protocol")
	}
	frame := make([]byte, 4+n)
	copy(frame, length[:])
	_, err := io.ReadFull(r, frame[4:])
	return frame, err
}

// Cut ends the connection of the next exchange of records that is long enough,
// and returns how long its request, or its answer, was; 0 when there was none
// within the timeout.
func (p *Proxy) Cut(k Cut, timeout time.Duration) (length int) {
	k.done = make(chan struct{})
	p.mu.Lock()
	p.cut = &k
	p.mu.Unlock()
	select {
	case <-k.done:
		return k.length
	case <-time.After(timeout):
		p.mu.Lock()
		defer p.mu.Unlock()
		p.cut = nil
		return 0
	}
}

// Silence makes the connections that there are pass nothing any more, without an
// end that one of the sides could notice. New ones are as usual.
func (p *Proxy) Silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.silent = true
	}
}

// Slow makes each answer take so much longer.
func (p *Proxy) Slow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Dials returns how many connections there have been.
func (p *Proxy) Dials() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials
}
