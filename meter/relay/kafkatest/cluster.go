package kafkatest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// brokersVariable names the environment variable with a cluster to use.
const brokersVariable = "KAFKA_METERING_TEST_BROKERS"

// Users of the SASL listeners, for PLAIN and for both kinds of SCRAM. Admin may
// do everything, as may everybody on the Plaintext and TLS listeners; User only
// what [Cluster.Allow] grants.
const (
	Admin         = "admin"
	AdminPassword = "admin-secret"
	User          = "kong"
	UserPassword  = "kong-secret"
)

// CertificateUser is the common name of [Cluster.ClientCertificate], and so its
// principal on the MutualTLS listener. It may do what Allow grants.
const CertificateUser = "metering"

// Listener is a way to connect.
type Listener string

// The listeners of every broker.
const (
	Plaintext     Listener = "PLAINTEXT"
	TLS           Listener = "SSL"
	MutualTLS     Listener = "MTLS" // asks for a client certificate
	SASLPlaintext Listener = "SASL_PLAINTEXT"
	SASLTLS       Listener = "SASL_SSL"
	Proxied       Listener = "PROXIED" // through a [Proxy]
	controller    Listener = "CONTROLLER"
)

var listeners = []Listener{Plaintext, TLS, MutualTLS, SASLPlaintext, SASLTLS, Proxied, controller}

const startTimeout = 90 * time.Second

// Options of a cluster. The zero value is one broker.
type Options struct {
	Brokers int               // default 1
	Config  map[string]string // more lines of server.properties
	Java    []string          // more flags of the JVM; the default is the quick start of a small one
}

// Cluster is a running Kafka cluster. Its methods fail the test on an error.
type Cluster struct {
	external []string // when it is not ours
	dir      string
	id       string
	options  Options
	nodes    []*node
	class    string

	// Authority has issued the brokers' certificates.
	Authority *Authority
	// ClientCertificate and ClientKey, in PEM form, are CertificateUser's.
	ClientCertificate, ClientKey []byte

	once  sync.Once
	admin *kgo.Client
}

type node struct {
	id    int
	ports map[Listener]int
	proxy int // the port that the listener Proxied is advertised with
	log   string

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended <-chan error
}

// Start starts a cluster for one test.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	class := available(t)
	if os.Getenv(brokersVariable) != "" {
		t.Skipf("needs brokers of its own, and %s names one", brokersVariable)
	}
	c, err := newCluster(class, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Stop()
		if t.Failed() {
			t.Log(c.Log())
		}
		c.remove()
	})
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	return c
}

var shared struct {
	sync.Mutex
	cluster *Cluster
	err     error
}

// Shared returns the one cluster of a single broker that the tests of this test
// binary share, and starts it for the first. Tests use topics of their own in it.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	class := available(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil && shared.err == nil {
		if addresses := os.Getenv(brokersVariable); addresses != "" {
			shared.cluster = &Cluster{external: strings.Split(addresses, ",")}
		} else if shared.cluster, shared.err = newCluster(class, Options{}); shared.err == nil {
			shared.err = shared.cluster.start()
		}
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

// Run runs the tests of m and stops the shared cluster. It returns the exit
// status, for a TestMain.
func Run(m *testing.M) int {
	defer func() {
		shared.Lock()
		defer shared.Unlock()
		if c := shared.cluster; c != nil {
			c.Stop()
			c.remove()
		}
	}()
	return m.Run()
}

// available skips the test where there is no Kafka, and returns its class path.
func available(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("a real Kafka is not started under -short")
	}
	if os.Getenv(brokersVariable) != "" {
		return ""
	}
	class, missing := installed()
	if missing != nil {
		t.Skipf("NOT TESTED AGAINST A REAL KAFKA: %v", missing)
	}
	return class
}

