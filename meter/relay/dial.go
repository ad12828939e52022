package relay

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// dialer connects to brokers. The TLS handshake is its own, not kafka-go's, which
// leaves it to the first request: an end of the connection in the handshake could
// not be told from any other, and no other broker would be tried.
type dialer struct {
	net.Dialer
	tls     *tls.Config
	timeout time.Duration
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn = boundedConn{conn, d.timeout}
	if d.tls == nil {
		return conn, nil
	}
	config := d.tls
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // it was never used
		return nil, &handshakeError{err}
	}
	return secure, nil
}

// handshakeError is a TLS handshake that failed.
type handshakeError struct{ cause error }

func (e *handshakeError) Error() string { return "TLS handshake: " + e.cause.Error() }
func (e *handshakeError) Unwrap() error { return e.cause }

// boundedConn never waits for ever: kafka-go removes the deadline before the
// SASL exchange, so that a silent broker would hold the connection attempt.
type boundedConn struct {
	net.Conn
	timeout time.Duration
}

func (c boundedConn) SetDeadline(t time.Time) error {
	if t.IsZero() {
		t = time.Now().Add(c.timeout)
	}
	return c.Conn.SetDeadline(t)
}
