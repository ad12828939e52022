package main

import (
	"io"
	"net/http"
	"testing"
)

// TestAnUnderscoreInAResponseHeadersNameIsNoDash: ngx.header takes it for one, and Kong's log does not. Of the exchanges that come after
// the configuration is known the third is the first that is not compared with Kong's own log.
func TestAnUnderscoreInAResponseHeadersNameIsNoDash(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	upstream := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("n") == "4" {
			w.Header()["X-Credits"] = []string{"5"}
			w.Header()["X_Under"] = []string{"7"}
		}
	})
	n := startNginx(t, s, 1, upstream, s.configuration(broker, `{"meter_api_requests":false,"meter_ai_calls":false,"meter_ai_token_usage":false,"meters":[
		{"slug":"c","event_type":"acme.c","aggregation":"COUNT","group_by":{"n":"request.querystring.n","dash":"response.headers.x_credits","under":"response.headers.x_under"}}]}`).Config)
	for _, c := range []string{"1", "2", "3", "4"} {
		r, err := http.Get("http://" + n.Front + "/x?n=" + c)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
		for range 40 {
			pause(t) // until the configuration is known
		}
	}
	n.quit()
	s.awaitPublished()
	for _, e := range events(t, broker) {
		if d := e.Get("data"); d.Get("n").Str == "4" && d.Raw != `{"n":"4","under":"7","value":1}` {
			t.Errorf("got %s", d.Raw)
		}
	}
}
