package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestWhatStandsBehindAHundredOthersIsRead has a client that sends more headers and arguments than Kong reads: else it would be
// nobody's. The exchanges are read with all of Kong's log first, and then with the members that meters read.
func TestWhatStandsBehindAHundredOthersIsRead(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	n := startNginx(t, s, 1, http.NotFoundHandler(), s.configuration(broker, `{"meter_api_requests":false,"meter_ai_calls":false,"meter_ai_token_usage":false,
		"subject":{"sources":[{"look_up_value_in":"header","field":"x-tenant"}]},"attributes":[{"source":"query","look_up_value_in":"zz","event_property_name":"zz"}],
		"meters":[{"slug":"c","event_type":"acme.c","aggregation":"COUNT","group_by":{"secret":"request.headers['zz-none']"}}]}`).Config)
	const requests = 6
	for i := range requests {
		r, err := http.NewRequest("GET", "http://"+n.Front+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		var arguments strings.Builder
		for h := range 150 {
			r.Header.Set(fmt.Sprintf("a%d", h), "1")
			fmt.Fprintf(&arguments, "a%d=1&", h)
		}
		r.Header.Set("x-tenant", "tenant-7") // they are sent in the order of their names
		r.URL.RawQuery = arguments.String() + fmt.Sprint("zz=", i)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		for range 10 {
			pause(t) // until the configuration is known
		}
	}
	n.quit()
	s.awaitPublished()
	seen := map[string]bool{}
	for _, e := range events(t, broker) {
		if e.Get("type").Str == "acme.c" {
			seen[e.Get("subject").Str+" "+e.Get("data.zz").Str] = true
		}
	}
	for i := range requests {
		if !seen[fmt.Sprint("tenant-7 ", i)] {
			t.Errorf("exchange %d is not the customer's: %v", i, seen)
		}
	}
}

// TestTheFirstBodiesAreSeen has a meter of bodies, on a GET: the worker's first exchanges end before it knows what the process needs.
func TestTheFirstBodiesAreSeen(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	upstream := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"rows":3}`)
	})
	n := startNginx(t, s, 1, upstream, s.configuration(broker, `{"meter_api_requests":true,"meter_ai_calls":false,"meter_ai_token_usage":false,"meters":[
		{"slug":"rows","event_type":"acme.rows","aggregation":"SUM","value":"body.rows"}]}`).Config)
	const requests = 20
	for range requests {
		response, err := http.Get("http://" + n.Front + "/x")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
	n.quit()
	s.awaitPublished()
	count := map[string]int{}
	for _, e := range events(t, broker) {
		count[e.Get("type").Str]++
	}
	if count["acme.rows"] != requests || count["kong.api_request"] != requests {
		t.Errorf("of %d exchanges: %v", requests, count)
	}
}
