package devkong

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// nodeID is what kong.node.get_id answers.
const nodeID = "6f2ad9e1-5d2c-4d0e-9f7b-4e8f0f3f3c11"

// event is one attempt at one event: the PDK on the other end of a connection.
type event struct {
	worker   *Worker
	plugin   *Plugin
	phase    string
	attempt  int
	exchange *Exchange
}

func (e *event) cut(p Point) bool {
	cut := e.worker.node.cut
	return cut != nil && cut(Moment{Worker: e.worker.id, Phase: e.phase, Point: p, Attempt: e.attempt})
}

// serve answers the PDK calls of an event until the plugin ends them with an empty method name. A call is two frames, the
// method and its arguments; an answer is one.
func (e *event) serve(c *conn) error {
	if e.cut(EventSent) {
		return fmt.Errorf("cut: %w", errClosed)
	}
	for {
		method, err := c.read()
		if err != nil {
			return err
		}
		if len(method) == 0 {
			return nil
		}
		arg, err := c.read()
		if err != nil {
			return err
		}
		answer, err := e.answer(string(method), arg)
		if err != nil {
			e.worker.node.count.callsFailed.Add(1)
			e.worker.node.log.Error("PDK call failed", "plugin", e.plugin.Name, "phase", e.phase, "call", string(method), "error", err)
			return fmt.Errorf("%w: %s: %w", ErrCallFailed, method, err)
		}
		if err := c.write(answer); err != nil {
			return fmt.Errorf("%w: %w", errWrite, err)
		}
		if e.cut(CallDone) {
			return fmt.Errorf("cut: %w", errClosed)
		}
	}
}

// The calls, by the phases in which they work.
var (
	// savedCalls work everywhere: in the Log phase Kong answers them from what it has saved.
	savedCalls = map[string]func(e *event, arg []byte) ([]byte, error){
		"kong.response.get_status":  func(e *event, _ []byte) ([]byte, error) { return varintReply(e.exchange.Status), nil },
		"kong.response.get_source":  func(e *event, _ []byte) ([]byte, error) { return stringReply(e.exchange.Source), nil },
		"kong.response.get_header":  header(func(e *Exchange) http.Header { return e.ResponseHeaders }),
		"kong.response.get_headers": headers(func(e *Exchange) http.Header { return e.ResponseHeaders }),
		"kong.request.get_header":   header(func(e *Exchange) http.Header { return e.RequestHeaders }),
		"kong.request.get_headers":  headers(func(e *Exchange) http.Header { return e.RequestHeaders }),
		"kong.client.get_consumer":  func(e *event, _ []byte) ([]byte, error) { return e.exchange.Consumer.reply() },
		"kong.client.get_credential": func(e *event, _ []byte) ([]byte, error) {
			if e.exchange.CredentialID == "" {
				return nil, nil
			}
			return proto.Marshal(&kong_plugin_protocol.AuthenticatedCredential{Id: e.exchange.CredentialID})
		},
		"kong.router.get_route":   func(e *event, _ []byte) ([]byte, error) { return e.exchange.Route.reply() },
		"kong.router.get_service": func(e *event, _ []byte) ([]byte, error) { return e.exchange.Service.reply() },
		"kong.ctx.shared.get":     getValue(func(e *Exchange) *table { return &e.shared }),
		"kong.ctx.shared.set":     setValue(func(e *Exchange) *table { return &e.shared }),
		"kong.nginx.get_ctx":      getValue(func(e *Exchange) *table { return &e.nginx }),
		"kong.nginx.set_ctx":      setValue(func(e *Exchange) *table { return &e.nginx }),
		"kong.nginx.req_start_time": func(e *event, _ []byte) ([]byte, error) {
			return proto.Marshal(&kong_plugin_protocol.Number{V: float64(e.exchange.Start.UnixMilli()) / 1000})
		},
		"kong.nginx.get_subsystem": func(*event, []byte) ([]byte, error) { return stringReply("http"), nil },
		"kong.node.get_id":         func(*event, []byte) ([]byte, error) { return stringReply(nodeID), nil },
	}

	// liveCalls need the request: in the Log phase, which is a timer, they fail.
	liveCalls = map[string]func(r *Request) []byte{
		"kong.request.get_method":    func(r *Request) []byte { return stringReply(r.Method) },
		"kong.request.get_scheme":    func(*Request) []byte { return stringReply("http") },
		"kong.request.get_host":      func(r *Request) []byte { return stringReply(r.Host) },
		"kong.request.get_port":      func(r *Request) []byte { return varintReply(r.Port) },
		"kong.request.get_path":      func(r *Request) []byte { return stringReply(r.Path) },
		"kong.request.get_raw_query": func(r *Request) []byte { return stringReply(r.RawQuery) },
		"kong.request.get_raw_body":  func(r *Request) []byte { return stringReply(string(r.Body)) }, // as a string on the wire
		"kong.client.get_ip":         func(r *Request) []byte { return stringReply(r.ClientIP) },
	}

	// logLevels are the calls of kong.log that write.
	logLevels = map[string]slog.Level{
		"kong.log.alert": slog.LevelError, "kong.log.crit": slog.LevelError, "kong.log.err": slog.LevelError,
		"kong.log.warn": slog.LevelWarn, "kong.log.notice": slog.LevelInfo, "kong.log.info": slog.LevelInfo,
		"kong.log.debug": slog.LevelDebug,
	}
)

