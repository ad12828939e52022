package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// Settings say where and how to publish. Zero values mean the defaults given
// here.
type Settings struct {
	Brokers  []string // host:port, at least one
	ClientID string

	// TLS is used as it is; nil means a plain connection. An empty ServerName is
	// taken from the broker's address.
	TLS *tls.Config
	// Mechanism is "", PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
	Mechanism, User, Password string

	// Timeout bounds one request, and one connection attempt with its
	// handshakes; default 10 s.
	Timeout time.Duration
	// Keepalive is how long an unused connection stays open; default 60 s.
	Keepalive time.Duration

	// Compression is none, gzip, snappy, lz4 or zstd; default none.
	Compression string
	// MaxBatchRecords and MaxBatchBytes bound what is published at once;
	// defaults 500 and 900 kB, which is below the brokers' usual limit of 1 MiB.
	MaxBatchRecords int
	MaxBatchBytes   int
	// MaxMessageBytes is the size of key, value and headers from which a record
	// is poison without a broker being asked; default 1 MiB. Brokers have limits
	// of their own.
	MaxMessageBytes int
	// Linger is how long a batch that is not full waits for more; default 0.
	Linger time.Duration
	// MaxRetryDelay bounds the delay between attempts, which begins at 100 ms
	// and doubles; default 30 s.
	MaxRetryDelay time.Duration

	// MaxEventAge is how long after it was spooled a record is still published; 0,
	// the default, is for ever. An older one goes where poison goes.
	MaxEventAge time.Duration

	// DeadLetterTopic takes poison records; "" keeps them in the spool.
	DeadLetterTopic string
	// CreateTopics creates topics that do not exist, with the brokers' default
	// number of partitions and replicas (Kafka 2.4 and newer). The user needs the
	// ACL operation CREATE.
	CreateTopics bool

	// Logger receives a failure when it begins, once a minute while it lasts,
	// and its end. nil discards. Records and credentials are never logged.
	Logger *slog.Logger

	metadataAge time.Duration // after which partitions and leaders are asked for again; for tests
}

var compressions = map[string]kafka.Compression{
	"": 0, "none": 0, "gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
}

// withDefaults returns s completed, or all that is wrong with it.
func (s Settings) withDefaults() (Settings, error) {
	s.Brokers = slices.Clone(s.Brokers)
	setDefault(&s.Timeout, 10*time.Second)
	setDefault(&s.Keepalive, time.Minute)
	setDefault(&s.MaxBatchRecords, 500)
	setDefault(&s.MaxBatchBytes, 900_000)
	setDefault(&s.MaxMessageBytes, 1<<20)
	setDefault(&s.MaxRetryDelay, 30*time.Second)
	setDefault(&s.metadataAge, 30*time.Second)
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if len(s.Brokers) == 0 {
		errs = append(errs, errors.New("brokers: at least one is needed"))
	}
	for _, b := range s.Brokers {
		// kafka-go joins the addresses with commas and splits them again.
		if b == "" || strings.ContainsAny(b, ", ") {
			errs = append(errs, fmt.Errorf("brokers: %q is not host:port", b))
		}
	}
	if _, ok := compressions[s.Compression]; !ok {
		errs = append(errs, fmt.Errorf("compression: %q is not none, gzip, snappy, lz4 or zstd", s.Compression))
	}
	if _, err := s.sasl(); err != nil {
		errs = append(errs, err)
	}
	return s, errors.Join(errs...)
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

func (s Settings) sasl() (sasl.Mechanism, error) {
	algorithm := scram.SHA512
	switch s.Mechanism {
	case "":
		return nil, nil
	case "PLAIN":
		return plain.Mechanism{Username: s.User, Password: s.Password}, nil
	case "SCRAM-SHA-256":
		algorithm = scram.SHA256
	case "SCRAM-SHA-512":
	default:
		return nil, fmt.Errorf("mechanism: %q is not PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", s.Mechanism)
	}
	m, err := scram.Mechanism(algorithm, s.User, s.Password)
	if err != nil {
		// The cause quotes what it could not prepare, which may be the password.
		return nil, fmt.Errorf("user and password: not usable with %s (RFC 4013 forbids a character)", s.Mechanism)
	}
	return m, nil
}
