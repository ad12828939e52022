package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/tidwall/gjson"

	"kafka-metering/meter"
	"kafka-metering/meter/relay"
	"kafka-metering/plugin/lane"
	"kafka-metering/plugin/record"
)

// laneWorkerEnd is a worker's end of the lane, as the Lua front has it.
type laneWorkerEnd struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

// dialLane connects to the lane of a prefix and says hello.
func dialLane(t testing.TB, prefix, worker string, counted int64) *laneWorkerEnd {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(prefix, laneSocket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	w := &laneWorkerEnd{t: t, conn: conn, r: bufio.NewReader(conn)}
	if got := w.ask((&lane.Hello{Worker: worker, Counted: counted}).Append(nil)); got != "OK 1" {
		t.Fatalf("the answer to HELLO is %q", got)
	}
	return w
}

func (w *laneWorkerEnd) send(b []byte) {
	w.t.Helper()
	if _, err := w.conn.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

// ask sends a message and returns the answer's line, or "" when the connection ends instead.
func (w *laneWorkerEnd) ask(b []byte) string {
	w.t.Helper()
	if _, err := w.conn.Write(b); err != nil {
		return ""
	}
	line, err := w.r.ReadString('\n')
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatal(err)
	}
	return strings.TrimSuffix(line, "\n")
}

// register registers a configuration and returns what it needs.
func (w *laneWorkerEnd) register(id int64, config string) lane.Needs {
	w.t.Helper()
	answer := w.ask((&lane.Config{ID: id, JSON: []byte(config)}).Append(nil))
	size, err := strconv.Atoi(strings.TrimPrefix(answer, "OK "))
	if err != nil {
		w.t.Fatalf("the answer to CONFIG is %q", answer)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(w.r, text); err != nil {
		w.t.Fatal(err)
	}
	var needs lane.Needs
	if err := json.Unmarshal(text, &needs); err != nil {
		w.t.Fatal(err)
	}
	return needs
}

// batch is a batch as it is sent.
func batch(number int64, again bool, drops []lane.Drop, exchanges ...lane.Exchange) []byte {
	b := (&lane.Batch{Number: number, Again: again, Drops: drops, Entries: len(exchanges)}).Append(nil)
	for i := range exchanges {
		b = exchanges[i].Append(b)
	}
	return b
}

// plain is exchange n of a worker, a request without a body to look at.
func plain(n int64) lane.Exchange {
	return lane.Exchange{
		Config: 1, Number: n, Delivered: true, HasBody: true, Ended: true, FirstByte: 3, Bytes: 10,
		Log: fmt.Appendf(nil, `{"request":{"id":%q,"method":"GET"},"response":{"status":200},"source":"upstream","started_at":1795428217672}`, requestID(int(n))),
	}
}

// laneProcess is a process that serves the lane in a directory of its own and has no broker: what it takes stays in the
// spool.
func laneProcess(t testing.TB) (*process, *laneServer) {
	t.Helper()
	prefix, err := os.MkdirTemp("", "lane") //nolint:usetesting // its path is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(prefix) })
	p := testProcess(t)
	p.spoolDir = filepath.Join(prefix, "spool")
	l, err := p.serveLane(prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.close()
		_ = p.close(t.Context())
	})
	return p, l
}

// spooled returns the events that wait in p's spools.
func (p *process) spooled(t testing.TB) []gjson.Result {
	t.Helper()
	var events []gjson.Result
	for _, l := range p.running() {
		entries, err := l.spool.Peek(nil, 1<<20, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			r, err := relay.ParseRecord(e.Record)
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, gjson.ParseBytes(bytes.Clone(r.Value)))
		}
	}
	return events
}

// ids returns the request ids of the events of a type, with how often each is there.
func ids(events []gjson.Result, eventType string) map[string]int {
	seen := map[string]int{}
	for _, e := range events {
		if e.Get("type").Str == eventType {
			seen[e.Get("data.request_id").Str]++
		}
	}
	return seen
}

