package devkong

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// errTimeout ends an exchange with an upstream that is silent for longer than its service allows.
var errTimeout = errors.New("upstream timed out")

// serve is the entry of every request.
func (k *Kong) serve(w http.ResponseWriter, r *http.Request) {
	t := &transaction{kong: k, config: k.current.Load(), w: w, r: r, id: requestID(), start: time.Now()}
	t.worker, _ = r.Context().Value(workerKey{}).(*Worker)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client has gone before its request was whole: nginx has nothing to log
	}
	t.body, t.query = body, r.URL.RawQuery
	t.headers = r.Header.Clone()
	t.headers.Set("Host", r.Host)
	if len(r.TransferEncoding) > 0 {
		t.headers.Set("Transfer-Encoding", strings.Join(r.TransferEncoding, ", "))
	}
	t.requestSize = requestSize(r, t.headers, len(body))
	t.host = strings.ToLower(hostOnly(r.Host))
	t.port = k.listener.Addr().(*net.TCPAddr).Port
	t.clientIP = hostOnly(r.RemoteAddr)

	k.running.begin() // so that Wait does not overtake a response whose Log phase is yet to start
	abort := t.run()
	t.broken = abort
	t.log()
	k.running.end()
	if abort {
		panic(http.ErrAbortHandler)
	}
}

func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}

// resolve returns the address of a service: as the options have it, or from the resolver.
func (k *Kong) resolve(ctx context.Context, s *Service) (ip string, port int, err error) {
	address := net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	if to, ok := k.options.Resolve[address]; ok {
		host, p, err := net.SplitHostPort(to)
		if err != nil {
			return "", 0, fmt.Errorf("resolve %s: %w", address, err)
		}
		port, err := strconv.Atoi(p)
		return host, port, err
	}
	if net.ParseIP(s.Host) != nil {
		return s.Host, s.Port, nil
	}
	found, err := net.DefaultResolver.LookupHost(ctx, s.Host)
	if err != nil || len(found) == 0 {
		return "", 0, fmt.Errorf("resolve %s: %w", address, err)
	}
	return found[0], s.Port, nil
}

// context returns what ends the work for the upstream: the client, unless the response is buffered, which goes on without.
func (t *transaction) context() context.Context {
	if t.buffered {
		return context.WithoutCancel(t.r.Context())
	}
	return t.r.Context()
}

// proxy asks the upstream and sends its response on. It returns whether the client's connection must be broken off.
func (t *transaction) proxy() (abort bool) {
	service := t.match.route.service
	ip, port, err := t.kong.resolve(t.r.Context(), service)
	if err != nil {
		t.kong.log.Error("DNS resolution failed", "host", service.Host, "error", err)
		t.reject(http.StatusServiceUnavailable, "name resolution failed", nil)
		return false
	}
	t.proxied = true
	resp, status := t.balance(ip, port)
	t.received = time.Now()
	t.waiting = millis(t.received.Sub(t.balanced))
	t.kongLatency = millis(t.balanced.Sub(t.start))
	if resp == nil && t.context().Err() != nil {
		t.clientGone()
		return true
	}
	if resp == nil {
		t.upstreamFailed(status)
		return false
	}
	defer resp.close()
	t.status = resp.StatusCode
	t.responseHeaders = upstreamHeaders(resp.Header)
	t.chunked = !t.bodiless() && resp.ContentLength < 0
	if t.buffered {
		t.sendBuffered(resp)
		return false
	}
	t.watch(resp.Header)
	t.upstreamStatus = t.statusList(resp.StatusCode)
	return t.sendStream(resp)
}

// statusList is nginx's $upstream_status: the statuses of all tries.
func (t *transaction) statusList(last int) string {
	var list []string
	for _, y := range t.tries {
		if y.failed != 0 {
			list = append(list, strconv.Itoa(y.failed))
		}
	}
	if last != 0 {
		list = append(list, strconv.Itoa(last))
	}
	return strings.Join(list, ", ")
}

