package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// pageLimit bounds how long the status page waits for the spools.
const pageLimit = 10 * time.Second

// listenInterval is how often an address is tried that another process has.
const listenInterval = time.Second

// listen offers, at the address of the flag -metrics, metrics in Prometheus' text format at /metrics, whether the process
// lives at /healthz, whether it can keep events at /readyz, and all of it for people at /. Nothing there changes
// anything, and nothing there is secret. An address without a host is of this machine alone.
//
// After kong reload the process before this one has the address until its workers are gone. An error that says so is not
// the end: the address is tried again until it is free.
func (p *process) listen(address string) error {
	listener, err := net.Listen("tcp", withHost(address))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		go p.listenLater(address)
		return fmt.Errorf("listen on -metrics %q: %w; it is tried again every second", address, err)
	case err != nil:
		return fmt.Errorf("listen on -metrics %q: %w", address, err)
	}
	go p.serve(listener)
	return nil
}

// listenLater waits until an address is free that another process has.
func (p *process) listenLater(address string) {
	for {
		time.Sleep(listenInterval)
		listener, err := net.Listen("tcp", withHost(address))
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
		case err != nil:
			p.log.Error("serve metrics; metering goes on without", "error", err)
			return
		default:
			p.log.Warn("metrics are served: the address is free now", "address", address)
			p.serve(listener)
			return
		}
	}
}

func (p *process) serve(listener net.Listener) {
	go p.keepSampling(context.Background())
	s := &http.Server{Handler: p.pages(), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: time.Minute}
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		p.log.Error("serve metrics", "error", err)
	}
}

// withHost returns address with the loopback's host where it has none: the network gets to see brokers, topics and traffic
// only where somebody says so.
func withHost(address string) string {
	if host, port, err := net.SplitHostPort(address); err == nil && host == "" {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return address
}

// pages is what listen offers.
func (p *process) pages() http.Handler { return p.pagesWithin(pageLimit) }

// pagesWithin is pages with another limit for the status page.
func (p *process) pagesWithin(limit time.Duration) http.Handler {
	ready := &readiness{check: p.unready}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		p.ledger.set.WritePrometheus(w)
		metrics.WriteProcessMetrics(w)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if problems := ready.problems(); len(problems) > 0 {
			writeText(w, http.StatusServiceUnavailable, p.redact("not ready:\n"+strings.Join(problems, "\n")))
			return
		}
		writeText(w, http.StatusOK, "ok")
	})
	mux.Handle("GET /{$}", http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := writeStatus(w, p.status(ready.problems())); err != nil {
			p.log.Error("write the status page", "error", err)
		}
	}), limit, "the counts cannot be read: the disk of the spool does not answer\n"))
	return mux
}

// writeText writes a page for a program.
func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n") // who has gone away needs no answer
}

// redact takes the passwords and keys of the process and its pipelines out of a text. None should be in one: errors name
// brokers, topics and files.
func (p *process) redact(text string) string {
	secrets := []string{p.file.Authentication.Password, p.file.Security.ClientKey}
	for _, l := range p.running() {
		secrets = append(secrets, l.password())
	}
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	return text
}

func (l *pipeline) password() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings.Password
}
