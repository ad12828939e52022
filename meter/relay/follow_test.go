package relay

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"kafka-metering/meter/relay/kafkatest"
)

func TestReadAllReadsEveryPartitionOnceAndInOrder(t *testing.T) {
	for _, compression := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(compression, func(t *testing.T) {
			c, s := newCluster(t), newSpool(t)
			const n = 2000
			appendRecords(t, s, numbered(0, n)...)
			settings := Settings{Brokers: c.ListenAddrs(), Compression: compression}
			drained(t, start(t, settings, s), s)
			last, seen := map[string]int{}, 0
			if err := ReadAll(t.Context(), settings, topic, func(m Message) {
				seen++
				var value int
				for _, digit := range m.Value {
					value = 10*value + int(digit-'0')
				}
				if before, ok := last[string(m.Key)]; ok && before >= value {
					t.Errorf("key %s: %d after %d", m.Key, value, before)
				}
				last[string(m.Key)] = value
			}); err != nil {
				t.Fatal(err)
			}
			if seen != n {
				t.Errorf("read %d records of %d", seen, n)
			}
		})
	}
}

func TestFollowSeesWhatIsPublishedLaterAndEndsWithItsContext(t *testing.T) {
	c, s := newCluster(t), newSpool(t)
	settings := Settings{Brokers: c.ListenAddrs()}
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := make(chan Message, 100), make(chan error, 1)
	go func() { ended <- Follow(ctx, settings, topic, func(m Message) { got <- m }) }()
	start(t, settings, s)
	for i := range 20 {
		appendRecords(t, s, numbered(i, i+1)...)
		<-got
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestATopicThatDoesNotExistIsAnError(t *testing.T) {
	c := newCluster(t)
	err := ReadAll(t.Context(), Settings{Brokers: c.ListenAddrs()}, "missing", func(Message) {})
	contains(t, err, `"missing"`, "Unknown Topic")
}

func TestReadAllTakesLongerThanAConnectionMayBeSilent(t *testing.T) {
	c := newCluster(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	const n = 30
	for range n {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Value: make([]byte, 900_000)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	if err := ReadAll(t.Context(), Settings{Brokers: c.ListenAddrs(), Timeout: 300 * time.Millisecond}, topic, func(Message) {
		seen++
		time.Sleep(30 * time.Millisecond)
	}); err != nil {
		t.Fatal(err)
	}
	if seen != n {
		t.Errorf("read %d records of %d", seen, n)
	}
}

func TestReadAllLeavesOutAbortedTransactionsAndEndsBehindTheirMarkers(t *testing.T) {
	c := kafkatest.Shared(t)
	name := kafkatest.Topic(t)
	c.CreateTopic(t, name, 1)
	want := 0
	for _, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit, kgo.TryAbort} {
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers(t, kafkatest.Plaintext)...), kgo.TransactionalID(name), kgo.DefaultProduceTopic(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		text := "aborted"
		if end == kgo.TryCommit {
			text, want = "committed", want+10
		}
		for range 10 {
			if err := cl.ProduceSync(t.Context(), kgo.StringRecord(text)).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := cl.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		cl.Close()
	}
	got := 0
	if err := ReadAll(t.Context(), Settings{Brokers: c.Brokers(t, kafkatest.Plaintext)}, name, func(m Message) {
		if got++; string(m.Value) != "committed" {
			t.Errorf("offset %d: %s", m.Offset, m.Value)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("read %d records of %d", got, want)
	}
}

func TestFollowNewLeavesOutWhatStandsThereAlready(t *testing.T) {
	c, s := newCluster(t), newSpool(t)
	settings := Settings{Brokers: c.ListenAddrs()}
	appendRecords(t, s, numbered(0, 100)...)
	r := start(t, settings, s)
	drained(t, r, s)
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := make(chan string, 100), make(chan error, 1)
	go func() { ended <- FollowNew(ctx, settings, topic, func(m Message) { got <- string(m.Value) }) }()
	for n := 100; ; n++ { // until it has found where the topic ends
		appendRecords(t, s, numbered(n, n+1)...)
		select {
		case value := <-got:
			if len(value) < 3 {
				t.Errorf("record %s stood there before", value)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestPartitionsThatHadRecordsOnceAreTold(t *testing.T) {
	c := newCluster(t)
	settings := Settings{Brokers: c.ListenAddrs()}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, partition := range []int32{0, 1} {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Partition: partition, Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	request := kmsg.NewPtrDeleteRecordsRequest()
	request.TimeoutMillis = 5000
	of := kmsg.NewDeleteRecordsRequestTopic()
	of.Topic = topic
	partition := kmsg.NewDeleteRecordsRequestTopicPartition()
	partition.Partition, partition.Offset = 1, 1
	of.Partitions = append(of.Partitions, partition)
	request.Topics = append(request.Topics, of)
	answer, err := request.RequestWith(t.Context(), cl)
	if err != nil || answer.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatal(answer, err)
	}
	if emptied, err := Emptied(t.Context(), settings, topic); err != nil || !slices.Equal(emptied, []int{1}) {
		t.Errorf("%v, %v: partition 1 was emptied, 2 never had anything", emptied, err)
	}
}
