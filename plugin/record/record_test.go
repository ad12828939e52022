package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"kafka-metering/meter"
	"kafka-metering/meter/relay"
)

const (
	testTopic  = "kong.metering"
	testSource = "/kong/prod/node-1"
	testStart  = int64(1795428217000)
)

// ledger is a spool in memory, for a journal.
type ledger struct {
	n     *Numbers
	now   time.Time
	start int64
	disk  [][]byte
	state []byte
}

func newLedger() *ledger {
	l := &ledger{now: time.UnixMilli(testStart), start: testStart}
	l.restart()
	return l
}

// restart is a new process.
func (l *ledger) restart() {
	l.n = NewNumbers(func() time.Time { return l.now }, func() int64 { l.start++; return l.start })
}

// commit is a transaction of events with these ids.
func (l *ledger) commit(stored, last, binary bool, dead string, ids ...string) {
	var b Buffer
	var events []meter.Event
	for _, id := range ids {
		at := meter.FormatTime(l.now)
		events = append(events, meter.Event{
			ID: id, Source: testSource, Type: "kong.api_request", Subject: `a "customer","sequence":"` + id, Time: at, DataSchema: "urn:x",
			Sequence: Unnumbered, RecordedTime: at, Data: []byte(`{"value":1,"request_id":"` + id + `"}`),
		})
	}
	records := b.Encode(events, testTopic, dead, binary)
	for _, r := range records {
		l.n.Append(r)
	}
	own, state := l.n.Seal(nil, last)
	if len(records)+len(own) == 0 {
		return
	}
	l.n.End(stored)
	for _, r := range records {
		if bytes.Contains(r, []byte(Unnumbered)) == stored {
			panic("a record has the wrong number: " + string(r))
		}
	}
	if stored {
		for _, r := range append(records, own...) {
			l.disk = append(l.disk, bytes.Clone(r))
		}
		l.state = state
	}
}

func (l *ledger) events(ids ...string) { l.commit(true, false, false, "", ids...) }

// topic is what stands on the topic when all of it is published.
func (l *ledger) topic(t *testing.T) (all []relay.Message) {
	t.Helper()
	for i, b := range l.disk {
		r, err := relay.ParseRecord(b)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, relay.Message{Partition: i % 3, Offset: int64(i / 3), Key: r.Key, Value: r.Value, Headers: r.Headers})
	}
	return all
}

func (l *ledger) prove(messages []relay.Message) *Proof {
	v := NewVerifier(testTopic)
	for _, m := range messages {
		v.Add(m)
	}
	return v.Proof(l.now.Add(time.Hour))
}

func ids(first, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("r%06d/kong.api_request", first+i))
	}
	return all
}

func numberOf(t *testing.T, m relay.Message) uint64 {
	t.Helper()
	for _, h := range m.Headers {
		if h.Key == "ce_sequence" {
			_, number, ok := ParseSequence(string(h.Value))
			if !ok {
				t.Fatalf("sequence %s", h.Value)
			}
			return number
		}
	}
	t.Fatal("a record has no sequence")
	return 0
}

// summaryOf is what was found, without the texts.
func summaryOf(p *Proof) (all []string) {
	for _, f := range p.Findings {
		all = append(all, fmt.Sprintf("%s %s-%s", f.Kind, strings.TrimLeft(f.First[14:], "0"), strings.TrimLeft(f.Last[14:], "0")))
	}
	return all
}

func TestNumbersAreContiguousWhateverIsRefused(t *testing.T) {
	for _, binary := range []bool{false, true} {
		l := newLedger()
		for i := range 50 {
			l.commit(i%3 != 0, false, binary, "", ids(i*10, 1+i%4)...)
			l.now = l.now.Add(7 * time.Second) // so that checkpoints are among what is refused
		}
		l.commit(false, true, binary, "")
		l.commit(true, true, binary, "")
		for i, m := range l.topic(t) {
			if got := numberOf(t, m); got != uint64(i+1) {
				t.Fatalf("record %d has number %d", i+1, got)
			}
			if value := gjson.GetBytes(m.Value, "sequence").Str; !binary && value != string(appendSequence(nil, testStart+1, uint64(i+1))) {
				t.Fatalf("record %d has in its value the sequence %q", i+1, value)
			}
		}
		p := l.prove(l.topic(t))
		if p.Problems != 0 || len(p.Findings) != 0 || p.Runs[0].State != StateComplete || p.Runs[0].Proven != uint64(len(l.disk)) || p.Runs[0].Checkpoints < 4 {
			t.Errorf("binary %v: %+v", binary, p)
		}
	}
}

