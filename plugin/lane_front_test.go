package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// brokerConfig is a plugin configuration for a broker.
func (s *testServer) pluginConfig(broker, more string) map[string]any {
	s.t.Helper()
	return s.configuration(broker, more).Config
}

func TestTheFrontMetersAnExchange(t *testing.T) {
	broker := startBroker(t)
	s := startServer(t)
	n := startNginx(t, s, 1, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"ok":true}`)
	}), s.pluginConfig(broker, ""))
	r, err := http.Post("http://"+n.Front+"/orders?x=1", "application/json", strings.NewReader(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	t.Log(r.Status, string(body))
	n.quit()
	s.awaitPublished()
	s.checkBalances()
	t.Log(onTopic(t, broker, "kong.api_request"))
	t.Log(httpGet(t, "http://"+s.metrics+"/metrics"))
	t.Log(n.errors())
}
