package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"kafka-metering/meter/relay"
	"kafka-metering/plugin/record"
	"kafka-metering/schema"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// saved is an exchange as a front would offer it.
type saved struct{ log, body []byte }

func (s saved) Serialize() ([]byte, error) { return s.log, nil }
func (s saved) Body() ([]byte, error)      { return s.body, nil }

// collector is a sink that keeps records in memory.
type collector struct {
	mu      sync.Mutex
	numbers *record.Numbers // as a spool has them numbered
	records []relay.Record
}

func (c *collector) Hold(records [][]byte, done func(error)) error { return c.Enqueue(records, done) }

func (c *collector) Enqueue(records [][]byte, done func(error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range records {
		c.numbers.Append(b)
		r, err := relay.ParseRecord(bytes.Clone(b))
		if err != nil {
			return err
		}
		c.records = append(c.records, r)
	}
	done(nil)
	return nil
}

// testProcess is a process with a fixed node, clock and start, whose pipelines nobody starts.
func testProcess(t testing.TB) *process {
	p := newProcess(t.TempDir(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	p.node, p.started = "node-1", time.UnixMilli(1795428217000)
	p.now = func() time.Time { return time.UnixMilli(1795428230123) }
	return p
}

// testInstance is an instance of that configuration that hands its records to the collector.
func testInstance(t testing.TB, p *process, config string) (*instance, *collector) {
	t.Helper()
	c := newConfig(p)
	if err := json.Unmarshal([]byte(config), c); err != nil {
		t.Fatal(err)
	}
	in, problems := p.compile(c)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	sink := &collector{numbers: record.NewNumbers(p.now, p.runStart)}
	in.handOverTo(sink, c)
	return in, sink
}

// eventSchemas compiles the schemas of schema/, which every event must satisfy.
func eventSchemas(t testing.TB) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for urn, raw := range schema.EventSchemas() {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(urn, document); err != nil {
			t.Fatal(err)
		}
	}
	return c.MustCompile(schema.EventSchema)
}

// TestExchanges runs every golden exchange of testdata/exchange from Kong's log to the record's bytes. The archives hold
// config.json (optional), serialize.json, response.* (optional) and want.jsonl.
func TestExchanges(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", "exchange", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatal("no golden exchanges", err)
	}
	events := eventSchemas(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config, x, want := "{}", saved{}, -1
			for i, f := range archive.Files {
				switch f.Name {
				case "config.json":
					config = string(f.Data)
				case "serialize.json":
					x.log = bytes.TrimSpace(f.Data)
				case "response.json", "response.sse":
					x.body = f.Data
				case "want.jsonl":
					want = i
				}
			}
			if bytes.Contains(x.log, []byte(`"content-encoding":"gzip"`)) {
				x.body = zip(t, x.body)
			}
			p := testProcess(t)
			in, sink := testInstance(t, p, config)
			ticket := p.ledger.open()
			in.handle(x, ticket)
			if !ticket.ended.Load() || p.ledger.balance() != 0 {
				t.Error("the exchange has no place in the ledger")
			}
			var got bytes.Buffer
			for _, r := range sink.records {
				got.Write(append(bytes.Clone(r.Value), '\n'))
				checkRecord(t, events, r)
			}
			if *update {
				if want < 0 {
					want, archive.Files = len(archive.Files), append(archive.Files, txtar.File{Name: "want.jsonl"})
				}
				archive.Files[want].Data = got.Bytes()
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want < 0 {
				t.Fatal("no want.jsonl: run go test -update, and read it")
			}
			if diff := cmp.Diff(string(archive.Files[want].Data), got.String()); diff != "" {
				t.Errorf("events differ (-want +got):\n%s", diff)
			}
		})
	}
}

// checkRecord checks what holds for every record in structured mode.
func checkRecord(t *testing.T, events *jsonschema.Schema, r relay.Record) {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(r.Value))
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Validate(document); err != nil {
		t.Errorf("%s\n%v", r.Value, err)
	}
	attributes, _ := document.(map[string]any)
	headers := map[string]string{}
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	if headers["content-type"] != "application/cloudevents+json; charset=UTF-8" {
		t.Errorf("content-type is %q", headers["content-type"])
	}
	for name, value := range attributes {
		if name != "data" && name != "datacontenttype" && headers["ce_"+name] != value {
			t.Errorf("header ce_%s is %q, the attribute %q", name, headers["ce_"+name], value)
		}
	}
	if string(r.Key) != attributes["subject"] {
		t.Errorf("the key is %q, the subject %q", r.Key, attributes["subject"])
	}
}

