package devkong

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// recordedConfig is the declarative configuration of the recordings, but for the Lua plugins.
const recordedConfig = `
_format_version: "3.0"
services:
- name: up
  url: http://127.0.0.1:9001
  routes:
  - {name: probelog, paths: [/probelog], tags: [t1, t2], plugins: [{name: probelog, config: {n: 3, tag: a}}]}
  - name: auth
    paths: [/auth]
    plugins: [{name: key-auth, config: {key_names: [apikey]}}, {name: probelog, config: {tag: auth}}]
  - {name: proberesp, paths: [/proberesp], plugins: [{name: proberesp}]}
  - {name: condbufgo, paths: [/condbufgo], plugins: [{name: probeacc, config: {tag: condbufgo}}]}
  - {name: tapinc, paths: [/tapinc], plugins: [{name: probelog}]}
consumers:
- {username: alice, custom_id: cust-42, keyauth_credentials: [{key: alicekey}]}
`

// tap stands between the stand-in and a plugin server and keeps the frames, connection by connection.
type tap struct {
	socket, behind string

	mu          sync.Mutex
	connections []*tapped
}

type tapped struct {
	frames []frame
	taken  int
}

func newTap(t testing.TB, dir, name, behind string) *tap {
	t.Helper()
	tp := &tap{socket: filepath.Join(dir, name+".tap"), behind: behind}
	l, err := net.Listen("unix", tp.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			kong, err := l.Accept()
			if err != nil {
				return
			}
			plugin, err := net.Dial("unix", tp.behind)
			if err != nil {
				kong.Close()
				continue
			}
			c := &tapped{}
			tp.mu.Lock()
			tp.connections = append(tp.connections, c)
			tp.mu.Unlock()
			go tp.copy(c, plugin, kong, true)
			go tp.copy(c, kong, plugin, false)
		}
	}()
	return tp
}

// copy keeps each frame before it passes it on, so that an answer never stands before its question.
func (tp *tap) copy(c *tapped, to, from net.Conn, fromKong bool) {
	defer to.Close()
	defer from.Close()
	r := bufio.NewReader(from)
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		payload := make([]byte, binary.LittleEndian.Uint32(head))
		if _, err := io.ReadFull(r, payload); err != nil {
			return
		}
		tp.mu.Lock()
		c.frames = append(c.frames, frame{fromKong, payload})
		tp.mu.Unlock()
		if _, err := to.Write(append(head, payload...)); err != nil {
			return
		}
	}
}

// take returns what has passed since it was last called, connection by connection.
func (tp *tap) take(t testing.TB) [][]Turn {
	t.Helper()
	tp.mu.Lock()
	defer tp.mu.Unlock()
	var all [][]Turn
	for _, c := range tp.connections {
		fresh := c.frames[c.taken:]
		c.taken = len(c.frames)
		if len(fresh) == 0 {
			continue
		}
		turns, err := turnsOf(fresh)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, turns)
	}
	return all
}

func readRecording(t testing.TB, name string) *Recording {
	t.Helper()
	r, err := ReadRecording(filepath.Join("..", "..", "testdata", "recordings", name+".frames.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// recordedUpstream answers as the one of the recordings did.
func recordedUpstream(t testing.TB) http.HandlerFunc {
	sse := readRecording(t, "5-sse-tap-log/conn1").Turns[1].Asked[0].Answer
	gzipped := readRecording(t, "8-response-mode-gzip/conn1").Turns[1].Asked[0].Answer
	plain := readRecording(t, "3-response-mode/conn1").Turns[2].Asked[2].Answer
	text := func(message []byte) []byte {
		_, _, n := protowire.ConsumeTag(message)
		value, _ := protowire.ConsumeBytes(message[n:])
		return value
	}
	stream, zipped, body := text(sse), text(gzipped), text(plain)
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/sse":
			w.Header().Set("Content-Type", "text/event-stream")
			for event := range strings.SplitAfterSeq(string(stream), "\n\n") {
				_, _ = io.WriteString(w, event)
				_ = http.NewResponseController(w).Flush()
			}
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zipped)
		default:
			_, _ = w.Write(body)
		}
	}
}

