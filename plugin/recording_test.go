package main

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"

	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"github.com/tidwall/gjson"
	"google.golang.org/protobuf/proto"

	"kafka-metering/plugin/devkong"
)

// TestRecordingsOfARealKongBecomeEvents plays what a real Kong said to our server.
func TestRecordingsOfARealKongBecomeEvents(t *testing.T) {
	const everything = ""
	broker, x := startBroker(t), newExchanges(t)
	s := startServer(t)
	want, asks := map[string]bool{}, map[string]int{}
	for n, test := range []struct {
		folder, connection, config string
		after                      string // a recording that starts the instance
		unserialized               bool   // the plugin that was recorded did not ask for the log
	}{
		{"1-log-only", "conn1", everything, "", false},
		{"2-log-only-authenticated", "conn1", everything, "", false},
		{"3-response-mode", "conn1", everything, "", false},
		{"4-access-setctx-buffered", "conn1", everything, "", false},
		{"5-sse-tap-log", "conn1", everything, "", false},
		// 6-forbidden-call: a call that ends the event, which this plugin does not make.
		{"7-ai-proxy-log", "conn1", requestOnly, "", false}, // the body was not asked for
		{"8-response-mode-gzip", "conn1", everything, "3-response-mode", false},
		{"9-config-change-close-instance", "conn1", everything, "", true},
		// 9-config-change-close-instance/conn2: an instance that the server, on its own, does not know.
		{"9-config-change-close-instance", "conn3", everything, "", true},
	} {
		t.Run(test.folder+"/"+test.connection, func(t *testing.T) {
			conf := s.configuration(broker, test.config)
			conf.Plugin.Phases = []string{"response", "log"}
			play := func(folder, connection string) []devkong.Turn {
				recording, err := devkong.ReadRecording(filepath.Join("..", "testdata", "recordings", folder, connection+".frames.txt"))
				if err != nil {
					t.Fatal(err)
				}
				for i, turn := range recording.Turns {
					if test.unserialized && turn.Call.GetCmdHandleEvent() != nil {
						answer, err := proto.Marshal(&kong_plugin_protocol.String{V: string(x.exchange(100*n + i).Log)})
						if err != nil {
							t.Fatal(err)
						}
						recording.Turns[i].Asked = append(recording.Turns[i].Asked, devkong.Asked{Method: "kong.log.serialize", Answer: answer})
					}
				}
				turns, err := recording.Replay(t.Context(), conf.Plugin, conf.Config)
				if err != nil {
					t.Error(err)
				}
				return turns
			}
			var turns []devkong.Turn
			if test.after != "" {
				turns = play(test.after, "conn1")
			}
			for _, turn := range slices.Concat(turns, play(test.folder, test.connection)) {
				for _, asked := range turn.Asked {
					asks[asked.Method]++
					if _, log, ok := bytes.Cut(asked.Answer, []byte("{")); ok && asked.Method == "kong.log.serialize" {
						want[gjson.GetBytes(append([]byte("{"), log...), "request.id").Str] = true
					}
				}
			}
		})
	}
	s.awaitPublished()
	s.checkBalances()
	seen := onTopic(t, broker, "kong.api_request")
	for id := range want {
		if seen[id] != 1 {
			t.Errorf("request %s is on the topic %d times", id, seen[id])
		}
	}
	if asks["kong.log.serialize"] == 0 || asks["kong.service.response.get_raw_body"] == 0 || len(asks) != 2 {
		t.Errorf("the server asked for %v: want the log, and the bodies that Kong had buffered", asks)
	}
	if len(want) < 8 || len(seen) != len(want) {
		t.Errorf("%d exchanges were recorded, %d are on the topic", len(want), len(seen))
	}
}
