package relay

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"kafka-metering/meter/relay/kafkatest"
	"kafka-metering/meter/spool"
	"kafka-metering/meter/spool/disktest"
)

// fault is a row of the fault matrix: something that happens to a real Kafka
// while a load runs through a spool and a relay.
type fault struct {
	t        *testing.T
	cluster  *kafkatest.Cluster
	spool    *spool.Spool
	relay    *Relay
	settings Settings
	topic    string
	load     *load
}

// newFault starts a load to a topic with three partitions.
func newFault(t *testing.T, c *kafkatest.Cluster, s Settings, config ...string) *fault {
	t.Helper()
	f := &fault{t: t, cluster: c, spool: newSpool(t), topic: kafkatest.Topic(t)}
	c.CreateTopic(t, f.topic, 3, config...)
	c.Allow(t, kafkatest.User, f.topic, kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe)
	if s.Brokers == nil {
		s.Brokers = c.Brokers(t, kafkatest.Plaintext)
	}
	if s.Timeout == 0 {
		s.Timeout = 2 * time.Second
	}
	s.Compression, s.metadataAge = "zstd", time.Second
	f.settings = s
	f.load = startLoad(t, f.spool, f.topic)
	f.relay = start(t, s, f.spool)
	f.progress()
	return f
}

// progress waits until the relay has published more than it had.
func (f *fault) progress() {
	f.t.Helper()
	n := f.relay.Stats().Published + 500
	eventually(f.t, "progress", func() bool { return f.relay.Stats().Published >= n || f.t.Failed() })
}

// fails waits until the relay has failed a few times in a row and gives advice.
func (f *fault) fails(advice ...string) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("failures with %q", advice), func() bool {
		st := f.relay.Stats()
		text := fmt.Sprint(st.LastError)
		return st.ConsecutiveFailures >= 3 && !slices.ContainsFunc(advice, func(part string) bool { return !strings.Contains(text, part) })
	})
}

// pause ends the load and waits until everything is published.
func (f *fault) pause() {
	f.t.Helper()
	f.load.end()
	drained(f.t, f.relay, f.spool)
}

// finish checks the sums and the topic.
func (f *fault) finish() (again int) {
	f.t.Helper()
	return f.load.finish(f.cluster, f.relay)
}

func TestRealKafkaWithoutTheTopic(t *testing.T) {
	c := kafkatest.Shared(t)
	s, topic := newSpool(t), kafkatest.Topic(t)
	l := startLoad(t, s, topic)
	settings := Settings{Brokers: c.Brokers(t, kafkatest.Plaintext)}
	r := start(t, settings, s)
	eventually(t, "failures", func() bool { return r.Stats().ConsecutiveFailures >= 3 })
	contains(t, r.Stats().LastError, `topic "`+topic+`" does not exist`, "create it")
	settings.CreateTopics = true
	if err := r.Update(settings); err != nil {
		t.Fatal(err)
	}
	l.await(100)
	if again := l.finish(c, r); again > 0 {
		t.Errorf("%d records came again", again)
	}
}

func TestRealKafkaDeniesTheCreationOfATopic(t *testing.T) {
	c := kafkatest.Shared(t)
	s, topic := newSpool(t), kafkatest.Topic(t)
	appendRecords(t, s, loadRecord(topic, 0, 0, 0))
	c.Allow(t, kafkatest.User, topic, kmsg.ACLOperationDescribe)
	r := start(t, Settings{
		Brokers: c.Brokers(t, kafkatest.SASLPlaintext), Mechanism: "PLAIN", User: kafkatest.User, Password: kafkatest.UserPassword, CreateTopics: true,
	}, s)
	eventually(t, "failures", func() bool { return r.Stats().ConsecutiveFailures >= 2 })
	contains(t, r.Stats().LastError, `user "kong" may not create topic "`+topic, "CREATE")
}

