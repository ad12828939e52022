package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// adminTimeout bounds one administrator's request, with what it waits for.
const adminTimeout = 30 * time.Second

// client returns the administrator's connection, on the Plaintext listener.
func (c *Cluster) client() *kgo.Client {
	c.once.Do(func() {
		var err error
		c.admin, err = kgo.NewClient(
			kgo.SeedBrokers(c.addresses(Plaintext)...), kgo.MetadataMinAge(100*time.Millisecond),
			kgo.RetryTimeout(adminTimeout), kgo.DialTimeout(2*time.Second),
		)
		if err != nil {
			panic("bug: " + err.Error()) // an option of ours
		}
	})
	return c.admin
}

func (c *Cluster) metadata(ctx context.Context, topics ...string) (*kmsg.MetadataResponse, error) {
	r := kmsg.NewPtrMetadataRequest()
	r.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range topics {
		r.Topics = append(r.Topics, kmsg.MetadataRequestTopic{Topic: &name})
	}
	// A broker that is paused does not answer: the next attempt asks another.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return r.RequestWith(ctx, c.client())
}

// request sends a request as the administrator and fails the test on an error.
func request[R any](t testing.TB, c *Cluster, what string, send func(context.Context, kmsg.Requestor) (R, error)) R {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	response, err := send(ctx, c.client())
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return response
}

func check(t testing.TB, what string, code int16, message *string) {
	t.Helper()
	if err := kerr.ErrorForCode(code); err != nil {
		text := ""
		if message != nil {
			text = *message
		}
		t.Fatalf("%s: %v %s", what, err, text)
	}
}

// await polls until the condition holds.
func await(t testing.TB, what string, condition func() (bool, error)) {
	t.Helper()
	for deadline := time.Now().Add(adminTimeout); ; time.Sleep(20 * time.Millisecond) {
		ok, err := condition()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not happen: %v", what, err)
		}
	}
}

// CreateTopic creates a topic, replicated to up to three brokers, with a
// configuration in pairs of name and value, and waits until its partitions have
// leaders.
func (c *Cluster) CreateTopic(t testing.TB, topic string, partitions int, config ...string) {
	t.Helper()
	r := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, int32(partitions), -1
	for i := 0; i < len(config); i += 2 {
		rt.Configs = append(rt.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: config[i], Value: &config[i+1]})
	}
	r.Topics = append(r.Topics, rt)
	r.TimeoutMillis = 10_000
	response := request(t, c, "create topic", r.RequestWith)
	check(t, "create topic "+topic, response.Topics[0].ErrorCode, response.Topics[0].ErrorMessage)
	c.awaitLeaders(t, topic, partitions)
}

func (c *Cluster) awaitLeaders(t testing.TB, topic string, partitions int) {
	t.Helper()
	await(t, "leaders of topic "+topic, func() (bool, error) {
		m, err := c.metadata(context.Background(), topic)
		if err != nil || m.Topics[0].ErrorCode != 0 || len(m.Topics[0].Partitions) != partitions {
			return false, err
		}
		for _, p := range m.Topics[0].Partitions {
			if p.Leader < 0 {
				return false, nil
			}
		}
		return true, nil
	})
}

// DeleteTopic deletes a topic and waits until it is gone.
func (c *Cluster) DeleteTopic(t testing.TB, topic string) {
	t.Helper()
	r := kmsg.NewPtrDeleteTopicsRequest()
	r.TopicNames = []string{topic}
	rt := kmsg.NewDeleteTopicsRequestTopic()
	rt.Topic = &topic
	r.Topics = append(r.Topics, rt)
	r.TimeoutMillis = 10_000
	response := request(t, c, "delete topic", r.RequestWith)
	check(t, "delete topic "+topic, response.Topics[0].ErrorCode, response.Topics[0].ErrorMessage)
	await(t, "end of topic "+topic, func() (bool, error) {
		m, err := c.metadata(context.Background(), topic)
		return err == nil && m.Topics[0].ErrorCode == kerr.UnknownTopicOrPartition.Code, err
	})
}

// AddPartitions makes a topic have as many partitions.
func (c *Cluster) AddPartitions(t testing.TB, topic string, partitions int) {
	t.Helper()
	r := kmsg.NewPtrCreatePartitionsRequest()
	rt := kmsg.NewCreatePartitionsRequestTopic()
	rt.Topic, rt.Count = topic, int32(partitions)
	r.Topics = append(r.Topics, rt)
	r.TimeoutMillis = 10_000
	response := request(t, c, "add partitions", r.RequestWith)
	check(t, "add partitions to "+topic, response.Topics[0].ErrorCode, response.Topics[0].ErrorMessage)
	c.awaitLeaders(t, topic, partitions)
}

// Leader returns the broker that leads a partition.
func (c *Cluster) Leader(t testing.TB, topic string, partition int32) int32 {
	t.Helper()
	leader := int32(-1)
	await(t, fmt.Sprintf("leader of partition %d of topic %s", partition, topic), func() (bool, error) {
		m, err := c.metadata(context.Background(), topic)
		if err != nil {
			return false, err
		}
		for _, p := range m.Topics[0].Partitions {
			if p.Partition == partition {
				leader = p.Leader
			}
		}
		return leader >= 0, nil
	})
	return leader
}

// AwaitInSync waits until every partition of a topic has n replicas in sync.
func (c *Cluster) AwaitInSync(t testing.TB, topic string, n int) {
	t.Helper()
	await(t, "replicas in sync", func() (bool, error) {
		m, err := c.metadata(context.Background(), topic)
		if err != nil || m.Topics[0].ErrorCode != 0 {
			return false, err
		}
		for _, p := range m.Topics[0].Partitions {
			if len(p.ISR) != n {
				return false, fmt.Errorf("partition %d has %v", p.Partition, p.ISR)
			}
		}
		return true, nil
	})
}

