-- kafka-metering, the Lua front: watches exchanges and hands them to the process kafka-metering, which meters them.
--
-- With this file on Kong's Lua path Kong runs it instead of the Go plugin of the same name; the schema and the process
-- stay Kong's business. It knows nothing of meters, and leaves the proxied request alone, with one opt-in exception.
--
--   access         only with llm.ensure_stream_usage: asks an OpenAI-style stream for its usage
--   header_filter  decides whether this response is copied
--   body_filter    the tap: notes what passes. It never assigns ngx.arg, so nothing is held back or changed
--   log            collects what the meters read of Kong's log, numbers it, puts it into this worker's queue
--   timer          the lane: sends the queue in batches, and keeps each until the process has it on disk
--
-- The queue is bounded; what does not fit is dropped and counted, and the count travels with the next batch. The wire
-- format is in plugin/lane/doc.go.
local cjson, buffer, new_list = require "cjson.safe", require "string.buffer", require "table.new"

local kong, ngx = kong, ngx
local var, encode, concat = ngx.var, cjson.encode, table.concat
local find, sub, floor, max, min, abs = string.find, string.sub, math.floor, math.max, math.min, math.abs

-- Kong has timers of its own under OpenResty's names, which do not run any more once a worker has begun to exit. It keeps
-- OpenResty's: a stream that ends after kong reload is handed over by one of those.
local timer_at, timer_every = _G.native_timer_at or ngx.timer.at, _G.native_timer_every or ngx.timer.every

local MAX_ENTRIES, MAX_BYTES = 20000, 64 * 2^20    -- of the queue: ten seconds of 2,000 exchanges without bodies
local BATCH_DELAY = 0.05                           -- seconds between batches, because a large one costs both sides less; one
local BATCH_ENTRIES, BATCH_BYTES = 2000, 4 * 2^20  -- takes all there is, up to here
local RETRY_TICKS = 5                              -- of BATCH_DELAY, between attempts to reach a process that is away
local EXIT_PATIENCE, EXIT_DELAY = 3, 0.2           -- seconds that a worker which exits tries, and waits between attempts
local CONNECT_TIMEOUT, SEND_TIMEOUT, DISK_TIMEOUT = 1000, 2000, 5000         -- ms; the last until a batch is on disk
local RENEWAL = 60                                 -- seconds until it is looked whether Kong has renewed a secret
local MAX_REGISTRATIONS = 100                      -- new ones, until a new connection makes the process forget old ones
local MAX_PARSED = 100 -- headers and query arguments that Kong reads, unless lua_max_req_headers and lua_max_uri_args say less
local MAX_LOG, MAX_REQUEST, MAX_ENSURED = 4 * 2^20, 64 * 2^10, 2^20          -- bytes: log, request bodies that are read

-- PRIORITY. Filters run from high to low. Ours is above ai-proxy (770), response-transformer (800), jq (811) and whatever
-- else rewrites bodies, so that the tap sees what the provider sent; and below authentication and rate limiting (900 and
-- up), so that access sees only requests that those let pass, and changes no body whose signature they check. The price:
-- log runs before other log plugins, and does not see what they add to the log in their own log phase.
local Front = { VERSION = "0.1.0", PRIORITY = 840 }

local warned = -60
local function warn(...) -- at most once a minute, whatever happens how often
  if abs(ngx.now() - warned) >= 60 then
    warned = ngx.now()
    kong.log.warn("kafka-metering: ", ...)
  end
end

-- A registration is what this worker knows of a configuration: its number on the lane, and what the process needs of an
-- exchange. Until the process has said so, that is the whole log, and the body of what may be an answer of an LLM.
local registrations, registered = setmetatable({}, { __mode = "k" }), 0      -- by configuration; the last one's number
local newest                                                                 -- of the last exchange

-- asks_for_body tells what is copied until the process has said what it needs, which it says after the first exchange of a
-- worker and of a configuration, or when it is back: every body where a meter may read it.
local function asks_for_body(conf)
  local meters = type(conf.meters) == "table" and encode(conf.meters)
  return meters and find(meters, "%f[%w_]body%f[^%w_]") and "any" or "llm"
