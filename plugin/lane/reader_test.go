package lane_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/plugin/lane"
)

// conversation is one of everything.
func conversation() (sent []byte, want []any) {
	hello := &lane.Hello{Worker: "812.1795428217000", Counted: 41}
	config := &lane.Config{ID: 3, JSON: []byte(`{"topic":"t"}`), Lists: []byte(`{"log":[["tries"]]}`)}
	batch := &lane.Batch{Number: 7, Again: true, Entries: 3, Drops: []lane.Drop{{Plugin: "3f2c-1", Reason: "worker_queue_full", Count: 12}}}
	plain := lane.Exchange{Config: 3, Number: 54, Delivered: true, FirstByte: -1, Log: []byte(`{"a":1}`)}
	tapped := lane.Exchange{
		Config: 3, Number: 55, HasBody: true, Ended: true, Stalled: true, Tapped: true, FirstByte: 12, Bytes: 900,
		Log: []byte("{}\n"), Request: []byte("\xff\n "), Type: []byte("text/event-stream"), Encoding: []byte("br"),
		Head: []byte("head\n"), Skipped: 512, Tail: []byte("tail"),
	}
	members := lane.Exchange{Config: 3, Number: 56, FirstByte: -1, List: lane.ListCalls, Members: [][]byte{
		[]byte(`"GET"`), nil, []byte("1795428217672"), []byte("0.25"), []byte(`"` + strings.Repeat("long ", 2000) + `"`), []byte("-3"),
	}}
	exchanges := members.Append(tapped.Append(plain.Append(nil)))
	batch.Size = len(exchanges)
	sent = batch.Append(config.Append(hello.Append(nil)), exchanges)
	sent = lane.Bye{}.Append(sent)
	return sent, []any{hello, config, batch, plain, tapped, members, lane.Bye{}}
}

// readAll reads a conversation to its end.
func readAll(r io.Reader) (all []any, err error) {
	d := lane.NewReader(r)
	for {
		m, err := d.Message()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, m)
		b, ok := m.(*lane.Batch)
		if !ok {
			continue
		}
		for range b.Entries {
			var x lane.Exchange
			if err := d.Exchange(&x); err != nil {
				return all, err
			}
			parts := []*[]byte{&x.Log, &x.Request, &x.Type, &x.Encoding, &x.Head, &x.Tail}
			x.Members = slices.Clone(x.Members)
			for i := range x.Members {
				parts = append(parts, &x.Members[i])
			}
			for _, part := range parts {
				if *part = bytes.Clone(*part); len(*part) == 0 {
					*part = nil
				}
			}
			all = append(all, x)
		}
	}
}

func TestWhatIsSentIsRead(t *testing.T) {
	sent, want := conversation()
	for name, r := range map[string]io.Reader{"at once": bytes.NewReader(sent), "byte by byte": iotest.OneByteReader(bytes.NewReader(sent))} {
		got, err := readAll(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-sent +read):\n%s", name, diff)
		}
	}
}

func TestAConversationThatIsCutIsAnUnexpectedEnd(t *testing.T) {
	sent, want := conversation()
	ends := map[int]bool{len(sent): true} // between two messages
	for i := range sent {
		got, err := readAll(bytes.NewReader(sent[:i]))
		if err == nil && len(got) == len(want) {
			t.Errorf("cut at %d of %d, all is read", i, len(sent))
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", i, err)
		}
		if err == nil {
			ends[i] = true
		}
	}
	if len(ends) != 5 { // nothing, HELLO, CONFIG, BATCH, BYE
		t.Errorf("%d places pass for the end of a message, want 5", len(ends))
	}
}

func TestWhatNoWorkerSendsIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"an unknown message":             "GET / HTTP/1.1\r\n",
		"another version":                "HELLO 9 w 0 more words\n",
		"no version":                     "HELLO\n",
		"a worker with a slash":          "HELLO 2 ../../etc 0\n",
		"a worker without a name":        "HELLO 2  0\n",
		"a worker with a long name":      "HELLO 2 " + strings.Repeat("w", 65) + " 0\n",
		"a negative number":              "HELLO 2 w -1\n",
		"a number beyond Lua's":          "HELLO 2 w 9007199254740993\n",
		"a number that overflows":        "HELLO 2 w 99999999999999999999999\n",
		"a word too many":                "BYE now\n",
		"a word too few":                 "BATCH 1 0 0 1\n",
		"a huge configuration":           "CONFIG 1 99999999999 0\n",
		"huge lists":                     "CONFIG 1 0 99999999999\n",
		"a huge batch":                   "BATCH 1 0 0 1 99999999999\n",
		"a batch of many":                "BATCH 1 0 0 99999999 1\n",
		"bytes of no exchange":           "BATCH 1 0 0 0 1\nx",
		"no drop where one should be":    "BATCH 1 0 1 0 0\nBYE\n",
		"an exchange without bytes":      "BATCH 1 0 0 1 0\n",
		"a line that does not end":       strings.Repeat("x", 1<<20),
		"a long line":                    "BYE " + strings.Repeat("x", 1000) + "\n",
		"many words":                     strings.Repeat("x ", 100) + "\n",
		"an empty line":                  "\n",
		"a line feed inside the numbers": "HELLO 1\nw 0\n",
	} {
		t.Run(name, func(t *testing.T) {
			if all, err := readAll(strings.NewReader(text)); !errors.Is(err, lane.ErrProtocol) {
				t.Errorf("read %v, error %v", all, err)
			}
		})
	}
	_, err := readAll(strings.NewReader("HELLO 9 w 0\n"))
	if err == nil || !strings.Contains(err.Error(), "handler.lua") {
		t.Errorf("the error about a version does not say what to do: %v", err)
	}
}

func TestWhatIsAnnouncedAndDoesNotComeCostsNoMemory(t *testing.T) {
	text := "BATCH 1 0 0 1 268435456\nx"
	got := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			if _, err := readAll(strings.NewReader(text)); !errors.Is(err, io.ErrUnexpectedEOF) {
				b.Fatal(err)
			}
		}
	})
	if got.AllocedBytesPerOp() > 1<<20 {
		t.Errorf("%d bytes are allocated for one that came", got.AllocedBytesPerOp())
	}
}

