// Package devkong is a stand-in for Kong Gateway 3.9.3 as a Go plugin server sees it: it reads a declarative kong.yml,
// proxies HTTP, and speaks Kong's plugin protocol over the plugin server's unix socket. The command "kafka-metering try"
// runs on it, and so do the end-to-end tests, on machines that have no Kong.
//
// It imitates, after recordings of the plugin socket of a real Kong (testdata/recordings) and Kong's own source:
//   - the protocol: frames, sequence numbers, an instance for each worker and configuration that starts with the first
//     event, __seq__ and the other metadata in its configuration, the pool of connections, one event per connection;
//   - its errors: a PDK call that fails in Lua ends the event by closing the connection; a connection that the plugin
//     server closes resets all instances and repeats the event; a process that is away loses it;
//   - the serialized log, member by member, with its types, and bytes that are not UTF-8 as they came;
//   - the Log phase in a timer after the response, with Kong's cap on timers, so that no client waits for it;
//   - buffering where a plugin has the response phase, the key-auth plugin, identifiers, rejections and their bodies,
//     retries, and the headers that Kong adds;
//   - the plugin server's process: -dump, start, respawn, SIGTERM and soon SIGKILL.
//
// With Options.Lua it does what the Lua front does in Kong's workers (plugin/lua) instead of running the Log phase over the
// plugin protocol: it taps responses while they pass, and sends batches over the lane.
//
// It does not imitate: other plugins, TLS, HTTP/2, gRPC, WebSocket, upstreams with targets, the Admin API, databases,
// workspaces, expression routes, consumer groups, vaults, services' connect_timeout and write_timeout, the normalisation of
// paths, Kong's limit of 100 headers and query arguments, and the PDK calls that change a request or a response. Requests
// that the HTTP parser refuses (400) never reach the Log phase.
//
// Recordings can also be played to a plugin server, without a stand-in: see ReadRecording and Recording.Replay.
package devkong
