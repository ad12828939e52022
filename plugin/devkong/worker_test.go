package devkong

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bench is a probe's process with workers before it, and nothing else of Kong.
type bench struct {
	*Workers
	t     testing.TB
	probe *probe
	logs  *logs
	conf  *Configuration
}

func startWorkers(t testing.TB, n int, phases string, cut func(Moment) bool) *bench {
	t.Helper()
	b := &bench{t: t, probe: newProbe(t), logs: &logs{}}
	log := slog.New(slog.NewTextHandler(b.logs, nil))
	b.Workers = NewWorkers(n, WorkersOptions{Log: log, Cut: cut})
	b.conf = &Configuration{
		Plugin: &Plugin{Name: probeName, Socket: b.probe.socket(), Phases: strings.Split(phases, ",")},
		ID:     "686e7e3c-9963-59c4-bf01-274fc537877c", RouteID: "46106329-0056-5355-a11c-1c2ac27aa924",
		Config: map[string]any{"n": int64(3), "tag": "a"},
	}
	process := startProcess(t.Context(), b.probe.server(phases), time.Second, log)
	t.Cleanup(func() {
		b.Close()
		process.close()
		if t.Failed() {
			t.Logf("the workers logged:\n%s", b.logs)
		}
	})
	if err := awaitSocket(t.Context(), b.probe.socket(), process); err != nil {
		t.Fatal(err)
	}
	return b
}

// event runs a phase on worker 0 and returns a function that waits for its end and returns how it ended.
func (b *bench) event(conf *Configuration, phase string, e *Exchange) (wait func() error) {
	b.t.Helper()
	var err error
	done := later(b.t, func() {
		ctx, cancel := context.WithTimeout(b.t.Context(), testTimeout)
		defer cancel()
		if phase == PhaseLog {
			err = b.Worker(0).Log(ctx, conf, e)
		} else {
			err = b.Worker(0).Event(ctx, conf, phase, e)
		}
	})
	return func() error {
		b.t.Helper()
		done()
		return err
	}
}

