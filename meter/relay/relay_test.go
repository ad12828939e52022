package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"kafka-metering/meter/spool"
)

func TestRecordsArriveOnceAndInOrderPerKey(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(3))
	s := newSpool(t)
	r := start(t, Settings{Brokers: c.ListenAddrs(), MaxBatchRecords: 37}, s)
	for i := range 10 {
		appendRecords(t, s, numbered(i*100, i*100+100)...)
	}
	st := drained(t, r, s)
	if st.Published != 1000 || !st.Connected || st.LastError != nil || s.Stats().Pending != 0 {
		t.Errorf("%+v", st)
	}
	records := consume(t, c, topic, 1000)
	checkOrder(t, records)
}

func TestRecordsKeepTheirBytesHeadersAndMissingKeys(t *testing.T) {
	c := newCluster(t)
	s := newSpool(t)
	r := start(t, Settings{Brokers: c.ListenAddrs()}, s)
	appendRecords(t, s,
		Record{Topic: topic, Key: []byte("a"), Value: []byte{0, 255}, Headers: []Header{{"h", []byte("v")}, {"h", nil}, {"", []byte{}}}},
		Record{Topic: topic, Value: []byte("no key")},
		Record{Topic: topic, Key: []byte{}, Value: nil},
	)
	drained(t, r, s)
	type seen struct {
		Key, Value []byte
		Headers    []kgo.RecordHeader
	}
	got := map[string]seen{}
	for _, r := range consume(t, c, topic, 3) {
		got[fmt.Sprintf("%q", r.Value)] = seen{r.Key, r.Value, r.Headers}
	}
	want := map[string]seen{
		`"\x00\xff"`: {[]byte("a"), []byte{0, 255}, []kgo.RecordHeader{{Key: "h", Value: []byte("v")}, {Key: "h"}, {Value: []byte{}}}},
		`"no key"`:   {nil, []byte("no key"), nil},
		`""`:         {[]byte{}, nil, nil},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestNothingIsLostWhileTheBrokerIsDown(t *testing.T) {
	port := freePort(t)
	s := newSpool(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	logger, lines := logged()
	r := start(t, Settings{Brokers: []string{addr}, Logger: logger}, s)
	appendRecords(t, s, numbered(0, 100)...)
	eventually(t, "three failures", func() bool { return r.Stats().ConsecutiveFailures >= 3 })
	st := r.Stats()
	contains(t, st.LastError, "nobody listens at "+addr, "connection refused")
	if st.Connected || st.Published != 0 || s.Stats().Pending != 100 {
		t.Errorf("%+v", st)
	}
	dir := t.TempDir()
	c := newCluster(t, kfake.Ports(port), kfake.DataDir(dir))
	drained(t, r, s)

	c.Close()
	appendRecords(t, s, numbered(100, 200)...)
	eventually(t, "failures after the broker went away", func() bool { return r.Stats().ConsecutiveFailures >= 2 })
	c = newCluster(t, kfake.Ports(port), kfake.DataDir(dir))
	st = drained(t, r, s)
	if st.Published != 200 || !st.Connected || st.ConsecutiveFailures != 0 || st.Retried == 0 {
		t.Errorf("%+v", st)
	}
	checkOrder(t, consume(t, c, topic, 200))
	if n := strings.Count(lines.String(), "publishing fails"); n != 2 {
		t.Errorf("logged %d failures, want the beginning of each of the two outages:\n%s", n, lines)
	}
	if n := strings.Count(lines.String(), "publishing again"); n != 2 {
		t.Errorf("logged %d recoveries, want 2:\n%s", n, lines)
	}
}

// refuse makes the next n produce requests fail with a code for every partition.
// From call n on they are handled as usual.
func refuse(c *kfake.Cluster, n int, code int16) {
	for range n {
		c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			return refusal(req, code), nil, true
		})
	}
}

func refusal(req kmsg.Request, code int16) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.(*kmsg.ProduceRequest).Topics {
		rt := kmsg.ProduceResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func TestTransientRefusalsAreRetriedInOrder(t *testing.T) {
	for _, e := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend,
		kerr.RequestTimedOut, kerr.KafkaStorageError, kerr.ThrottlingQuotaExceeded, kerr.CorruptMessage, kerr.UnknownServerError,
		kerr.UnknownTopicOrPartition, kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.UnsupportedCompressionType,
	} {
		t.Run(e.Message, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			refuse(c, 3, e.Code)
			s := newSpool(t)
			appendRecords(t, s, numbered(0, 50)...)
			r := start(t, Settings{Brokers: c.ListenAddrs(), DeadLetterTopic: "dead"}, s)
			st := drained(t, r, s)
			if st.Published != 50 || st.Retried < 50 || st.Blocked != 0 || st.ConsecutiveFailures != 0 {
				t.Errorf("%+v", st)
			}
			contains(t, st.LastError, c.ListenAddrs()[0])
			checkOrder(t, consume(t, c, topic, 50))
		})
	}
}

