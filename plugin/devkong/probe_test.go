package devkong

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Kong/go-pdk"
	"github.com/Kong/go-pdk/server"
	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
)

// The probe is a plugin server made with go-pdk whose handlers do what a test tells them to, step by step: each event
// connects to the test's report socket, says where it is and carries out orders until one ends it. It is this test
// binary, linked under the plugin's name and started by the stand-in.

const (
	probeName     = "probe"
	probePriority = 5

	// probeEnv makes this binary a probe; its value is the phases: "log", "access,log" or allPhases; or, for
	// benchmarks, "empty" or "serialize".
	probeEnv = "DEVKONG_PROBE"

	// reportEnv names the report socket.
	reportEnv = "DEVKONG_REPORT"

	// signalEnv is what the probe does about SIGTERM: nothing with "ignore"; with "report" it says so and ends when told.
	signalEnv = "DEVKONG_SIGTERM"

	allPhases = "access,response,log"
)

// testTimeout ends a test that waits for something that does not happen.
const testTimeout = 20 * time.Second

func TestMain(m *testing.M) {
	phases := os.Getenv(probeEnv)
	if phases == "" {
		os.Exit(m.Run())
	}
	switch os.Getenv(signalEnv) {
	case "ignore":
		signal.Ignore(syscall.SIGTERM)
	case "report":
		terminate := make(chan os.Signal, 1)
		signal.Notify(terminate, syscall.SIGTERM)
		go func() {
			<-terminate
			obey(report{Phase: "SIGTERM"}, nil)
			os.Exit(0)
		}()
	}
	constructor := func() any { return &logProbe{} }
	switch phases {
	case "empty":
		constructor = func() any { return &emptyProbe{} }
	case "serialize":
		constructor = func() any { return &serializeProbe{} }
	case "access,log":
		constructor = func() any { return &accessProbe{} }
	case allPhases:
		constructor = func() any { return &fullProbe{} }
	}
	if err := server.StartServer(constructor, "0.1", probePriority); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// logProbe has the log phase alone.
type logProbe struct {
	N     int    `json:"n"`
	Tag   string `json:"tag"`
	whole json.RawMessage
}

// UnmarshalJSON keeps the whole configuration. It refuses the tag "refused", as a plugin does that knows better, and with
// the tag "slow" it waits for orders.
func (p *logProbe) UnmarshalJSON(b []byte) error {
	p.whole = append(p.whole, b...)
	var config struct{ Tag string }
	if err := json.Unmarshal(b, &config); err != nil {
		return err
	}
	switch config.Tag {
	case "refused":
		return errors.New("refused")
	case "slow":
		obey(report{Phase: "start"}, nil)
	}
	return nil
}

func (p *logProbe) Log(kong *pdk.PDK) { obey(report{Phase: "log", Config: p.whole}, kong) }

// accessProbe has the access phase too.
type accessProbe logProbe

func (p *accessProbe) UnmarshalJSON(b []byte) error { return (*logProbe)(p).UnmarshalJSON(b) }
func (p *accessProbe) Access(kong *pdk.PDK)         { obey(report{Phase: "access", Config: p.whole}, kong) }

func (p *accessProbe) Log(kong *pdk.PDK) { obey(report{Phase: "log", Config: p.whole}, kong) }

// fullProbe has all phases, and so its routes are buffered.
type fullProbe logProbe

func (p *fullProbe) UnmarshalJSON(b []byte) error { return (*logProbe)(p).UnmarshalJSON(b) }
func (p *fullProbe) Access(kong *pdk.PDK)         { obey(report{Phase: "access", Config: p.whole}, kong) }

func (p *fullProbe) Response(kong *pdk.PDK) { obey(report{Phase: "response", Config: p.whole}, kong) }

func (p *fullProbe) Log(kong *pdk.PDK) { obey(report{Phase: "log", Config: p.whole}, kong) }

// emptyProbe has a log phase that does nothing, and serializeProbe one that does what every metering plugin does.
type (
	emptyProbe     struct{}
	serializeProbe struct{}
)

func (*emptyProbe) Log(*pdk.PDK)          {}
func (*serializeProbe) Log(kong *pdk.PDK) { _, _ = ask(kong, "Log.SerializeBytes") }

// report is the first line that an event writes.
type report struct {
	Phase       string
	PID         int
	Config      json.RawMessage
	Environment []string
}

// result is the line that answers an order.
type result struct {
	Text  []byte // bytes, for they need not be UTF-8
	Error string
}

// obey reports and carries out the orders, one for each line, until one is "return" or the test has gone.
func obey(r report, kong *pdk.PDK) {
	c, err := net.Dial("unix", os.Getenv(reportEnv))
	if err != nil {
		return // no test looks on
	}
	defer c.Close()
	r.PID, r.Environment = os.Getpid(), os.Environ()
	out := json.NewEncoder(c)
	if out.Encode(r) != nil {
		return
	}
	orders := bufio.NewScanner(c)
	for orders.Scan() {
		order := orders.Text()
		if order == "return" {
			return
		}
		if order == "panic" {
			panic("as ordered")
		}
		text, err := ask(kong, order)
		answer := result{Text: text}
		if err != nil {
			answer.Error = err.Error()
		}
		if out.Encode(answer) != nil {
			return
		}
	}
}

// ask makes one call of the real PDK: its name, and after a space its argument.
func ask(kong *pdk.PDK, order string) ([]byte, error) {
	call, arg, _ := strings.Cut(order, " ")
	text := func(s string, err error) ([]byte, error) { return []byte(s), err }
	encoded := func(v any, err error) ([]byte, error) {
		b, encodeErr := json.Marshal(v)
		return b, errors.Join(err, encodeErr)
	}
	switch call {
	case "Log.Serialize":
		return text(kong.Log.Serialize())
	case "Log.SerializeBytes":
		var out kong_plugin_protocol.ByteString
		err := kong.Log.Ask("kong.log.serialize", nil, &out)
		return out.GetV(), err
	case "Log.Err":
		return nil, kong.Log.Err(arg)
	case "Response.GetStatus":
		return encoded(kong.Response.GetStatus())
	case "Response.GetHeader":
		return text(kong.Response.GetHeader(arg))
	case "Response.GetHeaders":
		return encoded(kong.Response.GetHeaders(-1))
	case "Response.GetSource":
		return text(kong.Response.GetSource())
	case "Request.GetHeader":
		return text(kong.Request.GetHeader(arg))
	case "Request.GetHeaders":
		return encoded(kong.Request.GetHeaders(-1))
	case "Request.GetMethod":
		return text(kong.Request.GetMethod())
	case "Request.GetScheme":
		return text(kong.Request.GetScheme())
	case "Request.GetHost":
		return text(kong.Request.GetHost())
	case "Request.GetPort":
		return encoded(kong.Request.GetPort())
	case "Request.GetPath":
		return text(kong.Request.GetPath())
	case "Request.GetRawQuery":
		return text(kong.Request.GetRawQuery())
	case "Request.GetRawBody":
		return kong.Request.GetRawBody()
	case "Client.GetIp":
		return text(kong.Client.GetIp())
	case "Client.GetConsumer":
		return encoded(kong.Client.GetConsumer())
	case "Client.GetCredential":
		return encoded(kong.Client.GetCredential())
	case "Router.GetRoute":
		return encoded(kong.Router.GetRoute())
	case "Router.GetService":
		return encoded(kong.Router.GetService())
	case "ServiceResponse.GetStatus":
		return encoded(kong.ServiceResponse.GetStatus())
	case "ServiceResponse.GetHeader":
		return text(kong.ServiceResponse.GetHeader(arg))
	case "ServiceResponse.GetHeaders":
		return encoded(kong.ServiceResponse.GetHeaders(-1))
	case "ServiceResponse.GetRawBody":
		return kong.ServiceResponse.GetRawBody()
	case "Ctx.SetShared":
		return nil, kong.Ctx.SetShared(arg, "shared "+arg)
	case "Ctx.GetShared":
		return encoded(kong.Ctx.GetSharedAny(arg))
	case "Nginx.SetCtx":
		return nil, kong.Nginx.SetCtx(arg, true)
	case "Nginx.GetCtx":
		return encoded(kong.Nginx.GetCtxAny(arg))
	case "Nginx.GetVar":
		return text(kong.Nginx.GetVar(arg))
	case "Nginx.ReqStartTime":
		return encoded(kong.Nginx.ReqStartTime())
	case "Nginx.GetSubsystem":
		return text(kong.Nginx.GetSubsystem())
	case "Node.GetId":
		return text(kong.Node.GetId())
	}
	return nil, fmt.Errorf("the probe has no call %q", call)
}

// probe is the test's side of the probe.
type probe struct {
	t        testing.TB
	name     string
	prefix   string
	listener net.Listener
	events   chan *probed
}

// probed is an event that waits for orders.
type probed struct {
	report
	t  testing.TB
	c  net.Conn
	in *bufio.Reader
}

func newProbe(t testing.TB) *probe { return newNamedProbe(t, probeName) }

func newNamedProbe(t testing.TB, name string) *probe {
	t.Helper()
	prefix, err := os.MkdirTemp("", "kong") //nolint:usetesting // its path is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(prefix) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(prefix, name)
	if os.Link(self, path) != nil { // another file system
		binary, err := os.ReadFile(self)
		if err == nil {
			err = os.WriteFile(path, binary, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p := &probe{t: t, name: name, prefix: prefix, events: make(chan *probed, 1024)}
	if p.listener, err = net.Listen("unix", p.reportSocket()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.listener.Close() })
	go func() {
		for {
			c, err := p.listener.Accept()
			if err != nil {
				return
			}
			e := &probed{t: t, c: c, in: bufio.NewReader(c)}
			line, err := e.in.ReadBytes('\n')
			if err == nil && json.Unmarshal(line, &e.report) == nil {
				p.events <- e
			}
		}
	}()
	return p
}

func (p *probe) reportSocket() string { return filepath.Join(p.prefix, "report") }
func (p *probe) socket() string       { return filepath.Join(p.prefix, p.name+".socket") }

// server returns the probe as an entry of pluginserver_names.
func (p *probe) server(phases string, env ...string) PluginServer {
	path := filepath.Join(p.prefix, p.name)
	return PluginServer{
		Name: p.name, QueryCmd: []string{path, "-dump", "-kong-prefix", p.prefix}, StartCmd: []string{path, "-kong-prefix", p.prefix},
		// A race detector would take a second at each exit.
		Env: append([]string{probeEnv + "=" + phases, reportEnv + "=" + p.reportSocket(), "GORACE=atexit_sleep_ms=0"}, env...),
	}
}

// next waits for an event and checks its phase.
func (p *probe) next(phase string) *probed {
	p.t.Helper()
	select {
	case e := <-p.events:
		if e.Phase != phase {
			p.t.Fatalf("phase %s came, not %s", e.Phase, phase)
		}
		return e
	case <-time.After(testTimeout):
		p.t.Fatalf("no event of phase %s came", phase)
		return nil
	}
}

// release lets every event return at once, from now on, until the test ends.
func (p *probe) release() {
	done := make(chan struct{})
	p.t.Cleanup(func() { close(done) })
	go func() {
		for {
			select {
			case e := <-p.events:
				e.end("return")
			case <-done:
				return
			}
		}
	}()
}

// ask gives an order and returns what the PDK answered.
func (e *probed) ask(order string) (string, error) {
	e.t.Helper()
	fmt.Fprintln(e.c, order)
	line, err := e.in.ReadBytes('\n')
	var r result
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		e.t.Fatalf("%s: the probe has gone: %v", order, err)
	}
	if r.Error != "" {
		return string(r.Text), errors.New(r.Error)
	}
	return string(r.Text), nil
}

// must is ask for a call that works.
func (e *probed) must(order string) string {
	e.t.Helper()
	text, err := e.ask(order)
	if err != nil {
		e.t.Fatalf("%s: %v", order, err)
	}
	return text
}

// document returns the serialized log.
func (e *probed) document() map[string]any {
	e.t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(e.must("Log.SerializeBytes")), &doc); err != nil {
		e.t.Fatal(err)
	}
	return doc
}

// config returns a member of the configuration that the instance was started with.
func (e *probed) config(name string) any {
	e.t.Helper()
	var config map[string]any
	if err := json.Unmarshal(e.Config, &config); err != nil {
		e.t.Fatal(err)
	}
	return config[name]
}

// end gives the last order: "return" or "panic".
func (e *probed) end(order string) {
	fmt.Fprintln(e.c, order)
	e.c.Close()
}