// TestRealKafkaRefusesPoison mixes records that the topic never takes into the
// load.
func TestRealKafkaRefusesPoison(t *testing.T) {
	for _, test := range []struct {
		name            string
		deadLetterTopic bool
	}{{"to the dead-letter topic", true}, {"to the spool's rejected bucket", false}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := kafkatest.Shared(t)
			var settings Settings
			if test.deadLetterTopic {
				settings.DeadLetterTopic = kafkatest.Topic(t) + "-dead"
				c.CreateTopic(t, settings.DeadLetterTopic, 1)
			}
			f := newFault(t, c, settings, "max.message.bytes", "20000", "compression.type", "uncompressed")
			f.settings.Compression = "none"
			if err := f.relay.Update(f.settings); err != nil {
				t.Fatal(err)
			}
			elsewhere := map[string]bool{}
			for i := range 10 {
				poison := loadRecord(f.topic, 99, i, 30_000)
				appendRecords(t, f.spool, poison)
				id := string(poison.Headers[0].Value)
				f.load.mu.Lock()
				f.load.taken[id], elsewhere[id] = poison.Value, true
				f.load.mu.Unlock()
				f.progress()
			}
			f.load.end()
			st := drained(t, f.relay, f.spool)
			if again := f.load.check(c.Consume(t, f.topic), elsewhere); again > 0 {
				t.Errorf("%d records came again", again)
			}
			found := 0
			if test.deadLetterTopic {
				for _, r := range c.Consume(t, settings.DeadLetterTopic) {
					if elsewhere[header(r, "ce_id")] && strings.Contains(header(r, deadLetterReason), "Message Size Too Large") {
						found++
					}
				}
			} else {
				for rejected, err := range f.spool.Rejected() {
					if r, parseErr := ParseRecord(rejected.Record); err != nil || parseErr != nil || !elsewhere[string(r.Headers[0].Value)] {
						t.Error(err, parseErr, rejected.Reason)
					}
					found++
				}
			}
			if found != 10 || st.DeadLettered+st.Rejected != 10 {
				t.Errorf("%d of 10 poison records were found: %+v", found, st)
			}
		})
	}
}

func TestRealKafkaTopicDeletedAndCreatedAgain(t *testing.T) {
	t.Parallel()
	f := newFault(t, kafkatest.Shared(t), Settings{})
	f.pause()
	before := f.cluster.Consume(t, f.topic)
	if again := f.load.check(before, nil); again > 0 {
		t.Errorf("%d records came again", again)
	}
	f.cluster.DeleteTopic(t, f.topic)
	l := startLoad(t, f.spool, f.topic)
	f.fails("does not exist")
	f.cluster.CreateTopic(t, f.topic, 5)
	published := f.relay.Stats().Published
	f.progress()
	l.end()
	st := drained(t, f.relay, f.spool)
	after := f.cluster.Consume(t, f.topic)
	again := l.check(after, nil)
	if int(st.Published-published)+again != len(after) || len(before) != int(published) {
		t.Errorf("%d, then %d records are on the topic, %d of them again: %+v", len(before), len(after), again, st)
	}
}

func TestRealKafkaPartitionsAdded(t *testing.T) {
	t.Parallel()
	f := newFault(t, kafkatest.Shared(t), Settings{})
	f.cluster.AddPartitions(t, f.topic, 7)
	eventually(t, "records in the new partitions", func() bool {
		f.progress()
		for _, r := range f.cluster.Consume(t, f.topic) {
			if r.Partition >= 3 {
				return true
			}
		}
		return false
	})
	if again := f.finish(); again > 0 {
		t.Errorf("%d records came again", again)
	}
}

func TestRealKafkaPermissionRevokedAndGrantedAgain(t *testing.T) {
	t.Parallel()
	c := kafkatest.Shared(t)
	f := newFault(t, c, Settings{
		Brokers: c.Brokers(t, kafkatest.SASLPlaintext), Mechanism: "SCRAM-SHA-512", User: kafkatest.User, Password: kafkatest.UserPassword,
		DeadLetterTopic: "not-this",
	})
	c.Revoke(t, kafkatest.User, f.topic)
	c.Allow(t, kafkatest.User, f.topic, kmsg.ACLOperationDescribe)
	f.fails(`user "kong" may not write to topic "`+f.topic, "WRITE")
	c.Revoke(t, kafkatest.User, f.topic)
	f.fails(`user "kong" may not write to topic "`+f.topic, "DESCRIBE")
	c.Allow(t, kafkatest.User, f.topic, kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe)
	f.progress()
	f.finish()
}