// ok runs an event that ends well.
func (b *bench) ok(conf *Configuration) {
	b.t.Helper()
	wait := b.event(conf, PhaseLog, &Exchange{})
	b.probe.next("log").end("return")
	if err := wait(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) stats(want Stats) {
	b.t.Helper()
	if diff := cmp.Diff(want, b.Stats()); diff != "" {
		b.t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestAnInstanceStartsWithItsFirstEventOncePerWorker(t *testing.T) {
	b := startWorkers(t, 2, "log", nil)
	var running []func() error
	for range 20 { // all at once: one claims the instance, the others wait for it
		running = append(running, b.event(b.conf, PhaseLog, &Exchange{}))
	}
	for range 20 {
		e := b.probe.next("log")
		var config map[string]any
		if err := json.Unmarshal(e.Config, &config); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"n": 3.0, "tag": "a", "__seq__": 1.0, "__plugin_id": b.conf.ID, "__ws_id": DefaultWorkspace, "route_id": b.conf.RouteID,
			"__key__": "plugins:probe:" + b.conf.RouteID + "::::" + DefaultWorkspace,
		}
		if diff := cmp.Diff(want, config); diff != "" {
			t.Fatalf("configuration (-want +got):\n%s", diff)
		}
		e.end("return")
	}
	for _, wait := range running {
		if err := wait(); err != nil {
			t.Error(err)
		}
	}
	other := later(t, func() {
		if err := b.Worker(1).Log(t.Context(), b.conf, &Exchange{}); err != nil {
			t.Error(err)
		}
	})
	e := b.probe.next("log")
	if got := e.config("__seq__"); got != 2.0 {
		t.Errorf("the other worker's instance has __seq__ %v", got)
	}
	e.end("return")
	other()
	b.stats(Stats{Events: 21, Delivered: 21, Started: 2})
}

func TestAChangedConfigurationStartsAnInstanceAndClosesTheOldOne(t *testing.T) {
	b := startWorkers(t, 1, "log", nil)
	b.ok(b.conf)
	changed := *b.conf
	changed.Config, changed.InstanceName = map[string]any{"n": int64(5)}, "mine"
	wait := b.event(&changed, PhaseLog, &Exchange{})
	e := b.probe.next("log")
	if got := fmt.Sprintln(e.config("n"), e.config("tag"), e.config("__seq__"), e.config("plugin_instance_name")); got != "5 <nil> 2 mine\n" {
		t.Errorf("the new instance has %s", got)
	}
	e.end("return")
	if err := wait(); err != nil {
		t.Error(err)
	}
	b.ok(&changed)
	b.stats(Stats{Events: 3, Delivered: 3, Started: 2, Closed: 1})
}

func TestAPluginServerThatDroppedItsInstancesIsHealedWithOneRepeat(t *testing.T) {
	b := startWorkers(t, 1, "log", nil)
	b.ok(b.conf)
	if err := b.Expire(t.Context(), b.conf.Plugin); err != nil {
		t.Fatal(err)
	}
	b.ok(b.conf)
	b.stats(Stats{Events: 2, Delivered: 2, Started: 2, Closed: 1, Resets: 1, Repeated: 1})
}

func TestACutConnectionResetsTheInstancesAndRepeatsTheEvent(t *testing.T) {
	first := func(p Point) func(Moment) bool {
		return func(m Moment) bool { return m.Point == p && m.Attempt == 1 }
	}
	t.Run("when the plugin has the event", func(t *testing.T) {
		b := startWorkers(t, 1, "log", first(EventSent))
		wait := b.event(b.conf, PhaseLog, &Exchange{Status: 200})
		worked := 0
		for range 2 { // the first attempt runs on with nobody to talk to
			e := b.probe.next("log")
			if _, err := e.ask("Response.GetStatus"); err == nil {
				worked++
			}
			e.end("return")
		}
		if err := wait(); err != nil || worked != 1 {
			t.Errorf("%v; calls worked in %d of 2 attempts", err, worked)
		}
		b.stats(Stats{Events: 1, Delivered: 1, Started: 2, Resets: 1, Repeated: 1})
	})
	t.Run("between two calls", func(t *testing.T) {
		b := startWorkers(t, 1, "log", first(CallDone))
		wait := b.event(b.conf, PhaseLog, &Exchange{Status: 200})
		e := b.probe.next("log")
		e.must("Response.GetStatus")
		if _, err := e.ask("Response.GetStatus"); err == nil {
			t.Error("the second call worked")
		}
		e.end("return")
		e = b.probe.next("log")
		e.must("Response.GetStatus")
		e.must("Response.GetStatus")
		e.end("return")
		if err := wait(); err != nil {
			t.Error(err)
		}
		b.stats(Stats{Events: 1, Delivered: 1, Started: 2, Resets: 1, Repeated: 1})
	})
	t.Run("when the plugin has finished: it sees the event twice", func(t *testing.T) {
		b := startWorkers(t, 1, "log", first(ReturnReady))
		wait := b.event(b.conf, PhaseLog, &Exchange{Status: 200})
		b.probe.next("log").end("return")
		b.probe.next("log").end("return")
		if err := wait(); err != nil {
			t.Error(err)
		}
		b.stats(Stats{Events: 1, Delivered: 1, Started: 2, Resets: 1, Repeated: 1})
	})
}

func TestAResetIsNewsForAllWorkersAndConfigurations(t *testing.T) {
	b := startWorkers(t, 2, "log", func(m Moment) bool { return m.Worker == 0 && m.Point == ReturnReady && m.Attempt == 1 })
	b.probe.release()
	run := func(worker int, conf *Configuration) {
		if err := b.Worker(worker).Log(t.Context(), conf, &Exchange{}); err != nil {
			t.Error(err)
		}
	}
	other := *b.conf
	other.ID = "another"
	run(1, b.conf)
	run(1, &other)
	run(0, b.conf)
	before := b.Stats().Started
	run(1, b.conf)
	run(1, &other)
	if got := b.Stats().Started - before; got != 2 {
		t.Errorf("worker 1 started %d instances after the reset, not 2", got)
	}
}

func TestAResetOverlooksAnInstanceThatIsStarting(t *testing.T) {
	var cut atomic.Bool
	b := startWorkers(t, 1, "log", func(m Moment) bool { return m.Point == ReturnReady && !cut.Swap(true) })
	slow := *b.conf
	slow.ID, slow.Config = "another", map[string]any{"tag": "slow"}
	starting := b.event(&slow, PhaseLog, &Exchange{})
	start := b.probe.next("start")
	other := b.event(b.conf, PhaseLog, &Exchange{})
	b.probe.next("log").end("return") // cut: all instances are reset
	b.probe.next("log").end("return")
	if err := other(); err != nil {
		t.Error(err)
	}
	waiting := b.event(&slow, PhaseLog, &Exchange{}) // for the same instance
	start.end("return")
	for range 2 {
		b.probe.next("log").end("return")
	}
	if err := errors.Join(starting(), waiting()); err != nil {
		t.Error(err)
	}
	b.stats(Stats{Events: 3, Delivered: 3, Started: 3, Resets: 1, Repeated: 1})
}

func TestAFailingCallKillsTheEventWithoutARepeat(t *testing.T) {
	for _, call := range []string{
		"Request.GetPath", "Request.GetMethod", "Request.GetScheme", "Request.GetHost", "Request.GetPort", "Request.GetRawQuery",
		"Request.GetRawBody", "Client.GetIp", "Nginx.GetVar request_id", "ServiceResponse.GetStatus",
		"ServiceResponse.GetHeader x", "ServiceResponse.GetHeaders", "ServiceResponse.GetRawBody",
	} {
		t.Run(call, func(t *testing.T) {
			b := startWorkers(t, 1, "log", nil)
			wait := b.event(b.conf, PhaseLog, &Exchange{Log: []byte("{}"), Request: &Request{}})
			e := b.probe.next("log")
			if got := e.must("Log.Serialize"); got != "{}" {
				t.Errorf("before it Log.Serialize answers %q", got)
			}
			for _, order := range []string{call, "Log.Serialize"} {
				if _, err := e.ask(order); err == nil {
					t.Errorf("%s works", order)
				}
			}
			e.end("return")
			if err := wait(); !errors.Is(err, ErrCallFailed) {
				t.Errorf("the event ended with %v", err)
			}
			b.ok(b.conf) // with the same instance
			b.stats(Stats{Events: 2, Delivered: 1, Failed: 1, CallsFailed: 1, Started: 1})
		})
	}
}

func TestEveryCallThatWorksInTheLogPhase(t *testing.T) {
	b := startWorkers(t, 1, "log", nil)
	service := &Service{ID: "service-id", Name: "up", Protocol: "http", Host: "h", Port: 80, Path: "/p", ReadTimeout: 7}
	exchange := &Exchange{
		Log: []byte(`{"log":1}`), Buffered: true, Body: []byte("body"), Status: 201, Source: "service",
		RequestHeaders:  http.Header{"X-A": {"1", "2"}},
		ResponseHeaders: http.Header{"Content-Type": {"text/plain"}},
		Start:           time.UnixMilli(1795428217250),
		Consumer:        &Consumer{ID: "consumer-id", Username: "alice"}, CredentialID: "credential-id",
		Service: service, Route: &Route{ID: "route-id", Name: "open", Paths: []string{"/open"}, service: service},
	}
	exchange.SetShared("tap", map[string]any{"list": []any{"a", 1.5, true, nil}, "empty": []any{}})
	wait := b.event(b.conf, PhaseLog, exchange)
	e := b.probe.next("log")
	for _, test := range []struct{ order, want string }{
		{"Log.Serialize", `{"log":1}`},
		{"Log.SerializeBytes", `{"log":1}`},
		{"Log.Err something is wrong", ""},
		{"ServiceResponse.GetRawBody", "body"},
		{"Response.GetStatus", "201"},
		{"Response.GetSource", "service"},
		{"Response.GetHeader content_type", "text/plain"},
		{"Response.GetHeader missing", ""},
		{"Response.GetHeaders", `{"content-type":["text/plain"]}`},
		{"Request.GetHeader x-a", "1"},
		{"Request.GetHeaders", `{"x-a":["1","2"]}`},
		{"Client.GetCredential", `{"id":"credential-id","consumer_id":""}`},
		{"Ctx.GetShared tap", `{"empty":{},"list":["a",1.5,true,null]}`},
		{"Ctx.GetShared missing", "null"},
		{"Ctx.SetShared word", ""},
		{"Ctx.GetShared word", `"shared word"`},
		{"Nginx.GetCtx flag", "null"},
		{"Nginx.SetCtx flag", ""},
		{"Nginx.GetCtx flag", "true"},
		{"Nginx.ReqStartTime", "1795428217.25"},
		{"Nginx.GetSubsystem", "http"},
		{"Node.GetId", nodeID},
	} {
		if got := e.must(test.order); got != test.want {
			t.Errorf("%s: %q, want %q", test.order, got, test.want)
		}
	}
	for call, members := range map[string][]string{
		"Client.GetConsumer": {"consumer-id", "alice"},
		"Router.GetRoute":    {"route-id", "open", "/open", "service-id"},
		"Router.GetService":  {"service-id", "up", "/p", `"read_timeout":7`},
	} {
		got := e.must(call)
		for _, want := range members {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in %s", call, want, got)
			}
		}
	}
	e.end("return")
	if err := wait(); err != nil {
		t.Error(err)
	}
	if got := exchange.Shared("word"); got != "shared word" {
		t.Errorf("what the plugin shared is %v", got)
	}
	if got := b.Stats().Logged; got != 1 || !strings.Contains(b.logs.String(), "[probe] something is wrong") {
		t.Errorf("%d lines logged:\n%s", got, b.logs)
	}

	wait = b.event(b.conf, PhaseLog, &Exchange{}) // nobody, nowhere
	e = b.probe.next("log")
	for _, call := range []string{"Client.GetConsumer", "Client.GetCredential", "Router.GetRoute", "Router.GetService"} {
		if got := e.must(call); strings.Contains(got, "-id") {
			t.Errorf("%s: %s", call, got)
		}
	}
	e.end("return")
	if err := wait(); err != nil {
		t.Error(err)
	}
}

func TestTheRequestIsThereInTheAccessPhase(t *testing.T) {
	b := startWorkers(t, 1, allPhases, nil)
	wait := b.event(b.conf, PhaseAccess, &Exchange{Request: &Request{
		Method: "POST", Host: "h", Port: 8000, Path: "/p", RawQuery: "a=1", Body: []byte("\xff"), ClientIP: "10.0.0.1",
	}})
	e := b.probe.next("access")
	for order, want := range map[string]string{
		"Request.GetMethod": "POST", "Request.GetScheme": "http", "Request.GetHost": "h", "Request.GetPort": "8000",
		"Request.GetPath": "/p", "Request.GetRawQuery": "a=1", "Request.GetRawBody": "\xff", "Client.GetIp": "10.0.0.1",
	} {
		if got := e.must(order); got != want {
			t.Errorf("%s: %q, want %q", order, got, want)
		}
	}
	if _, err := e.ask("Log.Serialize"); err == nil {
		t.Error("Log.Serialize works in the access phase")
	}
	e.end("return")
	if err := wait(); !errors.Is(err, ErrCallFailed) {
		t.Error(err)
	}
}

func TestAPluginThatRefusesItsConfigurationLosesItsEvents(t *testing.T) {
	b := startWorkers(t, 1, "log", nil)
	refused := *b.conf
	refused.Config = map[string]any{"tag": "refused"}
	if err := b.event(&refused, PhaseLog, &Exchange{})(); !errors.Is(err, ErrNoInstance) {
		t.Errorf("the event ended with %v", err)
	}
	if !strings.Contains(b.logs.String(), "starting instance") || !strings.Contains(b.logs.String(), "closed") {
		t.Errorf("nothing about it is logged:\n%s", b.logs)
	}
	b.ok(b.conf)
	b.stats(Stats{Events: 2, Delivered: 1, Failed: 1, Started: 1})
}

func TestAPluginServerThatIsAwayLosesTheEvent(t *testing.T) {
	w := NewWorkers(1, WorkersOptions{})
	plugin := &Plugin{Name: probeName, Socket: filepath.Join(t.TempDir(), "none")}
	if err := w.Worker(0).Log(t.Context(), &Configuration{Plugin: plugin}, &Exchange{}); !errors.Is(err, ErrNoInstance) {
		t.Errorf("the event ended with %v", err)
	}
	if got, want := w.Stats(), (Stats{Events: 1, Failed: 1}); got != want {
		t.Errorf("%+v", got)
	}
}

func TestAnEventThatThePluginAlwaysClosesEnds(t *testing.T) {
	b := startWorkers(t, 1, "log", nil)
	// go-pdk closes the connection for a phase that the plugin does not have.
	if err := b.event(b.conf, PhaseAccess, &Exchange{})(); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("the event ended with %v", err)
	}
	if got := b.Stats().Repeated; got != maxRepeats {
		t.Errorf("it was repeated %d times", got)
	}
}

