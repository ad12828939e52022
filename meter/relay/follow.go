package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
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
// time, each partition in its order, until ctx ends. What a transaction wrote
// that was aborted is left out. While the brokers are away it waits for them. The
// error says why the topic cannot be read at all.
func Follow(ctx context.Context, s Settings, topic string, take func(Message)) error {
	return readTopic(ctx, s, topic, consumer{follow: true, from: kafka.FirstOffset, take: take})
}

// FollowNew is [Follow] for the records that come from now on.
func FollowNew(ctx context.Context, s Settings, topic string, take func(Message)) error {
	return readTopic(ctx, s, topic, consumer{follow: true, from: kafka.LastOffset, take: take})
}

// ReadAll reads what stands on topic when it begins, as [Follow] does, and
// returns then. Brokers that go away meanwhile have readPatience to come back.
func ReadAll(ctx context.Context, s Settings, topic string, take func(Message)) error {
	return readTopic(ctx, s, topic, consumer{from: kafka.FirstOffset, take: take, slots: make(chan struct{}, readSlots)})
}

const (
	// readBytes bounds an answer, as it comes: the default compression makes ten
	// times as much of it, and kafka-go unpacks it as a whole.
	readBytes    = 256 << 10
	readWait     = 250 * time.Millisecond
	readTimeout  = time.Minute // of one answer
	readPatience = 30 * time.Second
	retryWait    = 200 * time.Millisecond
	// readSlots is how many partitions are asked at a time.
	readSlots = 4
	// readEmpty is after how many empty answers nothing stands where we look, as
	// where a topic's last records were compacted away.
	readEmpty = 4
)

// consumer reads one topic.
type consumer struct {
	client *client
	kafka  *kafka.Client
	topic  string
	follow bool
	from   int64
	slots  chan struct{} // nil: no bound

	mu   *sync.Mutex
	take func(Message)
}

func readTopic(ctx context.Context, s Settings, topic string, r consumer) error {
	s, err := s.withDefaults()
	if err != nil {
		return fmt.Errorf("read topic %q: %w", topic, err)
	}
	c := newClient(s)
	defer c.close()
	partitions, err := c.partitions(ctx, topic)
	if err != nil {
		return explainRead(c.sasl.explain(err), topic, &s)
	}
	r.client, r.topic, r.mu = c, topic, new(sync.Mutex)
	r.kafka = &kafka.Client{Addr: c.addr, Transport: c.transport, Timeout: s.Timeout}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, partition := range partitions {
		wg.Go(func() {
			if err := r.read(ctx, partition); err != nil {
				cancel(fmt.Errorf("partition %d: %w", partition, err)) // the first
			}
		})
	}
	wg.Wait()
	switch err := context.Cause(ctx); {
	case err == nil, r.follow && errors.Is(err, context.Canceled):
		return nil
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("read topic %q: interrupted", topic)
	default:
		return explainRead(c.sasl.explain(err), topic, &s)
	}
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
	offset, end, empty, from := int64(-1), int64(-1), 0, r.from
	answered := time.Now()
	for ctx.Err() == nil {
		next, err := offset, error(nil)
		if offset < 0 {
			next, err = r.bound(ctx, partition, from)
		}
		before, throttled := next, false
		var stable int64
		if err == nil {
			offset, stable, throttled, err = r.turn(ctx, partition, next)
		}
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // whoever has ended it says why
		case errors.Is(err, kafka.OffsetOutOfRange):
			offset, from = -1, kafka.FirstOffset // what stood there was removed meanwhile
			continue
		case errors.Is(err, kafka.TopicAuthorizationFailed), errors.Is(err, kafka.SASLAuthenticationFailed):
			return err
		case err != nil:
			if !r.follow && time.Since(answered) > readPatience {
				return err
			}
			select {
			case <-time.After(retryWait):
			case <-ctx.Done():
			}
			continue
		}
		answered = time.Now()
		if end < 0 {
			end = stable
		}
		if empty++; offset > before || throttled {
			empty = 0
		}
		if !r.follow && (offset >= end || empty == readEmpty) {
			return nil
		}
	}
	return nil
}

// bound returns the first or the next offset of a partition.
func (r *consumer) bound(ctx context.Context, partition int, which int64) (int64, error) {
	answer, err := r.kafka.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{
		r.topic: {{Partition: partition, Timestamp: which}},
	}})
	if err != nil {
		return 0, err
	}
	for _, p := range answer.Topics[r.topic] {
		if p.Partition == partition {
			return max(p.FirstOffset, p.LastOffset), p.Error
		}
	}
	return 0, errors.New("ask for offsets: the partition is not in the answer")
}

// turn takes what a broker answers from an offset on, and returns the next offset, and up to where there are records now.
func (r *consumer) turn(ctx context.Context, partition int, offset int64) (next, end int64, throttled bool, err error) {
	if r.slots != nil {
		select {
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
		case <-ctx.Done():
			return offset, 0, false, ctx.Err()
		}
	}
	p, throttled, err := r.fetch(ctx, partition, offset)
	if err != nil {
		return offset, 0, throttled, err
	}
	if end = p.LastStableOffset; end < 0 { // an old broker's
		end = p.HighWatermark
	}
	next, err = r.deliver(p, partition, offset)
	return next, end, throttled, err
}