func TestRealKafkaThrottles(t *testing.T) {
	t.Parallel()
	c := kafkatest.Shared(t)
	client := kafkatest.Topic(t)
	c.SetQuota(t, client, 3_000)
	// The brokers hold a client back for longer than a request may take, which is
	// enough for a busy machine.
	f := newFault(t, c, Settings{ClientID: client, Timeout: 3 * time.Second})
	eventually(t, "throttling", func() bool { return f.relay.Stats().Throttled > 4*time.Second })
	c.SetQuota(t, client, 0)
	if again := f.finish(); again > 0 {
		t.Errorf("%d records came again", again)
	}
	if err := f.relay.Stats().LastError; err != nil {
		t.Errorf("throttling is no failure: %v", err)
	}
}

// outage is how long the brokers are away in TestRealKafkaIsKilledAndHangs.
var outage = flag.Duration("outage", time.Second, "how long brokers that were killed stay away")

// TestRealKafkaIsKilledAndHangs takes the only broker away, with and without an
// end of its connections. It is not parallel: the others share the broker.
func TestRealKafkaIsKilledAndHangs(t *testing.T) {
	c := kafkatest.Shared(t)
	f := newFault(t, c, Settings{Timeout: time.Second})
	c.Kill(t, 1)
	f.fails("nobody listens")
	sleep(t.Context(), *outage)
	c.Restart(t, 1)
	f.progress()

	c.Pause(t, 1)
	f.fails("did not answer within 1s")
	c.Resume(t, 1)
	f.progress()
	f.finish()
}

// TestRealKafkaCutAtEveryByte has a proxy cut the connection after each byte of
// requests with records, and of the answers to them.
func TestRealKafkaCutAtEveryByte(t *testing.T) {
	c := kafkatest.Shared(t)
	proxy := c.Proxy(t, 1)
	// Small batches: every byte of a request is one connection.
	f := newFault(t, c, Settings{Brokers: c.Brokers(t, kafkatest.Proxied), MaxBatchRecords: 3, MaxRetryDelay: time.Millisecond})
	cuts := 0
	for _, response := range []bool{false, true} {
		longest := 1
		for after := 0; after <= longest; after++ {
			length := proxy.Cut(kafkatest.Cut{Response: response, After: after}, 2*time.Second)
			if length == 0 { // none was as long
				break
			}
			cuts++
			longest = max(longest, length)
		}
		if longest < 40 {
			t.Errorf("the longest request or answer had %d bytes", longest)
		}
	}
	if st := f.relay.Stats(); st.Retried == 0 || st.LastError == nil {
		t.Errorf("nothing failed: %+v", st)
	}
	f.settings.MaxBatchRecords = 0
	if err := f.relay.Update(f.settings); err != nil {
		t.Fatal(err)
	}
	f.progress()
	t.Logf("%d cuts, %d connections", cuts, proxy.Dials())
	f.finish()
}

// TestRealKafkaGoesSilent leaves the connections open and passes nothing on, as a
// firewall does that has forgotten them.
func TestRealKafkaGoesSilent(t *testing.T) {
	c := kafkatest.Shared(t)
	proxy := c.Proxy(t, 1)
	f := newFault(t, c, Settings{Brokers: c.Brokers(t, kafkatest.Proxied), Timeout: time.Second})
	for range 3 {
		proxy.Silence()
		began, before := time.Now(), f.relay.Stats().Published
		eventually(t, "progress", func() bool { return f.relay.Stats().Published > before+1000 })
		// A request for records and one for metadata may have waited.
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("dead connections held the relay for %v", took)
		}
	}
	contains(t, f.relay.Stats().LastError, "did not answer within 1s")
	f.finish()
}

// TestRealKafkaIsSlow has answers come late, and then too late.
func TestRealKafkaIsSlow(t *testing.T) {
	c := kafkatest.Shared(t)
	proxy := c.Proxy(t, 1)
	f := newFault(t, c, Settings{Brokers: c.Brokers(t, kafkatest.Proxied), Timeout: time.Second})
	proxy.Slow(300 * time.Millisecond)
	before := f.relay.Stats()
	f.progress()
	f.progress()
	if after := f.relay.Stats(); after.Retried != before.Retried {
		t.Errorf("what only took its time was sent again: %v", after.LastError)
	}
	proxy.Slow(1500 * time.Millisecond)
	f.fails("did not answer within 1s")
	proxy.Slow(0)
	f.progress()
	f.finish()
}

