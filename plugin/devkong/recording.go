package devkong

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"google.golang.org/protobuf/proto"
)

// Recording is what went over one connection between Kong and a plugin server, message by message. Those of a real Kong
// lie in testdata/recordings. Tests compare them with what the stand-in does, and play them to plugin servers: see Replay.
type Recording struct {
	Name  string // for errors: the file
	Turns []Turn
}

// Turn is one message of Kong's and what came of it.
type Turn struct {
	Call   *kong_plugin_protocol.RpcCall
	Asked  []Asked                         // during an event, in order
	Return *kong_plugin_protocol.RpcReturn // nil where the connection was closed instead
}

// Asked is one PDK call of a plugin, and Kong's answer. A test may add some to a Turn before it replays it, for what a
// plugin asks that the recorded one did not.
type Asked struct {
	Method string
	Args   []byte // protobuf, as Answer is
	Answer []byte
	Failed bool // Kong closed the connection instead of answering
}

// frame is one frame of the plugin protocol with its direction.
type frame struct {
	fromKong bool
	payload  []byte
}

// ReadRecording reads a file of testdata/recordings, whose README describes the format.
func ReadRecording(path string) (*Recording, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read recording: %w", err)
	}
	var frames []frame
	for n, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		head, quoted, _ := strings.Cut(strings.TrimSpace(line), ` "`)
		payload, err := strconv.Unquote(`"` + quoted)
		fields := strings.Fields(head) // 4348us plugin2kong len=24
		if err != nil || len(fields) != 3 || fields[2] != fmt.Sprint("len=", len(payload)) {
			return nil, fmt.Errorf("read recording: %s:%d is not a frame", path, n+1)
		}
		frames = append(frames, frame{fields[1] == "kong2plugin", []byte(payload)})
	}
	turns, err := turnsOf(frames)
	if err != nil {
		return nil, fmt.Errorf("read recording %s: %w", path, err)
	}
	return &Recording{Name: path, Turns: turns}, nil
}

// turnsOf puts the frames of a connection together.
func turnsOf(frames []frame) ([]Turn, error) {
	var turns []Turn
	next := func(fromKong bool) (payload []byte, ok bool) {
		if len(frames) == 0 || frames[0].fromKong != fromKong {
			return nil, false
		}
		payload, frames = frames[0].payload, frames[1:]
		return payload, true
	}
	for len(frames) > 0 {
		message, ok := next(true)
		turn := Turn{Call: &kong_plugin_protocol.RpcCall{}}
		if !ok {
			return nil, fmt.Errorf("turn %d does not begin with a message of Kong's", len(turns)+1)
		}
		if err := proto.Unmarshal(message, turn.Call); err != nil {
			return nil, fmt.Errorf("turn %d: %w", len(turns)+1, err)
		}
		for turn.Call.GetCmdHandleEvent() != nil {
			method, ok := next(false)
			if !ok || len(method) == 0 {
				break
			}
			asked := Asked{Method: string(method)}
			asked.Args, _ = next(false)
			asked.Answer, ok = next(true)
			asked.Failed = !ok
			turn.Asked = append(turn.Asked, asked)
		}
		if answer, ok := next(false); ok {
			turn.Return = &kong_plugin_protocol.RpcReturn{}
			if err := proto.Unmarshal(answer, turn.Return); err != nil {
				return nil, fmt.Errorf("turn %d: %w", len(turns)+1, err)
			}
		}
		turns = append(turns, turn)
	}
	return turns, nil
}

// Replay plays Kong's side of a recording to the server of another plugin, on a connection of its own, and checks that
// the server answers as the recorded one did: each message has a return message with its number and the same members, or
// the connection is closed where it was closed then.
//
// Instances are started under the plugin's name and, unless config is nil, with config instead of the recorded fields;
// the metadata stays. Events of phases that the plugin does not have are left out, as Kong leaves them out. A PDK call
// gets the answer that the same call got in the recording, in the same event or in one before; kong.log.* is answered
// with nothing. A call that has no answer is an error that names it: add it to the turn's Asked.
//
// The turns that it returns, as far as they got, have what the plugin asked this time.
func (r *Recording) Replay(ctx context.Context, plugin *Plugin, config map[string]any) ([]Turn, error) {
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, "unix", plugin.Socket)
	if err != nil {
		return nil, fmt.Errorf("replay %s: connect to plugin server: %w", r.Name, err)
	}
	c := &conn{Conn: nc, r: bufio.NewReader(nc)}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	var played []Turn
	for i, recorded := range r.Turns {
		if event := recorded.Call.GetCmdHandleEvent(); event != nil && !slices.Contains(plugin.Phases, event.GetEventName()) {
			continue
		}
		turn, err := r.play(c, i, plugin, config)
		played = append(played, turn)
		if err == nil {
			err = sameReturn(recorded, turn)
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return played, fmt.Errorf("replay %s: turn %d (%s): %w", r.Name, i+1, recorded.kind(), err)
		}
		if turn.Return == nil {
			break
		}
	}
	return played, nil
}