func TestOnlyTheRefusedPartitionIsSentAgain(t *testing.T) {
	c := newCluster(t)
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		// Refuse partition 1 and pretend to take the rest.
		resp := refusal(req, 0).(*kmsg.ProduceResponse)
		for i := range resp.Topics[0].Partitions {
			if p := &resp.Topics[0].Partitions[i]; p.Partition == 1 {
				p.ErrorCode = kerr.NotEnoughReplicas.Code
			}
		}
		return resp, nil, true
	})
	s := newSpool(t)
	appendRecords(t, s, numbered(0, 70)...)
	r := start(t, Settings{Brokers: c.ListenAddrs()}, s)
	st := drained(t, r, s)
	records := consume(t, c, topic, int(st.Retried))
	for _, r := range records {
		if r.Partition != 1 {
			t.Errorf("partition %d was sent twice", r.Partition)
		}
	}
	if st.Published != 70 || st.Retried == 0 || st.Retried == 70 {
		t.Errorf("%+v", st)
	}
	checkOrder(t, records)
}

func TestAConnectionCutInMidRequestIsRetried(t *testing.T) {
	c := newCluster(t)
	for range 3 {
		c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			return nil, errors.New("cut"), true
		})
	}
	s := newSpool(t)
	appendRecords(t, s, numbered(0, 50)...)
	r := start(t, Settings{Brokers: c.ListenAddrs()}, s)
	if st := drained(t, r, s); st.Published != 50 || st.ConsecutiveFailures != 0 {
		t.Errorf("%+v", st)
	}
	checkOrder(t, consume(t, c, topic, 50))
}

func TestASilentBrokerIsGivenUpAfterTheTimeout(t *testing.T) {
	c := newCluster(t)
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, nil, true })
	s := newSpool(t)
	appendRecords(t, s, numbered(0, 5)...)
	r := start(t, Settings{Brokers: c.ListenAddrs(), Timeout: 300 * time.Millisecond}, s)
	st := drained(t, r, s)
	contains(t, st.LastError, "did not answer within 300ms")
	checkOrder(t, consume(t, c, topic, 5))
}

func TestAnUnknownTopicIsReportedAndWaitedFor(t *testing.T) {
	c := newCluster(t)
	s := newSpool(t)
	appendRecords(t, s, Record{Topic: "later", Key: []byte("k"), Value: []byte("1")})
	r := start(t, Settings{Brokers: c.ListenAddrs(), DeadLetterTopic: "dead"}, s)
	eventually(t, "failures", func() bool { return r.Stats().ConsecutiveFailures >= 6 })
	contains(t, r.Stats().LastError, `topic "later" does not exist on `+c.ListenAddrs()[0], "create it")
	createTopic(t, c, "later", nil)
	drained(t, r, s)
	consume(t, c, "later", 1)
}

func TestATopicIsCreatedOnlyWhenThatIsAllowed(t *testing.T) {
	c := newCluster(t)
	s := newSpool(t)
	appendRecords(t, s, Record{Topic: "auto", Key: []byte("k"), Value: []byte("1")})
	settings := Settings{Brokers: c.ListenAddrs(), MaxRetryDelay: 50 * time.Millisecond}
	r := start(t, settings, s)
	eventually(t, "failures", func() bool { return r.Stats().ConsecutiveFailures >= 3 })
	settings.CreateTopics = true
	if err := r.Update(settings); err != nil {
		t.Fatal(err)
	}
	drained(t, r, s)
	consume(t, c, "auto", 1)
}

func createTopic(t testing.TB, c *kfake.Cluster, name string, config map[string]string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, 1, 1
	for k, v := range config {
		rt.Configs = append(rt.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: k, Value: &v})
	}
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		t.Fatal(err)
	}
}