func zip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestEveryEndIsCounted(t *testing.T) {
	good := []byte(`{"request":{"id":"r1"},"response":{"status":200},"source":"upstream"}`)
	for name, test := range map[string]struct {
		config string
		log    string
		want   place
	}{
		"an event":         {`{}`, string(good), placeSpooled},
		"no meter":         {`{"meter_api_requests":false}`, string(good), placeNoMeter},
		"no customer":      {`{"subject":{"on_missing":"drop"}}`, string(good), placeNoSubject},
		"a dry run":        {`{"dry_run":true}`, string(good), placeDryRun},
		"a log that isn't": {`{}`, `[]`, placeBadLog},
		"nothing at all":   {`{}`, ``, placeBadLog},
	} {
		t.Run(name, func(t *testing.T) {
			p := testProcess(t)
			in, _ := testInstance(t, p, test.config)
			in.handle(saved{log: []byte(test.log)}, p.ledger.open())
			for _, place := range places {
				want := uint64(0)
				if place == test.want {
					want = 1
				}
				if got := p.ledger.ends[place].Get(); got != want {
					t.Errorf("%v: %d, want %d", place, got, want)
				}
			}
		})
	}
}

// TestAHugeBodyIsNotAskedFor has Kong buffer more than would ever be read.
func TestAHugeBodyIsNotAskedFor(t *testing.T) {
	p := testProcess(t)
	in, sink := testInstance(t, p, `{}`)
	x := buffered(t, "/v1/chat/completions", "application/json", chatAnswer())
	x.log = bytes.Replace(x.log, []byte(`"response":{`), []byte(`"response":{"size":67108865,`), 1)
	in.handle(unasked{saved: x, t: t}, p.ledger.open())
	if p.ledger.bodiesUnread.Get() != 1 || p.ledger.ends[placeSpooled].Get() != 1 {
		t.Error("the exchange is not counted, or its body is not counted as unread")
	}
	for _, r := range sink.records {
		if bytes.Contains(r.Value, []byte(`"type":"kong.llm_usage"`)) && bytes.Contains(r.Value, []byte(`"usage_status":"missing"`)) {
			return
		}
	}
	t.Error("there is no call without usage")
}

// unasked is an exchange whose body must not be asked for.
type unasked struct {
	saved
	t *testing.T
}

func (u unasked) Body() ([]byte, error) {
	u.t.Error("the body is asked for")
	return nil, nil
}

func TestAnExchangeThatKongRepeatsIsMeteredOnce(t *testing.T) {
	p := testProcess(t)
	in, sink := testInstance(t, p, `{}`)
	other, _ := testInstance(t, p, `{}`) // Kong starts the instance again before it repeats
	other.sink = sink
	x := saved{log: []byte(`{"request":{"id":"8aab2a7cbab60237a14a794412cde520"},"response":{"status":200}}`)}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() { []*instance{in, other}[i%2].handle(x, p.ledger.open()) })
	}
	wg.Wait()
	if len(sink.records) != 1 || p.ledger.ends[placeSpooled].Get() != 1 || p.ledger.ends[placeRepeated].Get() != 99 || p.ledger.balance() != 0 {
		t.Errorf("%d records, %d spooled, %d repeated", len(sink.records), p.ledger.ends[placeSpooled].Get(), p.ledger.ends[placeRepeated].Get())
	}
}

func TestRecentForgetsOnlyWhatIsOld(t *testing.T) {
	r := newRecent()
	for i := range 3 * recentIDs {
		done, _ := r.claim(strconv.Itoa(i))
		if done == nil {
			t.Fatalf("id %d is taken", i)
		}
		done()
	}
	if len(r.generation) > recentIDs || len(r.older) > recentIDs || len(r.underway) != 0 {
		t.Errorf("%d and %d ids, %d under way", len(r.generation), len(r.older), len(r.underway))
	}
	done, _ := r.claim("new")
	if again, first := r.claim("new"); again != nil || first == nil {
		t.Error("an id under way is not recognised")
	}
	done()
	if again, first := r.claim("new"); again != nil || first != nil {
		t.Error("an id that is done is not recognised")
	}
}
