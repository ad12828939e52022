package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"github.com/twmb/franz-go/pkg/kfake"

	"kafka-metering/meter/relay"
	"kafka-metering/plugin/devkong"
	"kafka-metering/schema"
)

// TestMain makes the test binary the plugin server where it is linked under the plugin's name: the tests start it as Kong
// starts the real one.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == pluginName {
		main()
		return
	}
	os.Exit(m.Run())
}

// executable returns the plugin server's executable, below dir: its file name is the plugin's name.
func executable(t testing.TB, dir string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, pluginName)
	if os.Link(self, path) == nil {
		return path
	}
	binary, err := os.ReadFile(self) // another file system
	if err == nil {
		err = os.WriteFile(path, binary, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// testServer is the real plugin server in a process of its own, with Kong's workers on the other side of its socket.
type testServer struct {
	t       testing.TB
	prefix  string
	path    string
	flags   []string
	metrics string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan error
	output bytes.Buffer
}

// startServer starts a plugin server that offers its metrics, with more flags.
func startServer(t testing.TB, flags ...string) *testServer {
	t.Helper()
	prefix, err := os.MkdirTemp("", "kong") //nolint:usetesting // its path is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(prefix) })
	s := &testServer{t: t, prefix: prefix, path: executable(t, prefix), metrics: freeAddress(t)}
	s.flags = append([]string{"-kong-prefix", prefix, "-metrics", s.metrics}, flags...)
	s.start()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("the plugin server wrote:\n%s", s.output.Bytes())
		}
	})
	return s
}

// given are the addresses that freeAddress has returned: nobody may have listened there yet.
var given sync.Map

// freeAddress returns another address each time, where nobody listens.
func freeAddress(t testing.TB) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		l.Close()
		if _, again := given.LoadOrStore(address, true); !again {
			return address
		}
	}
}

func (s *testServer) socket() string { return filepath.Join(s.prefix, pluginName+".socket") }

// start starts the process and waits until its socket takes connections.
func (s *testServer) start() {
	s.t.Helper()
	cmd := exec.Command(s.path, s.flags...)
	cmd.Env = []string{} // as Kong starts it
	cmd.Stdout, cmd.Stderr = &s.output, &s.output
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	s.mu.Lock()
	s.cmd, s.exited = cmd, exited
	s.mu.Unlock()
	for deadline := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("unix", s.socket())
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the plugin server does not listen: %v\n%s", err, s.output.Bytes())
		}
		pause(s.t)
	}
}

// pause is the step of a poll.
func pause(t testing.TB) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	<-ctx.Done()
}

// kill is kill -9.
func (s *testServer) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.exited //nolint:errcheck // it was killed
		s.cmd = nil
	}
}

// terminate sends SIGTERM and waits for the end.
func (s *testServer) terminate() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	err := <-s.exited
	s.cmd = nil
	return err
}

// metric returns the value of a metric, or fails.
func (s *testServer) metric(name string) float64 {
	s.t.Helper()
	for line := range strings.SplitSeq(httpGet(s.t, "http://"+s.metrics+"/metrics"), "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return value
		}
	}
	s.t.Fatalf("there is no metric %s", name)
	return 0
}

// residentPeak returns the most memory that the process has had, in bytes.
func (s *testServer) residentPeak() int {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Skip("needs /proc:", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kilobytes, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		s.t.Fatal(err)
	}
	return kilobytes << 10
}

// raceDetector reports whether the tests are built with it: it takes memory of its own.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// startBroker starts an embedded Kafka with the demo's topics.
func startBroker(t testing.TB) (address string) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(6, defaultTopic), kfake.SeedTopics(1, defaultTopic+".dead"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}

