package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"

	"kafka-metering/meter/relay"
	"kafka-metering/meter/spool"
)

const spoolTopic = "kong.metering"

// spoolRecord is the record of event n.
func spoolRecord(n int) []byte {
	return relay.Record{
		Topic: spoolTopic, Key: []byte("acme"), Value: fmt.Appendf(nil, `{"id":"%d","data":{"path":"/a?b=<c>&d"}}`, n),
		Headers: []relay.Header{{Key: "ce_id", Value: fmt.Append(nil, n)}},
	}.AppendTo(nil)
}

// fillSpool opens a spool in dir with events 0 to n-1, of which the first few are rejected. Closed, it is one of a process that is gone.
func fillSpool(t *testing.T, dir string, n, rejected int) *spool.Spool {
	t.Helper()
	s, err := spool.Open(dir, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for i := range n {
		if err := s.Append(t.Context(), spoolRecord(i)); err != nil {
			t.Fatal(err)
		}
	}
	if rejected > 0 {
		entries, err := s.Peek(nil, rejected, 1<<20)
		if err != nil || len(entries) != rejected {
			t.Fatal(entries, err)
		}
		var rejects []spool.Reject
		for _, e := range entries {
			rejects = append(rejects, spool.Reject{Pos: e.Pos, Reason: "record is too large"})
		}
		if err := s.Ack(entries[rejected-1].Pos, rejects...); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func closeSpool(t *testing.T, s *spool.Spool) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// runSpoolTest runs the command and returns what it wrote.
func runSpoolTest(t *testing.T, args ...string) (out, errs string, err error) {
	t.Helper()
	var o, e bytes.Buffer
	err = runSpool(args, &o, &e, func(file string) (relay.Settings, string, string, error) {
		brokers, dir, _ := strings.Cut(file, ";")
		if brokers == "broken" {
			return relay.Settings{}, "", "", errors.New("-config broken: unknown field")
		}
		return relay.Settings{Brokers: []string{brokers}}, "", dir, nil
	})
	return o.String(), e.String(), err
}

func wants(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s: no %q in:\n%s", what, part, text)
		}
	}
}

// kafka starts an embedded broker and returns its address, and what reads the ids of all events on the topic.
func kafka(t *testing.T) (address string, ids func() []string) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, spoolTopic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	address = c.ListenAddrs()[0]
	return address, func() (ids []string) {
		err := relay.ReadAll(t.Context(), relay.Settings{Brokers: []string{address}}, spoolTopic, func(m relay.Message) {
			var event struct{ ID string }
			if err := json.Unmarshal(m.Value, &event); err != nil {
				t.Error(err)
			}
			ids = append(ids, event.ID)
		})
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
}

func numbers(from, to int) (ids []string) {
	for i := from; i < to; i++ {
		ids = append(ids, fmt.Sprint(i))
	}
	return ids
}

func TestSpoolLsTellsWhoseFilesThereAreAndWhatWaitsInThem(t *testing.T) {
	dir := t.TempDir()
	closeSpool(t, fillSpool(t, filepath.Join(dir, "kafka-gone-0a1b2c3d"), 5, 2))
	fillSpool(t, filepath.Join(dir, "process"), 4, 1)
	if err := os.WriteFile(filepath.Join(dir, "process", "0000000000001-1-000001.spool.damaged"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, err := runSpoolTest(t, "ls", dir)
	if err == nil || !strings.Contains(err.Error(), "1 file cannot be read") {
		t.Error(err)
	}
	wants(t, "errors", errs, "0000000000001-1-000001.spool.damaged", "spool file is damaged")
	var rows [][]string
	for line := range strings.Lines(out) {
		rows = append(rows, strings.Fields(line))
	}
	if len(rows) != 5 {
		t.Fatal(out)
	}
	bytes := fmt.Sprint(3 * len(spoolRecord(0)))
	if r := rows[1]; r[0] != "kafka-gone-0a1b2c3d" || r[2] != "gone" || r[3] != "3" || r[4] != bytes || r[5] != "2" || !strings.HasPrefix(r[7], fmt.Sprint(time.Now().UTC().Year())) {
		t.Error(r)
	}
	if r := rows[2]; r[0] != "process" || r[2] != "set" || r[4] != "?" {
		t.Error(r)
	}
	if r := rows[3]; r[0] != "process" || r[2] != "process" || r[3] != fmt.Sprint(os.Getpid()) || r[4] != "3" || r[6] != "1" {
		t.Error(r)
	}
	if r := rows[4]; !slices.Equal(r[:4], []string{"total", "3", "files", "6"}) {
		t.Error(r)
	}
}

func TestSpoolExportWritesEventsThatCanBeRead(t *testing.T) {
	dir := t.TempDir()
	s := fillSpool(t, dir, 4, 2)
	if err := s.Append(t.Context(), relay.Record{Topic: "x", Dead: "no subject", Value: []byte{0, 255}}.AppendTo(nil), []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	export := func(args ...string) (lines []map[string]any) {
		out, errs, err := runSpoolTest(t, append([]string{"export"}, append(args, dir)...)...)
		if (err == nil) != (len(args) > 0 && args[0] == "-rejected") {
			t.Error(args, err, errs) // the garbage is a damaged record
		}
		for line := range strings.Lines(out) {
			var l map[string]any
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if at, err := time.Parse(time.RFC3339, fmt.Sprint(l["time"])); err != nil || time.Since(at).Abs() > time.Minute {
				t.Error(l)
			}
			delete(l, "time")
			delete(l, "file")
			lines = append(lines, l)
		}
		return lines
	}
	event := func(n int, more map[string]any) map[string]any {
		id := fmt.Sprint(n)
		m := map[string]any{
			"topic": spoolTopic, "key": "acme", "headers": []any{map[string]any{"key": "ce_id", "value": id}},
			"event": map[string]any{"id": id, "data": map[string]any{"path": "/a?b=<c>&d"}},
		}
		maps.Copy(m, more)
		return m
	}
	pending := []map[string]any{
		event(2, nil), event(3, nil),
		{"topic": "x", "dead_letter": "no subject", "value_base64": "AP8="},
		{"damaged": "parse record: version 103, want 2"},
	}
	refused := map[string]any{"rejected": "record is too large"}
	rejected := []map[string]any{event(0, refused), event(1, refused)}
	if d := cmp.Diff(rejected, export("-rejected")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(pending, export("-pending")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(slices.Concat(pending, rejected), export()); d != "" {
		t.Error(d)
	}
	out, _, _ := runSpoolTest(t, "export", dir)
	wants(t, "the event's bytes", out, `"event":{"id":"2","data":{"path":"/a?b=<c>&d"}}`)
}

func TestSpoolVerifyNamesTheFileThatIsDamaged(t *testing.T) {
	dir := t.TempDir()
	closeSpool(t, fillSpool(t, filepath.Join(dir, "a"), 50, 3))
	closeSpool(t, fillSpool(t, filepath.Join(dir, "b"), 50, 0))
	out, errs, err := runSpoolTest(t, "verify", dir)
	if err != nil || strings.Count(out, "ok  ") != 2 {
		t.Fatal(out, errs, err)
	}
	wants(t, "what is intact", out, "47 pending, 3 rejected (gone)")
	files, err := spool.Files(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(data, []byte(`"id":"49"`))
	data[at+6] = '5' // 49 would be billed as 59
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err = runSpoolTest(t, "verify", dir)
	if err == nil || !strings.Contains(err.Error(), "1 file of 2 damaged") {
		t.Error(err)
	}
	wants(t, "what is damaged", out, "DAMAGED  "+files[0], "record 50 in", "checksum does not match", "ok  ")
	if _, _, err := runSpoolTest(t, "export", dir); err == nil || !strings.Contains(err.Error(), "1 record or file damaged") {
		t.Error(err)
	}
}

// TestSpoolCommandsLeaveAFileOfAnotherVersionToIt has one file of a format that is not known, and one that is.
func TestSpoolCommandsLeaveAFileOfAnotherVersionToIt(t *testing.T) {
	dir := t.TempDir()
	closeSpool(t, fillSpool(t, filepath.Join(dir, "a"), 5, 0))
	closeSpool(t, fillSpool(t, filepath.Join(dir, "b"), 7, 0))
	files, err := spool.Files(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.ReplaceAll(data, []byte("kafka-metering spool 1"), []byte("kafka-metering spool 2"))
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	const advice = "kafka-metering spool replay of the version that wrote it publishes it"
	out, errs, err := runSpoolTest(t, "ls", dir)
	if err == nil {
		t.Error("ls lists all")
	}
	wants(t, "ls", out, filepath.Base(files[0])+"  other version  ?", "gone           7")
	wants(t, "ls", errs, `unknown format of spool file: "kafka-metering spool 2"`, advice)
	out, _, err = runSpoolTest(t, "verify", dir)
	if err == nil || !strings.Contains(err.Error(), "1 file of 2 of another version") {
		t.Error(err)
	}
	wants(t, "verify", out, "unknown  "+files[0], advice, "ok  ")
	_, errs, err = runSpoolTest(t, "export", dir)
	if err == nil {
		t.Error("export exports all")
	}
	wants(t, "export", errs, advice)
	d := doctor{spool: dir}
	d.disk()
	var told []string
	for _, r := range d.results {
		told = append(told, fmt.Sprintf("%s %s: %s", r.Verdict, r.Check, r.Text))
	}
	wants(t, "doctor", strings.Join(told, "\n"), "problem spool: ", files[0], advice)
	if after, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(data, after) {
		t.Error("the file is not as it was", err)
	}
}

func TestSpoolReplayPublishesWhatADeadProcessLeftAndNothingElse(t *testing.T) {
	broker, ids := kafka(t)
	dir := t.TempDir()
	living := fillSpool(t, filepath.Join(dir, "process"), 3, 1)
	gone := filepath.Join(dir, "kafka-gone-0a1b2c3d")
	closeSpool(t, fillSpool(t, gone, 120, 20))

	_, _, err := runSpoolTest(t, "replay", "-brokers", broker, dir)
	if err == nil || !strings.Contains(err.Error(), "spools of 2 connections") || !strings.Contains(err.Error(), gone) {
		t.Error(err)
	}
	out, _, err := runSpoolTest(t, "replay", "-dry-run", "-brokers", broker, gone)
	if err != nil || len(ids()) != 0 {
		t.Error(out, err)
	}
	wants(t, "-dry-run", out, "would publish 100 pending records of "+gone+" to "+broker)

	out, errs, err := runSpoolTest(t, "replay", "-brokers", broker, gone)
	if err != nil {
		t.Fatal(out, errs, err)
	}
	wants(t, "the result", out, "100 pending records of processes that are gone", "100 records published, 0 dead-lettered, 0 rejected, 0 expired, 0 left")
	if d := cmp.Diff(numbers(20, 120), ids()); d != "" {
		t.Error(d)
	}
	out, _, err = runSpoolTest(t, "replay", "-brokers", broker, gone)
	if err != nil || len(ids()) != 100 {
		t.Error("a second run publishes again:", out, err)
	}
	if st := living.Stats(); st.Pending != 2 {
		t.Errorf("%+v", st)
	}
}

func TestSpoolReplayPublishesRejectedRecordsOnceMore(t *testing.T) {
	broker, ids := kafka(t)
	base := t.TempDir()
	dir := filepath.Join(base, "process")
	closeSpool(t, fillSpool(t, dir, 30, 10))
	out, errs, err := runSpoolTest(t, "replay", "-rejected", "-config", broker+";"+base)
	if err != nil {
		t.Fatal(out, errs, err)
	}
	wants(t, "the result", out, "20 pending records of processes that are gone, 10 rejected records", "30 records published")
	got := ids()
	if d := cmp.Diff(slices.Concat(numbers(10, 30), numbers(0, 10)), got); d != "" {
		t.Error(d)
	}
	if files, err := spool.Files(dir); err != nil || len(files) != 0 {
		t.Error("files are left:", files, err)
	}
}

func TestSpoolReplayCopiesTheRejectedRecordsOfALivingProcess(t *testing.T) {
	broker, ids := kafka(t)
	dir := t.TempDir()
	living := fillSpool(t, dir, 5, 3)
	out, errs, err := runSpoolTest(t, "replay", "-rejected", "-brokers", broker, dir)
	if err != nil {
		t.Fatal(out, errs, err)
	}
	wants(t, "the result", out, "copies of 3 more that a living process keeps; 1 file left to living processes", "3 records published")
	if d := cmp.Diff(numbers(0, 3), ids()); d != "" {
		t.Error(d)
	}
	if st := living.Stats(); st.Pending != 2 || st.RejectedHeld != 3 {
		t.Errorf("%+v", st)
	}
}

func TestSpoolReplayThatCannotPublishSaysWhyAndLosesNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	closeSpool(t, fillSpool(t, dir, 7, 0))
	out, _, err := runSpoolTest(t, "replay", "-give-up", "300ms", "-brokers", nobody, dir)
	if err == nil {
		t.Fatal(out)
	}
	wants(t, "the error", err.Error(), "nothing could be published for 300ms", "nobody listens at "+nobody)
	wants(t, "the result", out, "0 records published", "7 left in the spool")
	broker, ids := kafka(t)
	if out, _, err := runSpoolTest(t, "replay", "-brokers", broker, dir); err != nil || len(ids()) != 7 {
		t.Error(out, err)
	}
}

func TestSpoolReplayReportsWhatKafkaStillRefuses(t *testing.T) {
	broker, ids := kafka(t)
	dir := t.TempDir()
	s := fillSpool(t, dir, 1, 0)
	if err := s.Append(t.Context(), relay.Record{Topic: "no such topic!", Value: []byte("{}")}.AppendTo(nil)); err != nil {
		t.Fatal(err)
	}
	closeSpool(t, s)
	out, _, err := runSpoolTest(t, "replay", "-brokers", broker, dir)
	if err == nil || !strings.Contains(err.Error(), "refused 1 record for good") {
		t.Error(out, err)
	}
	if len(ids()) != 1 {
		t.Error(ids())
	}
}

func TestSpoolSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"ls", missing}, "there is no " + missing + ": give the plugin server's -spool-dir"},
		{[]string{"export", "-rejected", "-pending", dir}, "exclude each other"},
		{[]string{"replay", dir}, "give either -config or -brokers"},
		{[]string{"replay", "-config", "x", "-brokers", "y", dir}, "give either -config or -brokers"},
		{[]string{"replay", "-config", "x", "-tls", dir}, "go with -brokers"},
		{[]string{"replay", "-config", "broken", dir}, "unknown field"},
		{[]string{"replay", "-brokers", "x", dir, dir}, "2 directories: give one"},
		{[]string{"replay", "-brokers", "x", missing}, "there is no " + missing},
		{[]string{"replay", "-brokers", "x:1", "-mechanism", "GSSAPI", dir}, "GSSAPI"},
		{[]string{"replay", "-brokers", "x:1", "-password-file", missing, dir}, "read -password-file"},
	} {
		if _, _, err := runSpoolTest(t, test.args...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %q", test.args, err, test.want)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Error("wrong use leaves", files, err)
	}
	for _, args := range [][]string{nil, {"rm"}, {"ls", "-x"}} {
		if _, errs, err := runSpoolTest(t, args...); !errors.Is(err, errUsage) || errs == "" {
			t.Error(args, err)
		}
	}
	for _, command := range []string{"", "ls", "export", "verify", "replay"} {
		out, _, err := runSpoolTest(t, strings.Fields(command+" -h")...)
		if !errors.Is(err, flag.ErrHelp) {
			t.Error(err)
		}
		wants(t, "the help", out, "  kafka-metering spool "+command)
	}
	out, _, err := runSpoolTest(t, "ls", dir)
	if err != nil || !strings.Contains(out, "nothing is pending") {
		t.Error(out, err)
	}
}
