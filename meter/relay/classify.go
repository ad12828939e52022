package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// verdict is what to do about a record that was not acknowledged.
type verdict int

const (
	// retry: it passes by itself.
	retry verdict = iota
	// blocked: somebody has to change something. Retried for ever all the same,
	// since nothing may be lost, but reported as what it is.
	blocked
	// reject: this record will never be accepted, whatever happens.
	reject
)

// classify says what to do about err. What it does not know is retried.
func classify(err error) verdict {
	var code kafka.Error
	if !errors.As(err, &code) {
		switch {
		case isTLS(err):
			// The certificate or the protocol is wrong, on their side or ours.
			return blocked
		default:
			// Network, timeouts, half-read answers, leaders that moved between
			// our look at the metadata and kafka-go's.
			return retry
		}
	}
	switch code {
	case kafka.MessageSizeTooLarge:
		// The batch exceeds the topic's max.message.bytes. publishTo halves it, so
		// that here it is one record.
		return reject
	case kafka.RecordListTooLarge:
		// The batch exceeds a segment of the log; as above.
		return reject
	case kafka.InvalidRecord:
		// The broker validates records (schema, compacted topic without keys).
		return reject
	case kafka.InvalidTimestamp:
		// The record's time is outside what the topic takes.
		return reject
	case kafka.InvalidTopic:
		// No topic can have this name; the record is final and keeps it.
		return reject
	case kafka.UnknownTopicOrPartition:
		// Until somebody creates it, or until metadata has caught up.
		return blocked
	case kafka.SASLAuthenticationFailed, kafka.UnsupportedSASLMechanism, kafka.IllegalSASLState:
		// The password is wrong or was rotated; a new one comes by Update.
		return blocked
	case kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed:
		// An ACL is missing or was revoked.
		return blocked
	case kafka.UnsupportedVersion, kafka.UnsupportedForMessageFormat, kafka.InvalidRequiredAcks, kafka.UnsupportedCompressionType:
		// The brokers do not speak what the settings ask for.
		return blocked
	default:
		// Leader elections, too few in-sync replicas, a full broker disk, quotas,
		// a broker's own errors: all end some day.
		return retry
	}
}

// topicTrouble reports whether err concerns the topic and not the connection:
// another topic may work.
func topicTrouble(err error) bool {
	return errors.Is(err, kafka.UnknownTopicOrPartition) || errors.Is(err, kafka.TopicAuthorizationFailed) || classify(err) == reject
}

// reached reports whether a broker answered err.
func reached(err error) bool {
	var code kafka.Error
	return errors.As(err, &code)
}

func isTLS(err error) bool {
	var (
		record  tls.RecordHeaderError
		alert   tls.AlertError
		verify  *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	return errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &verify) ||
		errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &invalid)
}

// explain says what was tried, where, what went wrong and what to do about it.
func explain(err error, topic string, s *Settings) error {
	where := strings.Join(s.Brokers, ",")
	is := func(target error) bool { return errors.Is(err, target) }
	var advice string
	switch {
	case is(kafka.UnknownTopicOrPartition):
		advice = fmt.Sprintf("topic %q does not exist on %s, or the user may not see it: create it, or set the topic in the configuration", topic, where)
	case is(kafka.TopicAuthorizationFailed):
		advice = fmt.Sprintf("user %q may not write to topic %q on %s: grant it the ACL operations WRITE and DESCRIBE", s.User, topic, where)
	case is(kafka.ClusterAuthorizationFailed):
		advice = fmt.Sprintf("user %q may not use the cluster at %s: check its ACLs", s.User, where)
	case is(kafka.SASLAuthenticationFailed), is(kafka.IllegalSASLState):
		advice = fmt.Sprintf("user %q is not accepted by %s with %s: check user and password, and whether the brokers expect another mechanism", s.User, where, s.Mechanism)
	case is(kafka.UnsupportedSASLMechanism):
		advice = fmt.Sprintf("the brokers at %s do not offer the mechanism %s: choose one of theirs", where, s.Mechanism)
	case is(kafka.UnsupportedCompressionType), is(kafka.UnsupportedForMessageFormat), is(kafka.UnsupportedVersion):
		advice = fmt.Sprintf("the brokers at %s are too old for compression %q or for record headers: choose another compression, or upgrade them", where, s.Compression)
	case isTLS(err):
		advice = fmt.Sprintf("TLS with %s does not come about: check the certificate authority, the host name in the brokers' certificate, and that the port speaks TLS", where)
	case is(kafka.NotEnoughReplicas), is(kafka.NotEnoughReplicasAfterAppend):
		advice = fmt.Sprintf("topic %q on %s has fewer in-sync replicas than min.insync.replicas: bring brokers back", topic, where)
	case is(syscall.ECONNREFUSED):
		advice = fmt.Sprintf("nobody listens at %s: check the address and that the brokers run", where)
	case is(context.DeadlineExceeded), is(os.ErrDeadlineExceeded):
		advice = fmt.Sprintf("%s did not answer within %s: check the network, and whether the port expects TLS", where, s.Timeout)
	case is(protocol.ErrNoLeader), is(kafka.LeaderNotAvailable), is(kafka.NotLeaderForPartition):
		advice = fmt.Sprintf("topic %q on %s has a partition without a reachable leader", topic, where)
	case isDNS(err):
		advice = fmt.Sprintf("the address %s cannot be resolved: check the host name", where)
	default:
		advice = fmt.Sprintf("publish to topic %q on %s", topic, where)
	}
	return fmt.Errorf("%s: %w", advice, err)
}

func isDNS(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns)
}
