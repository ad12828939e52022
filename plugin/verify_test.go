package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"kafka-metering/meter/relay"
	"kafka-metering/plugin/record"
)

// verified runs the command verify.
func verified(t *testing.T, path, broker, topic string) (*record.Proof, error) {
	t.Helper()
	cmd := exec.Command(path, "verify", "-brokers", broker, "-topic", topic, "-format", "json")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var p record.Proof
	if json.Unmarshal(out, &p) != nil {
		t.Fatalf("%v: %s%s", err, out, errs.Bytes())
	}
	return &p, err
}

// checkProven stops the server and checks that the topic proves to have every event of all processes.
func (s *testServer) checkProven(broker string) *record.Proof {
	s.t.Helper()
	if err := s.terminate(); err != nil {
		s.t.Error(err)
	}
	t, ok := s.t.(*testing.T)
	if !ok {
		return nil
	}
	p, err := verified(t, s.path, broker, defaultTopic)
	if err != nil {
		t.Errorf("%v: %+v", err, p)
	}
	for i := range p.Runs {
		if r := &p.Runs[i]; r.State == record.StateOpen || r.Proven != uint64(r.Events) || r.Problems > 0 {
			t.Errorf("not proven: %+v", r)
		}
	}
	return p
}

// TestTheTopicProvesThatItHasEveryEvent kills the server with -9 in the middle of its load, three times, and then spoils copies of
// the topic: verify says which record is missing, changed, or there twice.
func TestTheTopicProvesThatItHasEveryEvent(t *testing.T) {
	for _, mode := range []string{formatStructured, formatBinary} {
		t.Run(mode, func(t *testing.T) {
			c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(6, defaultTopic), kfake.SeedTopics(2, "deleted", "changed", "twofold", "redelivered"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			broker := c.ListenAddrs()[0]
			s := startServer(t)
			l := startPDKLoad(t, s.configuration(broker, `{"format":"`+mode+`"}`), 8)
			for range 3 {
				l.more(t, 200)
				s.kill()
				s.start()
			}
			l.more(t, 200)
			l.end()
			s.awaitPublished()
			p := s.checkProven(broker)
			states := map[record.State]int{}
			for _, r := range p.Runs {
				states[r.State]++
			}
			if states[record.StateKilled] != 3 || states[record.StateComplete] != 1 {
				t.Errorf("%v of\n%+v", states, p.Runs)
			}
			if text, err := exec.Command(s.path, "verify", "-brokers", broker).CombinedOutput(); err != nil || !strings.Contains(string(text), "Verified: ") {
				t.Errorf("%v\n%s", err, text)
			}

			var all []relay.Message
			if err := relay.ReadAll(t.Context(), relay.Settings{Brokers: []string{broker}}, defaultTopic, func(m relay.Message) { all = append(all, m) }); err != nil {
				t.Fatal(err)
			}
			times := map[string]int{} // on the topic: after a kill some are there twice
			for _, m := range all {
				times[headerOf(m, "ce_sequence")]++
			}
			victim := slices.IndexFunc(all, func(m relay.Message) bool {
				at := headerOf(m, "ce_sequence")
				return bytes.Contains(m.Value, []byte(`"status":200`)) && times[at] == 1 && !strings.HasSuffix(at, "-000000000001")
			})
			if victim < 0 {
				t.Fatal("every event is there twice")
			}
			sequence := headerOf(all[victim], "ce_sequence")
			changed := all[victim]
			changed.Value = bytes.Replace(changed.Value, []byte(`"status":200`), []byte(`"status":500`), 1)
			for name, c := range map[string]struct {
				records []relay.Message
				kind    record.Kind
			}{
				"deleted":     {slices.Concat(all[:victim], all[victim+1:]), record.KindMissing},
				"changed":     {slices.Concat(all[:victim], []relay.Message{changed}, all[victim+1:]), record.KindTampered},
				"twofold":     {append(slices.Clone(all), changed), record.KindConflict},
				"redelivered": {append(slices.Clone(all), all[victim]), ""},
			} {
				produce(t, broker, name, c.records)
				got, err := verified(t, s.path, broker, name)
				switch {
				case c.kind == "":
					if err != nil || got.Problems != 0 || got.Events != p.Events || redelivered(got) != redelivered(p)+1 {
						t.Errorf("%s: %v %+v", name, err, got)
					}
				case err == nil || got.Problems != 1 || got.Findings[0].Kind != c.kind || got.Findings[0].First > sequence || got.Findings[0].Last < sequence:
					t.Errorf("%s: %v %+v, want %s of %s", name, err, got.Findings, c.kind, sequence)
				case c.kind != record.KindTampered && got.Findings[0].Events != 1:
					t.Errorf("%s: %+v", name, got.Findings)
				}
			}
		})
	}
}

func redelivered(p *record.Proof) (n int) {
	for _, r := range p.Runs {
		n += r.Redelivered
	}
	return n
}

func headerOf(m relay.Message, key string) string {
	for _, h := range m.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// produce writes records to a new topic, each to the partition that it was in.
func produce(t *testing.T, broker, topic string, records []relay.Message) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var batch []*kgo.Record
	for _, m := range records {
		r := &kgo.Record{Topic: topic, Partition: int32(m.Partition % 2), Key: m.Key, Value: m.Value}
		for _, h := range m.Headers {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		batch = append(batch, r)
	}
	if err := client.ProduceSync(t.Context(), batch...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// TestEventsWithoutACustomerLeaveNoHoleOnTheTopic has them on the dead-letter topic, by configuration.
func TestEventsWithoutACustomerLeaveNoHoleOnTheTopic(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	l := startPDKLoad(t, s.configuration(broker, `{"subject":{"sources":[{"look_up_value_in":"consumer","field":"custom_id"}],"on_missing":"dead_letter"},"dead_letter_topic":"`+defaultTopic+`.dead"}`), 1)
	l.more(t, 5)
	l.end()
	nobody := startPDKLoad(t, s.configuration(broker, `{"subject":{"sources":[{"look_up_value_in":"header","field":"x-nobody"}],"on_missing":"dead_letter"},"dead_letter_topic":"`+defaultTopic+`.dead"}`), 1)
	nobody.next.Store(1000)
	nobody.more(t, 5)
	nobody.end()
	s.awaitPublished()
	if p := s.checkProven(broker); p.Problems != 0 || p.Events == 0 {
		t.Errorf("%+v", p)
	}
	dead := 0
	if err := relay.ReadAll(t.Context(), relay.Settings{Brokers: []string{broker}}, defaultTopic+".dead", func(m relay.Message) {
		if !gjson.ValidBytes(m.Value) {
			t.Errorf("%s", m.Value)
		}
		dead++
	}); err != nil || dead == 0 {
		t.Errorf("%d events on the dead-letter topic, %v", dead, err)
	}
}