func TestPoisonGoesToTheDeadLetterTopicAndTheRestGoesOn(t *testing.T) {
	c := newCluster(t)
	createTopic(t, c, "small", map[string]string{"max.message.bytes": "3000"})
	createTopic(t, c, "dead", nil)
	s := newSpool(t)
	var records []Record
	for i := range 40 {
		r := Record{Topic: "small", Key: []byte("k"), Value: fmt.Append(nil, i)}
		if i == 11 || i == 12 || i == 39 {
			r.Value = []byte(strings.Repeat(fmt.Sprint(i), 2000))
		}
		records = append(records, r)
	}
	records = append(records,
		Record{Topic: "small", Key: []byte("none"), Value: []byte("no customer"), Dead: "subject is missing"},
		Record{Topic: "", Value: []byte("no topic")},
		Record{Topic: "impossible/name", Value: []byte("no such topic")},
		Record{Topic: "small", Key: []byte("k"), Value: make([]byte, 30_000)},
	)
	appendRecords(t, s, records...)
	if err := s.Append(t.Context(), []byte("not a record")); err != nil {
		t.Fatal(err)
	}
	r := start(t, Settings{Brokers: c.ListenAddrs(), DeadLetterTopic: "dead", MaxMessageBytes: 20_000}, s)
	eventually(t, "progress up to the impossible topic", func() bool { return r.Stats().ConsecutiveFailures > 0 || r.Stats().Batches > 0 })
	st := drained(t, r, s)
	if st.Published != 37 || st.DeadLettered != 7 || st.Rejected != 1 {
		t.Errorf("%+v", st)
	}
	checkOrder(t, consume(t, c, "small", 37))
	got := map[string]string{}
	for _, r := range consume(t, c, "dead", 7) {
		h := map[string]string{}
		for _, x := range r.Headers {
			h[x.Key] = string(x.Value)
		}
		got[fmt.Sprintf("%.11q of %d from %q", r.Value, len(r.Value), h["dead_letter_topic"])] = h["dead_letter_reason"]
	}
	for key, reason := range map[string]string{
		`"11111111111" of 4000 from "small"`:                             "Message Size Too Large",
		`"12121212121" of 4000 from "small"`:                             "Message Size Too Large",
		`"39393939393" of 4000 from "small"`:                             "Message Size Too Large",
		`"no customer" of 11 from "small"`:                               "subject is missing",
		`"no topic" of 8 from ""`:                                        "names no topic",
		`"no such top" of 13 from "impossible/name"`:                     "no topic can be called",
		fmt.Sprintf(`%.11q of 30000 from "small"`, make([]byte, 30_000)): "larger than the limit",
	} {
		if !strings.Contains(got[key], reason) {
			t.Errorf("%s: reason is %q, want %q", key, got[key], reason)
		}
	}
	for rejected, err := range s.Rejected() {
		if err != nil || string(rejected.Record) != "not a record" {
			t.Errorf("rejected %q: %v", rejected.Record, err)
		}
	}
}

func TestPoisonStaysInTheSpoolWhenNoTopicTakesIt(t *testing.T) {
	tests := []struct{ name, topic, reason string }{
		{"there is no dead-letter topic", "", "Message Size Too Large"},
		{"the dead-letter topic does not exist", "missing", `topic "missing" does not exist`},
		{"the dead-letter topic refuses it too", "small2", "dead-letter topic: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t)
			createTopic(t, c, "small", map[string]string{"max.message.bytes": "500"})
			createTopic(t, c, "small2", map[string]string{"max.message.bytes": "500"})
			s := newSpool(t)
			large := Record{Topic: "small", Key: []byte("k"), Value: make([]byte, 1000)}
			appendRecords(t, s, Record{Topic: "small", Value: []byte("1")}, large, Record{Topic: "small", Value: []byte("2")})
			r := start(t, Settings{Brokers: c.ListenAddrs(), DeadLetterTopic: test.topic}, s)
			st := drained(t, r, s)
			if st.Published != 2 || st.Rejected != 1 || st.DeadLettered != 0 {
				t.Errorf("%+v", st)
			}
			consume(t, c, "small", 2)
			n := 0
			for rejected, err := range s.Rejected() {
				n++
				if err != nil || string(rejected.Record) != string(large.AppendTo(nil)) {
					t.Errorf("%q, %v", rejected.Record, err)
				}
				if !strings.Contains(rejected.Reason, test.reason) {
					t.Errorf("reason %q does not say %q", rejected.Reason, test.reason)
				}
			}
			if n != 1 {
				t.Errorf("%d rejected records, want 1", n)
			}
		})
	}
}

func TestEveryWayToAuthenticateAndEncrypt(t *testing.T) {
	server, roots := certificate(t)
	for _, mechanism := range []string{"", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		for _, encrypted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,tls=%t", mechanism, encrypted), func(t *testing.T) {
				t.Parallel()
				var opts []kfake.Opt
				settings := Settings{Mechanism: mechanism, User: "kong", Password: "pass,word=ü"}
				if mechanism != "" {
					opts = append(opts, kfake.EnableSASL(), kfake.Superuser(mechanism, "kong", settings.Password))
				}
				if encrypted {
					opts = append(opts, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{server}}))
					settings.TLS = &tls.Config{RootCAs: roots}
				}
				c := newCluster(t, opts...)
				settings.Brokers = c.ListenAddrs()
				s := newSpool(t)
				appendRecords(t, s, numbered(0, 20)...)
				r := start(t, settings, s)
				if st := drained(t, r, s); st.Published != 20 || st.LastError != nil {
					t.Errorf("%+v", st)
				}
			})
		}
	}
}