// configuration is a configuration of the plugin, checked and completed as Kong does it.
func (s *testServer) configuration(broker, more string) *devkong.Configuration {
	s.t.Helper()
	host, port, err := net.SplitHostPort(broker)
	if err != nil {
		s.t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal([]byte(`{"bootstrap_servers":[{"host":"`+host+`","port":`+port+`}]}`), &config); err != nil {
		s.t.Fatal(err)
	}
	if more != "" {
		if err := json.Unmarshal([]byte(more), &config); err != nil {
			s.t.Fatal(err)
		}
	}
	complete, problems := schema.Config().Validate(config)
	if len(problems) > 0 {
		s.t.Fatal(problems)
	}
	return &devkong.Configuration{
		Plugin: &devkong.Plugin{Name: pluginName, Socket: s.socket(), Phases: []string{"log"}, Priority: priority, Version: version},
		ID:     "3f2c4f0e-0000-4000-8000-000000000001", Config: complete,
	}
}

// requestOnly leaves the LLM presets out: one event for each exchange.
const requestOnly = `{"meter_ai_token_usage":false,"meter_ai_calls":false}`

// exchanges makes exchanges that differ in their request id.
type exchanges struct {
	before, after []byte
}

func newExchanges(t testing.TB) *exchanges {
	t.Helper()
	log, err := os.ReadFile(filepath.Join("..", "testdata", "serialize", "authenticated.json"))
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := bytes.Cut(bytes.TrimSpace(log), []byte(`"request":{"id":"64593a19e721a376184d706224dde809"`))
	if !ok {
		t.Fatal("the log has another id")
	}
	return &exchanges{append(before, `"request":{"id":"`...), append([]byte(`"`), after...)}
}

// requestID is the id of exchange n: 32 hexadecimal digits, as Kong's are.
func requestID(n int) string { return fmt.Sprintf("%032x", n) }

func (x *exchanges) exchange(n int) *devkong.Exchange {
	log := make([]byte, 0, len(x.before)+32+len(x.after))
	return &devkong.Exchange{Log: append(append(append(log, x.before...), requestID(n)...), x.after...)}
}

// recorded are the attributes of an event that belong to the moment of recording.
var recorded = regexp.MustCompile(`"(sequence|recordedtime)":"[^"]*",`)

// onTopic reads the whole topic and returns how often each request id stands there. What stands there more than once must
// have the same key and the same bytes each time, but for the number and the time where it was handed over more than once.
func onTopic(t testing.TB, broker, eventType string) map[string]int {
	t.Helper()
	seen, first := map[string]int{}, map[string]relay.Message{}
	err := relay.ReadAll(t.Context(), relay.Settings{Brokers: []string{broker}}, defaultTopic, func(m relay.Message) {
		event := gjson.ParseBytes(m.Value)
		if event.Get("type").Str != eventType {
			return
		}
		id := event.Get("source").Str + " " + event.Get("id").Str
		seen[event.Get("data.request_id").Str]++
		before, again := first[id]
		if again && gjson.GetBytes(before.Value, "sequence").Str != event.Get("sequence").Str {
			before.Value, m.Value = recorded.ReplaceAll(before.Value, nil), recorded.ReplaceAll(m.Value, nil)
		}
		if again && (!bytes.Equal(before.Value, m.Value) || !bytes.Equal(before.Key, m.Key) || before.Partition != m.Partition) {
			t.Errorf("event %s is on partition %d with key %q:\n%s\nand on %d with key %q:\n%s", id, before.Partition, before.Key, before.Value, m.Partition, m.Key, m.Value)
		}
		first[id] = m
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// awaitPublished waits until nothing is left in the server's spool.
func (s *testServer) awaitPublished() {
	s.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); s.metric("kong_meter_spool_pending_records") > 0 || s.metric("kong_meter_exchanges_under_way") > 0; {
		if time.Now().After(deadline) {
			s.t.Fatalf("%v records are still in the spool", s.metric("kong_meter_spool_pending_records"))
		}
		pause(s.t)
	}
}

// checkBalances waits until the sums of a server that nobody uses any more balance: word of a gap may still be on its way, and
// counts are read one after the other. What is missing for good is.
func (s *testServer) checkBalances() {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; pause(s.t) {
		spooled, placed := s.metric(`kong_meter_records_total{outcome="spooled"}`), s.metric("kong_meter_spool_pending_records")
		for _, outcome := range []string{"published", "dead_lettered", "rejected", "expired", "evicted", "set_aside"} {
			placed += s.metric(`kong_meter_records_total{outcome="` + outcome + `"}`)
		}
		underWay := s.metric("kong_meter_exchanges_under_way")
		if underWay == 0 && spooled == placed {
			return
		}
		if time.Now().After(deadline) {
			s.t.Errorf("%v exchanges have no place; %v records were spooled, %v have a place", underWay, spooled, placed)
			return
		}
	}
}

// TestEveryExchangeIsOnTheTopicOnce sends exchanges from eight workers while connections are cut at every point of an
// event, instances expire behind Kong's back and configurations change.
func TestEveryExchangeIsOnTheTopicOnce(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	const workers, perWorker = 8, 16
	broker, x := startBroker(t), newExchanges(t)
	s := startServer(t)
	var events, cuts atomic.Int64
	kong := devkong.NewWorkers(workers, devkong.WorkersOptions{Cut: func(m devkong.Moment) bool {
		if m.Attempt > 1 || events.Add(1)%701 != 0 {
			return false
		}
		cuts.Add(1)
		return true
	}})
	defer kong.Close()
	var current atomic.Pointer[devkong.Configuration]
	current.Store(s.configuration(broker, requestOnly))

	var next atomic.Int64
	var wg sync.WaitGroup
	for i := range workers * perWorker {
		wg.Go(func() {
			for {
				id := int(next.Add(1))
				if id > n {
					return
				}
				if id%(n/10) == 0 { // the administrator changes something
					current.Store(s.configuration(broker, requestOnly))
				}
				if id%(n/10) == n/20 { // go-pdk drops all instances older than a minute
					_ = kong.Expire(t.Context(), current.Load().Plugin)
				}
				if err := kong.Worker(i%workers).Log(t.Context(), current.Load(), x.exchange(id)); err != nil {
					t.Errorf("exchange %d: %v", id, err)
				}
			}
		})
	}
	start := time.Now()
	wg.Wait()
	took := time.Since(start)
	s.awaitPublished()
	s.checkBalances()
	seen := onTopic(t, broker, "kong.api_request")
	doubles := 0
	for id, times := range seen {
		if times != 1 {
			doubles++
			t.Errorf("request id %s is on the topic %d times", id, times)
		}
		if doubles > 5 {
			t.FailNow()
		}
	}
	if len(seen) != n {
		t.Errorf("%d request ids are on the topic, want %d", len(seen), n)
	}
	stats := kong.Stats()
	if cuts.Load() == 0 || stats.Started < workers*2 || stats.Closed == 0 || stats.Repeated == 0 {
		t.Errorf("nothing was disturbed: %d connections cut, %+v", cuts.Load(), stats)
	}
	peak := s.residentPeak()
	if peak > 100<<20 && !raceDetector() {
		t.Errorf("the server's resident memory was %d MiB, the budget is 100", peak>>20)
	}
	t.Logf("%d exchanges in %.1f s (%.0f/s), %d MiB resident at most, %d connections cut, %+v", n, took.Seconds(), float64(n)/took.Seconds(), peak>>20, cuts.Load(), stats)
}

// TestWhatWasAcknowledgedSurvivesKill kills the server with -9 in the middle of the load, several times.
func TestWhatWasAcknowledgedSurvivesKill(t *testing.T) {
	const workers, perWorker, kills, between = 8, 8, 5, 1500
	broker, x := startBroker(t), newExchanges(t)
	s := startServer(t)
	kong := devkong.NewWorkers(workers, devkong.WorkersOptions{})
	defer kong.Close()
	conf := s.configuration(broker, requestOnly)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	var acknowledged sync.Map
	var next, taken atomic.Int64
	var wg sync.WaitGroup
	for i := range workers * perWorker {
		wg.Go(func() {
			for ctx.Err() == nil {
				id := int(next.Add(1))
				if kong.Worker(i%workers).Log(ctx, conf, x.exchange(id)) == nil {
					acknowledged.Store(requestID(id), true)
					taken.Add(1)
				} else {
					pause(t) // the process is away
				}
			}
		})
	}
	awaitTaken := func(n int64) {
		for deadline := time.Now().Add(60 * time.Second); taken.Load() < n; pause(t) {
			if time.Now().After(deadline) {
				t.Fatalf("only %d exchanges were taken, want %d", taken.Load(), n)
			}
		}
	}
	for range kills {
		awaitTaken(taken.Load() + between)
		s.kill()
		s.start()
	}
	awaitTaken(taken.Load() + between)
	cancel()
	wg.Wait()
	s.awaitPublished()
	s.checkBalances()
	seen := onTopic(t, broker, "kong.api_request")
	lost := 0
	acknowledged.Range(func(id, _ any) bool {
		if seen[id.(string)] == 0 {
			lost++
		}
		return true
	})
	if lost > 0 {
		t.Errorf("%d of %d acknowledged exchanges are not on the topic", lost, taken.Load())
	}
	again := 0
	for _, times := range seen {
		again += times - 1
	}
	t.Logf("%d sent, %d acknowledged, %d on the topic, %d of them again with the same id", next.Load(), taken.Load(), len(seen), again)
}

// TestTerminationDrains sends SIGTERM with events in the spool.
func TestTerminationDrains(t *testing.T) {
	broker, x := startBroker(t), newExchanges(t)
	s := startServer(t)
	kong := devkong.NewWorkers(2, devkong.WorkersOptions{})
	defer kong.Close()
	// A linger that holds the batch back until the drain.
	conf := s.configuration(broker, `{"meter_ai_token_usage":false,"meter_ai_calls":false,"queue":{"max_coalescing_delay":3600}}`)
	for id := range 100 {
		if err := kong.Worker(id%2).Log(t.Context(), conf, x.exchange(id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.terminate(); err != nil {
		t.Error(err)
	}
	if seen := onTopic(t, broker, "kong.api_request"); len(seen) != 100 {
		t.Errorf("%d of 100 exchanges are on the topic", len(seen))
	}
	left, err := filepath.Glob(filepath.Join(s.prefix, pluginName+".spool", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("the spool is not empty: %v %v", left, err)
	}
}

// TestProblemsOfAConfigurationAreReported gives the server what the schema accepts and it cannot use.
func TestProblemsOfAConfigurationAreReported(t *testing.T) {
	broker, x := startBroker(t), newExchanges(t)
	s := startServer(t)
	var lines syncBuffer
	kong := devkong.NewWorkers(1, devkong.WorkersOptions{Log: lines.logger()})
	defer kong.Close()
	conf := s.configuration(broker, `{"meters":[{"slug":"bad","aggregation":"SUM","value":"response.size +"}]}`)
	for id := range 10 {
		if err := kong.Worker(0).Log(t.Context(), conf, x.exchange(id)); err != nil {
			t.Fatal(err)
		}
	}
	s.awaitPublished()
	if seen := onTopic(t, broker, "kong.api_request"); len(seen) != 10 {
		t.Errorf("%d of 10 exchanges are on the topic", len(seen))
	}
	if got := strings.Count(lines.String(), `meter \"bad\"`); got != 1 {
		t.Errorf("the problem is in Kong's log %d times, want once a minute:\n%s", got, lines.String())
	}
	if s.metric("kong_meter_config_problems_total") != 1 {
		t.Error("the problem is not counted")
	}
}

// TestABrokerThatIsAwayHoldsNobodyUp takes exchanges without a broker and publishes them when it comes.
func TestABrokerThatIsAwayHoldsNobodyUp(t *testing.T) {
	x, address := newExchanges(t), freeAddress(t)
	s := startServer(t)
	kong := devkong.NewWorkers(1, devkong.WorkersOptions{})
	defer kong.Close()
	conf := s.configuration(address, `{"meter_ai_token_usage":false,"meter_ai_calls":false,"queue":{"max_retry_delay":0.2}}`)
	for id := range 100 {
		if err := kong.Worker(0).Log(t.Context(), conf, x.exchange(id)); err != nil {
			t.Fatal(err)
		}
	}
	if pending := s.metric("kong_meter_spool_pending_records"); pending != 100 {
		t.Errorf("%v records wait, want 100", pending)
	}
	_, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	c, err := kfake.NewCluster(kfake.Ports(number), kfake.NumBrokers(1), kfake.SeedTopics(6, defaultTopic))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.awaitPublished()
	if seen := onTopic(t, address, "kong.api_request"); len(seen) != 100 {
		t.Errorf("%d of 100 exchanges are on the topic", len(seen))
	}
}

// TestDumpIsAllThatTheQueryPrints checks what Kong's query_cmd reads.
func TestDumpIsAllThatTheQueryPrints(t *testing.T) {
	dir := t.TempDir()
	path := executable(t, dir)
	for _, test := range []struct {
		flags  []string
		phases string
	}{
		{nil, `["log"]`},
		{[]string{"-buffered"}, `["response","log"]`},
	} {
		cmd := exec.Command(path, append([]string{"-kong-prefix", dir, "-dump"}, test.flags...)...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(out) {
			t.Fatalf("not JSON: %s", out)
		}
		dump := gjson.ParseBytes(out)
		if got := dump.Get("Plugins.0.Phases").Raw; got != test.phases {
			t.Errorf("phases are %s, want %s", got, test.phases)
		}
		if dump.Get("Plugins.0.Name").Str != pluginName || dump.Get("SocketPath").Str != filepath.Join(dir, pluginName+".socket") {
			t.Errorf("name %s, socket %s", dump.Get("Plugins.0.Name"), dump.Get("SocketPath"))
		}
	}
}

func TestAWrongFlagOrCommandIsExplained(t *testing.T) {
	path := executable(t, t.TempDir())
	if _, err := os.Stat("/usr/local/kong"); err == nil {
		t.Skip("Kong is installed here")
	}
	for _, test := range []struct {
		args string
		want string
		exit int
	}{
		{"", "there is no directory /usr/local/kong, Kong's prefix", 1},
		{"version", "kafka-metering " + version, 0},
		{"-version", "kafka-metering " + version, 0},
		{"-wrong", "flag provided but not defined: -wrong", 2},
		{"-dump please", `unexpected argument "please"`, 1},
		{"wrong", `unknown command "wrong"`, 2},
		{"-h", "pluginserver_kafka_metering_start_cmd", 0},
		{"try -h", "Example", 0},
		{"upstream -h", "Example", 0},
	} {
		cmd := exec.Command(path, strings.Fields(test.args)...)
		out, err := cmd.CombinedOutput()
		exit := 0
		if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
			exit = failed.ExitCode()
		}
		if exit != test.exit || !bytes.Contains(out, []byte(test.want)) {
			t.Errorf("%s: exit %d, want %d, and to read %q:\n%s", test.args, exit, test.exit, test.want, out)
		}
	}
}
