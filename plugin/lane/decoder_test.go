package lane_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/plugin/lane"
)

// luaValues writes values as members of exchanges, one exchange each, and the same as JSON lines, with the functions that the
// Lua front and Kong use.
const luaValues = `
local buffer, cjson, new = require "string.buffer", require "cjson.safe", require "table.new"
local upside_down, behind = {}, new(0, 4)
for i = 5, 1, -1 do upside_down[i] = i end
behind[3], behind[1], behind[2] = "c", "a", "b"
local values = {
  "text", "", 'quote " slash \\ tab \t nul \0 del \127 / end', "über\255\254", ("long "):rep(10000), ("x"):rep(191), ("x"):rep(192),
  ("x"):rep(8127), ("x"):rep(8128), 0, -0, 1, -1, 200, 1795428217672, 0.1, 1/3, -1e-9, 1e13, 99999999999999, 1e14, 123456789012345678, 1e300,
  tonumber("0.057") * 1000, true, false, cjson.null, {}, { {} }, { 1, 2, 3 }, { "a", { "b" } }, { a = 1 }, { a = { b = { c = "d" } } },
  { 1, 2, x = 3 }, upside_down, behind, { [2] = "b" }, { [1] = "a", [3] = "c" }, { [0] = "zero" }, { [1.5] = "x" }, { ["1"] = "text" },
  { { ip = "10.0.3.17", port = 8080, balancer_start = 1795428217673, balancer_latency = 0, state = "failed", code = 502 }, { ip = "::1" } },
}
for _, value in ipairs(values) do
  local record = new(13, 0)
  record[1], record[2], record[3], record[4], record[12], record[13] = 1, 1, "", -1, 1, value
  local data = buffer.encode(record)
  io.write("BATCH 1 0 0 1 ", #data, "\n", data)
  io.stderr:write(cjson.encode(value), "\n")
end
`

func TestMembersAreTheJSONThatKongWouldHaveLogged(t *testing.T) {
	luajit, err := exec.LookPath("luajit")
	if err != nil {
		t.Skip("there is no luajit; plugin/lua/test/install.sh installs it")
	}
	cmd := exec.Command(luajit, "-e", luaValues)
	var data, text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &data, &text
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, text.Bytes())
	}
	d := lane.NewReader(&data)
	lines := bytes.Split(bytes.TrimSpace(text.Bytes()), []byte("\n"))
	for _, line := range lines {
		if _, err := d.Message(); err != nil {
			t.Fatal(err)
		}
		var x lane.Exchange
		if err := d.Exchange(&x); err != nil {
			t.Fatalf("%.100s: %v", line, err)
		}
		var want, got any
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatalf("%.100s: %v", line, err)
		}
		if err := json.Unmarshal(x.Members[0], &got); err != nil {
			t.Fatalf("%.100s is read as %.100s: %v", line, x.Members[0], err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%.100s is read as %.100s", line, x.Members[0])
		}
	}
	if len(lines) < 40 {
		t.Errorf("%d values", len(lines))
	}
}