// newCluster lays out a cluster in a temporary directory.
func newCluster(class string, o Options) (*Cluster, error) {
	o.Brokers = max(o.Brokers, 1)
	c := &Cluster{options: o, class: class}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	c.id = base64.RawURLEncoding.EncodeToString(id)
	var err error
	if c.dir, err = os.MkdirTemp("", "kafkatest-"); err != nil {
		return nil, err
	}
	if c.Authority, err = NewAuthority(); err != nil {
		return nil, err
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	if c.ClientCertificate, c.ClientKey, err = c.Authority.Issue(CertificateUser, tomorrow); err != nil {
		return nil, err
	}
	certificate, key, err := c.Authority.Issue("kafka", tomorrow, "127.0.0.1", "localhost")
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{
		"authority.pem": c.Authority.PEM,
		"broker.pem":    append(key, certificate...),
		"log4j2.yaml":   []byte(logging),
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	for i := range o.Brokers {
		n := &node{id: i + 1, ports: map[Listener]int{}, log: filepath.Join(c.dir, fmt.Sprintf("broker-%d.log", i+1))}
		for _, l := range listeners {
			if n.ports[l], err = freePort(); err != nil {
				return nil, err
			}
		}
		if n.proxy, err = freePort(); err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

// start formats and starts all nodes.
func (c *Cluster) start() error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() {
			if errs[i] = c.format(n); errs[i] == nil {
				errs[i] = c.launch(n)
			}
		})
	}
	wg.Wait()
	err := errors.Join(errs...)
	if err == nil {
		err = c.awaitReady(len(c.nodes))
	}
	if err != nil {
		c.Stop()
		return fmt.Errorf("start Kafka: %w\n%s", err, c.Log())
	}
	return nil
}

func (c *Cluster) properties(n *node) string {
	return filepath.Join(c.dir, fmt.Sprintf("broker-%d.properties", n.id))
}

// java returns a command that runs one of Kafka's classes.
func (c *Cluster) java(class string, args ...string) *exec.Cmd {
	// A collector and a compiler for small heaps and short lives.
	flags := []string{
		"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		"-Dlog4j2.configurationFile=" + filepath.Join(c.dir, "log4j2.yaml"),
	}
	flags = append(flags, c.options.Java...)
	cmd := exec.Command("java", append(append(flags, "-cp", c.class, class), args...)...)
	cmd.Dir = c.dir
	return cmd
}

// JavaProduce produces records with Kafka's own producer, the one in Java, and
// its own choice of partitions. Keys and values must have no tab and no newline.
func (c *Cluster) JavaProduce(t testing.TB, topic string, keys, values []string) {
	t.Helper()
	if c.external != nil {
		t.Skip("needs the jars of a Kafka of its own")
	}
	cmd := c.java("org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", strings.Join(c.addresses(Plaintext), ","), "--topic", topic,
		"--reader-property", "parse.key=true")
	var input strings.Builder
	for i, key := range keys {
		fmt.Fprintf(&input, "%s\t%s\n", key, values[i])
	}
	cmd.Stdin = strings.NewReader(input.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("produce with Java: %v\n%s", err, out)
	}
}

// format writes a node's configuration and makes its directory of logs.
func (c *Cluster) format(n *node) error {
	if err := os.WriteFile(c.properties(n), c.serverProperties(n), 0o600); err != nil {
		return err
	}
	args := []string{"format", "--cluster-id=" + c.id, "--config", c.properties(n)}
	for user, password := range map[string]string{Admin: AdminPassword, User: UserPassword} {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, user, password))
		}
	}
	if out, err := c.java("kafka.tools.StorageTool", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("format the storage of broker %d: %w\n%s", n.id, err, out)
	}
	return nil
}

// launch starts a node's process.
func (c *Cluster) launch(n *node) error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the process has it
	cmd := c.java("kafka.Kafka", c.properties(n))
	cmd.Stdout, cmd.Stderr = log, log
	ended, err := startGroup(cmd)
	if err != nil {
		return fmt.Errorf("start broker %d: %w", n.id, err)
	}
	n.mu.Lock()
	n.cmd, n.ended = cmd, ended
	n.mu.Unlock()
	return nil
}