// ended checks where exchanges have ended, and that all have.
func (p *process) ended(t testing.TB, want map[place]uint64) {
	t.Helper()
	got := map[place]uint64{}
	for _, place := range places {
		if n := p.ledger.ends[place].Get(); n > 0 {
			got[place] = n
		}
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(place{})); diff != "" {
		t.Errorf("exchanges ended (-want +got):\n%s", diff)
	}
	if n := p.ledger.balance(); n != 0 {
		t.Errorf("%d exchanges have no place", n)
	}
}

const apiOnly = `{"meter_ai_token_usage":false,"meter_ai_calls":false,"__plugin_id":"p-1"}`

// await waits until something is true.
func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); pause(t) {
		if time.Now().After(deadline) {
			t.Fatal("in 30 s not: " + what)
		}
	}
}

func TestABatchThatIsAcknowledgedIsInTheSpool(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	needs := w.register(1, apiOnly)
	if needs.Body != lane.BodyNone || !slices.ContainsFunc(needs.Log, func(path []string) bool { return slices.Equal(path, []string{"request", "id"}) }) {
		t.Errorf("what is needed is %+v", needs)
	}
	if got := w.ask(batch(1, false, nil, plain(1), plain(2), plain(3))); got != "OK 1" {
		t.Fatalf("the answer is %q", got)
	}
	if got := ids(p.spooled(t), meter.TypeAPIRequest); len(got) != 3 {
		t.Errorf("in the spool are %v", got)
	}
	p.ended(t, map[place]uint64{placeSpooled: 3})
}

func TestTheBodyIsWantedWhereAMeterReadsIt(t *testing.T) {
	_, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	for config, want := range map[string]lane.Body{
		apiOnly: lane.BodyNone,
		`{}`:    lane.BodyLLM,
		`{"meters":[{"slug":"rows","aggregation":"SUM","value":"body.rows"}]}`: lane.BodyAny,
	} {
		if got := w.register(1, config).Body; got != want {
			t.Errorf("%s needs %q, want %q", config, got, want)
		}
	}
	needs := w.register(2, `{"meters":[{"slug":"bad","aggregation":"SUM","value":"response.size +"}]}`)
	if !strings.Contains(needs.Problems, `meter "bad"`) {
		t.Errorf("the problems are %q", needs.Problems)
	}
}

// TestTheFrontsAgree gives every golden exchange to the lane, as the Lua front would hand it over: the events are those of
// the PDK front, but for what only a tap can know.
func TestTheFrontsAgree(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", "exchange", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatal("no golden exchanges", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config := "{}"
			x := lane.Exchange{Config: 1, Number: 1, Delivered: true, FirstByte: 17, Bytes: 99}
			var want []string
			for _, f := range archive.Files {
				switch f.Name {
				case "config.json":
					config = string(f.Data)
				case "serialize.json":
					x.Log = bytes.TrimSpace(f.Data)
				case "response.json", "response.sse":
					x.Head = f.Data
				case "want.jsonl":
					want = strings.Split(strings.TrimSpace(string(f.Data)), "\n")
				}
			}
			log := gjson.ParseBytes(x.Log)
			if x.Head != nil {
				x.HasBody, x.Ended, x.Tapped = true, true, true
				x.Type, x.Encoding = []byte(log.Get("response.headers.content-type").Str), []byte(log.Get("response.headers.content-encoding").Str)
				if string(x.Encoding) == "gzip" {
					x.Head = zip(t, x.Head)
				}
			}
			p, l := laneProcess(t)
			w := dialLane(t, l.prefix, "w", 0)
			w.register(1, config)
			if got := w.ask(batch(1, false, nil, x)); got != "OK 1" {
				t.Fatalf("the answer is %q", got)
			}
			var got []string
			for _, e := range p.spooled(t) {
				got = append(got, e.Raw)
			}
			if diff := cmp.Diff(eventsBut(t, want), eventsBut(t, got)); diff != "" {
				t.Errorf("events differ (-PDK front +Lua front):\n%s", diff)
			}
			for _, e := range got {
				if gjson.Get(e, "type").Str == meter.TypeLLMUsage && gjson.Get(e, "data.time_to_first_byte_ms").Int() != 17 {
					t.Errorf("the time to the first byte is not in %s", e)
				}
			}
		})
	}
}