// orders are the probe's orders for the calls of the recordings.
var orders = map[string]string{
	"kong.log.serialize":                 "Log.SerializeBytes",
	"kong.response.get_status":           "Response.GetStatus",
	"kong.request.get_header":            "Request.GetHeader",
	"kong.request.get_method":            "Request.GetMethod",
	"kong.request.get_raw_body":          "Request.GetRawBody",
	"kong.request.get_path":              "Request.GetPath",
	"kong.router.get_route":              "Router.GetRoute",
	"kong.router.get_service":            "Router.GetService",
	"kong.client.get_consumer":           "Client.GetConsumer",
	"kong.client.get_credential":         "Client.GetCredential",
	"kong.service.response.get_status":   "ServiceResponse.GetStatus",
	"kong.service.response.get_header":   "ServiceResponse.GetHeader",
	"kong.service.response.get_raw_body": "ServiceResponse.GetRawBody",
	"kong.nginx.set_ctx":                 "Nginx.SetCtx",
	"kong.ctx.shared.get":                "Ctx.GetShared",
}

// order returns the order that makes a probe ask what was asked.
func (a Asked) order(t testing.TB) string {
	t.Helper()
	order, ok := orders[a.Method]
	if !ok {
		t.Fatalf("no order for %s", a.Method)
	}
	if a.Method == "kong.nginx.set_ctx" {
		var kv kong_plugin_protocol.KV
		if err := proto.Unmarshal(a.Args, &kv); err != nil {
			t.Fatal(err)
		}
		return order + " " + kv.GetK()
	}
	arg, err := stringArg(a.Args)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(order + " " + arg)
}

// act makes the probe ask what the recorded plugin asked, event by event.
func (p *probe) act(turns []Turn) {
	p.t.Helper()
	for _, turn := range turns {
		event := turn.Call.GetCmdHandleEvent()
		if event == nil {
			continue
		}
		e := p.next(event.GetEventName())
		for _, asked := range turn.Asked {
			if _, err := e.ask(asked.order(p.t)); (err != nil) != asked.Failed {
				p.t.Errorf("%s: %v", asked.Method, err)
			}
		}
		e.end("return")
	}
}

// recorded is a stand-in with the set-up of the recordings, and taps on its plugin servers' sockets.
type recorded struct {
	*fixture
	probes map[string]*probe
	taps   map[string]*tap
}

