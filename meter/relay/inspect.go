package relay

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// Topic is what the brokers say of a topic.
type Topic struct {
	Brokers     int // of the cluster
	Partitions  int
	Replicas    int // of the partition that has the fewest
	Leaderless  int // partitions without a leader
	UnderISR    int // partitions with fewer replicas in sync than replicas
	Operations  Operations
	Config      map[string]string // its settings, by their names in Kafka; nil when we may not see them
	ConfigError error             // why
}

// Operations are what an authenticated user may do with a topic.
type Operations int32

// OperationsUnknown is what brokers answer that do not say, because they authorise nobody.
const OperationsUnknown Operations = -1 << 31

// Known reports whether the brokers have said it.
func (o Operations) Known() bool { return o != OperationsUnknown && o != 0 }

// Write reports whether records may be produced (AclOperation WRITE, code 4).
func (o Operations) Write() bool { return o&(1<<4) != 0 }

// Inspect asks the brokers about a topic. It changes nothing. The error says what is wrong with the connection or with the
// topic, and what to do.
func Inspect(ctx context.Context, s Settings, topic string) (*Topic, error) {
	s, err := s.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("inspect topic %q: %w", topic, err)
	}
	c := newClient(s)
	defer c.close()
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	answer, err := c.transport.RoundTrip(ctx, c.addr, &metadataRequest{
		request: metadata.Request{TopicNames: []string{topic}, IncludeTopicAuthorizedOperations: true}, clientID: s.ClientID,
	})
	if err != nil {
		return nil, explain(c.sasl.explain(err), topic, &s)
	}
	response, ok := answer.(*metadataResponse)
	if !ok || len(response.Topics) != 1 {
		return nil, fmt.Errorf("ask for metadata: answer is a %T", answer)
	}
	found := response.Topics[0]
	if found.ErrorCode != 0 {
		return nil, explain(kafka.Error(found.ErrorCode), topic, &s)
	}
	t := &Topic{Brokers: len(response.Brokers), Partitions: len(found.Partitions), Operations: Operations(found.TopicAuthorizedOperations)}
	for i, p := range found.Partitions {
		if i == 0 || len(p.ReplicaNodes) < t.Replicas {
			t.Replicas = len(p.ReplicaNodes)
		}
		if p.LeaderID < 0 || p.ErrorCode != 0 {
			t.Leaderless++
		}
		if len(p.IsrNodes) < len(p.ReplicaNodes) {
			t.UnderISR++
		}
	}
	t.Config, t.ConfigError = c.topicConfig(ctx, topic)
	return t, nil
}

// metadataRequest goes to a broker. kafka-go answers its own kind itself, from what it has asked for before, which says
// nothing of what the user may do.
type metadataRequest struct {
	request  metadata.Request
	clientID string
	version  int16
}

// metadataResponse is the answer to it.
type metadataResponse struct{ *metadata.Response }

// ApiKey implements kafka-go's protocol.Message.
func (*metadataRequest) ApiKey() protocol.ApiKey { return protocol.Metadata }

// Required implements kafka-go's protocol.RawExchanger.
func (r *metadataRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.version = versions[protocol.Metadata]
	return true
}

// RawExchange implements kafka-go's protocol.RawExchanger.
func (r *metadataRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	answer, err := protocol.RoundTrip(rw, r.version, 0, r.clientID, &r.request)
	if response, ok := answer.(*metadata.Response); ok {
		return &metadataResponse{response}, err
	}
	return answer, err
}

// IsMissing reports whether an error of Inspect is that there is no such topic.
func IsMissing(err error) bool { return errors.Is(err, kafka.UnknownTopicOrPartition) }

// topicConfig returns a topic's settings.
func (c *client) topicConfig(ctx context.Context, topic string) (map[string]string, error) {
	k := &kafka.Client{Addr: c.addr, Transport: c.transport, Timeout: c.settings.Timeout}
	response, err := k.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kafka.ResourceTypeTopic, ResourceName: topic}},
	})
	if err != nil {
		return nil, err
	}
	config := map[string]string{}
	for _, r := range response.Resources {
		if r.Error != nil {
			return nil, r.Error
		}
		for _, entry := range r.ConfigEntries {
			config[entry.ConfigName] = entry.ConfigValue
		}
	}
	return config, nil
}
