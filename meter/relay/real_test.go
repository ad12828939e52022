package relay

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"kafka-metering/meter/relay/kafkatest"
)

// TestRealKafkaTakesEveryConnection publishes over each listener and with each
// way to authenticate, and is told what to do where the brokers refuse.
func TestRealKafkaTakesEveryConnection(t *testing.T) {
	c := kafkatest.Shared(t)
	stranger, err := kafkatest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	trusted := func() *tls.Config { return &tls.Config{RootCAs: c.Authority.Pool()} }
	pair := func(a *kafkatest.Authority, name string) tls.Certificate {
		certificate, key, err := a.Issue(name, time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		p, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	sasl := func(mechanism, password string) Settings {
		return Settings{Mechanism: mechanism, User: kafkatest.User, Password: password}
	}
	with := func(s Settings, config *tls.Config) Settings {
		s.TLS = config
		return s
	}
	tests := []struct {
		name     string
		listener kafkatest.Listener
		settings func() Settings
		refused  []string // what the advice says; none: the records arrive
	}{
		{"plain", kafkatest.Plaintext, func() Settings { return Settings{} }, nil},
		{"TLS", kafkatest.TLS, func() Settings { return Settings{TLS: trusted()} }, nil},
		{"TLS, not verified", kafkatest.TLS, func() Settings { return Settings{TLS: &tls.Config{InsecureSkipVerify: true}} }, nil},
		{"TLS, of an unknown authority", kafkatest.TLS, func() Settings { return Settings{TLS: &tls.Config{RootCAs: x509.NewCertPool()}} }, []string{"TLS with", "check the certificate authority", "unknown authority"}},
		{"TLS, of another name", kafkatest.TLS, func() Settings {
			return Settings{TLS: &tls.Config{RootCAs: c.Authority.Pool(), ServerName: "kafka.example"}}
		}, []string{"TLS with", "the host name in the brokers' certificate", "kafka.example"}},
		{"plain to the port for TLS", kafkatest.TLS, func() Settings { return Settings{} }, []string{"closed the connection", "the port expects TLS"}},
		{"TLS to the plain port", kafkatest.Plaintext, func() Settings { return Settings{TLS: trusted()} }, []string{"that the port speaks TLS"}},
		{"client certificate", kafkatest.MutualTLS, func() Settings {
			config := trusted()
			config.Certificates = []tls.Certificate{pair(c.Authority, kafkatest.CertificateUser)}
			return Settings{TLS: config}
		}, nil},
		{"no client certificate", kafkatest.MutualTLS, func() Settings { return Settings{TLS: trusted()} }, []string{"TLS with", "client certificate"}},
		{"client certificate of an unknown authority", kafkatest.MutualTLS, func() Settings {
			config := trusted()
			stolen := pair(stranger, kafkatest.CertificateUser)
			// A client leaves out a certificate of which the server does not know the authority.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stolen, nil }
			return Settings{TLS: config}
		}, []string{"TLS with", "client certificate"}},
		{"PLAIN", kafkatest.SASLPlaintext, func() Settings { return sasl("PLAIN", kafkatest.UserPassword) }, nil},
		{"SCRAM-SHA-256", kafkatest.SASLPlaintext, func() Settings { return sasl("SCRAM-SHA-256", kafkatest.UserPassword) }, nil},
		{"SCRAM-SHA-512", kafkatest.SASLPlaintext, func() Settings { return sasl("SCRAM-SHA-512", kafkatest.UserPassword) }, nil},
		{"PLAIN over TLS", kafkatest.SASLTLS, func() Settings { return with(sasl("PLAIN", kafkatest.UserPassword), trusted()) }, nil},
		{"SCRAM-SHA-512 over TLS", kafkatest.SASLTLS, func() Settings { return with(sasl("SCRAM-SHA-512", kafkatest.UserPassword), trusted()) }, nil},
		{"PLAIN, wrong password", kafkatest.SASLPlaintext, func() Settings { return sasl("PLAIN", "wrong") }, []string{`user "kong" is not accepted`, "with PLAIN", "check user and password"}},
		{"SCRAM, wrong password", kafkatest.SASLTLS, func() Settings { return with(sasl("SCRAM-SHA-256", "wrong"), trusted()) }, []string{`user "kong" is not accepted`, "with SCRAM-SHA-256", "check user and password"}},
		{"no user", kafkatest.SASLPlaintext, func() Settings { return Settings{} }, []string{"closed the connection", "authentication"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSpool(t)
			topic := kafkatest.Topic(t)
			c.CreateTopic(t, topic, 3)
			for _, principal := range []string{kafkatest.User, kafkatest.CertificateUser} {
				c.Allow(t, principal, topic, kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe)
			}
			records := make([]Record, 20)
			for i := range records {
				records[i] = loadRecord(topic, 0, i, 10)
			}
			appendRecords(t, s, records...)
			settings := test.settings()
			settings.Brokers = c.Brokers(t, test.listener)
			settings.Timeout = 2 * time.Second
			r := start(t, settings, s)
			if test.refused == nil {
				drained(t, r, s)
				if n := len(c.Consume(t, topic)); n != len(records) {
					t.Errorf("%d records are on the topic, want %d", n, len(records))
				}
				return
			}
			eventually(t, "two failures", func() bool { return r.Stats().ConsecutiveFailures >= 2 })
			contains(t, r.Stats().LastError, test.refused...)
			if st := s.Stats(); st.Pending != int64(len(records)) {
				t.Errorf("%d records are pending, want %d", st.Pending, len(records))
			}
			if strings.Contains(fmt.Sprint(r.Stats().LastError), "wrong") {
				t.Errorf("the error has the password: %v", r.Stats().LastError)
			}
		})
	}
}

func TestRealKafkaTakesEveryCompression(t *testing.T) {
	c := kafkatest.Shared(t)
	for name := range compressions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, topic := newSpool(t), kafkatest.Topic(t)
			c.CreateTopic(t, topic, 3)
			l := startLoad(t, s, topic)
			r := start(t, Settings{Brokers: c.Brokers(t, kafkatest.Plaintext), Compression: name}, s)
			l.await(500)
			if again := l.finish(c, r); again > 0 {
				t.Errorf("%d records came again: %v", again, r.Stats().LastError)
			}
		})
	}
}