// eventsBut decodes events, without what depends on the moment and on the front.
func eventsBut(t *testing.T, events []string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, text := range events {
		if text == "" {
			continue
		}
		var e map[string]any
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatal(err)
		}
		delete(e, "sequence")
		delete(e, "source")
		data, _ := e["data"].(map[string]any)
		delete(data, "time_to_first_byte_ms")
		all = append(all, e)
	}
	return all
}

func TestABatchThatIsSentAgainIsNoSecondOne(t *testing.T) {
	p, l := laneProcess(t)
	first := dialLane(t, l.prefix, "w", 0)
	first.register(1, apiOnly)
	first.ask(batch(1, false, nil, plain(1), plain(2)))
	first.conn.Close() // the worker has not read the answer, say

	second := dialLane(t, l.prefix, "w", 0)
	second.register(1, apiOnly)
	if got := second.ask(batch(1, true, nil, plain(1), plain(2))); got != "OK 1" {
		t.Errorf("the answer is %q", got)
	}
	if got := second.ask(batch(2, false, nil, plain(3))); got != "OK 2" {
		t.Errorf("the answer is %q", got)
	}
	if diff := cmp.Diff(map[string]int{requestID(1): 1, requestID(2): 1, requestID(3): 1}, ids(p.spooled(t), meter.TypeAPIRequest)); diff != "" {
		t.Error(diff)
	}
	p.ended(t, map[place]uint64{placeSpooled: 3})
	if p.ledger.batchesTaken.Get() != 2 || p.ledger.batchesRepeated.Get() != 1 {
		t.Errorf("%d batches taken, %d repeated", p.ledger.batchesTaken.Get(), p.ledger.batchesRepeated.Get())
	}
}

func TestABatchThatIsCutIsNotTaken(t *testing.T) {
	p, l := laneProcess(t)
	whole := batch(1, false, nil, plain(1), plain(2), plain(3))
	for cut := 1; cut < len(whole); cut += 97 {
		w := dialLane(t, l.prefix, "w", 0)
		w.register(1, apiOnly)
		w.send(whole[:cut])
		w.conn.Close()
	}
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	w.ask(batch(1, true, nil, plain(1), plain(2), plain(3)))
	if got := ids(p.spooled(t), meter.TypeAPIRequest); len(got) != 3 || !slices.Equal(slices.Sorted(maps.Values(got)), []int{1, 1, 1}) {
		t.Errorf("in the spool are %v", got)
	}
	p.ended(t, map[place]uint64{placeSpooled: 3})
}

// TestASpoolThatCannotBeWrittenLeavesTheBatchToTheWorker puts a file where the spool's directory should be.
func TestASpoolThatCannotBeWrittenLeavesTheBatchToTheWorker(t *testing.T) {
	p, l := laneProcess(t)
	if err := os.WriteFile(p.spoolDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	if problems := p.unready(); len(problems) != 2 || !strings.Contains(problems[1], "the spool's disk cannot be written, 0 records are in memory") {
		t.Errorf("the process is not ready because of %q", problems)
	}
	if got := w.ask(batch(1, false, nil, plain(1), plain(2))); got != "" {
		t.Errorf("the answer is %q", got)
	}
	p.ended(t, map[place]uint64{})
	if err := os.Remove(p.spoolDir); err != nil {
		t.Fatal(err)
	}
	await(t, "the disk is used", func() bool { s, _ := p.running()[0].stats(); return s.Trouble == nil })
	w = dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	if got := w.ask(batch(1, true, nil, plain(1), plain(2))); got != "OK 1" {
		t.Errorf("the answer is %q", got)
	}
	spooled := p.spooled(t)
	if got := ids(spooled, meter.TypeAPIRequest); len(got) != 2 {
		t.Errorf("in the spool are %v", got)
	}
	for _, e := range spooled {
		if _, number, ok := record.ParseSequence(e.Get("sequence").Str); !ok || number > 2 {
			t.Errorf("an event has the number %s: what was put off is no gap", e.Get("sequence").Str)
		}
	}
	p.ended(t, map[place]uint64{placeSpooled: 2})
	if p.ledger.batchesLater.Get() != 1 {
		t.Errorf("%d batches were put off", p.ledger.batchesLater.Get())
	}
}

func TestAFullSpoolTakesWhatFits(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, `{"meter_ai_token_usage":false,"meter_ai_calls":false,"bootstrap_servers":[{"host":"127.0.0.1","port":1}],"queue":{"max_bytes":20000}}`)
	var exchanges []lane.Exchange
	for n := range int64(50) {
		exchanges = append(exchanges, plain(n+1))
	}
	if got := w.ask(batch(1, false, nil, exchanges...)); got != "OK 1" {
		t.Errorf("the answer is %q", got)
	}
	kept := uint64(len(p.spooled(t)))
	if kept == 0 || kept == 50 {
		t.Fatalf("%d of 50 fit", kept)
	}
	p.ended(t, map[place]uint64{placeSpooled: kept, placeSpoolFull: 50 - kept})
}