func TestACancelledEventEnds(t *testing.T) {
	b := startWorkers(t, 1, "log", nil)
	ctx, cancel := context.WithCancel(t.Context())
	var err error
	wait := later(t, func() { err = b.Worker(0).Log(ctx, b.conf, &Exchange{}) })
	e := b.probe.next("log")
	cancel()
	wait()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the event ended with %v", err)
	}
	e.end("return")
	b.ok(b.conf)
}

func TestConnectionsArePooledAndEventsDoNotShareThem(t *testing.T) {
	b := startWorkers(t, 1, "log", nil)
	var held []*probed
	var running []func() error
	for range 3 {
		running = append(running, b.event(b.conf, PhaseLog, &Exchange{Status: 200}))
		held = append(held, b.probe.next("log"))
	}
	for _, e := range held { // three events run at once, each with its own conversation
		e.must("Response.GetStatus")
		e.end("return")
	}
	for _, wait := range running {
		if err := wait(); err != nil {
			t.Error(err)
		}
	}
	pool := b.Worker(0).pools[b.conf.Plugin.Socket]
	idle := func() int {
		pool.mu.Lock()
		defer pool.mu.Unlock()
		return len(pool.idle)
	}
	if got := idle(); got != 3 {
		t.Errorf("%d connections are idle, not 3", got)
	}
	b.ok(b.conf)
	if got := idle(); got != 3 {
		t.Errorf("after another event %d connections are idle, not 3", got)
	}
}

