package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kafka-metering/meter/spool"
)

// TestAProcessThatOutlivesAReloadTakesTheNewSettings: kong reload flushes ngx.shared.kong (kong/init.lua, reset_kong_shm), which holds the counter of __seq__, writes .kong_env anew,
// and leaves nginx.pid as it is.
func TestAProcessThatOutlivesAReloadTakesTheNewSettings(t *testing.T) {
	p := testProcess(t)
	pid := filepath.Join(p.prefix, "pids", "nginx.pid")
	env := filepath.Join(p.prefix, ".kong_env")
	if err := os.Mkdir(filepath.Dir(pid), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.close(t.Context()) })
	if err := os.WriteFile(pid, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrote := func(at time.Time) {
		if err := os.WriteFile(env, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(env, at, at); err != nil {
			t.Fatal(err)
		}
	}
	set := func(seq int, password string) string {
		in := p.newInstance(parsed(t, p, fmt.Sprintf(
			`{"bootstrap_servers":[{"host":"127.0.0.1","port":1}],"authentication":{"strategy":"sasl","mechanism":"PLAIN","user":"u","password":%q},"__plugin_id":"p","__seq__":%d}`, password, seq)))
		l := in.sink.(*pipeline)
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.settings.Password
	}
	wrote(time.UnixMilli(1795428217000))
	set(57, "old")
	wrote(time.UnixMilli(1795428299000)) // kong reload
	if got := set(2, "rotated"); got != "rotated" {
		t.Errorf("after kong reload the password in force is %q", got)
	}
}

// TestLimitsThatChangeWhileTheSpoolOpensAreInForce has a limit that changes while the disk is slow to open.
func TestLimitsThatChangeWhileTheSpoolOpensAreInForce(t *testing.T) {
	p := testProcess(t)
	p.now = time.Now
	back := make(chan struct{})
	p.openSpool = func(dir string, o spool.Options) (*spool.Spool, error) {
		<-back
		return spool.Open(dir, o)
	}
	conf := func(seq, max int) *instance {
		return p.newInstance(parsed(t, p, fmt.Sprintf(`{"bootstrap_servers":[{"host":"127.0.0.1","port":1}],"__plugin_id":"p","__seq__":%d,"queue":{"max_bytes":%d}}`, seq, max)))
	}
	conf(1, 1<<20)
	in := conf(2, 1<<30)
	close(back)
	l := in.sink.(*pipeline)
	await(t, "opened", func() bool { s, _ := l.spoolOrOpening(); return s != nil })
	t.Cleanup(func() { _ = p.close(t.Context()) })
	conf(3, 1<<30) // the same once more: returns early
	big := make([]byte, 2<<20)
	done := make(chan error, 1)
	if err := l.Enqueue([][]byte{big}, func(err error) { done <- err }); err != nil {
		t.Errorf("2 MiB, of the 1 GiB that are configured: %v", err)
	}
}

// TestTheProblemOfAConnectionStaysKnown has a configuration whose connection is wrong is started twice, as by two workers of Kong.
func TestTheProblemOfAConnectionStaysKnown(t *testing.T) {
	p := testProcess(t)
	t.Cleanup(func() { _ = p.close(t.Context()) })
	start := func() *instance {
		return p.newInstance(parsed(t, p, `{"bootstrap_servers":[{"host":"127.0.0.1","port":1}],"__plugin_id":"p","__seq__":1,"security":{"ssl":true,"ca_certificate":"nonsense"}}`))
	}
	if in := start(); in.problems == "" || len(p.book.all()) != 1 {
		t.Fatal("the first does not know")
	}
	if in := start(); in.problems == "" || len(p.book.all()) != 1 {
		t.Errorf("the second says %q, the status page has %d problems", in.problems, len(p.book.all()))
	}
}
