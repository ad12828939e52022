package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
)

// handshakes watches the SASL exchanges of a client's connections. A broker may
// refuse a user by closing the connection, which kafka-go reports like any other
// broken connection: the one sign is an exchange that has begun and not ended.
type handshakes struct {
	sasl.Mechanism
	begun, ended atomic.Int64
}

// Start implements sasl.Mechanism.
func (h *handshakes) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	h.begun.Add(1)
	machine, response, err := h.Mechanism.Start(ctx)
	return &handshake{machine, h}, response, err
}

type handshake struct {
	sasl.StateMachine
	all *handshakes
}

// Next implements sasl.StateMachine.
func (h *handshake) Next(ctx context.Context, challenge []byte) (bool, []byte, error) {
	done, response, err := h.StateMachine.Next(ctx, challenge)
	if done || err != nil {
		h.all.ended.Add(1)
	}
	return done, response, err
}

// explain says that err is a refused user where it is.
func (h *handshakes) explain(err error) error {
	if h.Mechanism == nil || !errors.Is(err, io.ErrUnexpectedEOF) || h.begun.Load() == h.ended.Load() {
		return err
	}
	return fmt.Errorf("%w: the broker closed the connection", kafka.SASLAuthenticationFailed)
}
