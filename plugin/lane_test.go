package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	if got := w.ask((&lane.Hello{Worker: worker, Counted: counted}).Append(nil)); got != "OK 2" {
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
	var b []byte
	for i := range exchanges {
		b = exchanges[i].Append(b)
	}
	return (&lane.Batch{Number: number, Again: again, Drops: drops, Entries: len(exchanges)}).Append(nil, b)
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

// TestTheFrontsAgree gives every golden exchange to the lane, as the Lua front would hand it over, with Kong's whole log and
// with its members: the events are those of the PDK front, but for what only a tap can know.
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
			for _, members := range []bool{false, true} {
				p, l := laneProcess(t)
				w := dialLane(t, l.prefix, "w", 0)
				sent := x
				if needs := w.register(1, config); members {
					sent = x.Pick(&needs)
				}
				if got := w.ask(batch(1, false, nil, sent)); got != "OK 1" {
					t.Fatalf("the answer is %q", got)
				}
				var got []string
				for _, e := range p.spooled(t) {
					got = append(got, e.Raw)
				}
				if diff := cmp.Diff(eventsBut(t, want), eventsBut(t, got)); diff != "" {
					t.Errorf("members %v: events differ (-PDK front +Lua front):\n%s", members, diff)
				}
				for _, e := range got {
					if gjson.Get(e, "type").Str == meter.TypeLLMUsage && gjson.Get(e, "data.time_to_first_byte_ms").Int() != 17 {
						t.Errorf("the time to the first byte is not in %s", e)
					}
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
	w.register(1, `{}`)
	if problems := p.unready(); len(problems) != 2 || !strings.Contains(problems[1], "the spool's disk cannot be written, 0 records are in memory") {
		t.Errorf("the process is not ready because of %q", problems)
	}
	if got := w.ask(batch(1, false, nil, plain(1), plain(2))); !strings.HasPrefix(got, "LATER create spool file: ") {
		t.Errorf("the answer is %q", got)
	}
	p.ended(t, map[place]uint64{})
	if err := os.Remove(p.spoolDir); err != nil {
		t.Fatal(err)
	}
	await(t, "the disk is used", func() bool { s, _ := p.running()[0].stats(); return s.Trouble == nil })
	w = dialLane(t, l.prefix, "w", 0)
	w.register(1, `{}`)
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
	if n := p.ledger.extractions[extractionNotLLM].Get(); n != 2 {
		t.Errorf("%d extractions of two exchanges are counted, of which one batch came twice", n)
	}
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
	var log syncBuffer
	p.log = slog.New(slog.NewTextHandler(&log, nil))
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, `{}`)
	exchanges := []lane.Exchange{plain(1), plain(2), plain(3), plain(4), plain(5)}
	exchanges[0].Log = []byte("[]")
	exchanges[1].Log = bytes.Repeat([]byte("{"), 1<<20)
	exchanges[2].Tapped, exchanges[2].Head, exchanges[2].Skipped, exchanges[2].Tail = true, []byte(`{"a`), 1<<52, []byte(`"usage":{`)
	exchanges[3].Tapped, exchanges[3].Type, exchanges[3].Head = true, []byte("\xff\xfe\x00"), bytes.Repeat([]byte{0xff}, 1<<16)
	exchanges[4].Log, exchanges[4].List, exchanges[4].Members = nil, lane.ListCalls, make([][]byte, 4000) // nobody asked for so many
	if got := w.ask(batch(1, false, nil, exchanges...)); got != "OK 1" {
		t.Errorf("the answer is %q", got)
	}
	p.ended(t, map[place]uint64{placeSpooled: 2, placeBadLog: 3})
	if got := log.String(); strings.Count(got, "cannot be read") != 1 || !strings.Contains(got, "not a JSON object") {
		t.Errorf("the log says %q", got)
	}
}

// TestExchangesHaveTheMembersThatTheirWorkerWasAskedFor has a worker whose exchanges were collected for another process: in
// another order, with a member that nobody reads any more, one that is read in part, and without some that are read now.
func TestExchangesHaveTheMembersThatTheirWorkerWasAskedFor(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	lists := `{"log":[["response","status"],["service"],["old"],["request","id"],["source"],["started_at"],["request","method"]],"body":"none"}`
	answer := w.ask((&lane.Config{ID: 1, JSON: []byte(apiOnly), Lists: []byte(lists)}).Append(nil))
	size, err := strconv.Atoi(strings.TrimPrefix(answer, "OK "))
	if err != nil {
		t.Fatalf("the answer is %q", answer)
	}
	if _, err := io.CopyN(io.Discard, w.r, int64(size)); err != nil {
		t.Fatal(err)
	}
	x := lane.Exchange{Config: 1, Number: 1, Delivered: true, HasBody: true, Ended: true, List: lane.ListLog, Members: [][]byte{
		[]byte("201"), nil, []byte(`"x"`), []byte(strconv.Quote(requestID(1))), []byte(`"upstream"`), []byte("1795428217672"), []byte(`"PUT"`),
	}}
	if got := w.ask(batch(1, false, nil, x)); got != "OK 1" {
		t.Fatal(got)
	}
	e := p.spooled(t)[0]
	got := []string{e.Get("data.request_id").Str, e.Get("data.status").Raw, e.Get("data.request_method").Str, e.Get("data.outcome").Str, e.Get("time").Str}
	if diff := cmp.Diff([]string{requestID(1), "201", "PUT", "completed", "2026-11-23T10:03:37.672Z"}, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", e, diff)
	}
	if got := w.ask((&lane.Config{ID: 2, JSON: []byte(apiOnly), Lists: []byte(`{"log":[[]]}`)}).Append(nil)); !strings.HasPrefix(got, "ERR lane protocol: the lists") {
		t.Errorf("lists that are none: %q", got)
	}
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
	awaitLane(t, path)
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

// TestASocketThatNobodyListensOnIsTakenOver has a successor that dies at once, and a process that could not listen when it began.
func TestASocketThatNobodyListensOnIsTakenOver(t *testing.T) {
	_, l := laneProcess(t)
	path := filepath.Join(l.prefix, laneSocket)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	successor, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	successor.SetUnlinkOnClose(false)
	if !l.reachable() {
		t.Error("a socket that another process listens on is not reachable")
	}
	_ = successor.Close()
	awaitLane(t, path)

	p := testProcess(t)
	dir := t.TempDir()
	p.spoolDir = filepath.Join(dir, "spool")
	late, err := p.serveLane(filepath.Join(dir, "k"))
	if err == nil {
		t.Error("it listens in a directory that is not there")
	}
	defer func() {
		late.close()
		_ = p.close(t.Context())
	}()
	if err := os.Mkdir(filepath.Join(dir, "k"), 0o700); err != nil {
		t.Fatal(err)
	}
	awaitLane(t, filepath.Join(dir, "k", laneSocket))
}

// awaitLane waits until a worker that connects is answered.
func awaitLane(t *testing.T, path string) {
	t.Helper()
	await(t, "a process answers", func() bool {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return false
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("HELLO 2 x.1 0\n"))
		answer := make([]byte, 5)
		_, err = io.ReadFull(conn, answer)
		return err == nil && string(answer) == "OK 2\n"
	})
}

// TestOneConfigurationIsOneInstance reads a configuration as Kong's workers do after each change of any plugin: under another
// number. The newest decides about what instances share, also where it is what there was before.
func TestOneConfigurationIsOneInstance(t *testing.T) {
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	config := func(seq int, dead string) string {
		return fmt.Sprintf(`{"__plugin_id":"p-1","__seq__":%d,"bootstrap_servers":[{"host":"127.0.0.1","port":1}],"dead_letter_topic":%q}`, seq, dead)
	}
	for i := range 50 {
		w.register(int64(i+1), config(i, "a"))
	}
	inForce := func() string {
		l := p.running()[0]
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.connection.DeadLetterTopic
	}
	for i, dead := range []string{"b", "a", "b"} {
		w.register(int64(100+i), config(100+i, dead))
		if got := inForce(); got != dead {
			t.Errorf("records that are refused go to %q, want %q", got, dead)
		}
	}
	w.register(200, config(7, "a")) // a worker that was slow
	if got := inForce(); got != "b" {
		t.Errorf("an older configuration is in force: %q", got)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.instances) != 2 {
		t.Errorf("%d instances, want 2", len(l.instances))
	}
}

// TestAMessageThatDoesNotGoOnEndsItsConnection has a worker that hangs while it speaks.
func TestAMessageThatDoesNotGoOnEndsItsConnection(t *testing.T) {
	_, l := laneProcess(t)
	l.limit = 50 * time.Millisecond
	for _, cut := range []int{3, 40} {
		w := dialLane(t, l.prefix, "w", 0)
		w.register(1, apiOnly)
		time.Sleep(2 * l.limit) // one that says nothing may stay
		w.send(batch(1, false, nil, plain(1))[:cut])
		_ = w.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := w.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("cut behind %d bytes: %v", cut, err)
		}
	}
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

// TestAWorkerOfAnotherReleaseDoesNotFillTheLog has one that comes again four times a second.
func TestAWorkerOfAnotherReleaseDoesNotFillTheLog(t *testing.T) {
	p, l := laneProcess(t)
	var log syncBuffer
	p.log = log.logger()
	for range 40 {
		conn, err := net.Dial("unix", filepath.Join(l.prefix, laneSocket))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("HELLO 1 w 0\n")); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "ERR ") {
			t.Fatalf("%s, %v", answer, err)
		}
		_ = conn.Close()
	}
	if n := strings.Count(log.String(), "the lane"); n != 1 {
		t.Errorf("%d lines", n)
	}
}