func TestAWrongCertificateIsReported(t *testing.T) {
	server, _ := certificate(t)
	c := newCluster(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{server}}))
	s := newSpool(t)
	appendRecords(t, s, numbered(0, 1)...)
	r := start(t, Settings{Brokers: c.ListenAddrs(), TLS: &tls.Config{RootCAs: x509.NewCertPool()}}, s)
	eventually(t, "a failure", func() bool { return r.Stats().LastError != nil })
	contains(t, r.Stats().LastError, "TLS with", "unknown authority")
	if classify(r.Stats().LastError) != blocked {
		t.Error("not classified as blocked")
	}
}

// certificate makes a certificate for 127.0.0.1 and a pool that trusts it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestARotatedPasswordTakesEffectInTheRetry(t *testing.T) {
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "kong", "new-secret"))
			s := newSpool(t)
			appendRecords(t, s, numbered(0, 10)...)
			logger, lines := logged()
			// The delay is far longer than the test: Update must cut it short.
			settings := Settings{Brokers: c.ListenAddrs(), Mechanism: mechanism, User: "kong", Password: "old-secret", MaxRetryDelay: time.Hour, Logger: logger}
			r := start(t, settings, s)
			eventually(t, "a failure", func() bool { return r.Stats().LastError != nil })
			contains(t, r.Stats().LastError, `user "kong" is not accepted`, mechanism, "check user and password")
			if got := classify(r.Stats().LastError); got != blocked || s.Stats().Pending != 10 {
				t.Errorf("classified as %v, %d pending", got, s.Stats().Pending)
			}
			settings.Password = "new-secret"
			if err := r.Update(settings); err != nil {
				t.Fatal(err)
			}
			drained(t, r, s)
			consume(t, c, topic, 10, kgo.SASL(mechanismOf(mechanism, "kong", "new-secret")))
			if strings.Contains(lines.String()+r.Stats().LastError.Error(), "secret") {
				t.Error("a password reached the log")
			}
		})
	}
}

func TestEveryCompressionArrives(t *testing.T) {
	for name := range compressions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			s := newSpool(t)
			appendRecords(t, s, numbered(0, 500)...)
			r := start(t, Settings{Brokers: c.ListenAddrs(), Compression: name}, s)
			drained(t, r, s)
			checkOrder(t, consume(t, c, topic, 500))
		})
	}
}

func TestKeysGoToTheSamePartitionAsFromJava(t *testing.T) {
	// From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
	vectors := map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	}
	const partitions = 97
	c := newCluster(t, kfake.SeedTopics(partitions, "wide"))
	s := newSpool(t)
	for key := range vectors {
		appendRecords(t, s, Record{Topic: "wide", Key: []byte(key)})
	}
	r := start(t, Settings{Brokers: c.ListenAddrs()}, s)
	drained(t, r, s)
	for _, r := range consume(t, c, "wide", len(vectors)) {
		if want := (vectors[string(r.Key)] & 0x7fffffff) % partitions; r.Partition != want {
			t.Errorf("key %q is in partition %d, want %d", r.Key, r.Partition, want)
		}
	}
}

// forgetful is a queue whose process dies before the acknowledgement reaches it.
type forgetful struct {
	*spool.Spool
	published chan struct{}
}

func (f forgetful) Settle(spool.Pos, []spool.Pos, []spool.Reject) func() error {
	f.published <- struct{}{}
	select {} // never returns: this process is as good as dead
}

func TestACrashBeforeTheAcknowledgementPublishesTheSameBytesAgain(t *testing.T) {
	c := newCluster(t)
	s := newSpool(t)
	appendRecords(t, s, numbered(0, 30)...)
	first, err := New(Settings{Brokers: c.ListenAddrs()}, forgetful{s, make(chan struct{}, 1)})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = first.Run(t.Context()) }()
	<-first.queue.(forgetful).published

	second := start(t, Settings{Brokers: c.ListenAddrs()}, s)
	drained(t, second, s)
	count := map[string]int{}
	for _, r := range consume(t, c, topic, 60) {
		count[string(r.Key)+"="+string(r.Value)]++
	}
	for record, n := range count {
		if n != 2 {
			t.Errorf("%s is there %d times", record, n)
		}
	}
}

func TestALeaderThatMovesIsFollowed(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(3))
	s := newSpool(t)
	r := start(t, Settings{Brokers: c.ListenAddrs()}, s)
	for i := range 20 {
		appendRecords(t, s, numbered(i*10, i*10+10)...)
		drained(t, r, s)
		for p := range int32(3) {
			if err := c.MoveTopicPartition(topic, p, (c.LeaderFor(topic, p)+1)%3); err != nil {
				t.Fatal(err)
			}
		}
	}
	checkOrder(t, consume(t, c, topic, 200))
}