// answer returns the return message of a PDK call, or an error where Kong raises a Lua error.
func (e *event) answer(method string, arg []byte) ([]byte, error) {
	if level, ok := logLevels[method]; ok {
		return nil, e.log(level, arg)
	}
	if call, ok := savedCalls[method]; ok {
		return call(e, arg)
	}
	switch method {
	case "kong.log.serialize":
		if e.phase != PhaseLog {
			return nil, fmt.Errorf("function cannot be called in %s phase", e.phase)
		}
		return stringReply(string(e.exchange.Log)), nil
	case "kong.service.response.get_raw_body":
		if e.phase == PhaseAccess || !e.exchange.Buffered {
			return nil, fmt.Errorf("service body is only available with buffered proxying")
		}
		return stringReply(string(e.exchange.Body)), nil // bytes and strings are the same on the wire
	}
	r := e.exchange.Request
	if e.phase == PhaseLog || r == nil {
		return nil, fmt.Errorf("no request: not callable in the %s phase", e.phase)
	}
	if call, ok := liveCalls[method]; ok {
		return call(r), nil
	}
	if e.phase == PhaseResponse {
		switch method {
		case "kong.service.response.get_status":
			return varintReply(e.exchange.Status), nil
		case "kong.service.response.get_header":
			if name, err := stringArg(arg); err != nil || strings.EqualFold(name, "content-length") {
				return nil, fmt.Errorf("a number is no string: %w", err) // measured: the client gets a 500
			}
			return header(func(*Exchange) http.Header { return r.UpstreamHeaders })(e, arg)
		case "kong.service.response.get_headers":
			return nil, nil // measured: empty
		}
	}
	return nil, fmt.Errorf("the stand-in has no such call in the %s phase", e.phase)
}

func (e *event) log(level slog.Level, arg []byte) error {
	var list structpb.ListValue
	if err := proto.Unmarshal(arg, &list); err != nil {
		return err
	}
	parts := make([]string, len(list.GetValues()))
	for i, v := range list.GetValues() {
		parts[i] = fmt.Sprint(v.AsInterface())
	}
	e.worker.node.count.logged.Add(1)
	e.worker.node.log.Log(context.Background(), level, "["+e.plugin.Name+"] "+strings.Join(parts, ""))
	return nil
}

// stringReply encodes a String or ByteString without a check for UTF-8, as lua-protobuf does. A nil and an empty string
// are both the empty message.
func stringReply(s string) []byte {
	if s == "" {
		return nil
	}
	return protowire.AppendString(protowire.AppendTag(make([]byte, 0, len(s)+8), 1, protowire.BytesType), s)
}

func varintReply(n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(n))
}

func stringArg(arg []byte) (string, error) {
	var s kong_plugin_protocol.ByteString
	if err := proto.Unmarshal(arg, &s); err != nil {
		return "", err
	}
	return string(s.GetV()), nil
}

func header(of func(*Exchange) http.Header) func(*event, []byte) ([]byte, error) {
	return func(e *event, arg []byte) ([]byte, error) {
		name, err := stringArg(arg)
		if err != nil {
			return nil, err
		}
		return stringReply(of(e.exchange).Get(strings.ReplaceAll(name, "_", "-"))), nil
	}
}

// headers encodes a Struct by hand: lua-protobuf passes bytes on that are not UTF-8, and the Go side has to cope.
func headers(of func(*Exchange) http.Header) func(*event, []byte) ([]byte, error) {
	return func(e *event, _ []byte) ([]byte, error) {
		return structFields(headerTable(of(e.exchange))), nil
	}
}

// headerTable returns headers as a Lua table has them: lower case, a list where a header is repeated.
func headerTable(h http.Header) map[string]any {
	out := make(map[string]any, len(h))
	for name, values := range h {
		switch len(values) {
		case 0:
		case 1:
			out[strings.ToLower(name)] = values[0]
		default:
			list := make([]any, len(values))
			for i, v := range values {
				list[i] = v
			}
			out[strings.ToLower(name)] = list
		}
	}
	return out
}

// structFields encodes a google.protobuf.Struct.
func structFields(m map[string]any) []byte {
	var b []byte
	for key, value := range m {
		entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), key)
		entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), valueMessage(value))
		b = protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), entry)
	}
	return b
}

