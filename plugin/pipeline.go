package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kafka-metering/meter/relay"
	"kafka-metering/meter/spool"
	"kafka-metering/plugin/record"
)

// adoptInterval is how often a pipeline looks for spool files of processes that are gone: after kong reload the old
// process lives on for a while beside this one.
const adoptInterval = 10 * time.Second

// memoryBytes bounds the records that are in memory while the spool's disk cannot be written.
const memoryBytes = 32 << 20

// pipeline is the way of finished records to one Kafka cluster: a spool on disk and a relay that empties it. It lives
// as long as the process.
type pipeline struct {
	dir string
	p   *process

	mu         sync.Mutex
	version    configVersion // of the instance whose settings are in force
	plugin     string        // Kong's id of its plugin; "" is the process, or not known
	connection Connection    // of the same
	wrong      error         // with it
	rival      string        // the plugin that wants it otherwise
	against    error         // and how
	queue      Queue
	settings   relay.Settings
	spool      *spool.Spool // nil until it is open
	relay      *relay.Relay // nil while its settings cannot be used
	tried      time.Time    // when opening was last tried
	opening    *opening     // nil unless one is under way
	stop       context.CancelFunc
	running    sync.WaitGroup

	alarm atomic.Pointer[string] // what Kong's error log should say of the disk; nil: nothing
}

func newPipeline(p *process, dir string) *pipeline {
	return &pipeline{dir: dir, p: p, version: configVersion{seq: -1}}
}

// configure puts the settings of an instance of a plugin in force, unless those of a newer one are, and starts what does not
// run. It returns after [handOverLimit] at the latest. That another plugin wants them otherwise is an error too.
func (l *pipeline) configure(c Connection, v configVersion, plugin string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.Topic, c.ClusterName = "", "" // the records'
	if l.relay != nil && reflect.DeepEqual(c, l.connection) && !v.olderThan(l.version) {
		l.version = v // another instance of the same, which Kong may start for every exchange
		switch plugin {
		case l.rival: // it has been set alike
			l.rival, l.against = "", nil
		case l.plugin:
			return errors.Join(l.wrong, l.against)
		}
		return l.wrong
	}
	contested := l.contested(c, plugin)
	if v.olderThan(l.version) {
		return contested
	}
	settings, err := c.relaySettings()
	settings.Logger = l.p.log
	l.rival, l.against = "", contested
	if contested != nil {
		l.rival = l.plugin
	}
	l.connection, l.plugin = c, plugin
	l.version, l.settings, l.queue = v, settings, c.Queue
	if l.spool != nil {
		l.spool.Limit(l.queue.bounds())
	}
	l.wrong = err
	if l.relay != nil {
		l.wrong = errors.Join(err, l.relay.Update(settings))
		return errors.Join(l.wrong, contested)
	}
	opening := l.open()
	l.mu.Unlock()
	opened := opening.wait()
	l.mu.Lock()
	return errors.Join(err, contested, opened)
}

// contested says what a plugin wants otherwise than another one, whose settings are in force. The caller holds mu.
func (l *pipeline) contested(c Connection, plugin string) error {
	if l.plugin == "" || plugin == "" || plugin == l.plugin {
		return nil
	}
	var fields []string
	mine, its := reflect.ValueOf(c), reflect.ValueOf(l.connection)
	for i := range mine.NumField() {
		if name := mine.Type().Field(i).Tag.Get("json"); name != "bootstrap_servers" && !reflect.DeepEqual(mine.Field(i).Interface(), its.Field(i).Interface()) {
			fields = append(fields, name)
		}
	}
	if len(fields) == 0 {
		return nil
	}
	return fmt.Errorf("%s: plugin %s has the same brokers and user, and wants it otherwise: the two share one connection and one spool, for which the settings of one of them hold; set them alike", strings.Join(fields, ", "), l.plugin)
}

