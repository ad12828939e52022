package devkong

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestADumpSaysWhatThePluginIs(t *testing.T) {
	p := newProbe(t)
	got, config, err := queryPlugin(t.Context(), p.server(allPhases))
	if err != nil {
		t.Fatal(err)
	}
	want := &Plugin{Name: probeName, Socket: p.socket(), Phases: []string{"access", "response", "log"}, Priority: probePriority, Version: "0.1"}
	if diff := cmp.Diff(want, got); diff != "" || config.Field("n") == nil {
		t.Errorf("fields %v (-want +got):\n%s", config.Fields, diff)
	}
	s := p.server("log")
	s.Socket = "/elsewhere"
	if got, _, err := queryPlugin(t.Context(), s); err != nil || got.Socket != "/elsewhere" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestADumpThatKongCannotReadIsAnErrorThatNamesTheServer(t *testing.T) {
	for name, test := range map[string]struct {
		query []string
		want  string
	}{
		"no command":       {nil, "no info query for it"},
		"no such file":     {[]string{"/nowhere/at/all"}, "no such file"},
		"a failure":        {[]string{"sh", "-c", "echo broken >&2; exit 3"}, "exit status 3: broken"},
		"no JSON":          {[]string{"echo", "hello"}, "failed decoding plugin info"},
		"another protocol": {[]string{"echo", `{"Protocol": "MessagePack:1"}`}, `unknown protocol implementation: "MessagePack:1"`},
		"no plugin":        {[]string{"echo", `{"Protocol": "ProtoBuf:1", "Plugins": []}`}, "no plugin with a name and a priority"},
		"no schema":        {[]string{"echo", `{"Protocol": "ProtoBuf:1", "Plugins": [{"Name": "x", "Priority": 1}]}`}, "no field config"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Start(t.Context(), Options{PluginServers: []PluginServer{{Name: "mine", QueryCmd: test.query}}})
			if err == nil || !strings.HasPrefix(err.Error(), "query plugin server mine: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAPluginServerThatEndsAtOnceIsAnErrorWithItsLastWords(t *testing.T) {
	p := newProbe(t)
	s := p.server("log")
	s.StartCmd = []string{"sh", "-c", "echo the disk is full; exit 1"}
	_, err := Start(t.Context(), Options{Declarative: []byte(`{_format_version: "3.0"}`), PluginServers: []PluginServer{s}})
	if err == nil || !strings.Contains(err.Error(), "start plugin server probe: it ended at once") || !strings.Contains(err.Error(), "the disk is full") {
		t.Error(err)
	}
}

func TestThePluginServerHasNoEnvironmentButItsOwn(t *testing.T) {
	t.Setenv("DEVKONG_SECRET", "not for plugins")
	f := startKong(t, "log", answer("hello"))
	f.get("/open")
	e := f.probe.next("log")
	defer e.end("return")
	var names []string
	for _, variable := range e.Environment {
		name, _, _ := strings.Cut(variable, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{probeEnv, reportEnv, "GORACE", "PWD"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAPanicKillsTheProcessAndKongStartsAnother(t *testing.T) {
	f := startKong(t, "log", answer("hello"))
	if resp, body := f.get("/open"); resp.StatusCode != http.StatusOK || body != "hello" {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	e := f.probe.next("log")
	before := e.PID
	if got := f.PluginServerPID(probeName); got != before {
		t.Errorf("the process is %d, the stand-in says %d", before, got)
	}
	e.end("panic")
	f.wait() // the event is repeated, finds nobody and is lost
	if got := f.Stats(); got.Failed != 1 || got.Repeated != 1 || got.Resets != 1 {
		t.Errorf("%+v", got)
	}
	f.respawned(f.probe, before)
	f.get("/open")
	e = f.probe.next("log")
	if e.PID == before {
		t.Error("the process that panicked still answers")
	}
	e.end("return")
	f.wait()
	if got := f.Stats(); got.Delivered != 1 || got.Started != 2 {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(f.logs.String(), "panic: as ordered") {
		t.Error("the panic is not in the log")
	}
}

func TestCloseSendsSIGTERMAndLetsTheProcessDrainWithinTheGrace(t *testing.T) {
	f := startKong(t, "log", answer("hello"), func(o *Options) {
		o.StopGrace = testTimeout
		o.PluginServers[0].Env = append(o.PluginServers[0].Env, signalEnv+"=report")
	})
	wait := later(t, func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	f.probe.next("SIGTERM").end("return")
	wait()
	if !strings.Contains(f.logs.String(), `msg="external pluginserver terminated" name=probe error=<nil>`) {
		t.Errorf("it did not end by itself:\n%s", f.logs)
	}
}

func TestAProcessThatDoesNotEndIsKilledAfterTheGrace(t *testing.T) {
	p := newProbe(t)
	var out logs
	process := startProcess(t.Context(), p.server("log", signalEnv+"=ignore"), defaultStopGrace, slog.New(slog.NewTextHandler(&out, nil)))
	if err := awaitSocket(t.Context(), p.socket(), process); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", p.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	process.close()
	if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
		t.Errorf("read %q, %v from a process that is gone", got, err)
	}
	if !strings.Contains(out.String(), "signal: killed") || process.pid() != 0 {
		t.Errorf("process %d:\n%s", process.pid(), &out)
	}
}

func TestCloseWaitsForRequestsAndLogPhases(t *testing.T) {
	finish, asked := make(chan struct{}), make(chan struct{})
	f := startKong(t, "log", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/base/slow" {
			close(asked)
			<-finish
		}
		_, _ = io.WriteString(w, "hello")
	})
	f.get("/open")
	e := f.probe.next("log")
	slow := later(t, func() {
		if _, body := f.get("/open/slow"); body != "hello" {
			t.Errorf("the request that was running got %q", body)
		}
	})
	<-asked
	closed := make(chan struct{})
	wait := later(t, func() {
		defer close(closed)
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	for { // until the proxy has shut its door
		c, err := net.Dial("tcp", f.Addr())
		if err != nil {
			break
		}
		c.Close()
	}
	select {
	case <-closed:
		t.Error("it is closed while a Log phase is running")
	default:
	}
	close(finish)
	slow()
	f.probe.next("log").end("return")
	e.must("Response.GetStatus")
	e.end("return")
	wait()
	if got := f.Stats(); got.Delivered != 2 {
		t.Errorf("%+v", got)
	}
}

func TestAPluginServerThatSomebodyElseRunsIsLeftAlone(t *testing.T) {
	b := startWorkers(t, 1, "log", nil)
	f := startKong(t, "log", answer("hello"), func(o *Options) {
		o.PluginServers[0].StartCmd = nil
		o.PluginServers[0].Socket = b.probe.socket()
	})
	f.get("/open")
	b.probe.next("log").end("return")
	if got := f.PluginServerPID(probeName); got != 0 {
		t.Errorf("it has the process %d", got)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	b.ok(b.conf) // it still runs
}

func TestStartGivesUpWaitingWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := awaitSocket(ctx, filepath.Join(t.TempDir(), "none"), nil); err == nil || !strings.Contains(err.Error(), "wait for the socket") {
		t.Error(err)
	}
}
