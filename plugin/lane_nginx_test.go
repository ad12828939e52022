package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"kafka-metering/schema"
)

// testNginx is a real nginx with the real handler.lua in front of an upstream, and beside the plugin server whose prefix it
// shares.
type testNginx struct {
	t      testing.TB
	server *testServer
	path   string
	conf   string

	Prefix, Modules, Lua, User, LogLevel string
	Workers                              int
	Upstream                             string
	Front, FrontHTTP2, Bare, File        string // addresses: with the front, without it, and with a log plugin of another kind
	Counts                               string // and one that tells how often Kong's whole log was made

	cmd    *exec.Cmd
	exited chan struct{}
}

// nginxModules are the places where distributions keep nginx's modules.
var nginxModules = []string{"/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/nginx/modules"}

// startNginx starts nginx with that many workers for an upstream, and the plugin's configuration in it. It skips the test
// where there is no nginx with Lua.
func startNginx(t testing.TB, s *testServer, workers int, upstream http.Handler, config map[string]any, options ...func(*testNginx)) *testNginx {
	t.Helper()
	n := &testNginx{t: t, server: s, Prefix: s.prefix, Workers: workers, LogLevel: "warn"}
	path, err := exec.LookPath("nginx")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			t.Skip("THE LUA FRONT IS NOT TESTED: there is no nginx; plugin/lua/test/install.sh installs it")
		}
	}
	n.path = path
	for _, dir := range nginxModules {
		if _, err := os.Stat(filepath.Join(dir, "ngx_http_lua_module.so")); err == nil {
			n.Modules = dir
		}
	}
	if n.Modules == "" {
		t.Skip("THE LUA FRONT IS NOT TESTED: nginx has no ngx_http_lua; plugin/lua/test/install.sh installs it")
	}
	if n.Lua, err = filepath.Abs("lua"); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"kong/plugins/kafka-metering/handler.lua", "test/kong_layer.lua"} {
		if _, err := os.Stat(filepath.Join(n.Lua, file)); err != nil { // and go test learns that its result depends on them
			t.Fatal(err)
		}
	}
	if os.Getuid() == 0 {
		n.User = "root"
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: upstream, ReadHeaderTimeout: time.Minute}
	go func() { _ = web.Serve(listener) }()
	t.Cleanup(func() { web.Close() })
	n.Upstream = listener.Addr().String()
	n.Front, n.FrontHTTP2, n.Bare, n.File = freeAddress(t), freeAddress(t), freeAddress(t), freeAddress(t)
	n.Counts = freeAddress(t)
	for _, option := range options {
		option(n)
	}
	n.configure(config)
	n.start()
	t.Cleanup(func() {
		n.kill()
		if log, _ := os.ReadFile(filepath.Join(n.Prefix, "error.log")); t.Failed() && len(log) > 0 {
			t.Logf("nginx wrote:\n%s", log[max(0, len(log)-8000):])
		}
	})
	return n
}

// smallQueue makes nginx run a copy of the handler whose workers' queues are small.
func smallQueue(n *testNginx) {
	n.t.Helper()
	const file = "kong/plugins/kafka-metering/handler.lua"
	text, err := os.ReadFile(filepath.Join(n.Lua, file))
	if err != nil {
		n.t.Fatal(err)
	}
	small := strings.Replace(string(text), "MAX_ENTRIES, MAX_BYTES = 20000,", "MAX_ENTRIES, MAX_BYTES = 300,", 1)
	if small == string(text) {
		n.t.Fatal("the bound of the queue is not where it was in " + file)
	}
	lua := n.t.TempDir()
	if err := os.MkdirAll(filepath.Join(lua, filepath.Dir(file)), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(lua, file), []byte(small), 0o644); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(n.Lua, "test"), filepath.Join(lua, "test")); err != nil {
		n.t.Fatal(err)
	}
	n.Lua = lua
}

// configure writes nginx's configuration and the plugin's, as Kong completes it.
func (n *testNginx) configure(config map[string]any) {
	n.t.Helper()
	complete, problems := schema.Config().Validate(config)
	if len(problems) > 0 {
		n.t.Fatal(problems)
	}
	complete["__plugin_id"], complete["__seq__"] = "3f2c4f0e-0000-4000-8000-000000000001", 1
	text, err := json.Marshal(complete)
	if err != nil {
		n.t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(n.Lua, "test", "nginx.conf"))
	if err != nil {
		n.t.Fatal(err)
	}
	var conf bytes.Buffer
	if err := template.Must(template.New("nginx.conf").Parse(string(source))).Execute(&conf, n); err != nil {
		n.t.Fatal(err)
	}
	n.conf = filepath.Join(n.Prefix, "nginx.conf")
	for path, data := range map[string][]byte{n.conf: conf.Bytes(), filepath.Join(n.Prefix, "config.json"): text} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *testNginx) start() {
	n.t.Helper()
	n.cmd = exec.Command(n.path, "-c", n.conf, "-p", n.Prefix, "-g", "daemon off;")
	var output bytes.Buffer
	n.cmd.Stderr = &output
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	exited, cmd := make(chan struct{}), n.cmd
	go func() {
		_ = cmd.Wait() // how it ends is its own affair
		close(exited)
	}()
	n.exited = exited
	for deadline := time.Now().Add(20 * time.Second); ; pause(n.t) {
		c, err := net.Dial("tcp", n.Front)
		if err == nil {
			c.Close()
			if len(n.workers()) >= n.Workers { // nginx listens before it has them
				return
			}
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("nginx does not listen, or has not all its workers: %v\n%s", err, output.Bytes())
		}
	}
}

// signal sends the master process a signal.
func (n *testNginx) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatal(err)
	}
}

// quit lets nginx finish what it has, as kong quit does, and waits for its end.
func (n *testNginx) quit() {
	n.t.Helper()
	// One that was opened and never used nginx would keep for its client_header_timeout of a minute.
	http.DefaultClient.CloseIdleConnections()
	n.end(syscall.SIGQUIT)
}

// stop ends nginx where it is, as kong stop does.
func (n *testNginx) stop() {
	n.t.Helper()
	n.end(syscall.SIGTERM)
}

func (n *testNginx) end(signal syscall.Signal) {
	n.t.Helper()
	n.signal(signal)
	select {
	case <-n.exited:
		n.cmd = nil
	case <-time.After(60 * time.Second):
		n.t.Fatal("nginx does not end")
	}
}

func (n *testNginx) kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGSTOP) // a master that runs begins a worker anew
	for _, worker := range n.workers() {
		_ = syscall.Kill(worker, syscall.SIGKILL)
	}
	_ = n.cmd.Process.Kill()
	<-n.exited
	n.cmd = nil
}

// workers returns the process ids of nginx's workers.
func (n *testNginx) workers() []int {
	master := strconv.Itoa(n.cmd.Process.Pid)
	text, err := os.ReadFile("/proc/" + master + "/task/" + master + "/children")
	if err != nil {
		return nil
	}
	var pids []int
	for word := range strings.FieldsSeq(string(text)) {
		pid, _ := strconv.Atoi(word)
		pids = append(pids, pid)
	}
	return pids
}

// errors returns what nginx has logged.
func (n *testNginx) errors() string {
	n.t.Helper()
	log, err := os.ReadFile(filepath.Join(n.Prefix, "error.log"))
	if err != nil {
		n.t.Fatal(err)
	}
	return string(log)
}
