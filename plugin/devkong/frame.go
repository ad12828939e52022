package devkong

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// poolSize and poolIdle are Kong's lua_socket_pool_size for each worker and socket, and OpenResty's keepalive time.
	poolSize = 256
	poolIdle = time.Minute

	// socketTimeout is OpenResty's default for connecting, sending and reading. A plugin that takes longer has failed.
	socketTimeout = time.Minute

	maxFrame = 1 << 30 // no plugin sends more than this on purpose
)

// errClosed is what Kong's cosockets call "closed": the other side has closed the connection. It is the one failure of an
// event that Kong repeats. A reset connection or a broken pipe is another error to Kong, and loses the event.
var errClosed = errors.New("closed")

// conn is one connection to a plugin server. It belongs to one call at a time.
type conn struct {
	net.Conn
	r    *bufio.Reader
	buf  []byte
	idle time.Time // when it went into the pool
}

// write sends one frame: its length as four bytes, little endian, and the payload.
func (c *conn) write(payload []byte) error {
	c.buf = binary.LittleEndian.AppendUint32(c.buf[:0], uint32(len(payload)))
	c.buf = append(c.buf, payload...)
	if err := c.SetDeadline(time.Now().Add(socketTimeout)); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	if _, err := c.Write(c.buf); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	if cap(c.buf) > 1<<20 {
		c.buf = nil // do not keep a large body alive in the pool
	}
	return nil
}

// read receives one frame. The end of the stream, also in mid-frame, is errClosed.
func (c *conn) read() ([]byte, error) {
	if err := c.SetDeadline(time.Now().Add(socketTimeout)); err != nil {
		return nil, fmt.Errorf("read frame: %w", err)
	}
	var head [4]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, readError(err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxFrame {
		return nil, fmt.Errorf("read frame: %d bytes are more than a plugin sends", n)
	}
	if n == 0 {
		return nil, nil
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(c.r, payload); err != nil {
		return nil, readError(err)
	}
	return payload, nil
}

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read frame: %w", errClosed)
	}
	return fmt.Errorf("read frame: %w", err)
}

// usable reports whether a pooled connection can still carry a call. Nginx watches its pooled connections and drops one
// that turns readable, which is how it notices that the plugin server has gone.
func (c *conn) usable() bool {
	if c.r.Buffered() > 0 || time.Since(c.idle) > poolIdle {
		return false
	}
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return err == nil && quiet
}

// pool keeps the idle connections of one worker to one socket; the last one used is the first one taken, as in OpenResty.
type pool struct {
	mu   sync.Mutex
	idle []*conn
	shut bool
}

func (p *pool) take() *conn {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if c.usable() {
			return c
		}
		_ = c.Close()
	}
}

func (p *pool) put(c *conn) {
	c.idle = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		_ = c.Close()
		return
	}
	if len(p.idle) == poolSize { // the one that has been idle for longest makes room
		_ = p.idle[0].Close()
		p.idle = append(p.idle[:0], p.idle[1:]...)
	}
	p.idle = append(p.idle, c)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = true
	for _, c := range p.idle {
		_ = c.Close()
	}
	p.idle = nil
}