func startRecorded(t *testing.T) *recorded {
	t.Helper()
	dir, err := os.MkdirTemp("", "kong") //nolint:usetesting // its path is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	up := httptest.NewServer(recordedUpstream(t))
	t.Cleanup(up.Close)
	r := &recorded{&fixture{t: t, logs: &logs{}}, map[string]*probe{}, map[string]*tap{}}
	o := Options{
		Declarative: []byte(recordedConfig), Workers: 1, Log: slog.New(slog.NewTextHandler(r.logs, nil)),
		Resolve: map[string]string{"127.0.0.1:9001": up.Listener.Addr().String()},
	}
	for name, phases := range map[string]string{"probelog": "log", "proberesp": allPhases, "probeacc": "access,log"} {
		r.probes[name] = newNamedProbe(t, name)
		r.taps[name] = newTap(t, dir, name, r.probes[name].socket())
		s := r.probes[name].server(phases)
		s.Socket = r.taps[name].socket
		o.PluginServers = append(o.PluginServers, s)
	}
	if r.Kong, err = Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the stand-in logged:\n%s", r.logs)
		}
	})
	for _, p := range r.probes { // behind the taps
		if err := awaitSocket(t.Context(), p.socket(), nil); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestTheStandInSpeaksAsTheRecordedKongDid(t *testing.T) {
	f := startRecorded(t)
	for _, test := range []struct{ folder, plugin, line, body string }{
		{"1-log-only", "probelog", "GET /probelog/json?x=1", ""},
		{"2-log-only-authenticated", "probelog", "GET /auth/json?apikey=alicekey", ""},
		{"3-response-mode", "proberesp", "POST /proberesp/json", `{"q":1}`},
		{"4-access-setctx-buffered", "probeacc", "GET /condbufgo/json", ""},
		{"5-sse-tap-log", "probelog", "GET /tapinc/sse", ""},
		{"6-forbidden-call", "probelog", "GET /probelog/json", ""},
		// 7-ai-proxy-log has a plugin that the stand-in does not have.
		{"8-response-mode-gzip", "proberesp", "GET /proberesp/gzip", ""},
	} {
		t.Run(test.folder, func(t *testing.T) {
			recorded := readRecording(t, test.folder+"/conn1")
			for i := range recorded.Turns { // what a Lua plugin put into kong.ctx.shared
				recorded.Turns[i].Asked = slices.DeleteFunc(recorded.Turns[i].Asked, func(a Asked) bool { return a.Method == "kong.ctx.shared.get" })
			}
			var resp *http.Response
			wait := later(t, func() { resp = f.curl(test.line, test.body) })
			f.probes[test.plugin].act(recorded.Turns)
			wait()
			f.wait()
			got := f.taps[test.plugin].take(t)
			if len(got) != 1 {
				t.Fatalf("%d connections carried it, not 1", len(got))
			}
			if diff := cmp.Diff(readable(t, recorded.Turns), readable(t, got[0])); diff != "" {
				t.Errorf("turns (-recorded +stand-in):\n%s", diff)
			}
			if diff := cmp.Diff(recordedHeaders(t, test.folder), volatileHeaders(resp.Header)); diff != "" {
				t.Errorf("response headers (-recorded +stand-in):\n%s", diff)
			}
		})
	}
}

func TestTheStandInHealsAsTheRecordedKongDid(t *testing.T) {
	f := startRecorded(t)
	const folder = "9-config-change-close-instance/conn"
	first, second, third := readRecording(t, folder+"1"), readRecording(t, folder+"2"), readRecording(t, folder+"3")
	p := f.probes["probelog"]
	log := func(turns []Turn) {
		t.Helper()
		f.curl("GET /probelog/json", "")
		p.act(turns)
		f.wait()
	}
	log(first.Turns[:2])
	if err := f.Reconfigure([]byte(strings.Replace(recordedConfig, "{n: 3, tag: a}", "{n: 5, tag: c}", 1))); err != nil {
		t.Fatal(err)
	}
	log(first.Turns[2:])
	pid := f.PluginServerPID("probelog")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f.respawned(p, pid)
	log(third.Turns) // the event of the second connection does not get as far as the plugin

	var want, got []any
	for _, recording := range []*Recording{first, second, third} {
		want = append(want, readable(t, recording.Turns))
	}
	for _, turns := range f.taps["probelog"].take(t) {
		got = append(got, readable(t, turns))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("connections (-recorded +stand-in):\n%s", diff)
	}
}

func TestRecordingsPlayToAnotherPluginServer(t *testing.T) {
	for name, test := range map[string]struct {
		phases, before string // before: a recording that starts the instance
	}{
		"1-log-only/conn1":                     {"log", ""},
		"2-log-only-authenticated/conn1":       {"log", ""},
		"3-response-mode/conn1":                {allPhases, ""},
		"4-access-setctx-buffered/conn1":       {"access,log", ""},
		"5-sse-tap-log/conn1":                  {"log", ""},
		"6-forbidden-call/conn1":               {"log", "1-log-only/conn1"},
		"7-ai-proxy-log/conn1":                 {"log", ""},
		"8-response-mode-gzip/conn1":           {allPhases, "3-response-mode/conn1"},
		"9-config-change-close-instance/conn1": {"log", ""},
		"9-config-change-close-instance/conn2": {"log", ""},
		"9-config-change-close-instance/conn3": {"log", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := startWorkers(t, 1, test.phases, nil)
			play := func(name string) (*Recording, []Turn) {
				recording := readRecording(t, name)
				var played []Turn
				wait := later(t, func() {
					var err error
					if played, err = recording.Replay(t.Context(), b.conf.Plugin, nil); err != nil {
						t.Error(err)
					}
				})
				if name != "9-config-change-close-instance/conn2" { // there the server does not know the instance
					b.probe.act(recording.Turns)
				}
				wait()
				return recording, played
			}
			if test.before != "" {
				play(test.before)
			}
			recording, played := play(name)
			want := readable(t, recording.Turns)
			for _, turn := range want {
				if start := turn.(map[string]any); start["name"] != nil {
					start["name"], start["status"].([]any)[0] = probeName, probeName
				}
			}
			if diff := cmp.Diff(want, readable(t, played)); diff != "" {
				t.Errorf("turns (-recorded +played):\n%s", diff)
			}
		})
	}
}

