package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// Message is a record as it stands on a topic.
type Message struct {
	Partition  int
	Offset     int64
	Key, Value []byte
	Headers    []Header
}

// Follow reads topic from its first record on and calls take for each, one at a
// time, each partition in its order, until ctx ends. While the brokers are away
// it waits for them. The error says why the topic cannot be read at all.
func Follow(ctx context.Context, s Settings, topic string, take func(Message)) error {
	return readTopic(ctx, s, topic, true, take)
}

// ReadAll reads what stands on topic when it begins, as [Follow] does, and
// returns then.
func ReadAll(ctx context.Context, s Settings, topic string, take func(Message)) error {
	return readTopic(ctx, s, topic, false, take)
}

// consumer reads one topic.
type consumer struct {
	client *kafka.Client
	topic  string
	follow bool

	mu   sync.Mutex
	take func(Message)
}

func readTopic(ctx context.Context, s Settings, topic string, follow bool, take func(Message)) error {
	s, err := s.withDefaults()
	if err != nil {
		return fmt.Errorf("read topic %q: %w", topic, err)
	}
	c := newClient(s)
	defer c.close()
	partitions, err := c.partitions(ctx, topic)
	if err != nil {
		return fmt.Errorf("read topic %q: %w", topic, err)
	}
	r := &consumer{client: &kafka.Client{Addr: c.addr, Transport: c.transport}, topic: topic, follow: follow, take: take}
	errs := make([]error, len(partitions))
	var wg sync.WaitGroup
	for i, partition := range partitions {
		wg.Go(func() { errs[i] = r.read(ctx, partition) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("read topic %q: %w", topic, err)
	}
	return nil
}

// partitions returns the numbers of a topic's partitions.
func (c *client) partitions(ctx context.Context, topic string) ([]int, error) {
	ctx, cancel := context.WithTimeout(ctx, c.settings.Timeout)
	defer cancel()
	answer, err := c.transport.RoundTrip(ctx, c.addr, &metadata.Request{TopicNames: []string{topic}})
	if err != nil {
		return nil, fmt.Errorf("ask for metadata: %w", err)
	}
	response, ok := answer.(*metadata.Response)
	if !ok || len(response.Topics) != 1 {
		return nil, fmt.Errorf("ask for metadata: answer is a %T", answer)
	}
	if code := response.Topics[0].ErrorCode; code != 0 {
		return nil, kafka.Error(code)
	}
	var all []int
	for _, p := range response.Topics[0].Partitions {
		all = append(all, int(p.PartitionIndex))
	}
	return all, nil
}

// read reads one partition.
func (r *consumer) read(ctx context.Context, partition int) error {
	const (
		maxBytes  = 8 << 20
		maxWait   = 250 * time.Millisecond
		retryWait = 200 * time.Millisecond
	)
	offset, end := int64(kafka.FirstOffset), int64(-1)
	for {
		response, err := r.client.Fetch(ctx, &kafka.FetchRequest{
			Topic: r.topic, Partition: partition, Offset: offset, MinBytes: 1, MaxBytes: maxBytes, MaxWait: maxWait,
		})
		if err == nil {
			err = response.Error
		}
		switch {
		case ctx.Err() != nil && r.follow:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !r.follow:
			return fmt.Errorf("partition %d: %w", partition, err)
		case err != nil:
			select {
			case <-time.After(retryWait):
			case <-ctx.Done():
			}
			continue
		}
		if end < 0 {
			end = response.HighWatermark
		}
		if offset, err = r.deliver(response, partition, offset); err != nil {
			return fmt.Errorf("partition %d: %w", partition, err)
		}
		if !r.follow && offset >= end {
			return nil
		}
	}
}

// deliver passes on what a broker has answered and returns the next offset.
func (r *consumer) deliver(response *kafka.FetchResponse, partition int, offset int64) (int64, error) {
	if offset < 0 {
		offset = response.LogStartOffset
	}
	for {
		record, err := response.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return offset, nil
		}
		if err != nil {
			return offset, err
		}
		// A batch may begin before the offset that was asked for.
		if record.Offset < offset {
			continue
		}
		key, err := readAll(record.Key)
		value, valueErr := readAll(record.Value)
		if err := cmp.Or(err, valueErr); err != nil {
			return offset, err
		}
		m := Message{Partition: partition, Offset: record.Offset, Key: key, Value: value}
		for _, h := range record.Headers {
			m.Headers = append(m.Headers, Header{Key: h.Key, Value: h.Value})
		}
		r.mu.Lock()
		r.take(m)
		r.mu.Unlock()
		offset = record.Offset + 1
	}
}

func readAll(b kafka.Bytes) ([]byte, error) {
	if b == nil {
		return nil, nil
	}
	defer b.Close() //nolint:errcheck // it is memory
	return io.ReadAll(b)
}