func TestDropsAndGapsAreCountedAndTold(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "812.1", 0)
	w.register(1, apiOnly)
	w.register(2, `{"topic":"other","meter_ai_token_usage":false,"meter_ai_calls":false,"__plugin_id":"p-2"}`)
	w.register(3, `{"topic":"dry","dry_run":true,"__plugin_id":"p-3"}`)
	drops := []lane.Drop{{Plugin: "p-2", Reason: "worker_queue_full", Count: 5}, {Plugin: "-", Reason: "a_later_version's"[:15], Count: 1}}
	if got := w.ask(batch(1, false, drops, plain(1), plain(12))); got != "OK 1" { // 1, 12, and six of those in between
		t.Fatalf("the answer is %q", got)
	}
	p.ended(t, map[place]uint64{placeSpooled: 2, placeWorkerQueueFull: 5, placeWorkerError: 1, placeGap: 4})
	got := map[string]int64{}
	schemas := eventSchemas(t)
	for _, l := range p.running() {
		entries, err := l.spool.Peek(nil, 100, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			r, err := relay.ParseRecord(entry.Record)
			if err != nil {
				t.Fatal(err)
			}
			checkRecord(t, schemas, r)
			if e := gjson.ParseBytes(r.Value); e.Get("type").Str == typeGap {
				got[r.Topic+" "+e.Get("data.reason").Str+" "+e.Get("data.plugin_id").Str] += e.Get("data.exchanges").Int()
				if e.Get("data.worker").Str != "812.1" {
					t.Errorf("the worker is %s", e.Get("data.worker"))
				}
			}
		}
	}
	want := map[string]int64{
		"other worker_queue_full p-2": 5,
		"kong.metering worker_error ": 1,
		"other worker_error ":         1,
		"kong.metering gap ":          4,
		"other gap ":                  4,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("gaps on topics (-want +got):\n%s", diff)
	}
}