func TestAReplayGivesThePluginItsOwnConfigurationAndLeavesOutOtherPhases(t *testing.T) {
	b := startWorkers(t, 1, "log", nil)
	var played []Turn
	wait := later(t, func() {
		var err error
		played, err = readRecording(t, "3-response-mode/conn1").Replay(t.Context(), b.conf.Plugin, map[string]any{"n": 7.0})
		if err != nil {
			t.Error(err)
		}
	})
	e := b.probe.next("log")
	if got := e.must("ServiceResponse.GetRawBody"); !strings.Contains(got, `"usage"`) {
		t.Errorf("the answer of an earlier event: %q", got)
	}
	e.must("Log.Err something")
	e.end("return")
	wait()
	var config map[string]any
	if err := json.Unmarshal(e.Config, &config); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"n": 7.0, "__seq__": 65.0, "__plugin_id": "9bf6cf74-26a8-5a15-9f9e-ca11b9a0f554", "route_id": "dbf47203-073c-544e-bd30-efccf00f510d",
		"__ws_id": DefaultWorkspace, "__key__": "plugins:proberesp:dbf47203-073c-544e-bd30-efccf00f510d::::" + DefaultWorkspace,
	}
	if diff := cmp.Diff(want, config); diff != "" || len(played) != 2 {
		t.Errorf("%d turns; configuration (-want +got):\n%s", len(played), diff)
	}
}

