package main

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"kafka-metering/plugin/devkong"
)

// TestTheSpoolOfAKilledServerIsListedExportedVerifiedAndReplayed runs the commands of the real binary on the spool of a
// real server, while it lives and when it is gone.
func TestTheSpoolOfAKilledServerIsListedExportedVerifiedAndReplayed(t *testing.T) {
	const exchanges = 100
	x, address := newExchanges(t), freeAddress(t)
	s := startServer(t)
	kong := devkong.NewWorkers(1, devkong.WorkersOptions{})
	defer kong.Close()
	conf := s.configuration(address, requestOnly)
	for id := range exchanges {
		if err := kong.Worker(0).Log(t.Context(), conf, x.exchange(id)); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(s.prefix, pluginName+".spool")
	command := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(s.path, append([]string{"spool"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("spool %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	pid := s.cmd.Process.Pid
	expect(t, "spool ls", command("ls", dir), fmt.Sprintf("process %d  %d ", pid, exchanges))
	expect(t, "spool verify", command("verify", dir), fmt.Sprintf("%d pending, 0 rejected (process %d)", exchanges, pid))
	expect(t, "the status page", sections(t, httpGet(t, "http://"+s.metrics+"/"))["pipelines"], "pending 100 ", address, "topics "+defaultTopic)
	if n := strings.Count(command("export", "-pending", dir), `"type":"kong.api_request"`); n != exchanges {
		t.Errorf("%d events were exported", n)
	}
	s.kill()
	expect(t, "spool ls", command("ls", dir), fmt.Sprintf("gone   %d ", exchanges))
	expect(t, "spool verify", command("verify", dir), "ok ")

	_, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	c, err := kfake.NewCluster(kfake.Ports(number), kfake.NumBrokers(1), kfake.SeedTopics(6, defaultTopic))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The checkpoint of the process that was killed is one.
	expect(t, "spool replay", command("replay", "-brokers", address, dir), "101 records published", "0 left in the spool")
	seen := onTopic(t, address, "kong.api_request")
	for id, times := range seen {
		if times != 1 {
			t.Errorf("%s is on the topic %d times", id, times)
		}
	}
	if len(seen) != exchanges {
		t.Errorf("%d of %d exchanges are on the topic", len(seen), exchanges)
	}
	expect(t, "spool ls", command("ls", dir), "nothing is pending")
}