// kind says what a turn is about.
func (t Turn) kind() string {
	switch {
	case t.Call.GetCmdStartInstance() != nil:
		return "start instance"
	case t.Call.GetCmdCloseInstance() != nil:
		return "close instance"
	default:
		return t.Call.GetCmdHandleEvent().GetEventName()
	}
}

// play plays turn i. A connection that is closed, by the plugin server or because the recorded call failed, leaves
// Return nil.
func (r *Recording) play(c *conn, i int, plugin *Plugin, config map[string]any) (turn Turn, err error) {
	turn.Call = proto.CloneOf(r.Turns[i].Call)
	if start := turn.Call.GetCmdStartInstance(); start != nil {
		if start.Config, err = withConfig(start.GetConfig(), config); err != nil {
			return turn, err
		}
		start.Name = plugin.Name
	}
	message, err := proto.Marshal(turn.Call)
	if err != nil {
		return turn, err
	}
	if err := c.write(message); err != nil {
		return turn, err
	}
	for turn.Call.GetCmdHandleEvent() != nil {
		method, err := c.read()
		if err != nil {
			return turn, unlessClosed(err)
		}
		if len(method) == 0 {
			break
		}
		asked := Asked{Method: string(method)}
		if asked.Args, err = c.read(); err != nil {
			return turn, unlessClosed(err)
		}
		known, ok := r.answer(i, asked)
		asked.Answer, asked.Failed = known.Answer, known.Failed
		turn.Asked = append(turn.Asked, asked)
		if !ok {
			return turn, fmt.Errorf("the plugin asks for %s, to which the recording has no answer", method)
		}
		if known.Failed {
			return turn, nil
		}
		if err := c.write(known.Answer); err != nil {
			return turn, err
		}
	}
	answer, err := c.read()
	if err != nil {
		return turn, unlessClosed(err)
	}
	turn.Return = &kong_plugin_protocol.RpcReturn{}
	return turn, proto.Unmarshal(answer, turn.Return)
}

func unlessClosed(err error) error {
	if errors.Is(err, errClosed) {
		return nil
	}
	return err
}

// answer finds what Kong said to a call in turn i, or in one before it.
func (r *Recording) answer(i int, call Asked) (Asked, bool) {
	if strings.HasPrefix(call.Method, "kong.log.") && call.Method != "kong.log.serialize" {
		return Asked{}, true
	}
	for ; i >= 0; i-- {
		for _, known := range r.Turns[i].Asked {
			if known.Method == call.Method && bytes.Equal(known.Args, call.Args) {
				return known, true
			}
		}
	}
	return Asked{}, false
}

// withConfig replaces the fields of a recorded configuration; what Kong itself has added stays.
func withConfig(recorded []byte, config map[string]any) ([]byte, error) {
	if config == nil {
		return recorded, nil
	}
	var members map[string]any
	if err := json.Unmarshal(recorded, &members); err != nil {
		return nil, fmt.Errorf("read the recorded configuration: %w", err)
	}
	maps.DeleteFunc(members, func(name string, _ any) bool {
		return !strings.HasPrefix(name, "__") && !slices.Contains(metadata, name)
	})
	maps.Copy(members, config)
	return appendJSON(nil, members), nil
}

// sameReturn compares what a turn returned with the recorded return message.
func sameReturn(recorded, played Turn) error {
	want, got := recorded.Return, played.Return
	switch {
	case want == nil && got == nil:
		return nil
	case want == nil:
		return errors.New("it returned; in the recording the connection was closed")
	case got == nil:
		return errors.New("the plugin server closed the connection; in the recording it returned")
	case got.GetSequence() != want.GetSequence():
		return fmt.Errorf("the return message has the number %d, not %d", got.GetSequence(), want.GetSequence())
	}
	wantStatus, status := want.GetInstanceStatus(), got.GetInstanceStatus()
	switch {
	case (wantStatus == nil) != (status == nil):
		return fmt.Errorf("the return message is %v, not %v", got, want)
	case wantStatus == nil:
		return nil
	case status.GetInstanceId() != wantStatus.GetInstanceId():
		return fmt.Errorf("the instance is %d, not %d", status.GetInstanceId(), wantStatus.GetInstanceId())
	case status.GetName() == "" || status.GetStartedAt() == 0:
		return fmt.Errorf("the status of the instance has no name or no start: %v", status)
	}
	return nil
}