// TestRealKafkaPartitionsAgreeWithJava compares where Kafka's own producer and
// the relay put the same keys.
func TestRealKafkaPartitionsAgreeWithJava(t *testing.T) {
	c := kafkatest.Shared(t)
	const partitions = 11
	ours, theirs := kafkatest.Topic(t)+"-go", kafkatest.Topic(t)+"-java"
	c.CreateTopic(t, ours, partitions)
	c.CreateTopic(t, theirs, partitions)
	var keys []string
	for i := range 200 {
		keys = append(keys, strings.Repeat("é", i%5)+fmt.Sprintf("%x", i*i*7919)+strings.Repeat("-", i%4))
	}
	c.JavaProduce(t, theirs, keys, keys)
	s := newSpool(t)
	for _, key := range keys {
		appendRecords(t, s, Record{Topic: ours, Key: []byte(key), Value: []byte(key)})
	}
	drained(t, start(t, Settings{Brokers: c.Brokers(t, kafkatest.Plaintext)}, s), s)
	want := map[string]int32{}
	for _, r := range c.Consume(t, theirs) {
		want[string(r.Key)] = r.Partition
	}
	used := map[int32]bool{}
	for _, r := range c.Consume(t, ours) {
		used[r.Partition] = true
		if partition, ok := want[string(r.Key)]; !ok || partition != r.Partition {
			t.Errorf("key %q is in partition %d, Java puts it in %d (%t)", r.Key, r.Partition, partition, ok)
		}
	}
	if len(want) != len(keys) || len(used) != partitions {
		t.Errorf("%d keys in %d partitions", len(want), len(used))
	}
}