// awaitReady waits until the cluster has a controller and n registered brokers.
func (c *Cluster) awaitReady(n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		m, err := c.metadata(ctx)
		if err == nil && len(m.Brokers) >= n && m.ControllerID >= 0 {
			return nil
		}
		for _, node := range c.nodes {
			if err := node.hasEnded(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready within %s: %w", startTimeout, errors.Join(err, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (n *node) hasEnded() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return nil
	}
	select {
	case err := <-n.ended:
		n.cmd = nil
		return fmt.Errorf("broker %d has ended: %w", n.id, errors.Join(err, errors.New("see its log")))
	default:
		return nil
	}
}

// signal sends a signal to a node's process group.
func (n *node) signal(s syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return fmt.Errorf("broker %d does not run", n.id)
	}
	return syscall.Kill(-n.cmd.Process.Pid, s)
}

// kill is kill -9, and waits.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return
	}
	_ = syscall.Kill(-n.cmd.Process.Pid, syscall.SIGKILL)
	<-n.ended //nolint:errcheck // it was killed
	n.cmd = nil
}

// Stop kills all brokers. What they have stored stays.
func (c *Cluster) Stop() {
	for _, n := range c.nodes {
		n.kill()
	}
}

func (c *Cluster) remove() {
	if c.admin != nil {
		c.admin.Close()
	}
	if c.dir != "" {
		_ = os.RemoveAll(c.dir)
	}
}

// Log returns the end of what the brokers have logged.
func (c *Cluster) Log() string {
	var b strings.Builder
	for _, n := range c.nodes {
		text, err := os.ReadFile(n.log)
		if err != nil {
			continue
		}
		lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
		fmt.Fprintf(&b, "broker %d wrote:\n%s\n", n.id, bytes.Join(lines[max(0, len(lines)-40):], []byte("\n")))
	}
	return b.String()
}

// Brokers returns the addresses of a listener, one for each broker.
func (c *Cluster) Brokers(t testing.TB, l Listener) []string {
	t.Helper()
	if c.external != nil {
		if l != Plaintext {
			t.Skipf("needs the listener %s, which the cluster of %s may not have", l, brokersVariable)
		}
		return c.external
	}
	return c.addresses(l)
}

func (c *Cluster) addresses(l Listener) []string {
	if c.external != nil {
		return c.external
	}
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.advertised(l))
	}
	return all
}

// advertised is the address that a node tells clients of a listener.
func (n *node) advertised(l Listener) string {
	if l == Proxied {
		return fmt.Sprintf("127.0.0.1:%d", n.proxy)
	}
	return fmt.Sprintf("127.0.0.1:%d", n.ports[l])
}

func (c *Cluster) node(t testing.TB, id int32) *node {
	t.Helper()
	if c.external != nil {
		t.Skipf("needs brokers of its own, and %s names one", brokersVariable)
	}
	if id < 1 || int(id) > len(c.nodes) {
		t.Fatalf("there is no broker %d", id)
	}
	return c.nodes[id-1]
}

// Kill is kill -9 of a broker. Brokers are numbered from 1 on.
func (c *Cluster) Kill(t testing.TB, id int32) {
	t.Helper()
	c.node(t, id).kill()
}

// Restart starts brokers that were killed and waits until all of the cluster
// have joined.
func (c *Cluster) Restart(t testing.TB, ids ...int32) {
	t.Helper()
	for _, id := range ids {
		if err := c.launch(c.node(t, id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.awaitReady(len(c.nodes)); err != nil {
		t.Fatal(err)
	}
}

// Pause stops a broker's process where it is: its connections stay open and
// nothing answers.
func (c *Cluster) Pause(t testing.TB, id int32) {
	t.Helper()
	if err := c.node(t, id).signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// Resume lets a broker that was paused go on.
func (c *Cluster) Resume(t testing.TB, id int32) {
	t.Helper()
	if err := c.node(t, id).signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}