end

local function registration(conf)
  local r, now = registrations[conf], ngx.now()
  if r and abs(now - r.at) > RENEWAL then
    r.at, r.outdated = now, r.outdated or encode(conf) ~= r.json
  end
  if not r or r.outdated then
    registered = registered + 1
    r = { id = registered, json = assert(encode(conf)), lists = "", plugin = conf.__plugin_id or "-", body = asks_for_body(conf),
          half = floor((conf.max_body_bytes or 2^20) / 2), exchanges = 0, at = now }
    registrations[conf] = r
  end
  return r
end

-- The tap

-- readable: content types that can carry usage. Servers mislabel JSON and streams as the last two, or not at all.
local function readable(kind)
  return kind == "" or find(kind, "json", 1, true) or find(kind, "event%-?stream") or find(kind, "^text/plain")
    or find(kind, "^application/octet%-stream")
end

-- watch notes of an upstream's response whether it ends, and its body where the meters need it.
local function watch(conf)
  local status, method, ctx = ngx.status, ngx.req.get_method(), ngx.ctx
  if kong.response.get_source(ctx) ~= "service" or status < 200 or status == 204 or status == 304 or method == "HEAD" then
    return -- without a body, or Kong's own
  end
  local r = registration(conf)
  local seen = { last = ngx.now(), pause = 0, posted = r.body ~= "none" and method == "POST" }
  ctx.kafka_metering = seen
  local kind, encoding = ngx.header["Content-Type"] or "", ngx.header["Content-Encoding"] or ""
  if (r.body == "any" or seen.posted and status < 300) and #kind < 256 and #encoding < 256 and type(encoding) == "string"
    and readable(kind:lower()) then
    seen.tapped, seen.kind, seen.encoding, seen.bytes, seen.half = true, kind, encoding, 0, r.half
    seen.head, seen.head_bytes = {}, 0 -- a list of pieces of the body
    seen.tail, seen.tail_bytes, seen.from, seen.to = {}, 0, 1, 0 -- a window on those that come after them
  end
end

