package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/produce"
)

// client publishes through kafka-go's Transport, not through its Writer. The
// Writer (v0.4.51) waits BatchTimeout in every synchronous call, goes on
// delivering after its context is cancelled, sends a partition's next batch
// although the one before failed, which loses the order, and reports one
// oversized record as the failure of the whole batch.
type client struct {
	settings  Settings
	addr      net.Addr
	transport *kafka.Transport
	sasl      *handshakes
	topics    []string // sorted; what the transport keeps metadata of
	balancer  kafka.Murmur2Balancer

	mu    sync.Mutex
	quiet time.Time // until then the brokers want no more; see throttled
}

func newClient(s Settings) *client {
	c := &client{settings: s, addr: kafka.TCP(s.Brokers...)}
	c.reset()
	return c
}

// reset drops the connections and the cached metadata. kafka-go would keep both
// after a failure: stale leaders for up to MetadataTTL, and after a failed first
// attempt the error itself.
func (c *client) reset() {
	c.close()
	mechanism, _ := c.settings.sasl() // withDefaults has looked at the error
	c.sasl = &handshakes{Mechanism: mechanism}
	dialer := dialer{Dialer: net.Dialer{Timeout: c.settings.Timeout, KeepAlive: 30 * time.Second}, tls: c.settings.TLS, timeout: c.settings.Timeout}
	c.transport = &kafka.Transport{
		Dial:        dialer.dial,
		DialTimeout: c.settings.Timeout,
		IdleTimeout: c.settings.Keepalive,
		MetadataTTL: c.settings.metadataAge,
		// Without names the brokers list every topic of the cluster, and leave
		// out those we may not see, which then look as if they did not exist.
		MetadataTopics: c.topics,
		ClientID:       c.settings.ClientID,
	}
	if mechanism != nil {
		c.transport.SASL = c.sasl
	}
}

func (c *client) close() {
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
}

// message is a record on its way. Its slices must not change any more: kafka-go
// may still be writing them after a request timed out.
type message struct {
	topic      string
	key, value []byte
	headers    []kafka.Header
}

func (m *message) record() kafka.Record {
	return kafka.Record{Key: kafka.NewBytes(m.key), Value: kafka.NewBytes(m.value), Headers: m.headers}
}

// size is what the record takes in a request, rounded up.
func (m *message) size() int {
	n := 32 + len(m.key) + len(m.value)
	for _, h := range m.headers {
		n += 10 + len(h.Key) + len(h.Value)
	}
	return n
}

// result is what became of a message. partition and partitions say where it goes,
// wholeTopic and 0 when the brokers do not name the topic's partitions.
type result struct {
	err                   error // nil: all in-sync replicas have it
	partitions, partition int
}

// errClosed is the result of a record that was not sent because its partition is
// closed.
var errClosed = errors.New("not sent: its partition is blocked")

// errBehind is the result of a record that was not sent because one before it,
// for the same partition, failed.
var errBehind = errors.New("not sent: a record before it failed")

// partition is one partition's share of a batch.
type partition struct {
	topic  string
	id     int32
	leader int32
	todo   []int // indexes of messages, in order
	limit  int   // how many of them to send at once
}

// publish sends the messages whose partitions are not closed and returns one
// result for each. An error means that no broker could be asked, and that nothing
// was sent. It takes at most Timeout for the metadata and Timeout for each round
// of requests; there is more than one round only after a refusal.
func (c *client) publish(ctx context.Context, messages []message, closed func(topic string, partitions, partition int) bool) ([]result, error) {
	layout, err := c.layout(ctx, messages)
	if err != nil {
		return nil, err
	}
	results := make([]result, len(messages))
	partitions := c.assign(layout, messages, results, closed)
	leaders := map[int32][]*partition{}
	for _, p := range partitions {
		leaders[p.leader] = append(leaders[p.leader], p)
	}
	var wg sync.WaitGroup
	for _, share := range leaders {
		wg.Go(func() { c.publishTo(ctx, share, messages, results) })
	}
	wg.Wait()
	return results, nil
}