// TestRealKafkaRefusesOurClock has a topic that takes no record which is older
// than nothing: to the broker our clock is behind.
func TestRealKafkaRefusesOurClock(t *testing.T) {
	t.Parallel()
	f := newFault(t, kafkatest.Shared(t), Settings{DeadLetterTopic: "not-this"})
	f.cluster.SetTopicConfig(t, f.topic, "message.timestamp.before.max.ms", "0")
	f.fails("the clock here and that of", "set the clocks right")
	f.cluster.SetTopicConfig(t, f.topic, "message.timestamp.before.max.ms", "9223372036854775807")
	f.progress()
	if st := f.relay.Stats(); st.DeadLettered+st.Rejected > 0 {
		t.Errorf("a wrong clock is no poison: %+v", st)
	}
	f.finish()
}

// TestRealKafkaWithoutOneOfTwoTopics has the load's topic and one that is not
// there: the load goes on.
func TestRealKafkaWithoutOneOfTwoTopics(t *testing.T) {
	t.Parallel()
	f := newFault(t, kafkatest.Shared(t), Settings{})
	missing := f.topic + "-missing"
	other := startLoad(t, f.spool, missing)
	f.fails(`topic "` + missing + `" does not exist`)
	before := f.relay.Stats()
	f.progress()
	if st := f.relay.Stats(); st.Blocked == 0 || before.Blocked == 0 {
		t.Errorf("nothing is blocked: %+v", st)
	}
	f.cluster.CreateTopic(t, missing, 2)
	f.progress()
	other.end()
	f.load.end()
	st := drained(t, f.relay, f.spool)
	again := f.load.check(f.cluster.Consume(t, f.topic), nil) + other.check(f.cluster.Consume(t, missing), nil)
	if again > 0 || st.Blocked > 0 {
		t.Errorf("%d records came again: %+v", again, st)
	}
}

// TestRealKafkaWhileTheDiskIsFull publishes a backlog from a disk without room:
// what is published cannot be deleted then, or it can, but it is published once.
func TestRealKafkaWhileTheDiskIsFull(t *testing.T) {
	t.Parallel()
	dir := disktest.New(t, 8<<20)
	c, name := kafkatest.Shared(t), kafkatest.Topic(t)
	c.CreateTopic(t, name, 3)
	s, err := spool.Open(dir, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	taken := map[string]bool{}
	for n := 0; ; n++ { // until the disk is full
		r := loadRecord(name, 0, n, 500)
		if s.Append(t.Context(), r.AppendTo(nil)) != nil {
			break
		}
		taken[string(r.Headers[0].Value)] = true
	}
	filler := filepath.Join(dir, "filler")
	disktest.Fill(t, filler)
	r := start(t, Settings{Brokers: c.Brokers(t, kafkatest.Plaintext)}, s)
	eventually(t, "the backlog is published", func() bool { return c.Records(t, name) >= int64(len(taken)) })
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	appendRecords(t, s, loadRecord(name, 1, 0, 0)) // there is room again
	taken["1-0"] = true
	st := drained(t, r, s)
	records := c.Consume(t, name)
	for _, r := range records {
		if !taken[header(r, "ce_id")] {
			t.Fatalf("record %q was not taken", header(r, "ce_id"))
		}
	}
	if len(records) != len(taken) || int(st.Published) != len(taken) || s.Stats().Pending != 0 {
		t.Errorf("%d records are on the topic, %d were taken: %+v", len(records), len(taken), st)
	}
	t.Logf("%d records on a full disk; last error: %v", len(taken), s.Stats().LastError)
}

// TestRealKafkaTakesTenThousandHandoversAtOnce has ten thousand goroutines hand
// over one record each.
func TestRealKafkaTakesTenThousandHandoversAtOnce(t *testing.T) {
	t.Parallel()
	const n = 10_000
	c, s, name := kafkatest.Shared(t), newSpool(t), kafkatest.Topic(t)
	c.CreateTopic(t, name, 3)
	r := start(t, Settings{Brokers: c.Brokers(t, kafkatest.Plaintext), Compression: "zstd"}, s)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { appendRecords(t, s, loadRecord(name, 0, i, 100)) })
	}
	wg.Wait()
	took := time.Since(began)
	drained(t, r, s)
	seen := map[string]bool{}
	records := c.Consume(t, name)
	for _, r := range records {
		seen[header(r, "ce_id")] = true
	}
	if len(seen) != n || len(records) != n {
		t.Errorf("%d records are on the topic, %d different ones, of %d", len(records), len(seen), n)
	}
	t.Logf("all handed over in %v, in %d transactions", took, s.Stats().Transactions)
}