func TestDuplicatesInAnyOrderFalsifyNothing(t *testing.T) {
	l := newLedger()
	for i := range 100 {
		l.events(ids(i*100, 100)...)
		l.now = l.now.Add(3 * time.Second)
	}
	l.commit(true, true, false, "")
	all := l.topic(t)
	again := append(slices.Clone(all[:5000]), all...)
	slices.Reverse(again)
	p := l.prove(again)
	if p.Problems != 0 || p.Runs[0].Redelivered != 5000 || p.Runs[0].Proven != uint64(len(all)) || p.Events != len(all) {
		t.Errorf("%+v", p.Runs)
	}
	for _, where := range [][]relay.Message{all, again} { // a change is found before the original and behind it
		changed := all[1234]
		changed.Value = bytes.Replace(changed.Value, []byte(`"value":1`), []byte(`"value":9`), 1)
		if p := l.prove(append(slices.Clone(where), changed)); p.Problems != 1 || summaryOf(p)[0] != "conflict 1235-1235" {
			t.Errorf("%v", summaryOf(p))
		}
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	const n = 1000
	change := func(i int, old, with string) func([]relay.Message) []relay.Message {
		return func(all []relay.Message) []relay.Message {
			if !bytes.Contains(all[i].Value, []byte(old)) {
				panic("nothing to change")
			}
			all[i].Value = bytes.Replace(all[i].Value, []byte(old), []byte(with), 1)
			return all
		}
	}
	for name, c := range map[string]struct {
		spoil func([]relay.Message) []relay.Message
		want  []string
	}{
		"nothing":                       {func(all []relay.Message) []relay.Message { return all }, nil},
		"a record is missing":           {func(all []relay.Message) []relay.Message { return slices.Delete(all, 500, 501) }, []string{"missing 501-501"}},
		"the first and some others are": {func(all []relay.Message) []relay.Message { return slices.Delete(slices.Delete(all, 700, 720), 0, 2) }, []string{"missing 1-2", "missing 701-720"}},
		"a value was changed":           {change(10, `"value":1`, `"value":2`), []string{"tampered 1-601"}},
		"a customer was changed":        {change(10, `"subject":"a`, `"subject":"b`), []string{"tampered 1-601"}},
		"a checkpoint's count":          {change(601, `"events":601`, `"events":600`), []string{"unproven 1-601", "tampered 602-1003", "checkpoint 602-602"}},
		"a checkpoint's hash":           {change(601, `"hash":"`, `"hash":"0`), []string{"tampered 1-601", "tampered 602-1003"}},
		"a checkpoint is missing": {
			func(all []relay.Message) []relay.Message { return slices.Delete(all, 601, 602) }, []string{"unproven 1-601", "missing 602-602"},
		},
		"the last checkpoint is missing": {
			func(all []relay.Message) []relay.Message { return all[:len(all)-1] }, []string{"unproven 603-1003"},
		},
		"one id has two data": {func(all []relay.Message) []relay.Message {
			m := all[20]
			m.Value = bytes.Replace(m.Value, []byte(`"value":1`), []byte(`"value":2`), 1)
			m.Value = bytes.Replace(m.Value, []byte(`-000000000021"`), []byte(`-000000001005"`), 1)
			return append(all, m)
		}, []string{"unproven 1005-1005", "conflict 1005-1005"}},
		"records of others": {func(all []relay.Message) []relay.Message {
			return append(all, relay.Message{Value: []byte("x")}, relay.Message{Value: []byte(`{"id":"a","source":"b","sequence":"1-1"}`)}, relay.Message{})
		}, nil},
		"a number beyond all": {func(all []relay.Message) []relay.Message {
			m := all[20]
			m.Value = bytes.Replace(m.Value, []byte(`-000000000021"`), []byte(`-999999999999"`), 1)
			return append(all, m)
		}, []string{"missing 1005-999999999998", "unproven 1005-999999999999"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger()
			l.events(ids(0, n*6/10)...)
			l.now = l.now.Add(time.Minute)
			l.events(ids(n*6/10, 1)...)
			l.events(ids(n*6/10+1, n*4/10)...)
			l.now = l.now.Add(time.Second)
			l.events(ids(n+1, 1)...)
			l.commit(true, true, false, "")
			p := l.prove(c.spoil(l.topic(t)))
			if diff := cmp.Diff(c.want, summaryOf(p)); diff != "" {
				t.Errorf("(-want +got)\n%s%+v", diff, p.Findings)
			}
			if (p.Problems == 0) != (c.want == nil) {
				t.Errorf("%d problems", p.Problems)
			}
		})
	}
}

func TestAKilledProcessHasItsLastCheckpointFromTheNext(t *testing.T) {
	for _, binary := range []bool{false, true} {
		l := newLedger()
		l.commit(true, false, binary, "", ids(0, 10)...)
		old := l.state
		l.now = l.now.Add(2 * time.Minute)
		l.commit(true, false, binary, "", ids(10, 5)...)
		l.commit(true, false, binary, "", ids(15, 3)...)
		l.commit(false, true, binary, "", ids(18, 3)...) // killed in the middle of it
		states := [][]byte{old, l.state}
		var closings [][]byte
		for range 2 { // its successor is killed, too, after it had written the checkpoint, and before it had forgotten the state
			l.restart()
			l.now = l.now.Add(time.Minute)
			l.n.Adopt(states)
			before := len(l.disk)
			l.commit(false, false, binary, "")
			l.commit(true, false, binary, "", ids(100, 1)...)
			if !l.n.Adopted() {
				t.Fatal("it is not adopted")
			}
			closings = append(closings, l.disk[before+1])
			l.commit(true, true, binary, "")
		}
		if !bytes.Equal(closings[0], closings[1]) {
			t.Errorf("two processes wrote\n%q\n%q", closings[0], closings[1])
		}
		p := l.prove(l.topic(t))
		if p.Problems != 0 || len(p.Runs) != 3 || p.Runs[0].State != StateKilled || p.Runs[0].Proven != 20 || p.Runs[0].Redelivered != 1 || p.Repeated != 1 {
			t.Errorf("%+v", p)
		}
	}
}

func TestARecordThatHasANumberKeepsIt(t *testing.T) {
	l := newLedger()
	l.events(ids(0, 1)...)
	before := bytes.Clone(l.disk[0])
	l.n.Append(l.disk[0])
	if !bytes.Equal(before, l.disk[0]) {
		t.Errorf("%q", l.disk[0])
	}
}

func TestEventsWithoutACustomerHaveNumbersOfTheirOwn(t *testing.T) {
	l := newLedger()
	l.commit(true, false, false, DeadSubject, ids(0, 5)...)
	l.events(ids(10, 5)...)
	l.commit(true, true, false, "")
	v := NewVerifier(testTopic)
	for i, m := range l.topic(t) {
		if i >= 5 {
			v.Add(m)
			continue
		}
		m.Headers = append(m.Headers, relay.Header{Key: "dead_letter_topic", Value: []byte(testTopic)}, relay.Header{Key: "dead_letter_reason", Value: []byte(DeadSubject)})
		v.AddDead(m)
	}
	if p := v.Proof(l.now); p.Problems != 0 || len(p.Runs) != 1 || p.Runs[0].Proven != 6 {
		t.Errorf("%+v", p)
	}
}

func TestDeadLettersAndRetentionAccountForNumbers(t *testing.T) {
	l := newLedger()
	for i := range 100 {
		l.events(ids(i*10, 10)...)
		l.now = l.now.Add(time.Second)
	}
	l.commit(true, true, false, "")
	v := NewVerifier(testTopic)
	for i, m := range l.topic(t) {
		if i == 700 {
			m.Headers = append(m.Headers, relay.Header{Key: "dead_letter_topic", Value: []byte(testTopic)}, relay.Header{Key: "dead_letter_reason", Value: []byte("too large")})
			v.AddDead(m)
			continue
		}
		if m.Partition != 1 || m.Offset > 100 { // retention has removed the beginning of one partition
			v.Add(m)
		}
	}
	p := v.Proof(l.now)
	kinds := map[Kind]int{}
	for _, f := range p.Findings {
		kinds[f.Kind]++
	}
	if p.Problems != 0 || kinds[KindDead] != 1 || kinds[KindExpired] == 0 || len(kinds) != 2 || p.Runs[0].State != StateComplete {
		t.Errorf("%v %+v", kinds, p.Runs)
	}
}

func TestARunningProcessIsOpenUntilItsCheckpointIsOverdue(t *testing.T) {
	l := newLedger()
	l.events(ids(0, 10)...)
	v := NewVerifier(testTopic)
	for _, m := range l.topic(t) {
		v.Add(m)
	}
	if p := v.Proof(l.now.Add(time.Minute)); p.Problems != 0 || p.Runs[0].State != StateOpen || p.Runs[0].Proven != 0 {
		t.Errorf("%+v", p)
	}
	if p := v.Proof(l.now.Add(time.Hour)); p.Problems != 1 || p.Findings[0].Kind != KindUnproven {
		t.Errorf("%+v", p)
	}
}

func TestCheckpointsFollowAMinuteOrManyEvents(t *testing.T) {
	l := newLedger()
	checkpoints := func() (all []Checkpoint) {
		for _, m := range l.topic(t) {
			if gjson.GetBytes(m.Value, "type").Str == TypeCheckpoint {
				var c Checkpoint
				if err := json.Unmarshal([]byte(gjson.GetBytes(m.Value, "data").Raw), &c); err != nil {
					t.Fatal(err)
				}
				c.Hash = ""
				all = append(all, c)
			}
		}
		return all
	}
	l.events() // the spool looks every second
	l.events("a/x")
	l.now = l.now.Add(59 * time.Second)
	l.events()
	if n := len(checkpoints()); n != 0 {
		t.Fatalf("%d checkpoints", n)
	}
	l.now = l.now.Add(time.Second)
	l.events()
	l.now = l.now.Add(time.Hour) // without events there are none
	l.events()
	for i := range 101 {
		l.events(ids(i*1000, 1000)...)
	}
	l.commit(true, true, false, "")
	l.commit(true, true, false, "") // twice: at the beginning of the drain, and when the spool is closed
	l.events("late/x")
	l.commit(true, true, false, "")
	seq := func(n uint64) string { return string(appendSequence(nil, testStart+1, n)) }
	want := []Checkpoint{
		{seq(1), seq(1), 1, "", ReasonInterval},
		{seq(2), seq(100_002), 100_001, "", ReasonInterval},
		{seq(100_003), seq(101_003), 1001, "", ReasonStop},
		{seq(101_004), seq(101_005), 2, "", ReasonStop},
	}
	if diff := cmp.Diff(want, checkpoints()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if p := l.prove(l.topic(t)); p.Problems != 0 || p.Runs[0].State != StateComplete {
		t.Errorf("%+v", p)
	}
}

// FuzzState reads whatever may stand in a spool's file.
func FuzzState(f *testing.F) {
	l := newLedger()
	l.events(ids(0, 3)...)
	f.Add(l.state)
	f.Fuzz(func(_ *testing.T, state []byte) {
		l := newLedger()
		l.n.Adopt([][]byte{state})
		l.commit(true, false, false, "")
	})
}

// FuzzVerifier reads whatever may stand on a topic.
func FuzzVerifier(f *testing.F) {
	l := newLedger()
	l.events(ids(0, 3)...)
	l.commit(true, true, false, "")
	for _, b := range l.disk {
		r, _ := relay.ParseRecord(b)
		f.Add(r.Value)
	}
	f.Fuzz(func(_ *testing.T, value []byte) {
		v := NewVerifier(testTopic)
		v.Add(relay.Message{Value: value})
		v.Add(relay.Message{Value: value, Offset: 1})
		v.Proof(time.Now())
	})
}

func TestAnySequenceOrderIsThatOfText(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range []uint64{1, 9, 10, 99, 100, 123456, maxNumber} {
		seen[string(appendSequence(nil, testStart, n))] = true
	}
	if got := slices.Collect(maps.Keys(seen)); len(got) != 7 || slices.Max(got) != "1795428217000-999999999999" || slices.Min(got) != "1795428217000-000000000001" {
		t.Error(got)
	}
}

// BenchmarkAppend is what an event costs the spool's committer.
func BenchmarkAppend(b *testing.B) {
	l := newLedger()
	var buffer Buffer
	at := meter.FormatTime(l.now)
	fresh := buffer.Encode([]meter.Event{{
		ID: ids(0, 1)[0], Source: testSource, Type: "kong.api_request", Subject: "cust-42", Time: at, DataSchema: "urn:kafka-metering:schema:kong.api_request:1",
		Sequence: Unnumbered, RecordedTime: at, Data: bytes.Replace([]byte(`{"value":1,"rest":"x"}`), []byte("x"), bytes.Repeat([]byte("x"), 450), 1),
	}}, testTopic, "", false)[0]
	r := make([]byte, len(fresh))
	b.ReportAllocs()
	b.SetBytes(int64(len(r)))
	for b.Loop() {
		copy(r, fresh)
		l.n.Append(r)
	}
}
