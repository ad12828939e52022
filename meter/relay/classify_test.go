package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
)

// passing are the answers that end by themselves, as far as brokers give them to
// who asks for metadata, creates topics and produces.
var passing = []*kerr.Error{
	kerr.UnknownServerError,
	kerr.CorruptMessage, // on its way: a new checksum is made for the next attempt
	kerr.LeaderNotAvailable, kerr.NotLeaderForPartition, kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch, kerr.NewLeaderElected,
	kerr.PreferredLeaderNotAvailable, kerr.EligibleLeadersNotAvailable,
	kerr.RequestTimedOut, kerr.NetworkException,
	kerr.BrokerNotAvailable, kerr.ReplicaNotAvailable, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.IneligibleReplica,
	kerr.KafkaStorageError, kerr.LogDirNotFound, // the broker's disk fails: another will lead
	kerr.ThrottlingQuotaExceeded,
	kerr.NotController, kerr.UnknownControllerID, kerr.ControllerIDNotRegistered, kerr.ReassignmentInProgress, kerr.ConcurrentTransactions,
	kerr.TopicAlreadyExists, // somebody else was quicker to create it
	kerr.ListenerNotFound,   // a broker is being configured
	kerr.OperationNotAttempted,
	kerr.UnknownTopicID, kerr.InconsistentTopicID, // it was created again: metadata is out of date
	kerr.PrincipalDeserializationFailure, // brokers of two versions forward requests
	kerr.RebootstrapRequired,             // every failure makes the relay begin again with the brokers that the settings name
	kerr.InconsistentClusterID,           // an address was given to another cluster
}

// elsewhere are the answers to what a relay never asks, as far as their numbers
// are not in a range.
var elsewhere = []*kerr.Error{
	kerr.OffsetOutOfRange, kerr.InvalidFetchSize, kerr.StaleControllerEpoch, kerr.OffsetMetadataTooLarge,
	kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator,
	kerr.IllegalGeneration, kerr.InconsistentGroupProtocol, kerr.InvalidGroupID, kerr.UnknownMemberID, kerr.InvalidSessionTimeout,
	kerr.RebalanceInProgress, kerr.InvalidCommitOffsetSize, kerr.GroupAuthorizationFailed, kerr.InvalidReplicaAssignment,
	// Transactions and idempotent producers.
	kerr.OutOfOrderSequenceNumber, kerr.DuplicateSequenceNumber, kerr.InvalidProducerEpoch, kerr.InvalidTxnState, kerr.InvalidProducerIDMapping,
	kerr.InvalidTransactionTimeout, kerr.TransactionCoordinatorFenced, kerr.TransactionalIDAuthorizationFailed, kerr.UnknownProducerID,
	kerr.ProducerFenced, kerr.TransactionalIDNotFound, kerr.TransactionAbortable,
	// Delegation tokens, groups, fetching, the controllers' own, telemetry, share groups, streams.
	kerr.DelegationTokenAuthDisabled, kerr.DelegationTokenNotFound, kerr.DelegationTokenOwnerMismatch, kerr.DelegationTokenRequestNotAllowed,
	kerr.DelegationTokenAuthorizationFailed, kerr.DelegationTokenExpired, kerr.InvalidPrincipalType,
	kerr.NonEmptyGroup, kerr.GroupIDNotFound, kerr.FetchSessionIDNotFound, kerr.InvalidFetchSessionEpoch, kerr.TopicDeletionDisabled,
	kerr.StaleBrokerEpoch, kerr.OffsetNotAvailable, kerr.MemberIDRequired, kerr.GroupMaxSizeReached, kerr.FencedInstanceID,
	kerr.ElectionNotNeeded, kerr.NoReassignmentInProgress, kerr.GroupSubscribedToTopic, kerr.UnstableOffsetCommit,
	kerr.ResourceNotFound, kerr.DuplicateResource, kerr.InconsistentVoterSet, kerr.InvalidUpdateVersion, kerr.FeatureUpdateFailed,
	kerr.SnapshotNotFound, kerr.PositionOutOfRange, kerr.DuplicateBrokerRegistration, kerr.BrokerIDNotRegistered, kerr.FetchSessionTopicIDError,
	kerr.OffsetMovedToTieredStorage, kerr.FencedMemberEpoch, kerr.UnreleasedInstanceID, kerr.UnsupportedAssignor, kerr.StaleMemberEpoch,
	kerr.MismatchedEndpointType, kerr.UnsupportedEndpointType, kerr.UnknownSubscriptionID, kerr.TelemetryTooLarge, kerr.InvalidRegistration,
}

// TestEveryAnswerOfABrokerHasAVerdict walks Kafka's codes: a new one has to be
// put somewhere.
func TestEveryAnswerOfABrokerHasAVerdict(t *testing.T) {
	const shareGroupsAndStreams = 121 // and voters: from here on, but for those that pass
	known := map[int16]int{}
	for _, e := range append(append([]*kerr.Error{}, passing...), elsewhere...) {
		known[e.Code]++
		if got := classify(brokerError(e.Code, "")); got != retry {
			t.Errorf("%s: %v, want a retry", e.Message, got)
		}
	}
	for code := range verdicts {
		known[int16(code)]++
	}
	last := int16(0)
	for code := int16(-1); code < 1000; code++ {
		err := kerr.TypedErrorForCode(code)
		if code == 0 || err == nil || code > 0 && err.Code == kerr.UnknownServerError.Code {
			continue
		}
		last = code
		switch n := known[code]; {
		case n > 1:
			t.Errorf("%s has %d verdicts", err.Message, n)
		case n == 0 && (code < shareGroupsAndStreams || code > 136):
			t.Errorf("%s (%d) has no verdict", err.Message, code)
		}
		if got := classify(fmt.Errorf("wrapped: %w", brokerError(code, "because"))); got != verdicts[kafka.Error(code)] {
			t.Errorf("%s: %v", err.Message, got)
		}
	}
	if last < 136 {
		t.Errorf("the last code is %d", last)
	}
}

func TestWhatIsNoAnswerIsRetried(t *testing.T) {
	for _, err := range []error{
		io.EOF, io.ErrUnexpectedEOF, syscall.ECONNREFUSED, syscall.ECONNRESET, context.DeadlineExceeded, errBehind,
		protocol.ErrNoTopic, protocol.ErrNoPartition, protocol.ErrNoLeader, protocol.NewErrNoTopic("x"), errors.New("unheard of"),
	} {
		if got := classify(fmt.Errorf("wrapped: %w", err)); got != retry {
			t.Errorf("%v: %v", err, got)
		}
	}
	if got := classify(&handshakeError{io.EOF}); got != blocked {
		t.Errorf("a failed handshake: %v", got)
	}
}