func TestLogPhasesBeyondKongsTimersAreDroppedAndCounted(t *testing.T) {
	f := startKong(t, "log", answer("hello"))
	for _, w := range f.Workers().all {
		w.timers.Store(maxTimers)
	}
	if resp, _ := f.get("/open"); resp.StatusCode != http.StatusOK {
		t.Errorf("status %d", resp.StatusCode)
	}
	f.wait()
	if got, want := f.Stats(), (Stats{Events: 1, Dropped: 1}); got != want {
		t.Errorf("%+v", got)
	}
	for _, w := range f.Workers().all {
		w.timers.Store(0)
	}
}

func TestConnectionsOfClientsAreSharedOutAmongTheWorkers(t *testing.T) {
	f := startKong(t, "log", answer("hello"), func(o *Options) { o.Workers = 3 })
	f.probe.release()
	for range 6 {
		req := f.request("GET /open")
		req.Close = true // a connection each
		f.do(req)
	}
	f.wait()
	if got, want := f.Stats(), (Stats{Events: 6, Delivered: 6, Started: 3}); got != want {
		t.Errorf("%+v", got)
	}
}

func TestReconfigureRestartsEveryInstance(t *testing.T) {
	f := startKong(t, "log", answer("hello"), func(o *Options) { o.Workers = 1 })
	var seen []any
	for range 3 {
		f.get("/open")
		e := f.probe.next("log")
		seen = append(seen, e.config("__seq__"))
		e.end("return")
		f.wait()
		if err := f.Reconfigure([]byte(testConfig)); err != nil { // not even a change
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]any{1.0, 2.0, 3.0}, seen); diff != "" {
		t.Errorf("instances (-want +got):\n%s", diff)
	}
	if got, want := f.Stats(), (Stats{Events: 3, Delivered: 3, Started: 3, Closed: 2}); got != want {
		t.Errorf("%+v", got)
	}
}

func TestWaitMayRunWhileRequestsCome(t *testing.T) {
	f := startKong(t, "log", answer("hello"))
	f.probe.release()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 20 {
				f.get("/open")
				f.wait()
			}
		})
	}
	group.Wait()
	if got := f.Stats(); got.Events != 80 || got.Delivered != 80 {
		t.Errorf("%+v", got)
	}
}
