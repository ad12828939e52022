package kafkatest

import (
	"fmt"
	"os"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestMain(m *testing.M) { os.Exit(Run(m)) }

// TestAvailable says with -v why there is no real Kafka to test against.
func TestAvailable(t *testing.T) {
	c := Shared(t)
	topic := Topic(t)
	c.CreateTopic(t, topic, 2)
	var records []*kgo.Record
	for i := range 10 {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Append(nil, i), Value: fmt.Append(nil, i)})
	}
	if err := c.client().ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if n := len(c.Consume(t, topic)); n != 10 {
		t.Errorf("%d records are on the topic, want 10", n)
	}
}