// assign finds the partition of each message. Messages that are not to be sent
// get their result here.
func (c *client) assign(layout *layout, messages []message, results []result, closed func(topic string, partitions, partition int) bool) []*partition {
	type id struct {
		topic     string
		partition int
	}
	shares := map[id]*partition{}
	var order []*partition
	for i := range messages {
		m := &messages[i]
		topic, ok := layout.topics[m.topic]
		n := len(topic.Partitions)
		if n == 0 {
			results[i] = result{kafka.LeaderNotAvailable, 0, wholeTopic}
			if !ok {
				results[i].err = cmp.Or(layout.errs[m.topic], error(kafka.UnknownTopicOrPartition))
			}
			if closed(m.topic, 0, wholeTopic) {
				results[i].err = errClosed
			}
			continue
		}
		at := c.balancer.Balance(kafka.Message{Key: m.key}, ids(n)...)
		results[i].partitions, results[i].partition = n, at
		switch {
		case closed(m.topic, n, at):
			results[i].err = errClosed
			continue
		case topic.Partitions[at].LeaderID < 0:
			results[i].err = kafka.LeaderNotAvailable
			continue
		}
		share := shares[id{m.topic, at}]
		if share == nil {
			p := topic.Partitions[at]
			share = &partition{topic: m.topic, id: p.PartitionIndex, leader: p.LeaderID, limit: len(messages)}
			shares[id{m.topic, at}] = share
			order = append(order, share)
		}
		share.todo = append(share.todo, i)
	}
	return order
}