// Allow grants a principal operations on a topic.
func (c *Cluster) Allow(t testing.TB, principal, topic string, operations ...kmsg.ACLOperation) {
	t.Helper()
	r := kmsg.NewPtrCreateACLsRequest()
	for _, operation := range operations {
		acl := kmsg.NewCreateACLsRequestCreation()
		acl.ResourceType, acl.ResourceName, acl.ResourcePatternType = kmsg.ACLResourceTypeTopic, topic, kmsg.ACLResourcePatternTypeLiteral
		acl.Principal, acl.Host, acl.Operation, acl.PermissionType = "User:"+principal, "*", operation, kmsg.ACLPermissionTypeAllow
		r.Creations = append(r.Creations, acl)
	}
	for _, result := range request(t, c, "create ACLs", r.RequestWith).Results {
		check(t, "create ACL", result.ErrorCode, result.ErrorMessage)
	}
}

// Revoke takes back all that a principal was granted on a topic.
func (c *Cluster) Revoke(t testing.TB, principal, topic string) {
	t.Helper()
	r := kmsg.NewPtrDeleteACLsRequest()
	filter := kmsg.NewDeleteACLsRequestFilter()
	user := "User:" + principal
	filter.ResourceType, filter.ResourceName, filter.ResourcePatternType = kmsg.ACLResourceTypeTopic, &topic, kmsg.ACLResourcePatternTypeLiteral
	filter.Principal, filter.Operation, filter.PermissionType = &user, kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	r.Filters = append(r.Filters, filter)
	for _, result := range request(t, c, "delete ACLs", r.RequestWith).Results {
		check(t, "delete ACLs", result.ErrorCode, result.ErrorMessage)
	}
}

// SetQuota bounds what a client id may produce, in bytes per second; 0 ends that.
func (c *Cluster) SetQuota(t testing.TB, clientID string, bytesPerSecond float64) {
	t.Helper()
	r := kmsg.NewPtrAlterClientQuotasRequest()
	entry := kmsg.NewAlterClientQuotasRequestEntry()
	entity := kmsg.NewAlterClientQuotasRequestEntryEntity()
	entity.Type, entity.Name = "client-id", &clientID
	op := kmsg.NewAlterClientQuotasRequestEntryOp()
	op.Key, op.Value, op.Remove = "producer_byte_rate", bytesPerSecond, bytesPerSecond == 0
	entry.Entity, entry.Ops = append(entry.Entity, entity), append(entry.Ops, op)
	r.Entries = append(r.Entries, entry)
	for _, result := range request(t, c, "alter quotas", r.RequestWith).Entries {
		check(t, "alter quotas", result.ErrorCode, result.ErrorMessage)
	}
}

// SetTopicConfig changes one setting of a topic.
func (c *Cluster) SetTopicConfig(t testing.TB, topic, name, value string) {
	t.Helper()
	r := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	resource.Configs = append(resource.Configs, kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: name, Op: kmsg.IncrementalAlterConfigOpSet, Value: &value})
	r.Resources = append(r.Resources, resource)
	for _, result := range request(t, c, "alter configuration", r.RequestWith).Resources {
		check(t, "alter configuration", result.ErrorCode, result.ErrorMessage)
	}
}

// Consume returns all that stands on a topic now, each partition in its order.
func (c *Cluster) Consume(t testing.TB, topic string) []*kgo.Record {
	t.Helper()
	ends := c.ends(t, topic)
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(c.addresses(Plaintext)...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*adminTimeout)
	defer cancel()
	var records []*kgo.Record
	for behind := len(ends); behind > 0; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("consume %s: %v, %d records so far, missing up to %v", topic, err, len(records), ends)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			records = append(records, r)
			if r.Offset == ends[r.Partition]-1 {
				delete(ends, r.Partition)
			}
		})
		behind = len(ends)
	}
	return records
}

// Records returns how many records have ever been put on a topic.
func (c *Cluster) Records(t testing.TB, topic string) (n int64) {
	t.Helper()
	for _, end := range c.ends(t, topic) {
		n += end
	}
	return n
}

// ends returns the high watermark of each partition that has records.
func (c *Cluster) ends(t testing.TB, topic string) map[int32]int64 {
	t.Helper()
	ends := map[int32]int64{}
	await(t, "offsets of topic "+topic, func() (bool, error) {
		ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
		defer cancel()
		m, err := c.metadata(ctx, topic)
		if err != nil {
			return false, err
		}
		if err := kerr.ErrorForCode(m.Topics[0].ErrorCode); err != nil {
			return false, err
		}
		r := kmsg.NewPtrListOffsetsRequest()
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic
		for _, p := range m.Topics[0].Partitions {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = p.Partition, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		r.Topics = append(r.Topics, rt)
		clear(ends)
		var errs []error
		for _, shard := range c.client().RequestSharded(ctx, r) {
			if shard.Err != nil {
				errs = append(errs, shard.Err)
				continue
			}
			for _, topic := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
				for _, p := range topic.Partitions {
					errs = append(errs, kerr.ErrorForCode(p.ErrorCode))
					if p.Offset > 0 {
						ends[p.Partition] = p.Offset
					}
				}
			}
		}
		err = errors.Join(errs...)
		return err == nil, err
	})
	return ends
}

// Topic returns a name for a topic of this test that no other has used.
func Topic(t testing.TB) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '.'
	}, t.Name())
	return fmt.Sprintf("%.200s-%x", clean, time.Now().UnixNano())
}