// opening is an attempt to open a spool. A disk that does not answer may hold it up for ever, and nobody else.
type opening struct {
	began time.Time
	done  chan struct{}
	err   error // once it is done
}

// errNoAnswer says that the disk of a spool does not answer.
var errNoAnswer = errors.New("events cannot be kept and are lost until this is mended: the disk does not answer")

// wait waits for o's end until [handOverLimit] after its beginning.
func (o *opening) wait() error {
	if !waitFor(o.done, handOverLimit-time.Since(o.began)) {
		return errNoAnswer
	}
	return o.err
}

// open begins to open the spool, which starts the relay too, as far as they are not; unless that is under way. The caller
// holds mu.
func (l *pipeline) open() *opening {
	if l.opening != nil {
		return l.opening
	}
	o := &opening{began: time.Now(), done: make(chan struct{})}
	l.tried, l.opening = l.p.now(), o
	maxBytes, whenFull := l.queue.bounds()
	options := spool.Options{MaxBytes: maxBytes, WhenFull: whenFull, MemoryBytes: memoryBytes, OnAdopt: l.p.recall, Journal: record.NewNumbers(l.p.now, l.p.runStart)}
	s := l.spool
	go func() {
		var err error
		if s == nil {
			s, err = l.p.openSpool(l.dir, options)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil {
			o.err = fmt.Errorf("events cannot be kept and are lost until this is mended: %w", err)
		} else {
			o.err = l.begin(s)
		}
		l.opening = nil
		close(o.done)
	}()
	return o
}

// begin starts what s needs. The caller holds mu.
func (l *pipeline) begin(s *spool.Spool) error {
	ctx := context.Background()
	if l.spool == nil {
		l.spool = s
		s.Limit(l.queue.bounds()) // which may have changed while it was opened
		ctx, l.stop = context.WithCancel(ctx)
		l.running.Go(func() { l.tend(ctx, s) })
	}
	if len(l.settings.Brokers) == 0 {
		return nil // reported where the connection is looked up
	}
	r, err := relay.New(l.settings, l.spool)
	if err != nil {
		return err
	}
	l.relay = r
	running, cancel := context.WithCancel(ctx)
	stop := l.stop
	l.stop = func() { cancel(); stop() }
	l.running.Go(func() {
		if err := r.Run(running); err != nil && running.Err() == nil {
			l.p.log.Error("publishing has stopped; events stay in the spool", "error", err)
		}
	})
	return nil
}

// bounds are those of the spool.
func (q Queue) bounds() (maxBytes int64, whenFull spool.WhenFull) {
	if q.WhenFull == "drop_oldest" {
		return int64(q.MaxBytes), spool.DropOldest
	}
	return int64(q.MaxBytes), spool.DropNewest
}

// tend takes over what processes that are gone have left, and tells of a disk that cannot be written, until ctx ends.
func (l *pipeline) tend(ctx context.Context, s *spool.Spool) {
	tick := time.NewTicker(adoptInterval)
	defer tick.Stop()
	troubled := false
	for {
		if records, err := s.Adopt(); err != nil {
			if l.p.reports.due("adopt "+l.dir, l.p.now()) {
				l.p.log.Warn("adopt the spool of a process that is gone", "error", err)
			}
		} else if records > 0 {
			l.p.log.Info("publishing what an earlier process left in its spool", "records", records)
		}
		switch st := s.Stats(); {
		case st.Trouble != nil:
			troubled = true
			l.alarm.Store(new("kafka-metering: the spool's disk cannot be written, events are in memory: " + st.Trouble.Error()))
			if l.p.reports.due("disk "+l.dir, l.p.now()) {
				l.p.log.Error("the spool's disk cannot be written: events are in memory, or stay with Kong's workers", "error", st.Trouble, "in_memory", st.InMemory)
			}
		case troubled:
			troubled = false
			l.alarm.Store(nil)
			l.p.log.Info("the spool's disk is written again")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// adoptNow adopts at once: what a process that is gone had spooled is known then.
func (l *pipeline) adoptNow() {
	l.mu.Lock()
	s := l.spool
	l.mu.Unlock()
	if s == nil {
		return
	}
	if _, err := s.Adopt(); err != nil && l.p.reports.due("adopt "+l.dir, l.p.now()) {
		l.p.log.Warn("adopt the spool of a process that is gone", "error", err)
	}
}

// adoptNow does that for the pipelines of instances.
func adoptNow(of []*instance) {
	for _, in := range of {
		if l, ok := in.sink.(*pipeline); ok {
			l.adoptNow()
		}
	}
}

// recall remembers the exchange of a record that a process which is gone had spooled: what that process did not live to
// acknowledge is handed over to this one again.
func (p *process) recall(record []byte) {
	r, err := relay.ParseRecord(record)
	if err != nil {
		return
	}
	for _, h := range r.Headers {
		if h.Key == "ce_id" {
			id, _, _ := strings.Cut(string(h.Value), "/")
			p.recent.add(id)
			return
		}
	}
}

// Enqueue hands records to the spool.
func (l *pipeline) Enqueue(records [][]byte, done func(error)) error {
	s, err := l.opened()
	if err != nil {
		return err
	}
	return s.Enqueue(records, done)
}

// Hold hands records to the spool that nobody keeps.
func (l *pipeline) Hold(records [][]byte, done func(error)) error {
	s, err := l.opened()
	if err != nil {
		return err
	}
	return s.Hold(records, done)
}

// opened returns the spool. The error is [errNoSpool].
func (l *pipeline) opened() (*spool.Spool, error) {
	s, opening := l.spoolOrOpening()
	if s == nil && opening != nil {
		if err := opening.wait(); err != nil && l.p.reports.due("spool "+l.dir, l.p.now()) {
			l.p.log.Error("open the spool", "error", err)
		}
		s, _ = l.spoolOrOpening()
	}
	if s == nil {
		return nil, errNoSpool
	}
	return s, nil
}

// spoolOrOpening returns the spool, or, where there is none, the attempt to open it, which is made once a second.
func (l *pipeline) spoolOrOpening() (*spool.Spool, *opening) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spool == nil && (l.opening != nil || l.p.now().Sub(l.tried) > time.Second) {
		return nil, l.open()
	}
	return l.spool, nil
}

// errNoSpool says that the spool could not be opened.
var errNoSpool = errors.New("there is no spool")

// placeOf is where an exchange ends whose records the spool answered for with err.
func placeOf(err error) place {
	switch {
	case err == nil:
		return placeSpooled
	case errors.Is(err, spool.ErrMemory):
		return placeMemory
	case errors.Is(err, spool.ErrFull), errors.Is(err, spool.ErrTooLarge):
		return placeSpoolFull
	case errors.Is(err, spool.ErrBusy):
		return placeBusy
	case errors.Is(err, spool.ErrClosed):
		return placeStopping
	default:
		return placeDisk
	}
}

// close publishes what it can until ctx ends, and closes the spool.
func (l *pipeline) close(ctx context.Context) error {
	l.mu.Lock()
	s, r, stop := l.spool, l.relay, l.stop
	l.mu.Unlock()
	if s == nil {
		return nil
	}
	var err error
	if r != nil {
		err = errors.Join(s.Seal(), r.Drain(ctx)) // the last checkpoint is among what is published
	}
	stop()
	l.running.Wait()
	return errors.Join(err, s.Close())
}

// close drains all pipelines side by side.
func (p *process) close(ctx context.Context) error {
	running := p.running()
	errs := make([]error, len(running))
	var wg sync.WaitGroup
	for i, l := range running {
		wg.Go(func() { errs[i] = l.close(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// resume starts the pipeline of the process's own connection, whose spool an earlier process may have left: the others
// start with the first event of their instance.
func (p *process) resume() {
	if len(p.file.BootstrapServers) == 0 {
		return
	}
	connection, _, _ := p.connection(&Config{})
	if _, err := p.pipeline(connection, true, p.configVersion(0), ""); err != nil {
		p.log.Error("resume", "error", err)
	}
}

// key names a connection's spool directory. Instances with the same brokers and user share it; a changed password or
// limit keeps it.
func (c Connection) key(shared bool) string {
	if shared {
		return "process"
	}
	brokers := make([]string, len(c.BootstrapServers))
	for i, b := range c.BootstrapServers {
		brokers[i] = net.JoinHostPort(b.Host, strconv.Itoa(b.Port))
	}
	slices.Sort(brokers)
	sum := sha256.Sum256([]byte(strings.Join(append(brokers, c.Authentication.User), "\x00")))
	readable := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(brokers[0]))
	return readable[:min(len(readable), 64)] + "-" + hex.EncodeToString(sum[:4])
}

// relaySettings converts c. On an error what can be used is.
func (c Connection) relaySettings() (relay.Settings, error) {
	s := relay.Settings{
		Timeout:         time.Duration(c.Timeout) * time.Millisecond,
		Keepalive:       time.Duration(c.Keepalive) * time.Millisecond,
		Compression:     c.ProducerCompression,
		MaxBatchRecords: c.Queue.MaxBatchSize,
		MaxBatchBytes:   c.ProducerRequestLimitsBytesPerRequest,
		Linger:          time.Duration(c.Queue.MaxCoalescingDelay * float64(time.Second)),
		MaxRetryDelay:   time.Duration(c.Queue.MaxRetryDelay * float64(time.Second)),
		MaxEventAge:     time.Duration(c.Queue.MaxEventAge * float64(time.Second)),
		DeadLetterTopic: c.DeadLetterTopic,
		CreateTopics:    c.CreateTopics,
		ClientID:        pluginName,
	}
	for _, b := range c.BootstrapServers {
		s.Brokers = append(s.Brokers, net.JoinHostPort(b.Host, strconv.Itoa(cmp.Or(b.Port, 9092))))
	}
	if c.Authentication.Strategy == "sasl" {
		s.Mechanism, s.User, s.Password = c.Authentication.Mechanism, c.Authentication.User, c.Authentication.Password
	}
	var err error
	if c.Security.SSL {
		s.TLS, err = c.Security.tlsConfig()
	}
	return s, err
}

// tlsConfig converts s. A certificate that cannot be read leaves the stricter setting: the system's authorities.
func (s Security) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: !s.SSLVerify} //nolint:gosec // the administrator's choice, default true
	var errs []error
	if s.CACertificate != "" {
		pool := x509.NewCertPool()
		if pool.AppendCertsFromPEM([]byte(s.CACertificate)) {
			config.RootCAs = pool
		} else {
			errs = append(errs, errors.New("security.ca_certificate: holds no certificate in PEM form"))
		}
	}
	if s.ClientCertificate != "" {
		pair, err := tls.X509KeyPair([]byte(s.ClientCertificate), []byte(s.ClientKey))
		if err != nil {
			errs = append(errs, fmt.Errorf("security.client_certificate and client_key: %w", err))
		} else {
			config.Certificates = []tls.Certificate{pair}
		}
	}
	return config, errors.Join(errs...)
}

// orphans returns the spool directories that no pipeline of this process serves: their connection is no longer
// configured, or has had no event yet.
func (p *process) orphans() []string {
	entries, err := os.ReadDir(p.spoolDir)
	if err != nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var dirs []string
	for _, e := range entries {
		files, _ := filepath.Glob(filepath.Join(p.spoolDir, e.Name(), "*.spool"))
		if e.IsDir() && p.pipelines[e.Name()] == nil && len(files) > 0 {
			dirs = append(dirs, e.Name())
		}
	}
	return dirs
}