// ids returns 0 to n-1.
func ids(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// layout is what the brokers say of topics: their partitions, or what is wrong
// with them.
type layout struct {
	topics map[string]metadata.ResponseTopic
	errs   map[string]error
}

// layout asks for the layout of the messages' topics.
func (c *client) layout(ctx context.Context, messages []message) (*layout, error) {
	var names []string
	for i := range messages {
		if at, found := slices.BinarySearch(names, messages[i].topic); !found {
			names = slices.Insert(names, at, messages[i].topic)
		}
	}
	for _, name := range names {
		if !slices.Contains(c.topics, name) {
			c.topics = append(slices.Clone(c.topics), names...)
			slices.Sort(c.topics)
			c.topics = slices.Compact(c.topics)
			c.reset()
			break
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.settings.Timeout)
	defer cancel()
	l := &layout{map[string]metadata.ResponseTopic{}, map[string]error{}}
	missing, err := c.ask(ctx, names, l)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 && c.settings.CreateTopics {
		if c.create(ctx, missing, l.errs) {
			_, err = c.ask(ctx, missing, l)
		}
	}
	return l, err
}

// ask adds the layout of topics to l and returns the names of those that do not
// exist.
func (c *client) ask(ctx context.Context, names []string, l *layout) (missing []string, err error) {
	answer, err := c.transport.RoundTrip(ctx, c.addr, &metadata.Request{TopicNames: names})
	if err != nil {
		return nil, fmt.Errorf("ask for metadata: %w", c.sasl.explain(err))
	}
	response, ok := answer.(*metadata.Response)
	if !ok {
		return nil, fmt.Errorf("ask for metadata: answer is a %T", answer)
	}
	for _, t := range response.Topics {
		switch code := kafka.Error(t.ErrorCode); code {
		case 0:
			slices.SortFunc(t.Partitions, func(a, b metadata.ResponsePartition) int {
				return cmp.Compare(a.PartitionIndex, b.PartitionIndex)
			})
			l.topics[t.Name] = t
			delete(l.errs, t.Name)
		case kafka.UnknownTopicOrPartition:
			missing = append(missing, t.Name)
			l.errs[t.Name] = code
		default:
			l.errs[t.Name] = code
		}
	}
	return missing, nil
}

// publishTo sends the shares of one broker's partitions, in as many rounds as
// refusals make necessary.
func (c *client) publishTo(ctx context.Context, shares []*partition, messages []message, results []result) {
	for {
		var round []*partition
		for _, p := range shares {
			if len(p.todo) > 0 {
				round = append(round, p)
			}
		}
		if len(round) == 0 {
			return
		}
		answers, err := c.request(ctx, round, messages)
		for _, p := range round {
			sent := p.todo[:min(p.limit, len(p.todo))]
			answer := err
			if err == nil {
				answer = answers(p)
			}
			switch {
			case answer == nil:
				p.todo = p.todo[len(sent):]
			case classify(answer) == reject && len(sent) > 1:
				// One of them is at fault. Halve until it is alone.
				p.limit = len(sent) / 2
			case classify(answer) == reject:
				results[sent[0]].err = answer
				p.todo = p.todo[1:]
			default:
				for _, i := range p.todo {
					results[i].err = errBehind
				}
				for _, i := range sent {
					results[i].err = answer
				}
				p.todo = nil
			}
		}
	}
}

// request sends one produce request and returns the answer for each partition.
func (c *client) request(ctx context.Context, round []*partition, messages []message) (func(*partition) error, error) {
	ctx, cancel := context.WithTimeout(ctx, c.settings.Timeout)
	defer cancel()
	topics := map[string]*produce.RequestTopic{}
	var names []string
	for _, p := range round {
		records := make([]kafka.Record, 0, min(p.limit, len(p.todo)))
		for _, i := range p.todo[:cap(records)] {
			records = append(records, messages[i].record())
		}
		t := topics[p.topic]
		if t == nil {
			t = &produce.RequestTopic{Topic: p.topic}
			topics[p.topic] = t
			names = append(names, p.topic)
		}
		t.Partitions = append(t.Partitions, produce.RequestPartition{
			Partition: p.id,
			RecordSet: protocol.RecordSet{
				Attributes: protocol.Attributes(compressions[c.settings.Compression]),
				Records:    kafka.NewRecordReader(records...),
			},
		})
	}
	request := &produce.Request{
		// The zero value would mean that the broker answers nothing, and kafka-go
		// takes that for success.
		Acks: int16(kafka.RequireAll),
		// The broker gives up waiting for replicas before we give up on the broker.
		Timeout: int32((c.settings.Timeout / 2).Milliseconds()),
	}
	for _, name := range names {
		request.Topics = append(request.Topics, *topics[name])
	}
	answer, err := c.transport.RoundTrip(ctx, c.addr, request)
	if err != nil {
		return nil, err
	}
	response, ok := answer.(*produce.Response)
	if !ok {
		return nil, fmt.Errorf("answer to produce is a %T", answer)
	}
	c.hold(time.Duration(response.ThrottleTimeMs) * time.Millisecond)
	return func(p *partition) error {
		for _, t := range response.Topics {
			if t.Topic != p.topic {
				continue
			}
			for _, r := range t.Partitions {
				if r.Partition == p.id {
					return brokerError(r.ErrorCode, r.ErrorMessage)
				}
			}
		}
		return fmt.Errorf("answer does not name partition %d of topic %q", p.id, p.topic)
	}, nil
}

func brokerError(code int16, text string) error {
	switch {
	case code == 0:
		return nil
	case text == "":
		return kafka.Error(code)
	default:
		return fmt.Errorf("%w (%s)", kafka.Error(code), text)
	}
}

// maxThrottle bounds how long a broker can hold the relay back with one answer.
const maxThrottle = time.Minute

// hold remembers that a broker wants no request for d: the user or the client id
// is over its quota. A broker does not read from a connection that it throttles,
// so that a request would wait there, time out, and be executed all the same.
func (c *client) hold(d time.Duration) {
	if d <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := time.Now().Add(min(d, maxThrottle)); until.After(c.quiet) {
		c.quiet = until
	}
}

// throttled returns how long to wait before the next publish.
func (c *client) throttled() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Until(c.quiet)
}
