package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"kafka-metering/meter"
)

func TestSequenceIsContiguousAndOrderedAsText(t *testing.T) {
	p := testProcess(t)
	s := p.sequence("a", "t", "/kong/x", false)
	if p.sequence("a", "t", "/kong/x", false) != s {
		t.Error("a sequence belongs to one pipeline, topic and source")
	}
	var texts []string
	for range 5 {
		events := make([]meter.Event, 3)
		s.number(events)
		for _, e := range events {
			texts = append(texts, e.Sequence)
		}
	}
	if texts[0] != "1795428217000-000000000001" || texts[14] != "1795428217000-000000000015" || !slices.IsSorted(texts) {
		t.Error(texts)
	}
}

func TestNoTwoEventsOfASourceHaveOneNumber(t *testing.T) {
	p := testProcess(t)
	seen := map[string]bool{}
	for _, pipeline := range []string{"one", "two"} {
		for _, topic := range []string{"t", "u"} {
			for _, dead := range []bool{false, true} {
				events := make([]meter.Event, 1)
				p.sequence(pipeline, topic, "/kong/x", dead).number(events)
				if seen[events[0].Sequence] {
					t.Errorf("%s %s %v: %s is another's", pipeline, topic, dead, events[0].Sequence)
				}
				seen[events[0].Sequence] = true
			}
		}
	}
}

func TestNumbersThatAreGivenBackAreTakenAgain(t *testing.T) {
	s := testProcess(t).sequence("a", "t", "/kong/x", false)
	first, second, third := make([]meter.Event, 2), make([]meter.Event, 2), make([]meter.Event, 3)
	s.number(first)
	s.number(second)
	s.giveBack(first)
	s.giveBack(first) // they have none any more
	s.number(third)
	var texts []string
	for _, e := range slices.Concat(second, third) {
		texts = append(texts, strings.TrimPrefix(e.Sequence, s.prefix+"00000000000"))
	}
	slices.Sort(texts)
	if !slices.Equal(texts, []string{"1", "2", "3", "4", "5"}) {
		t.Error(texts)
	}
}

// TestExchangesForTheDeadLetterTopicAreNoGapsOnTheTopic mixes exchanges with a customer and without.
func TestExchangesForTheDeadLetterTopicAreNoGapsOnTheTopic(t *testing.T) {
	p := testProcess(t)
	in, sink := testInstance(t, p, `{"subject":{"on_missing":"dead_letter"},"dead_letter_topic":"dead"}`)
	for i := range 6 {
		consumer := ""
		if i%2 == 0 {
			consumer = `"consumer":{"id":"c"},`
		}
		in.handle(saved{log: fmt.Appendf(nil, `{%s"request":{"id":"r%d"},"response":{"status":200}}`, consumer, i)}, p.ledger.open())
	}
	var numbers []string
	for _, r := range sink.records {
		number := gjson.GetBytes(r.Value, "sequence").Str
		numbers = append(numbers, fmt.Sprintf("%v %s", r.Dead != "", number))
	}
	slices.Sort(numbers)
	want := []string{
		"false 1795428217000-000000000001", "false 1795428217000-000000000002", "false 1795428217000-000000000003",
		"true 1795428217000.1-000000000001", "true 1795428217000.1-000000000002", "true 1795428217000.1-000000000003",
	}
	if !slices.Equal(numbers, want) {
		t.Error(numbers)
	}
}