// fetch asks for records from an offset on.
func (r *consumer) fetch(ctx context.Context, partition int, offset int64) (p *fetch.ResponsePartition, throttled bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout) // else the connection's own bound would end it
	defer cancel()
	const readCommitted = 1
	answer, err := r.client.transport.RoundTrip(ctx, r.client.addr, &fetch.Request{
		ReplicaID: -1, MaxWaitTime: int32(readWait.Milliseconds()), MinBytes: 1, MaxBytes: readBytes, IsolationLevel: readCommitted, SessionID: -1, SessionEpoch: -1,
		Topics: []fetch.RequestTopic{{Topic: r.topic, Partitions: []fetch.RequestPartition{{
			Partition: int32(partition), CurrentLeaderEpoch: -1, FetchOffset: offset, LogStartOffset: -1, PartitionMaxBytes: readBytes,
		}}}},
	})
	if err != nil {
		return nil, false, err
	}
	response, ok := answer.(*fetch.Response)
	if !ok || response.ErrorCode == 0 && (len(response.Topics) != 1 || len(response.Topics[0].Partitions) != 1) {
		return nil, false, fmt.Errorf("ask for records: answer is a %T", answer)
	}
	if response.ErrorCode != 0 {
		return nil, false, kafka.Error(response.ErrorCode)
	}
	p = &response.Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		return nil, false, kafka.Error(p.ErrorCode)
	}
	return p, response.ThrottleTimeMs > 0, nil
}

// deliver passes on what a broker has answered and returns the next offset.
func (r *consumer) deliver(p *fetch.ResponsePartition, partition int, offset int64) (int64, error) {
	var batches []protocol.RecordReader
	switch records := p.RecordSet.Records.(type) {
	case nil:
		return offset, nil
	case *protocol.RecordStream:
		batches = records.Records
	default:
		batches = []protocol.RecordReader{records}
	}
	starts := slices.SortedFunc(slices.Values(p.AbortedTransactions), func(a, b fetch.ResponseTransaction) int {
		return cmp.Compare(a.FirstOffset, b.FirstOffset)
	})
	before, aborted := offset, map[int64]bool{} // producers whose transaction was aborted, up to its end
	for _, batch := range batches {
		base, leaveOut := offset-1, false
		switch b := batch.(type) {
		case *protocol.ControlBatch: // the end of a transaction
			delete(aborted, b.ProducerID)
			offset = max(offset, b.BaseOffset+1)
			continue
		case *protocol.RecordBatch:
			for len(starts) > 0 && starts[0].FirstOffset <= b.BaseOffset {
				aborted[starts[0].ProducerID] = true
				starts = starts[1:]
			}
			base, leaveOut = b.BaseOffset, b.Attributes&protocol.Transactional != 0 && aborted[b.ProducerID]
		}
		next, err := r.pass(batch, partition, offset, leaveOut)
		if err != nil {
			return next, err
		}
		offset = max(next, base+1)
	}
	if offset == before && len(batches) > 0 {
		offset++ // a batch that compaction has left empty
	}
	return offset, nil
}

// pass passes on the records of a batch, unless they are to be left out, and returns the next offset.
func (r *consumer) pass(batch protocol.RecordReader, partition int, offset int64, leaveOut bool) (int64, error) {
	for {
		record, err := batch.ReadRecord()
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
		offset = record.Offset + 1
		if leaveOut {
			continue
		}
		m := Message{Partition: partition, Offset: record.Offset, Key: key, Value: value}
		for _, h := range record.Headers {
			m.Headers = append(m.Headers, Header{Key: h.Key, Value: h.Value})
		}
		r.mu.Lock()
		r.take(m)
		r.mu.Unlock()
	}
}

func readAll(b kafka.Bytes) ([]byte, error) {
	if b == nil {
		return nil, nil
	}
	defer b.Close() //nolint:errcheck // it is memory
	return io.ReadAll(b)
}

// explainRead says why a topic could not be read, and what to do about it.
func explainRead(err error, topic string, s *Settings) error {
	if errors.Is(err, kafka.TopicAuthorizationFailed) {
		return fmt.Errorf("user %q may not read topic %q on %s: grant it the ACL operations READ and DESCRIBE: %w", s.User, topic, strings.Join(s.Brokers, ","), err)
	}
	if _, known := advise(err, topic, s); !known {
		return fmt.Errorf("read topic %q on %s: %w", topic, strings.Join(s.Brokers, ","), err)
	}
	return explain(err, topic, s)
}

// Emptied returns the partitions of a topic that had records once, and have none.
func Emptied(ctx context.Context, s Settings, topic string) ([]int, error) {
	s, err := s.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("read topic %q: %w", topic, err)
	}
	c := newClient(s)
	defer c.close()
	partitions, err := c.partitions(ctx, topic)
	r := consumer{client: c, topic: topic, kafka: &kafka.Client{Addr: c.addr, Transport: c.transport, Timeout: s.Timeout}}
	var emptied []int
	for _, partition := range partitions {
		var first, next int64
		if first, err = r.bound(ctx, partition, kafka.FirstOffset); err != nil {
			break
		}
		if next, err = r.bound(ctx, partition, kafka.LastOffset); err != nil {
			break
		}
		if first > 0 && first == next {
			emptied = append(emptied, partition)
		}
	}
	if err != nil {
		return nil, explainRead(c.sasl.explain(err), topic, &s)
	}
	return emptied, nil
}
