package relay

import (
	"context"
	"testing"
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