// valueMessage encodes a google.protobuf.Value as Kong's pb_wrap does: a table with a first element is a list, any other
// table a struct.
func valueMessage(v any) []byte {
	var b []byte
	switch x := v.(type) {
	case bool:
		b = protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), protowire.EncodeBool(x))
	case float64:
		b, _ = proto.Marshal(structpb.NewNumberValue(x))
	case string:
		b = protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), x)
	case []any:
		var list []byte
		for _, item := range x {
			list = protowire.AppendBytes(protowire.AppendTag(list, 1, protowire.BytesType), valueMessage(item))
		}
		number := protowire.Number(6)
		if len(x) == 0 {
			number = 5
		}
		b = protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), list)
	case map[string]any:
		b = protowire.AppendBytes(protowire.AppendTag(b, 5, protowire.BytesType), structFields(x))
	default:
		b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), 0)
	}
	return b
}

func getValue(of func(*Exchange) *table) func(*event, []byte) ([]byte, error) {
	return func(e *event, arg []byte) ([]byte, error) {
		name, err := stringArg(arg)
		if err != nil {
			return nil, err
		}
		return valueMessage(of(e.exchange).get(name)), nil
	}
}

func setValue(of func(*Exchange) *table) func(*event, []byte) ([]byte, error) {
	return func(e *event, arg []byte) ([]byte, error) {
		var kv kong_plugin_protocol.KV
		if err := proto.Unmarshal(arg, &kv); err != nil {
			return nil, err
		}
		of(e.exchange).set(kv.GetK(), kv.GetV().AsInterface())
		return nil, nil
	}
}

// queryArgs reads a query string as ngx.req.get_uri_args does: a name without "=" is true, a repeated one a list.
func queryArgs(raw string) map[string]any {
	args := map[string]any{}
	for part := range strings.SplitSeq(raw, "&") {
		name, text, has := strings.Cut(part, "=")
		if name == "" {
			continue
		}
		var value any = true
		if has {
			value = unescapeQuery(text)
		}
		name = unescapeQuery(name)
		switch old := args[name].(type) {
		case nil:
			args[name] = value
		case []any:
			args[name] = append(old, value)
		default:
			args[name] = []any{old, value}
		}
	}
	return args
}

// unescapeQuery decodes what it can and keeps the rest, as nginx does.
func unescapeQuery(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	b := []byte(strings.ReplaceAll(s, "+", " "))
	out := b[:0:0]
	for i := 0; i < len(b); i++ {
		if b[i] == '%' && i+2 < len(b) {
			if c, err := url.PathUnescape(string(b[i : i+3])); err == nil {
				out = append(out, c...)
				i += 2
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out)
}

// reply encodes the consumer as kong.client.get_consumer answers it; nil is the empty message.
func (c *Consumer) reply() ([]byte, error) {
	if c == nil {
		return nil, nil
	}
	return proto.Marshal(&kong_plugin_protocol.Consumer{
		Id: c.ID, Username: c.Username, CustomId: c.CustomID, CreatedAt: c.CreatedAt, Tags: c.Tags,
	})
}

// reply encodes the route as kong.router.get_route answers it.
func (r *Route) reply() ([]byte, error) {
	if r == nil {
		return nil, nil
	}
	m := &kong_plugin_protocol.Route{
		Id: r.ID, Name: r.Name, CreatedAt: r.CreatedAt, UpdatedAt: r.CreatedAt, Protocols: r.Protocols, Methods: r.Methods,
		Hosts: r.Hosts, Paths: r.Paths, HttpsRedirectStatusCode: 426, RegexPriority: int32(r.RegexPriority),
		StripPath: r.stripPath(), PreserveHost: r.PreserveHost, Tags: slices.Clone(r.Tags),
	}
	if r.service != nil {
		m.Service = &kong_plugin_protocol.ServiceKey{Id: r.service.ID}
	}
	return proto.Marshal(m)
}

// reply encodes the service as kong.router.get_service answers it.
func (s *Service) reply() ([]byte, error) {
	if s == nil {
		return nil, nil
	}
	return proto.Marshal(&kong_plugin_protocol.Service{
		Id: s.ID, Name: s.Name, CreatedAt: s.CreatedAt, UpdatedAt: s.CreatedAt, Retries: int32(s.retries()), Protocol: s.Protocol,
		Host: s.Host, Port: int32(s.Port), Path: s.Path, ConnectTimeout: int32(s.ConnectTimeout), WriteTimeout: int32(s.WriteTimeout),
		ReadTimeout: int32(s.ReadTimeout), Tags: s.Tags,
	})
}

// millis is a duration in whole milliseconds.
func millis(d time.Duration) int { return int(d / time.Millisecond) }