// balance tries the upstream until it answers, once and as many more times as the service has retries. As nginx does, it
// tries again after a failed connection, and after other failures only what is safe to send twice. It returns the status
// of the last failure.
func (t *transaction) balance(ip string, port int) (*upstream, int) {
	service := t.match.route.service
	for n := 0; ; n++ {
		t.balanced = time.Now()
		t.tries = append(t.tries, try{ip: ip, port: port, start: t.balanced})
		current := &t.tries[len(t.tries)-1]
		resp, err := t.ask(t.upstreamRequest(ip, port), current)
		if err == nil {
			return resp, 0
		}
		status := http.StatusBadGateway
		if errors.Is(err, errTimeout) {
			status = http.StatusGatewayTimeout
		}
		current.failed = status
		t.kong.log.Error("upstream failed", "host", service.Host, "ip", ip, "port", port, "error", err)
		op, ok := errors.AsType[*net.OpError](err)
		unsent := ok && op.Op == "dial"
		again := unsent || !slices.Contains([]string{http.MethodPost, http.MethodPatch, "LOCK"}, t.r.Method)
		if n >= service.retries() || !again || t.context().Err() != nil {
			return nil, status
		}
	}
}

// upstream is a response of an upstream. Who reads its body from it gets an error when the upstream is silent for longer
// than its service allows.
type upstream struct {
	*http.Response
	timeout time.Duration
	silence *time.Timer
	cancel  context.CancelCauseFunc
}

func (u *upstream) Read(p []byte) (int, error) {
	u.silence.Reset(u.timeout)
	return u.Body.Read(p)
}

func (u *upstream) close() {
	u.silence.Stop()
	_ = u.Body.Close()
	u.cancel(nil)
}

// ask makes one try.
func (t *transaction) ask(req *http.Request, current *try) (*upstream, error) {
	timeout := milliseconds(t.match.route.service.ReadTimeout)
	ctx, cancel := context.WithCancelCause(t.context())
	silence := time.AfterFunc(timeout, func() { cancel(errTimeout) })
	current.latency = time.Since(current.start)
	resp, err := t.kong.transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		silence.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	return &upstream{Response: resp, timeout: timeout, silence: silence, cancel: cancel}, nil
}

// upstreamRequest builds the request that Kong sends.
func (t *transaction) upstreamRequest(ip string, port int) *http.Request {
	service := t.match.route.service
	path, query, hasQuery := strings.Cut(t.upstreamURI, "?")
	h := t.headers.Clone()
	for _, name := range append(strings.Split(h.Get("Connection"), ","), "Connection", "Keep-Alive", "Proxy", "Proxy-Connection",
		"Transfer-Encoding", "Te", "Upgrade", "Host", "Content-Length") {
		h.Del(strings.TrimSpace(name))
	}
	if h.Get("User-Agent") == "" {
		h.Set("User-Agent", "") // keeps Go from adding its own
	}
	forwarded := t.clientIP
	if before := strings.Join(t.headers.Values("X-Forwarded-For"), ", "); before != "" {
		forwarded = before + ", " + t.clientIP
	}
	h.Set("X-Forwarded-For", forwarded)
	h.Set("X-Forwarded-Proto", "http")
	h.Set("X-Forwarded-Host", t.host)
	h.Set("X-Forwarded-Port", strconv.Itoa(t.port))
	h.Set("X-Forwarded-Path", t.r.URL.EscapedPath())
	h.Del("X-Forwarded-Prefix")
	if t.match.prefix != "" && t.match.prefix != "/" {
		h.Set("X-Forwarded-Prefix", t.match.prefix)
	}
	h.Set("X-Real-Ip", t.clientIP)
	h.Set("X-Kong-Request-Id", t.id)
	via := "1.1 " + serverName
	if before := h.Get("Via"); before != "" {
		via = before + ", " + via
	}
	h.Set("Via", via)
	host := service.Host
	if service.Port != 80 {
		host = net.JoinHostPort(service.Host, strconv.Itoa(service.Port))
	}
	if t.match.route.PreserveHost {
		host = t.r.Host
	}
	req := &http.Request{
		Method: t.r.Method, Host: host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		// Opaque goes out as it is: the client's escapes are the upstream's business.
		URL:           &url.URL{Scheme: "http", Host: net.JoinHostPort(ip, strconv.Itoa(port)), Opaque: path, RawQuery: query, ForceQuery: hasQuery},
		ContentLength: int64(len(t.body)),
	}
	if len(t.body) > 0 {
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(t.body)), nil }
		req.Body, _ = req.GetBody()
	}
	return req
}

