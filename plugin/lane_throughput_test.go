package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkThroughput measures what the front costs a proxy: requests per second through nginx without it, with it, and with
// a log plugin that only encodes Kong's log into a file, in turn; and the processor time of nginx's worker and of the
// process for each request. The load, the upstream, and the broker where there is one, run on the same cores. It wants wrk,
// and a machine that has nothing else to do:
//
//	go test ./plugin -run '^$' -bench Throughput -benchtime 1x
func BenchmarkThroughput(b *testing.B) {
	const rounds, seconds, clients = 5, 3, 64
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		b.Skip("there is no wrk")
	}
	broker := startBroker(b)
	for _, c := range []struct{ name, broker, more string }{
		{"requests alone, spooled", "127.0.0.1:1", requestOnly}, // there is no broker: as with the file, nobody takes them away
		{"requests alone, published", broker, requestOnly},
		{"defaults, published", broker, "{}"},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := startServer(b)
			n := startNginx(b, s, 1, http.NotFoundHandler(), s.configuration(c.broker, c.more).Config, staticUpstream)
			rates, worker, process := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
			requests := 0.0 // through the front
			servers := []struct{ name, address string }{{"bare", n.Bare}, {"front", n.Front}, {"file", n.File}}
			for b.Loop() {
				for range rounds {
					for _, to := range servers {
						pid := n.workers()[0]
						cpu, own := processorTime(b, pid), processorTime(b, s.cmd.Process.Pid)
						out, err := exec.Command(wrk, "-t1", "-c"+strconv.Itoa(clients), fmt.Sprintf("-d%ds", seconds), "http://"+to.address+"/orders?x=1").CombinedOutput()
						if err != nil {
							b.Fatalf("%v\n%s", err, out)
						}
						total, _ := strconv.ParseFloat(regexp.MustCompile(`(\d+) requests in`).FindStringSubmatch(string(out))[1], 64)
						rates[to.name] = append(rates[to.name], total/seconds)
						worker[to.name] = append(worker[to.name], (processorTime(b, pid)-cpu).Seconds()*1e6/total)
						process[to.name] = append(process[to.name], (processorTime(b, s.cmd.Process.Pid)-own).Seconds()*1e6/total)
						if to.name == "front" {
							requests += total
						}
						if to.name == "file" {
							_ = os.Truncate(filepath.Join(n.Prefix, "access.json"), 0)
						}
					}
				}
			}
			spooled := func() float64 { return s.metric(`kong_meter_exchanges_total{outcome="spooled",reason=""}`) }
			await(b, "every request is metered", func() bool { return spooled() >= requests })
			median := func(v []float64) float64 { slices.Sort(v); return v[len(v)/2] }
			for _, to := range servers {
				b.Logf("%-5s %6.0f requests/s (%.2f of bare), worker %5.1f µs, process %5.1f µs each", to.name, median(rates[to.name]),
					median(rates[to.name])/median(rates["bare"]), median(worker[to.name]), median(process[to.name]))
			}
			b.ReportMetric(median(rates["front"])/median(rates["bare"]), "kept")
			b.ReportMetric(median(worker["front"])-median(worker["bare"]), "worker-µs/req")
			b.ReportMetric(median(process["front"]), "process-µs/req")
		})
	}
}

// staticUpstream puts an nginx of its own behind nginx: an upstream that costs little.
func staticUpstream(n *testNginx) {
	b := n.t
	dir := b.TempDir()
	n.Upstream = freeAddress(b)
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log; %[3]s
events { worker_connections 1024; }
http {
  access_log off; keepalive_requests 10000000; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s;
  uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
  server { listen %[2]s; default_type application/json; location / { return 200 '{"ok":true}'; } }
}`, dir, n.Upstream, map[bool]string{true: "user root;"}[n.User != ""])
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(n.path, "-c", conf, "-p", dir, "-g", "daemon off;")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
}

// processorTime is what a process has used.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skip("needs /proc:", err)
	}
	words := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(words[11])
	system, _ := strconv.Atoi(words[12])
	return time.Duration(user+system) * 10 * time.Millisecond // at 100 Hz, as on all of Linux's architectures
}