func TestAReplayNamesWhatDiffers(t *testing.T) {
	b := startWorkers(t, 1, "log", nil)
	replay := func(r *Recording, orders ...string) error {
		t.Helper()
		var err error
		wait := later(t, func() { _, err = r.Replay(t.Context(), b.conf.Plugin, nil) })
		if len(orders) > 0 {
			e := b.probe.next("log")
			for _, order := range orders {
				_, _ = e.ask(order)
			}
			e.end("return")
		}
		wait()
		return err
	}
	plain := func() *Recording { return readRecording(t, "2-log-only-authenticated/conn1") }
	closed := plain()
	closed.Turns[1].Return = nil
	renumbered := plain()
	renumbered.Turns[0].Return.Sequence = 9
	other := plain()
	other.Turns[0].Return.GetInstanceStatus().InstanceId = 1
	helped := plain()
	helped.Turns[1].Asked = append(helped.Turns[1].Asked, Asked{Method: "kong.node.get_id"})
	for _, test := range []struct {
		recording *Recording
		orders    []string
		want      string // "" for none
	}{
		{plain(), []string{"Node.GetId"}, "turn 2 (log): the plugin asks for kong.node.get_id, to which the recording has no answer"},
		{helped, []string{"Node.GetId"}, ""},
		{closed, []string{"Log.SerializeBytes"}, "turn 2 (log): it returned; in the recording the connection was closed"},
		{renumbered, nil, "turn 1 (start instance): the return message has the number 4, not 9"},
		{other, nil, "turn 1 (start instance): the instance is 49, not 1"},
		{readRecording(t, "8-response-mode-gzip/conn1"), nil, "turn 3 (log): the plugin server closed the connection; in the recording it returned"},
	} {
		err := replay(test.recording, test.orders...)
		if test.want == "" && err == nil {
			continue
		}
		if err == nil || !strings.HasSuffix(err.Error(), test.want) {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
}

func TestSharedValuesAreEncodedAsTheRecordedKongDid(t *testing.T) {
	for _, asked := range readRecording(t, "5-sse-tap-log/conn1").Turns[1].Asked[:2] {
		var value structpb.Value
		if err := proto.Unmarshal(asked.Answer, &value); err != nil {
			t.Fatal(err)
		}
		if got := valueMessage(value.AsInterface()); string(got) != string(asked.Answer) {
			t.Errorf("%s: %q, recorded %q", asked.Args, got, asked.Answer)
		}
	}
}

func TestARecordingThatIsNotOneIsAnError(t *testing.T) {
	for name, text := range map[string]string{
		"no frame":         "hello",
		"a wrong length":   `1us kong2plugin len=3 ""`,
		"a plugin's turn":  `1us plugin2kong len=0 ""`,
		"no message":       `1us kong2plugin len=1 "\xff"`,
		"no return either": "1us kong2plugin len=7 \"\\x9a\\x02\\x02\\b;\\b\\x05\"\n2us plugin2kong len=1 \"\\xff\"",
	} {
		path := filepath.Join(t.TempDir(), "x.frames.txt")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRecording(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadRecording(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there")
	}
}

// curl sends a request as the recorded client did.
func (f *fixture) curl(line, body string) *http.Response {
	f.t.Helper()
	req := f.request(line)
	req.Host = "127.0.0.1:8000"
	req.Header = http.Header{"User-Agent": {"curl/7.88.1"}, "Accept": {"*/*"}}
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		f.t.Fatal(err)
	}
	if len(resp.TransferEncoding) > 0 {
		resp.Header["Transfer-Encoding"] = resp.TransferEncoding
	}
	return resp
}

// recordedHeaders returns the headers that the recorded client got.
func recordedHeaders(t testing.TB, folder string) http.Header {
	t.Helper()
	text, err := os.Open(filepath.Join("..", "..", "testdata", "recordings", folder, "client-headers.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	r := textproto.NewReader(bufio.NewReader(text))
	if _, err := r.ReadLine(); err != nil {
		t.Fatal(err)
	}
	h, err := r.ReadMIMEHeader()
	if err != nil {
		t.Fatal(err)
	}
	return volatileHeaders(http.Header(h))
}

// volatile are the headers whose values differ from request to request.
var volatile = []string{"Date", "X-Kong-Upstream-Latency", "X-Kong-Proxy-Latency", "X-Kong-Request-Id"}

func volatileHeaders(h http.Header) http.Header {
	for _, name := range volatile {
		if h.Get(name) != "" {
			h.Set(name, "…")
		}
	}
	return h
}

// readable returns turns without what differs from run to run: times, latencies, ports, generated ids. Instances have
// the number of their first appearance.
func readable(t testing.TB, turns []Turn) []any {
	t.Helper()
	instances := map[int32]int{}
	instance := func(id int32) int {
		if instances[id] == 0 {
			instances[id] = len(instances) + 1
		}
		return instances[id]
	}
	var out []any
	for _, turn := range turns {
		m := map[string]any{"number": turn.Call.GetSequence(), "kind": turn.kind()}
		if start := turn.Call.GetCmdStartInstance(); start != nil {
			config := document(t, start.GetConfig())
			if seq := int32(config["__seq__"].(float64)); turn.Return.GetInstanceStatus().GetInstanceId() != seq {
				t.Errorf("instance %v was started with __seq__ %d", turn.Return, seq)
			}
			config["__seq__"] = "…"
			m["name"], m["config"] = start.GetName(), config
		}
		if event := turn.Call.GetCmdHandleEvent(); event != nil {
			m["instance"] = instance(event.GetInstanceId())
		}
		if closing := turn.Call.GetCmdCloseInstance(); closing != nil {
			m["instance"] = instance(closing.GetInstanceId())
		}
		var asked []any
		for _, a := range turn.Asked {
			asked = append(asked, map[string]any{"method": a.Method, "args": string(a.Args), "answer": a.readable(t), "failed": a.Failed})
		}
		m["asked"] = asked
		if turn.Return != nil {
			m["return"] = turn.Return.GetSequence()
		}
		if status := turn.Return.GetInstanceStatus(); status != nil {
			m["status"] = []any{status.GetName(), instance(status.GetInstanceId()), status.GetStartedAt() > 0}
		}
		out = append(out, m)
	}
	return out
}

// readable returns the answer of a call, decoded.
func (a Asked) readable(t testing.TB) any {
	t.Helper()
	var m proto.Message
	switch a.Method {
	case "kong.log.serialize":
		var s kong_plugin_protocol.ByteString
		if err := proto.Unmarshal(a.Answer, &s); err != nil {
			t.Fatal(err)
		}
		return document(t, s.GetV())
	case "kong.router.get_route":
		m = &kong_plugin_protocol.Route{}
	case "kong.router.get_service":
		m = &kong_plugin_protocol.Service{}
	case "kong.client.get_consumer":
		m = &kong_plugin_protocol.Consumer{}
	case "kong.client.get_credential":
		m = &kong_plugin_protocol.AuthenticatedCredential{}
	default:
		return string(a.Answer)
	}
	if err := proto.Unmarshal(a.Answer, m); err != nil {
		t.Fatal(err)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	doc := document(t, text)
	if a.Method == "kong.client.get_credential" {
		doc["id"] = len(doc["id"].(string)) // a random UUID
	}
	return doc
}

// document reads a JSON document and replaces what differs from run to run.
func document(t testing.TB, text []byte) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	at := func(path ...string) map[string]any {
		m := doc
		for _, name := range path {
			m, _ = m[name].(map[string]any)
		}
		return m
	}
	blur := func(m map[string]any, names ...string) {
		for _, name := range names {
			switch v := m[name].(type) {
			case nil:
			case string:
				m[name] = fmt.Sprintf("%d characters", len(v))
			default:
				m[name] = fmt.Sprintf("%T", v)
			}
		}
	}
	headers := at("response", "headers")
	if size, ok := at("response")["size"].(float64); ok { // without the digits of the latencies
		for _, name := range []string{"x-kong-proxy-latency", "x-kong-upstream-latency"} {
			size -= float64(len(headers[name].(string)))
			headers[name] = "…"
		}
		at("response")["size"] = size
	}
	if headers["transfer-encoding"] != nil {
		blur(at("response"), "size") // depends on how the pieces come together
	}
	blur(headers, "x-kong-request-id", "date")
	blur(at("request", "headers"), "x-credential-identifier")
	blur(at("request"), "id")
	blur(at("authenticated_entity"), "id")
	blur(at("latencies"), "kong", "proxy", "request", "receive")
	blur(doc, "started_at", "created_at", "updated_at")
	for _, entity := range []string{"route", "service", "consumer"} {
		blur(at(entity), "created_at", "updated_at")
	}
	if url, ok := at("request")["url"].(string); ok {
		at("request")["url"] = regexp.MustCompile(`:\d+/`).ReplaceAllString(url, ":8000/")
	}
	tries, _ := doc["tries"].([]any)
	for _, try := range tries {
		blur(try.(map[string]any), "port", "balancer_start", "balancer_start_ns", "balancer_latency", "balancer_latency_ns")
	}
	return doc
}