func TestWordOfWhatWorkersLostIsTakenInOnce(t *testing.T) {
	p, l := laneProcess(t)
	path := filepath.Join(l.prefix, laneLost)
	if err := os.WriteFile(path, []byte("HELLO 1 99.1 500\nDROP p-1 worker_exit 7\nDROP - worker_queue_full 2\nHELLO 1 99.2 3\nDROP p-1 worker_exit 1\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A process has taken this one over, and was killed.
	if err := os.WriteFile(path+".1795428217000-7", []byte("HELLO 1 99.0 4\nLEFT 2 p-1 -\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	await(t, "the files are gone", func() bool {
		left, err := filepath.Glob(path + "*")
		return err == nil && len(left) == 0 && p.ledger.balance() == 0 && p.ledger.observed.Get() == 11
	})
	p.ended(t, map[place]uint64{placeWorkerExit: 9, placeWorkerQueueFull: 2})
	workers := map[string]int64{}
	await(t, "four events", func() bool { return len(p.spooled(t)) == 4 })
	for _, e := range p.spooled(t) {
		workers[e.Get("data.worker").Str+" "+e.Get("data.reason").Str] = e.Get("data.exchanges").Int()
	}
	if diff := cmp.Diff(map[string]int64{"99.0 worker_exit": 1, "99.1 worker_exit": 7, "99.1 worker_queue_full": 2, "99.2 worker_exit": 1}, workers); diff != "" {
		t.Error(diff)
	}
}

// TestWhatWasSentAndTakenIsNotCountedAsLost reads word of a batch whose acknowledgement did not reach its worker: one that this
// process took, and one that a process which is gone had spooled, but for its last exchange.
func TestWhatWasSentAndTakenIsNotCountedAsLost(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, apiOnly)
	if got := w.ask(batch(1, false, nil, plain(1), plain(2))); got != "OK 1" {
		t.Fatal(got)
	}
	p.recent.add(requestID(11))
	text := fmt.Sprintf("HELLO 1 w 2\nLEFT 1 p-1 %s\nLEFT 1 p-1 %s\nLEFT 2 p-1 -\nHELLO 1 other 2\nLEFT 9 p-1 %s\nLEFT 9 p-1 %s\n", requestID(1), requestID(2), requestID(11), requestID(12))
	if err := os.WriteFile(filepath.Join(l.prefix, laneLost), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "the word is taken in", func() bool { return p.ledger.ends[placeWorkerExit].Get() > 1 })
	p.ended(t, map[place]uint64{placeSpooled: 2, placeWorkerExit: 2})
}

func TestAWorkerThatEndsWithoutGoodbyeIsTold(t *testing.T) {
	p, l := laneProcess(t)
	l.grace = time.Millisecond
	polite := dialLane(t, l.prefix, "polite", 0)
	polite.register(1, apiOnly)
	polite.ask(batch(1, false, nil, plain(1)))
	polite.send(lane.Bye{}.Append(nil))
	polite.conn.Close()
	killed := dialLane(t, l.prefix, "killed", 0)
	killed.register(1, apiOnly)
	x := plain(2)
	x.Number = 1
	killed.ask(batch(1, false, nil, x))
	killed.conn.Close()
	await(t, "the killed worker is told", func() bool { return len(p.spooled(t)) == 3 })
	e := p.spooled(t)[2]
	if e.Get("type").Str != typeGap || e.Get("data").Raw != `{"reason":"worker_lost","worker":"killed"}` {
		t.Errorf("the event is %s", e)
	}
	if p.ledger.workersLost.Get() != 1 {
		t.Errorf("%d workers are lost", p.ledger.workersLost.Get())
	}
	p.ended(t, map[place]uint64{placeSpooled: 2})
}

func TestAWorkerThatComesBackIsNotLost(t *testing.T) {
	p, l := laneProcess(t)
	l.grace = time.Hour
	w := dialLane(t, l.prefix, "w", 0)
	w.conn.Close()
	l.mu.Lock()
	worker := l.workers["w"]
	l.mu.Unlock()
	gone := func() bool { worker.mu.Lock(); defer worker.mu.Unlock(); return worker.connections == 0 }
	await(t, "the connection has ended", gone)
	again := dialLane(t, l.prefix, "w", 0)
	again.register(1, apiOnly)
	worker.lose() // the timer was late
	worker.mu.Lock()
	defer worker.mu.Unlock()
	if p.ledger.workersLost.Get() != 0 || worker.away.Stop() {
		t.Error("the worker counts as lost, or soon will")
	}
}

func TestWhatNoWorkerSaysEndsTheConnection(t *testing.T) {
	p, l := laneProcess(t)
	good := dialLane(t, l.prefix, "good", 0)
	good.register(1, apiOnly)
	for name, text := range map[string]string{
		"a second HELLO":           string((&lane.Hello{Worker: "w"}).Append(nil)),
		"nonsense":                 "GET / HTTP/1.1\r\n",
		"an unknown configuration": string(batch(1, false, nil, lane.Exchange{Config: 9, Number: 1, Log: []byte("{}")})),
	} {
		w := dialLane(t, l.prefix, "w", 0)
		if got := w.ask([]byte(text)); !strings.HasPrefix(got, "ERR lane protocol: ") {
			t.Errorf("%s: the answer is %q", name, got)
		}
		if _, err := w.r.ReadByte(); err != io.EOF {
			t.Errorf("%s: the connection goes on", name)
		}
	}
	conn, err := net.Dial("unix", filepath.Join(l.prefix, laneSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("BYE\n"))
	if answer, _ := io.ReadAll(conn); !bytes.HasPrefix(answer, []byte("ERR ")) {
		t.Errorf("without HELLO: the answer is %q", answer)
	}
	if got := good.ask(batch(1, false, nil, plain(1))); got != "OK 1" {
		t.Errorf("another connection's answer is %q", got)
	}
	p.ended(t, map[place]uint64{placeSpooled: 1})
}

func TestHostileExchangesHaveAPlace(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, `{}`)
	exchanges := []lane.Exchange{plain(1), plain(2), plain(3), plain(4)}
	exchanges[0].Log = []byte("[]")
	exchanges[1].Log = bytes.Repeat([]byte("{"), 1<<20)
	exchanges[2].Tapped, exchanges[2].Head, exchanges[2].Skipped, exchanges[2].Tail = true, []byte(`{"a`), 1<<52, []byte(`"usage":{`)
	exchanges[3].Tapped, exchanges[3].Type, exchanges[3].Head = true, []byte("\xff\xfe\x00"), bytes.Repeat([]byte{0xff}, 1<<16)
	if got := w.ask(batch(1, false, nil, exchanges...)); got != "OK 1" {
		t.Errorf("the answer is %q", got)
	}
	p.ended(t, map[place]uint64{placeSpooled: 2, placeBadLog: 2})
}

func TestTheSocketIsKongsAloneAndComesBack(t *testing.T) {
	_, l := laneProcess(t)
	path := filepath.Join(l.prefix, laneSocket)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket's mode is %v: %v", info.Mode(), err)
	}
	before := dialLane(t, l.prefix, "w", 0)
	before.register(1, apiOnly)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	await(t, "the socket is back", func() bool {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	if got := before.ask(batch(1, false, nil, plain(1))); got != "OK 1" {
		t.Errorf("the connection from before answers %q", got)
	}
	after := dialLane(t, l.prefix, "v", 0)
	after.register(1, apiOnly)
	if got := after.ask(batch(1, false, nil, plain(2))); got != "OK 1" {
		t.Errorf("the new socket answers %q", got)
	}
}

// TestTheNextProcessTakesTheSocketOver is a reload: the new process listens before the old one is gone.
func TestTheNextProcessTakesTheSocketOver(t *testing.T) {
	old, l := laneProcess(t)
	worker := dialLane(t, l.prefix, "w", 0)
	worker.register(1, apiOnly)

	p := testProcess(t)
	p.spoolDir = old.spoolDir
	next, err := p.serveLane(l.prefix)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		next.close()
		_ = p.close(t.Context())
	}()
	if got := worker.ask(batch(1, false, nil, plain(1))); got != "OK 1" {
		t.Errorf("the old process answers %q", got)
	}
	l.close()
	if got := worker.ask(batch(2, false, nil, plain(2))); got != "" {
		t.Errorf("a process that has stopped answers %q", got)
	}
	worker = dialLane(t, l.prefix, "w", 1)
	worker.register(1, apiOnly)
	if got := worker.ask(batch(2, true, nil, plain(2))); got != "OK 2" {
		t.Errorf("the new process answers %q", got)
	}
	old.ended(t, map[place]uint64{placeSpooled: 1})
	p.ended(t, map[place]uint64{placeSpooled: 1})
}

func TestInstancesLiveAsLongAsConnectionsUseThem(t *testing.T) {
	_, l := laneProcess(t)
	one, two := dialLane(t, l.prefix, "1", 0), dialLane(t, l.prefix, "2", 0)
	one.register(1, apiOnly)
	one.register(2, `{}`)
	two.register(7, apiOnly)
	count := func() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.instances) }
	if count() != 2 {
		t.Errorf("%d instances, want 2", count())
	}
	one.register(2, `{"topic":"t"}`) // the administrator has changed it
	if count() != 2 {
		t.Errorf("%d instances after a change, want 2", count())
	}
	one.conn.Close()
	await(t, "one instance is left", func() bool { return count() == 1 })
	two.conn.Close()
	await(t, "no instance is left", func() bool { return count() == 0 })
}