// upstreamFailed answers for an upstream that could not be reached. (Measured: a buffered failure has no upstream status.)
func (t *transaction) upstreamFailed(status int) {
	t.unexpected = true
	if !t.buffered { // the buffering subrequest keeps its status to itself
		t.upstreamStatus = t.statusList(0)
	}
	t.fail(status)
}

// clientGone records a request whose client did not wait for the upstream: nginx's 499.
func (t *transaction) clientGone() {
	t.status, t.responseHeaders, t.upstreamStatus = 499, http.Header{}, "-"
}

// sendStream sends the response on as it comes, each piece at once.
func (t *transaction) sendStream(body io.Reader) (abort bool) {
	t.finishHeaders()
	t.writeHeader()
	flusher := http.NewResponseController(t.w)
	_ = flusher.Flush() // the client may have gone; the next write will tell
	piece := make([]byte, 32<<10)
	defer func() { t.receive = millis(time.Since(t.received)) }()
	for {
		n, err := body.Read(piece)
		if n > 0 {
			if _, werr := t.w.Write(piece[:n]); werr != nil {
				t.tapped.see(piece[:n], errors.Is(err, io.EOF))
				return true // a client that aborts: Kong logs the upstream's status all the same
			}
			_ = flusher.Flush()
			t.tapped.see(piece[:n], false)
			t.bytesSent += n
			if t.chunked {
				t.bytesSent += chunkSize(n) - n
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if t.chunked {
				t.bytesSent += len("0\r\n\r\n")
			}
			t.tapped.see(nil, true)
			return false
		case err != nil:
			return true // the upstream broke off, or the client did
		}
	}
}

// sendBuffered holds the response back until it is whole, runs the response phase, and sends it then.
func (t *transaction) sendBuffered(body io.Reader) {
	whole, err := io.ReadAll(body)
	t.received = time.Now()
	t.waiting = millis(t.received.Sub(t.balanced))
	if err != nil && t.r.Method != http.MethodHead {
		t.fail(t.status) // a truncated body becomes an error text with the upstream's status
		return
	}
	t.bufferedBody, t.upstreamStatus = whole, t.status
	e := t.live()
	e.Request.UpstreamHeaders = t.responseHeaders.Clone()
	for _, c := range t.plugins {
		if !slices.Contains(c.Plugin.Phases, PhaseResponse) {
			continue
		}
		if err := t.worker.Event(t.context(), c, PhaseResponse, e); err != nil {
			t.kong.log.Error("response phase failed", "plugin", c.Plugin.Name, "error", err)
			t.unexpected = true
			t.fail(http.StatusInternalServerError)
			return
		}
	}
	t.finishHeaders()
	t.writeHeader()
	if !t.bodiless() {
		if t.chunked {
			_ = http.NewResponseController(t.w).Flush()
			t.bytesSent += chunkSize(len(whole)) + len("0\r\n\r\n")
		} else {
			t.bytesSent += len(whole)
		}
		_, _ = t.w.Write(whole) // an abort is logged as complete
	}
	t.receive = millis(time.Since(t.received))
}

// bodiless says whether the response has no body whatever its headers say.
func (t *transaction) bodiless() bool {
	return t.r.Method == http.MethodHead || t.status == http.StatusNoContent || t.status == http.StatusNotModified
}

// upstreamHeaders returns the headers that nginx passes on.
func upstreamHeaders(from http.Header) http.Header {
	h := from.Clone()
	for _, name := range append(strings.Split(h.Get("Connection"), ","), "Connection", "Keep-Alive", "Transfer-Encoding", "Trailer") {
		h.Del(strings.TrimSpace(name))
	}
	if h.Get("Date") == "" {
		h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	return h
}

// withoutArg removes an argument from a query string.
func withoutArg(raw, name string) string {
	var kept []string
	for part := range strings.SplitSeq(raw, "&") {
		key, _, _ := strings.Cut(part, "=")
		if unescapeQuery(key) != name {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "&")
}

func milliseconds(n int) time.Duration { return time.Duration(n) * time.Millisecond }
