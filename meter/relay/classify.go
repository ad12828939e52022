package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// verdicts has the answers of brokers that are not simply retried. The others
// are leader elections, too few in-sync replicas, a full broker disk, quotas and
// a broker's own errors, which all end some day; or no answers to what a relay
// asks. A test names each of Kafka's codes.
var verdicts = map[kafka.Error]verdict{
	// The batch exceeds the topic's max.message.bytes, or a segment of its log.
	// publishTo halves it, so that here it is one record.
	kafka.MessageSizeTooLarge: reject,
	kafka.RecordListTooLarge:  reject,
	// The broker validates records (schema, compacted topic without keys).
	kafka.InvalidRecord: reject,
	// No topic can have this name; the record is final and keeps it.
	kafka.InvalidTopic: reject,

	// A record's time is that of its sending, so that every record is refused as
	// long as our clock, or the broker's, is wrong.
	kafka.InvalidTimestamp: blocked,
	// Until somebody creates it, or until metadata has caught up.
	kafka.UnknownTopicOrPartition: blocked,
	// The password is wrong or was rotated; a new one comes by Update.
	kafka.SASLAuthenticationFailed: blocked,
	kafka.UnsupportedSASLMechanism: blocked,
	kafka.IllegalSASLState:         blocked,
	kafka.SecurityDisabled:         blocked,
	kafka.UnacceptableCredential:   blocked,
	// An ACL is missing or was revoked.
	kafka.TopicAuthorizationFailed:   blocked,
	kafka.ClusterAuthorizationFailed: blocked,
	// The brokers do not speak what the settings ask for.
	kafka.UnsupportedVersion:          blocked,
	kafka.UnsupportedForMessageFormat: blocked,
	kafka.UnsupportedCompressionType:  blocked,
	kafka.InvalidRequiredAcks:         blocked,
	kafka.InvalidRequest:              blocked,
	// A topic cannot be created with the brokers' defaults, or may not be.
	kafka.InvalidPartitionNumber:   blocked,
	kafka.InvalidReplicationFactor: blocked,
	kafka.InvalidConfiguration:     blocked,
	kafka.PolicyViolation:          blocked,
}

// classify says what to do about err. What it does not know is retried: network,
// timeouts, half-read answers, leaders that moved between our look at the
// metadata and kafka-go's.
func classify(err error) verdict {
	var code kafka.Error
	switch {
	case errors.As(err, &code):
		return verdicts[code]
	case isTLS(err):
		// The certificate or the protocol is wrong, on their side or ours.
		return blocked
	default:
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

// isTLS reports whether the two sides do not agree on TLS. Silence is not that.
func isTLS(err error) bool {
	if _, ok := errors.AsType[*handshakeError](err); ok {
		return !isTimeout(err)
	}
	return isAlert(err)
}

// isAlert reports whether the other side has ended TLS with an alert. In TLS 1.3
// the refusal of a client certificate comes after the handshake.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// explain says what was tried, where, what went wrong and what to do about it.
func explain(err error, topic string, s *Settings) error {
	advice, _ := advise(err, topic, s)
	return fmt.Errorf("%s: %w", advice, err)
}

// advise says it without the error itself. known is false where nothing more is known.
func advise(err error, topic string, s *Settings) (advice string, known bool) {
	where := strings.Join(s.Brokers, ",")
	is := func(target error) bool { return errors.Is(err, target) }
	_, creation := errors.AsType[*createError](err)
	switch {
	case creation && (is(kafka.TopicAuthorizationFailed) || is(kafka.ClusterAuthorizationFailed)):
		advice = fmt.Sprintf("user %q may not create topic %q on %s: create it, or grant the user the ACL operation CREATE", s.User, topic, where)
	case creation:
		advice = fmt.Sprintf("topic %q does not exist on %s and cannot be created with the brokers' defaults: create it", topic, where)
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
	case isAlert(err) && strings.Contains(err.Error(), "certificate"):
		advice = fmt.Sprintf("TLS with %s does not come about: the brokers ask for a client certificate of an authority that they trust; check the client certificate and its key", where)
	case isTLS(err):
		advice = fmt.Sprintf("TLS with %s does not come about: check the certificate authority, the host name in the brokers' certificate, and that the port speaks TLS", where)
	case is(kafka.InvalidTimestamp):
		advice = fmt.Sprintf("the clock here and that of %s are further apart than topic %q takes (message.timestamp.after.max.ms, message.timestamp.before.max.ms): set the clocks right", where, topic)
	case is(kafka.NotEnoughReplicas), is(kafka.NotEnoughReplicasAfterAppend):
		advice = fmt.Sprintf("topic %q on %s has fewer in-sync replicas than min.insync.replicas: bring brokers back", topic, where)
	case is(syscall.ECONNREFUSED):
		advice = fmt.Sprintf("nobody listens at %s: check the address and that the brokers run", where)
	case isTimeout(err):
		advice = fmt.Sprintf("%s did not answer within %s: check the network, and whether the port expects TLS", where, s.Timeout)
	case is(protocol.ErrNoLeader), is(kafka.LeaderNotAvailable), is(kafka.NotLeaderForPartition):
		advice = fmt.Sprintf("topic %q on %s has a partition without a reachable leader", topic, where)
	case is(io.EOF), is(io.ErrUnexpectedEOF):
		advice = fmt.Sprintf("%s closed the connection", where)
		switch {
		case s.TLS == nil && s.Mechanism == "":
			advice += ": if it goes on, the port expects TLS or authentication"
		case s.TLS == nil:
			advice += ": if it goes on, the port expects TLS"
		case s.Mechanism == "":
			advice += ": if it goes on, the port expects authentication"
		}
	case isDNS(err):
		advice = fmt.Sprintf("the address %s cannot be resolved: check the host name", where)
	default:
		return fmt.Sprintf("publish to topic %q on %s", topic, where), false
	}
	return advice, true
}

func isDNS(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns)
}