func TestOutcomeIsWhatTheFrontSaw(t *testing.T) {
	whole := lane.Exchange{Delivered: true, HasBody: true, Ended: true}
	for name, test := range map[string]struct {
		logged meter.Outcome
		status int
		change func(*lane.Exchange)
		want   meter.Outcome
	}{
		"all went well":                                {meter.OutcomeCompleted, 200, nil, meter.OutcomeCompleted},
		"no body at all":                               {meter.OutcomeCompleted, 204, func(x *lane.Exchange) { x.HasBody, x.Ended = false, false }, meter.OutcomeCompleted},
		"the client went away":                         {meter.OutcomeCompleted, 200, func(x *lane.Exchange) { x.Delivered, x.Ended = false, false }, meter.OutcomeClientAbort},
		"the client went away when all had come":       {meter.OutcomeCompleted, 200, func(x *lane.Exchange) { x.Delivered = false }, meter.OutcomeClientAbort},
		"the client went away before there was any":    {meter.OutcomeCompleted, 499, func(x *lane.Exchange) { *x = lane.Exchange{} }, meter.OutcomeClientAbort},
		"the client went away before the upstream's":   {meter.OutcomeRejected, 499, func(x *lane.Exchange) { *x = lane.Exchange{} }, meter.OutcomeClientAbort},
		"the upstream broke off":                       {meter.OutcomeCompleted, 200, func(x *lane.Exchange) { x.Ended = false }, meter.OutcomeUpstreamError},
		"the upstream fell silent":                     {meter.OutcomeCompleted, 200, func(x *lane.Exchange) { x.Ended, x.Stalled = false, true }, meter.OutcomeTimeout},
		"the upstream was slow and came to an end":     {meter.OutcomeCompleted, 200, func(x *lane.Exchange) { x.Stalled = true }, meter.OutcomeCompleted},
		"the upstream failed":                          {meter.OutcomeUpstreamError, 502, func(x *lane.Exchange) { x.HasBody, x.Ended = false, false }, meter.OutcomeUpstreamError},
		"the upstream failed and the client went away": {meter.OutcomeUpstreamError, 500, func(x *lane.Exchange) { x.Delivered = false }, meter.OutcomeUpstreamError},
		"the upstream did not answer":                  {meter.OutcomeTimeout, 504, func(x *lane.Exchange) { x.HasBody, x.Ended = false, false }, meter.OutcomeTimeout},
		"Kong answered":                                {meter.OutcomeRejected, 401, func(x *lane.Exchange) { x.HasBody, x.Ended = false, false }, meter.OutcomeRejected},
		"Kong answered and the client did not wait":    {meter.OutcomeRejected, 401, func(x *lane.Exchange) { *x = lane.Exchange{} }, meter.OutcomeRejected},
	} {
		t.Run(name, func(t *testing.T) {
			x := whole
			if test.change != nil {
				test.change(&x)
			}
			if got := outcomeOf(test.logged, test.status, &x); got != test.want {
				t.Errorf("the outcome is %s, want %s", got, test.want)
			}
		})
	}
}

func TestTheRequestSaysWhatWasAskedFor(t *testing.T) {
	yes := true
	for body, want := range map[string]asked{
		`{"model":"gpt-4o","stream":true,"messages":[{"model":"other"}]}`:                     {model: "gpt-4o", stream: &yes},
		`{"messages":[{"content":"\"model\":\"x\""}],"metadata":{"model":"x","stream":true}}`: {},
		`{"model":7,"stream":"true"}`: {},
		`{"model":"gpt-4o"`:           {},
		`not json`:                    {},
		``:                            {},
		`{"model":"` + strings.Repeat("m", 300) + `"}`: {},
	} {
		if diff := cmp.Diff(want, askedOf([]byte(body)), cmp.AllowUnexported(asked{})); diff != "" {
			t.Errorf("%.60s:\n%s", body, diff)
		}
	}
}