func TestTablesOfNothingCostNoMemory(t *testing.T) {
	const many = 32 << 20
	var x lane.Exchange
	x.List, x.FirstByte = lane.ListLog, -1
	before := x.Append(nil)
	before[1]++ // a member more
	for name, table := range map[string][]byte{
		"a list":            append([]byte{0x0c, 0xff, 1, 0, 0, 2}, make([]byte, many)...),
		"a list from zero":  append([]byte{0x0a, 0xff, 0, 0, 0, 2}, bytes.Repeat([]byte{1}, many)...),
		"pairs of numbers":  append([]byte{0x09, 0xff, 0, 0, 0, 1}, bytes.Repeat([]byte{6, 1, 0, 0, 0, 1}, many/6)...),
		"a text of escapes": append([]byte{0xff, 0x20, 0, 0, 2}, bytes.Repeat([]byte{1}, many)...),
	} {
		exchange := append(slices.Clip(before), table...)
		batch := (&lane.Batch{Number: 1, Entries: 1}).Append(nil, exchange)
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		allocated := stats.TotalAlloc
		if _, err := readAll(bytes.NewReader(batch)); !errors.Is(err, lane.ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
		runtime.ReadMemStats(&stats)
		if got := stats.TotalAlloc - allocated; got > 16*many {
			t.Errorf("%s of %d MiB: %d MiB are allocated", name, len(table)>>20, got>>20)
		}
	}
}

func TestEveryNumberUpToTheLastIsAnExchangeOrADrop(t *testing.T) {
	for name, test := range map[string]struct {
		counted int64
		batches [][3]int64 // exchanges, drops, number of the last exchange
		want    []int64
	}{
		"a worker that loses nothing":            {0, [][3]int64{{100, 0, 100}, {50, 0, 150}}, []int64{0, 0}},
		"drops that are reported":                {0, [][3]int64{{100, 30, 100}, {10, 0, 140}}, []int64{0, 0}},
		"drops in between":                       {0, [][3]int64{{100, 30, 130}}, []int64{0}},
		"a gap":                                  {0, [][3]int64{{100, 0, 103}, {10, 0, 113}}, []int64{3, 0}},
		"a gap behind drops":                     {0, [][3]int64{{100, 30, 100}, {10, 0, 145}}, []int64{0, 5}},
		"a worker whose exchanges another took":  {1000, [][3]int64{{10, 0, 1010}}, []int64{0}},
		"a gap that another process did not see": {1000, [][3]int64{{10, 0, 1011}}, []int64{1}},
		"drops alone":                            {5, [][3]int64{{0, 7, 0}, {1, 0, 13}}, []int64{0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			a := lane.NewAccount(&lane.Hello{Counted: test.counted})
			var got []int64
			for _, b := range test.batches {
				got = append(got, a.Batch(b[0], b[1], b[2]))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestListsAreRead(t *testing.T) {
	got, err := (&lane.Config{Lists: []byte(`{"log":[["tries"],["request","id"]],"calls":[["ai"]],"body":"llm","more":1}`)}).ParseLists()
	want := &lane.Needs{Log: [][]string{{"tries"}, {"request", "id"}}, Calls: [][]string{{"ai"}}, Body: lane.BodyLLM}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, lists := range []string{"", "x", "[]", `{"log":[[]]}`, `{"calls":[["a"],[]]}`, `{"log":[[1]]}`} {
		if got, err := (&lane.Config{Lists: []byte(lists)}).ParseLists(); !errors.Is(err, lane.ErrProtocol) {
			t.Errorf("%s is %+v, %v", lists, got, err)
		}
	}
}

func TestWordOfWhatWasLostIsRead(t *testing.T) {
	for line, want := range map[string]lane.Message{
		"HELLO 2 812.5 77":      &lane.Hello{Worker: "812.5", Counted: 77},
		"DROP - worker_exit 12": &lane.Drop{Plugin: "-", Reason: "worker_exit", Count: 12},
		"SENT 7":                &lane.Sent{Batch: 7},
		"LEFT p-1 0af3":         &lane.Left{Plugin: "p-1", ID: "0af3"},
		"TAKEN 812.5 7":         &lane.Taken{Worker: "812.5", Batch: 7},
	} {
		got, err := lane.ParseLost(line)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", line, err, diff)
		}
	}
	for _, line := range []string{"", "BYE", "DROP", "DROP - x", "SENT", "SENT x", "SENT 1 2", "LEFT", "LEFT p-1", "LEFT p-1 a b", "TAKEN", "TAKEN w", "TAKEN w x", "nonsense"} {
		if _, err := lane.ParseLost(line); err == nil {
			t.Errorf("%q passes", line)
		}
	}
}

func TestAnswersAreOneLine(t *testing.T) {
	got := string(lane.AppendError(nil, errors.New("two\nlines\r and more\x7f")))
	if got != "ERR two lines  and more \n" {
		t.Errorf("%q", got)
	}
	needs := lane.Needs{Log: [][]string{{"tries"}, {"request", "id"}}, Body: lane.BodyLLM, Problems: "x"}
	text := `{"log":[["tries"],["request","id"]],"body":"llm","problems":"x"}`
	if got := string(needs.Append(nil)); got != fmt.Sprintf("OK %d\n%s", len(text), text) {
		t.Errorf("%q", got)
	}
}

// FuzzReader gives the reader anything: it must not panic, members are JSON, and the rest of what it reads it must read again
// from what is appended.
func FuzzReader(f *testing.F) {
	sent, _ := conversation()
	f.Add(sent)
	for i := 0; i < len(sent); i += 37 {
		f.Add(sent[:i])
	}
	f.Add([]byte("BATCH 1 0 0 1 4\n\x0c\x0d\x08\x08"))
	f.Fuzz(func(t *testing.T, data []byte) {
		read := func(data []byte) []any {
			all, _ := readAll(bytes.NewReader(data))
			for i := range all {
				switch m := all[i].(type) {
				case *lane.Batch:
					m.Size = 0
				case lane.Exchange:
					for _, member := range m.Members {
						if len(member) > 0 && !json.Valid(member) {
							t.Errorf("a member is not JSON: %q", member)
						}
					}
					m.Members = nil
					all[i] = m
				}
			}
			return all
		}
		all := read(data)
		var again []byte
		for i, m := range all {
			switch m := m.(type) {
			case *lane.Hello:
				again = m.Append(again)
			case *lane.Config:
				again = m.Append(again)
			case *lane.Batch:
				var exchanges []byte
				for _, x := range all[i+1:] {
					if x, ok := x.(lane.Exchange); ok {
						exchanges = x.Append(exchanges)
						continue
					}
					break
				}
				again = m.Append(again, exchanges)
			case lane.Bye:
				again = m.Append(again)
			}
		}
		if diff := cmp.Diff(all, read(again)); diff != "" {
			t.Errorf("read again (-first +second):\n%s", diff)
		}
	})
}