-- keep takes one half of what is kept of a body from its beginning, and the other from its end.
local function keep(seen, piece)
  local half, head, size = seen.half, seen.head, #piece
  local room = half - seen.head_bytes
  seen.bytes = seen.bytes + size
  if size <= room then
    head[#head + 1], seen.head_bytes = piece, seen.head_bytes + size
    return
  elseif room > 0 then
    head[#head + 1], seen.head_bytes = sub(piece, 1, room), half
  end
  piece = sub(piece, max(room + 1, size - half + 1)) -- a response that another plugin has buffered passes in one piece
  seen.to, seen.tail_bytes = seen.to + 1, seen.tail_bytes + #piece
  seen.tail[seen.to] = piece
  while seen.tail_bytes > half do
    seen.tail_bytes = seen.tail_bytes - #seen.tail[seen.from]
    seen.tail[seen.from], seen.from = nil, seen.from + 1
  end
end

local function see(seen)
  local now = ngx.now()
  seen.pause, seen.last, seen.began = max(seen.pause, now - seen.last), now, seen.began or now
  local piece = seen.tapped and ngx.arg[1]
  if piece and piece ~= "" then
    keep(seen, piece)
  end
  seen.eof = seen.eof or ngx.arg[2]
end

-- Kong's log, as far as the meters read it. kong.log.serialize makes all of it, which costs a multiple.

-- fields has members of the log as kong.log.serialize makes them (Kong 3.9: kong/pdk/log.lua). What they read of ngx.ctx is
-- not documented: log_of compares as we go.
local NONE = {}

local function method_of(ctx) -- the client's: nginx redirects what it answers itself to Kong's error handler, with a GET
  return ctx.KONG_UNEXPECTED and kong.request.get_method() or ngx.req.get_method()
end

local fields = {
  ["request.id"] = function(ctx) return ctx.request_id or var.kong_request_id or "" end,
  ["request.method"] = method_of,
  ["request.uri"] = function(ctx) return ctx.request_uri or var.request_uri or "" end,
  ["request.size"] = function() return tonumber(var.request_length) end,
  ["response.status"] = function() return ngx.status end,
  ["response.size"] = function() return tonumber(var.bytes_sent) end,
  ["latencies.kong"] = function(ctx) return ctx.KONG_PROXY_LATENCY or ctx.KONG_RESPONSE_LATENCY or 0 end,
  ["latencies.proxy"] = function(ctx) return ctx.KONG_WAITING_TIME or -1 end,
  ["latencies.request"] = function() return tonumber(var.request_time) * 1000 end,
  ["authenticated_entity.id"] = function(ctx) return (ctx.authenticated_credential or NONE).id end,
  upstream_status = function(ctx) return var.upstream_status or ctx.buffered_status or "" end,
  upstream_uri = function(ctx)
    local uri, asked = var.upstream_uri or "", ctx.request_uri or var.request_uri or ""
    local bare = uri ~= "" and not find(uri, "?", 1, true)
    return uri .. (bare and (sub(asked, -1) == "?" and "?" or var.is_args == "?" and "?" .. (var.args or "")) or "")
  end,
  tries = function(ctx) return ctx.balancer_data and ctx.balancer_data.tries end,
  client_ip = function() return var.remote_addr end,
  started_at = function(ctx) return ctx.KONG_PROCESSING_START or kong.request.get_start_time() end,
  source = function(ctx) return kong.response.get_source(ctx) == "service" and "upstream" or "kong" end,
  workspace = function(ctx) return ctx.workspace end,
}

-- beyond is set where a request has more headers than Kong reads (lua_max_req_headers, 100) and the one that is asked for
-- is behind those: else a client that sends a hundred of its own would be nobody's.
local beyond = false

local function header_of(name)
  local value = rawget(kong.request.get_headers(), name)
  if value == nil then
    value = rawget(ngx.req.get_headers(0), name)
    beyond = beyond or value ~= nil
  end
  return value
end

-- objects has the same for any member of an object.
local objects = {
  ["request.headers"] = function(_, name, variable)
    local value = var[variable] and header_of(name) -- nginx's variable tells quickly
    return value and (name == "authorization" or name == "proxy-authorization") and "REDACTED" or value
  end,
  ["request.querystring"] = function(ctx, name)
    local asked = var.args
    local value = (asked or ctx.KONG_UNEXPECTED) and kong.request.get_query()[name] -- Kong's error handler has no args
    if value == nil and asked and #asked > 2 * MAX_PARSED then -- more than Kong reads of them, perhaps
      value = ngx.req.get_uri_args(0)[name]
      beyond = beyond or value ~= nil
    end
    return value or nil
  end,
  ["response.headers"] = function(_, name)
    if find(name, "_", 1, true) then -- which ngx.header takes for a dash
      return rawget(ngx.resp.get_headers(), name)
    end
    return ngx.header[name]
  end,
  route = function(ctx, name) return (ctx.route or NONE)[name] end,
  service = function(ctx, name) return (ctx.service or NONE)[name] end,
  consumer = function(ctx, name) return (ctx.authenticated_consumer or NONE)[name] end,
}

-- A record is what the process is told of an exchange: a list of these, and behind them members of Kong's log.
local CONFIG, NUMBER, FLAGS, FIRST_BYTE, DELIVERED, REQUEST = 1, 2, 3, 4, 5, 6
local TYPE, ENCODING, HEAD, SKIPPED, TAIL, LOG = 7, 8, 9, 10, 11, 12
local whole = new_list(LOG, 0) -- the record with all of Kong's log

-- plan prepares a record with the members that the process needs. It returns nil where one of them is none of ours: then the
-- whole log is sent. list tells the process which members they are.
local function plan(paths, list)
  local members = { record = new_list(LOG + #paths, 0), roots = {} }
  members.record[LOG] = list
  for i, path in ipairs(paths) do
    local get, name = fields[concat(path, ".")] or objects[concat(path, ".", 1, #path - 1)], path[#path]
    if path[1] == "ai" then
      get = function() end -- of AI plugins: there only where log_of sends Kong's own log
    elseif not get then
      return nil
    end
    members[i], members.roots[path[1]] = { path = path, get = get, name = name, variable = "http_" .. name:gsub("-", "_") }, true
  end
  return members
end

-- touched reports whether a plugin has put something into the log where we look, as AI plugins do
-- (kong.log.set_serialize_value).
local function touched(members, values)
  for _, value in ipairs(values or NONE) do
    if members.roots[value.key:match("^[^.]*")] then
      return true
    end
  end
end

-- differs returns a member of a record that is not what Kong logs.
local function differs(members, log)
  for i, member in ipairs(members) do
    local logged = log
    for _, key in ipairs(member.path) do
      logged = type(logged) == "table" and rawget(logged, key) or nil
    end
    if encode(members.record[LOG + i]) ~= encode(logged) then
      return concat(member.path, ".")
    end
  end
end

-- complete adds to members of Kong's log what Kong has left out because there is too much.
local function complete(values, most, all)
  local count = 0
  for _, value in pairs(values) do
    count = count + (type(value) == "table" and #value or 1)
  end
  if count >= (most or MAX_PARSED) then
    for name, value in pairs(all(0)) do
      if values[name] == nil then
        values[name] = value
      end
    end
  end
end

local function redacted_headers(most)
  local headers = ngx.req.get_headers(most)
  for _, name in ipairs { "authorization", "proxy-authorization" } do
    headers[name] = headers[name] and "REDACTED"
  end
  return headers
end

-- log_of returns a record with an exchange's log: what the process needs of it, or, where a plugin has added to that, all of
-- Kong's own. And of a configuration's first exchange, its second, fourth, eighth and so on the members are compared with
-- Kong's: where they differ (another version of Kong) its own log is sent from then on.
local function log_of(r, ctx)
  local call = method_of(ctx) == "POST" or ngx.status == 101 -- an LLM's, perhaps, or a session with one
  local known = fields["request.id"](ctx) ~= "" -- before Kong 3.5 an event's id is a hash of the log, of all of it
  local members, record = known and r[call and "calls" or "log"], nil
  if members then
    record, beyond = members.record, false
    for i = 1, #members do
      local member = members[i]
      record[LOG + i] = member.get(ctx, member.name, member.variable)
    end
    if not touched(members, ctx.serialize_values) then
      r.exchanges = r.exchanges + 1
      local due = bit.band(r.exchanges, r.exchanges - 1) == 0 and not beyond
      local other = due and differs(members, kong.log.serialize())
      if not other then
        return record
      end
      warn("this Kong logs ", other, " differently; its whole log is sent, which is slower")
      r.log, r.calls = nil, nil
    end
  end
  local log = kong.log.serialize()
  local request = log.request or NONE
  complete(request.headers or NONE, kong.configuration.lua_max_req_headers, redacted_headers)
  complete(request.querystring or NONE, kong.configuration.lua_max_uri_args, ngx.req.get_uri_args)
  local text, err = encode(log)
  if text and #text <= MAX_LOG then
    whole[LOG] = text
    return whole
  end
  return record, err or "its log is too long" -- without what plugins have added, if there is a record
end

-- The lane

local worker, number, counted   -- this worker's name; its last exchange; how many the process has, or has been told are lost
local batches, first, last      -- first to last, which takes exchanges until it is sent
local entries, bytes            -- exchanges in the batches, and what they take
local scratch = buffer.new()
local dropped = {}              -- "<plugin> <reason>" -> count, not told yet
local connections, known = 0, 0 -- registrations belong to a connection; how many there were when the last one began
local flushing, failed, wait = false, false, 0     -- of flush

-- begin gives the worker a name and an empty queue. Having left word of a queue it goes on as another.
local function begin()
  worker = ngx.worker.pid() .. "." .. floor(ngx.now() * 1000)
  number, counted, batches, first, last, entries, bytes = 0, 0, {}, 1, 0, 0, 0
end

local function drop(what, count)
  dropped[what] = (dropped[what] or 0) + (count or 1)
end

-- lines_of returns the lines that tell of drops, and how many exchanges they are: nobody else will tell of them.
local function lines_of(drops)
  local lines, count = {}, 0
  for what, n in pairs(drops) do
    lines[#lines + 1], count = "DROP " .. what .. " " .. n .. "\n", count + n
  end
  return lines, count
end

-- The functions from here to drain raise an error where something goes wrong: the socket is closed then, and the batch stays.

-- ask sends a message and returns the first line of the answer.
local function ask(socket, message)
  assert(socket:send(message))
  return assert(socket:receive("*l"))
end

local function open()
  local socket = ngx.socket.tcp()
  socket:settimeouts(CONNECT_TIMEOUT, SEND_TIMEOUT, DISK_TIMEOUT)
  assert(socket:connect("unix:" .. kong.configuration.prefix .. "/kafka-metering.lane.socket", { pool = worker }))
  return socket, socket:getreusedtimes() > 0
end

local function connect()
  local socket, reused = open()
  if reused and registered - known >= MAX_REGISTRATIONS then
    socket:close()
    socket, reused = open()
  end
  if not reused then
    connections, known = connections + 1, registered
    local answer = ask(socket, "HELLO 2 " .. worker .. " " .. counted .. "\n")
    assert(answer == "OK 2", answer)
  end
  return socket
end

-- register tells the process of a configuration, and learns what it needs of an exchange. Another process may need something
-- else (an upgrade): exchanges that are queued keep to the lists of the first one, and those that come are registered anew.
local function register(socket, r)
  local answer = ask(socket, "CONFIG " .. r.id .. " " .. #r.json .. " " .. #r.lists .. "\n" .. r.json .. r.lists)
  local size = assert(answer:match("^OK (%d+)$"), answer)
  local text = assert(socket:receive(tonumber(size)))
  if r.lists == "" then
    local needs = assert(cjson.decode(text))
    if needs.problems then
      kong.log.err(needs.problems)
    end
    r.log, r.calls = needs.log and plan(needs.log, 1), needs.calls and plan(needs.calls, 2)
    r.lists, r.body = text, needs.body
  end
  r.connection, r.outdated = connections, text ~= r.lists
end

-- opened returns the batch that takes exchanges.
local function opened()
  local batch = batches[last]
  if not batch or batch.drops or batch.entries >= BATCH_ENTRIES or #batch.data >= BATCH_BYTES then
    batch = { data = buffer.new(), entries = 0, registrations = {}, ids = {}, again = 0 }
    last = last + 1
    batches[last] = batch
  end
  return batch
end

-- deliver sends the oldest batch, and forgets it when the process has it on disk. Else the next call sends it again, with the
-- same number: the process knows whether it has had it.
local function deliver(socket)
  local batch = batches[first] or opened()
  if not batch.drops then -- from here on it takes no more
    batch.drops, dropped = dropped, {}
  end
  for i = 1, max(batch.entries, 1) do -- one where there are drops alone: the process must know whom to tell of them
    local r = batch.registrations[i] or newest
    if r and r.connection ~= connections then
      register(socket, r)
    end
  end
  local lines, count = lines_of(batch.drops)
  local line = concat({ "BATCH", first, batch.again, #lines, batch.entries, #batch.data }, " ") .. "\n"
  batch.again = 1
  local answer = ask(socket, { line, lines, batch.data:tostring() })
  local taken = answer == "OK " .. first
  assert(taken or find(answer, "^ERR "), answer)
  entries, bytes = entries - batch.entries, bytes - #batch.data
  batches[first], first = nil, first + 1
  if taken then
    counted = counted + batch.entries + count
    return
  end
  for i = 1, batch.entries do -- the process never will: they count with the next batch's drops, as do this one's
    drop(batch.registrations[i].plugin .. " worker_refused")
  end
  for what, n in pairs(batch.drops) do
    drop(what, n)
  end
  error(answer)
end

local function idle()
  return first > last and not next(dropped)
end

-- drain sends what there is, but for the batch that is filling, if that is not the only one. A worker that exits sends all,
-- and says goodbye: nothing is missing.
local function drain()
  local exiting = ngx.worker.exiting()
  if idle() and not (exiting and connections > 0) then
    return
  end
  local socket = connect()
  local latest = exiting and math.huge or max(first, last - 1)
  while first <= latest and not idle() do
    deliver(socket)
  end
  if not exiting then
    return socket:setkeepalive(0, 1)
  end
  socket:send("BYE\n")
  socket:close()
end

-- leave_word tells of what a worker that ends has not handed over, in a file that the process reads: which exchanges too,
-- because the process may have had the batch that was sent last.
local function leave_word()
  if idle() then
    return
  end
  local lines = { "HELLO 2 " .. worker .. " " .. number .. "\n", concat((lines_of(dropped))) }
  for n = first, last do
    local batch = batches[n]
    lines[#lines + 1] = "SENT " .. n .. "\n" .. concat((lines_of(batch.drops or NONE)))
    for i = 1, batch.entries do
      local id = find(batch.ids[i], "^%x+$") and batch.ids[i] or "-"
      lines[#lines + 1] = "LEFT " .. batch.registrations[i].plugin .. " " .. id .. "\n"
    end
  end
  local text, file, err = concat(lines), io.open(kong.configuration.prefix .. "/kafka-metering.lane.lost", "a")
  if file then
    file:setvbuf("full", #text + 1) -- one write, on close: other workers end at the same time
    file:write(text)
    file, err = file:close()
  end
  kong.log.err("kafka-metering: the worker ends, exchanges are lost: ", entries, file and "" or ", without word: ", err or "")
  dropped = {}
  begin()
end

-- leave hands over what there is before the worker's end.
local function leave()
  local began = ngx.now()
  repeat
    pcall(drain)
    if idle() then
      return
    end
    ngx.sleep(EXIT_DELAY)
  until abs(ngx.now() - began) > EXIT_PATIENCE
  leave_word()
end

-- flush runs twenty times a second. When a worker exits OpenResty runs all timers at once.
local function flush()
  if flushing then
    return
  end
  flushing = true
  if wait > 0 then
    wait = wait - 1
  elseif not ngx.worker.exiting() then
    local ok, err = pcall(drain)
    if failed and not ok then -- twice: once is a process that has begun anew
      warn("the process takes no exchanges, they are kept: ", err)
      wait = RETRY_TICKS
    end
    failed = not ok
  end
  if ngx.worker.exiting() then
    leave()
  end
  flushing = false
end

-- describe puts into a record what the front has seen of the exchange.
local function describe(record, ctx)
  local seen, flags, head, tail = ctx.kafka_metering or NONE, var.request_completion == "OK" and "d" or "", nil, nil
  if seen.last then
    -- A plugin behind us that puts a body of its own in the place of the upstream's ends it at the first piece (ai-proxy,
    -- kong.response.set_raw_body): we are not called again, but Kong notes the end; if there was none, when it begins to log.
    local noted = ctx.KONG_BODY_FILTER_ENDED_AT_NS
    local silence, patience = max(seen.pause, ngx.now() - seen.last), (ctx.balancer_data or NONE).read_timeout or math.huge
    -- nginx moves a timer only by more than 300 ms (NGX_TIMER_LAZY_DELAY): it fires early by as much; nor is ngx.now exact.
    local early = max(0.02 * patience, min(310, patience / 2))
    local ended, stalled = seen.eof or noted and noted ~= ctx.KONG_LOG_START_NS, silence * 1000 >= patience - early
    flags = flags .. (ended and "be" or stalled and "bs" or "b")
  end
  if seen.tapped then
    flags, head, tail = flags .. "t", concat(seen.head), concat(seen.tail, "", seen.from, seen.to)
  end
  local small = seen.posted and (tonumber(var.request_length) or 0) <= 2 * MAX_REQUEST
  local request = small and ngx.req.get_body_data() -- nil unless it has been read, and is not in a file
  record[FLAGS], record[DELIVERED] = flags, tonumber(var.body_bytes_sent)
  record[FIRST_BYTE] = seen.began and max(0, floor((seen.began - ngx.req.start_time()) * 1000 + 0.5)) or -1
  record[REQUEST] = request and #request <= MAX_REQUEST and request or nil
  record[TYPE], record[ENCODING] = seen.kind, seen.encoding
  record[HEAD], record[SKIPPED], record[TAIL] = head, head and seen.bytes - #head - #tail, tail
end

-- enqueue puts the exchange into the batch that is open.
local function enqueue(conf, ctx)
  local r = registration(conf)
  newest = r
  if entries >= MAX_ENTRIES or bytes >= MAX_BYTES then
    return drop(r.plugin .. " worker_queue_full")
  end
  local record, err = log_of(r, ctx)
  if not record then
    warn("an exchange cannot be handed over: ", err)
    return drop(r.plugin .. " worker_log")
  end
  record[CONFIG], record[NUMBER] = r.id, number
  describe(record, ctx)
  scratch:reset():encode(record) -- what cannot be encoded, or has no id, raises an error, and leaves the batch as it is
  local id, batch = fields["request.id"](ctx), opened()
  local n = batch.entries + 1
  batch.data:put(scratch)
  batch.entries, batch.registrations[n], batch.ids[n] = n, r, id
  entries, bytes = entries + 1, bytes + #scratch
end

-- ensure_stream_usage

-- with_usage returns an OpenAI-style streaming request with stream_options.include_usage added, and nil for anything else,
-- and where the client has decided. The text is edited, so that the rest stays as it was sent; and parsed, for it may have
-- been edited in the wrong place.
local function with_usage(body)
  local request = cjson.decode(body)
  if type(request) ~= "table" or request.stream ~= true or not (request.messages or request.prompt) then
    return nil
  end
  local options, edited = request.stream_options, nil
  if options == nil then
    edited = body:gsub("^%s*{", '%0"stream_options":{"include_usage":true},', 1)
  elseif options == ngx.null then
    edited = body:gsub('("stream_options"%s*:%s*)null', '%1{"include_usage":true}', 1)
  elseif type(options) == "table" and options.include_usage == nil then
    edited = body:gsub('"stream_options"%s*:%s*{', '%0"include_usage":true' .. (next(options) and "," or ""), 1)
  end
  local parsed = edited and cjson.decode(edited)
  local added = type(parsed) == "table" and parsed.stream_options
  return type(added) == "table" and added.include_usage and edited or nil
end

local function ensure_usage(conf)
  if not (conf.llm and conf.llm.ensure_stream_usage) then
    return
  end
  local header = kong.request.get_header
  local kind, length = header("content-type") or "", header("content-length") -- none: HTTP/2, or chunked
  if kong.request.get_method() ~= "POST" or not find(kong.request.get_path(), "/completions/?$")
    or length and (tonumber(length) or math.huge) > MAX_ENSURED or header("content-encoding")
    or not length and (ngx.ctx.route or NONE).request_buffering == false or not find(kind:lower(), "^application/json") then
    return
  end
  local body = kong.request.get_raw_body(MAX_ENSURED) -- from its file, too, where nginx has it in one (Kong 3.9; nil before)
  local edited = body and #body <= MAX_ENSURED and with_usage(body)
  return edited and kong.service.request.set_raw_body(edited)
end

-- The phases. Whatever goes wrong in them is this plugin's trouble and not the request's.

local function guarded(fn, ...)
  local ok, err = pcall(fn, ...)
  return ok or warn(err)
end

function Front:init_worker()
  begin()
  timer_every(BATCH_DELAY, flush)
  local exit_worker = Kong and Kong.exit_worker -- all that is called on kong stop, which ends workers as they are
  if exit_worker then
    function Kong.exit_worker(...)
      guarded(leave_word)
      return exit_worker(...)
    end
  end
end

function Front:access(conf)
  guarded(ensure_usage, conf)
end

function Front:header_filter(conf)
  guarded(watch, conf)
end

function Front:body_filter()
  local seen = ngx.ctx.kafka_metering
  if seen and not guarded(see, seen) then
    ngx.ctx.kafka_metering = nil
  end
end

function Front:log(conf)
  number = number + 1
  if not guarded(enqueue, conf, ngx.ctx) then
    drop((conf.__plugin_id or "-") .. " worker_error")
  end
  if ngx.worker.exiting() then -- a stream that was still open
    timer_at(0, flush)
  end
end

return Front