// TestADamagedSpoolPublishesWhatItTookAndNothingElse cuts the spool of a process
// that is gone at every 512 bytes, flips a bit in each 512 bytes of it, and has
// the next process publish what is left.
func TestADamagedSpoolPublishesWhatItTookAndNothingElse(t *testing.T) {
	const n, step = 60, 512
	c, dir := newCluster(t), t.TempDir()
	s, err := spool.Open(dir, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	taken := map[string]int{}
	for _, r := range numbered(0, n) {
		r.Value = append(r.Value, bytes.Repeat([]byte{' '}, 150)...)
		appendRecords(t, s, r)
		taken[string(r.Key)+"="+string(r.Value)] = 0
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.spool"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	data = data[:(len(bytes.TrimRight(data, "\x00"))+4095)/4096*4096] // bbolt lets files grow ahead of their use
	var published, whole, rounds int64
	publish := func(image []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "0000000000001-1-000001.spool"), image, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := spool.Open(dir, spool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.Adopt() // its error is what is damaged
		r, err := New(Settings{Brokers: c.ListenAddrs(), Timeout: 5 * time.Second}, s)
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, r)
		st := drained(t, r, s)
		stop()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		published += st.Published
		rounds++
		if st.Published == n {
			whole++
		}
	}
	for at := 0; at < len(data); at += step {
		publish(data[:at])
		flipped := bytes.Clone(data)
		flipped[at+int(rounds*37)%step] ^= 1 << (rounds % 8)
		publish(flipped)
	}
	records := consume(t, c, topic, int(published))
	for _, r := range records {
		at := string(r.Key) + "=" + string(r.Value)
		if _, ok := taken[at]; !ok {
			t.Fatalf("%q is on the topic, and no spool took it", at)
		}
		taken[at]++
	}
	for at, times := range taken {
		if int64(times) > rounds || int64(times) < whole {
			t.Errorf("%q was published %d times from %d spools, of which %d were whole", at, times, rounds, whole)
		}
	}
	if published == 0 || whole == 0 || whole == rounds {
		t.Errorf("of %d spools %d were whole", rounds, whole)
	}
	t.Logf("%d spools of %d records: %d records published, %d spools whole", rounds, n, published, whole)
}

// TestTheClockJumpsBetweenProcesses has a process leave its spool, and the next
// one start with a clock that is a century ahead, or behind.
func TestTheClockJumpsBetweenProcesses(t *testing.T) {
	for name, millis := range map[string]int64{"forwards": 1, "back": 9_000_000_000_000} {
		t.Run(name, func(t *testing.T) {
			c, dir := newCluster(t), t.TempDir()
			before, err := spool.Open(dir, spool.Options{})
			if err != nil {
				t.Fatal(err)
			}
			appendRecords(t, before, numbered(0, 500)...)
			if err := before.Close(); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "*.spool"))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			_, rest, _ := strings.Cut(filepath.Base(files[0]), "-")
			if err := os.Rename(files[0], filepath.Join(dir, fmt.Sprintf("%013d-%s", millis, rest))); err != nil {
				t.Fatal(err)
			}
			s, err := spool.Open(dir, spool.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			r := start(t, Settings{Brokers: c.ListenAddrs()}, s)
			appendRecords(t, s, numbered(500, 700)...)
			if n, err := s.Adopt(); n != 500 || err != nil {
				t.Fatal(n, err)
			}
			appendRecords(t, s, numbered(700, 1000)...)
			drained(t, r, s)
			values := map[string]bool{}
			for _, r := range consume(t, c, topic, 1000) {
				values[string(r.Value)] = true
			}
			if len(values) != 1000 {
				t.Errorf("%d different records are on the topic", len(values))
			}
		})
	}
}

// TestRealKafkaLosesALeader kills a leader in a cluster of three whose topics
// want two replicas in sync, and brings it back.
func TestRealKafkaLosesALeader(t *testing.T) {
	c := kafkatest.Start(t, kafkatest.Options{Brokers: 3})
	f := newFault(t, c, Settings{Timeout: time.Second})
	leader := c.Leader(t, f.topic, 0)
	c.Kill(t, leader)
	sleep(t.Context(), *outage)
	f.progress()
	c.Restart(t, leader)
	c.AwaitInSync(t, f.topic, 3)
	f.progress()
	f.finish()
}
