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
local find, sub, floor, max, abs = string.find, string.sub, math.floor, math.max, math.abs

-- Kong has timers of its own under OpenResty's names, which do not run any more once a worker has begun to exit. It keeps
-- OpenResty's: a stream that ends after kong reload is handed over by one of those.
local timer_at, timer_every = _G.native_timer_at or ngx.timer.at, _G.native_timer_every or ngx.timer.every

local MAX_ENTRIES, MAX_BYTES = 20000, 64 * 2^20    -- of the queue: ten seconds of 2,000 exchanges without bodies
local BATCH_ENTRIES, BATCH_DELAY = 100, 0.1        -- a batch is sent when there are so many, or after so many seconds, and
local BATCH_PAUSE = 0.05                           -- so long after the last one, because a large one costs both sides less;
local BATCH_MOST_ENTRIES, BATCH_MOST_BYTES = 2000, 4 * 2^20       -- it takes all there is, up to here
local RETRY_TICKS = 10                             -- of BATCH_DELAY, between attempts to reach a process that is away
local EXIT_PATIENCE, EXIT_DELAY = 3, 0.2           -- seconds that a worker which exits tries, and waits between attempts
local CONNECT_TIMEOUT, SEND_TIMEOUT, DISK_TIMEOUT = 1000, 2000, 5000         -- ms; the last until a batch is on disk
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

local function registration(conf)
  local r = registrations[conf]
  if not r or r.outdated then
    registered = registered + 1
    r = { id = registered, json = assert(encode(conf)), lists = "", plugin = conf.__plugin_id or "-", body = "llm",
          half = floor((conf.max_body_bytes or 2^20) / 2), exchanges = 0 }
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
  if r.body == "any" or seen.posted and status < 300 then
    local kind, encoding = ngx.header["Content-Type"] or "", ngx.header["Content-Encoding"] or ""
    if #kind < 256 and #encoding < 256 and type(encoding) == "string" and readable(kind:lower()) then
      seen.tapped, seen.kind, seen.encoding, seen.bytes, seen.half = true, kind, encoding, 0, r.half
      seen.head, seen.head_bytes = {}, 0 -- a list of pieces of the body
      seen.tail, seen.tail_bytes, seen.from, seen.to = {}, 0, 1, 0 -- a window on those that come after them
    end
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
    if uri == "" or find(uri, "?", 1, true) then
      return uri
    end
    return sub(asked, -1) == "?" and uri .. "?" or var.is_args == "?" and uri .. "?" .. (var.args or "") or uri
  end,
  tries = function(ctx) return ctx.balancer_data and ctx.balancer_data.tries end,
  client_ip = function() return var.remote_addr end,
  started_at = function(ctx) return ctx.KONG_PROCESSING_START or kong.request.get_start_time() end,
  source = function(ctx) return kong.response.get_source(ctx) == "service" and "upstream" or "kong" end,
  workspace = function(ctx) return ctx.workspace end,
}

-- variables has nginx's variable of a request header.
local variables = setmetatable({}, { __index = function(all, name)
  all[name] = "http_" .. name:gsub("-", "_")
  return all[name]
end })

-- objects has the same for any member of an object.
local objects = {
  ["request.headers"] = function(_, name)
    local value = var[variables[name]] and rawget(kong.request.get_headers(), name) -- the variable tells quickly
    return value and (name == "authorization" or name == "proxy-authorization") and "REDACTED" or value
  end,
  ["request.querystring"] = function(ctx, name)
    return (var.args or ctx.KONG_UNEXPECTED) and kong.request.get_query()[name] or nil -- Kong's error handler has no args
  end,
  ["response.headers"] = function(_, name) return ngx.header[name] end,
  route = function(ctx, name) return (ctx.route or NONE)[name] end,
  service = function(ctx, name) return (ctx.service or NONE)[name] end,
  consumer = function(ctx, name) return (ctx.authenticated_consumer or NONE)[name] end,
}

-- absent is for what AI plugins log (ai): it is there only where log_of sends Kong's own log anyway.
local function absent() end

-- A record is what the process is told of an exchange: a list of these, and behind them members of Kong's log.
local CONFIG, NUMBER, FLAGS, FIRST_BYTE, DELIVERED, REQUEST = 1, 2, 3, 4, 5, 6
local TYPE, ENCODING, HEAD, SKIPPED, TAIL, LOG = 7, 8, 9, 10, 11, 12
local whole = new_list(LOG, 0) -- the record with all of Kong's log

-- plan prepares a record with the members that the process needs. It returns nil where one of them is none of ours: then the
-- whole log is sent. list tells the process which members they are.
local function plan(paths, list)
  local members = { record = new_list(LOG + #paths, 0), list = list }
  for i, path in ipairs(paths) do
    local get = fields[concat(path, ".")] or objects[concat(path, ".", 1, #path - 1)]
    if not get and path[1] ~= "ai" then
      return nil
    end
    members[i] = { path = path, get = get or absent, name = path[#path] }
  end
  return members
end

-- plain reports whether no plugin has put something into the log where we look, as AI plugins do
-- (kong.log.set_serialize_value).
local function plain(members, added)
  for _, value in ipairs(added) do
    local root = value.key:match("^[^.]*")
    for _, member in ipairs(members) do
      if member.path[1] == root then
        return false
      end
    end
  end
  return true
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

-- log_of returns a record with an exchange's log: what the process needs of it, or, where a plugin has added to that, all of
-- Kong's own. And of a configuration's first exchange, its second, fourth, eighth and so on the members are compared with
-- Kong's: where they differ (another version of Kong) its own log is sent from then on.
local function log_of(r, ctx)
  local call = method_of(ctx) == "POST" or ngx.status == 101 -- an LLM's, perhaps, or a session with one
  local members, added, log = call and r.call or r.request, ctx.serialize_values, nil
  if members and not (added and not plain(members, added)) then
    local record = members.record
    record[LOG] = members.list
    for i = 1, #members do
      local member = members[i]
      record[LOG + i] = member.get(ctx, member.name)
    end
    r.exchanges = r.exchanges + 1
    if bit.band(r.exchanges, r.exchanges - 1) ~= 0 then
      return record
    end
    log = kong.log.serialize()
    local other = differs(members, log)
    if not other then
      return record
    end
    warn("this Kong logs ", other, " differently; its whole log is sent, which is slower")
    r.request, r.call = nil, nil
  end
  local text, err = encode(log or kong.log.serialize())
  if not text or #text > MAX_LOG then
    return nil, err or "its log is too long"
  end
  whole[LOG] = text
  return whole
end

-- The lane

local worker                    -- this worker's name
local number = 0                -- of the last exchange
local counted = 0               -- exchanges that the process has acknowledged, or whose loss it has been told of
local batches, first, last = {}, 1, 0                             -- first to last, which takes exchanges until it is sent
local entries, bytes = 0, 0     -- exchanges in the batches, and what they take
local scratch = buffer.new()
local dropped = {}              -- "<plugin> <reason>" -> count, not told yet
local connections = 0           -- registrations belong to a connection
local called, flushing, failed, wait, flushed = false, false, false, 0, 0     -- of flush

local function drop(plugin, reason)
  local key = plugin .. " " .. reason
  dropped[key] = (dropped[key] or 0) + 1
end

-- drop_lines returns the lines that tell of drops, and how many exchanges they are: nobody else will tell of them.
local function drop_lines()
  local lines, count = {}, 0
  for key, n in pairs(dropped) do
    lines[#lines + 1], count = "DROP " .. key .. " " .. n .. "\n", count + n
  end
  dropped = {}
  return lines, count
end

-- The functions from here to drain raise an error where something goes wrong: the socket is closed then, and the batch stays.

-- ask sends a message and returns the first line of the answer.
local function ask(socket, message)
  assert(socket:send(message))
  return assert(socket:receive("*l"))
end

local function connect()
  local socket = ngx.socket.tcp()
  socket:settimeouts(CONNECT_TIMEOUT, SEND_TIMEOUT, DISK_TIMEOUT)
  assert(socket:connect("unix:" .. kong.configuration.prefix .. "/kafka-metering.lane.socket"))
  if socket:getreusedtimes() == 0 then
    connections = connections + 1
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
    r.request, r.call = needs.log and plan(needs.log, 1), needs.calls and plan(needs.calls, 2)
    r.lists, r.body = text, needs.body
  end
  r.connection, r.outdated = connections, text ~= r.lists
end

-- opened returns the batch that takes exchanges.
local function opened()
  local batch = batches[last]
  if not batch or batch.again or batch.entries >= BATCH_MOST_ENTRIES or #batch.data >= BATCH_MOST_BYTES then
    batch = { data = buffer.new(), entries = 0, registrations = {}, ids = {}, lines = {}, drops = 0 }
    last = last + 1
    batches[last] = batch
  end
  return batch
end

-- deliver sends the oldest batch, and forgets it when the process has it on disk. Else the next call sends it again, with the
-- same number: the process knows whether it has had it.
local function deliver(socket)
  local batch = batches[first] or opened()
  if not batch.again then -- from here on it takes no more
    batch.again, batch.lines, batch.drops = 0, drop_lines()
  end
  for i = 1, batch.entries do
    if batch.registrations[i].connection ~= connections then
      register(socket, batch.registrations[i])
    end
  end
  local size = #batch.data
  local line = concat({ "BATCH", first, batch.again, #batch.lines, batch.entries, size }, " ") .. "\n"
  batch.again = 1
  local answer = ask(socket, { line, batch.lines, batch.data:tostring() })
  local taken = answer == "OK " .. first
  assert(taken or find(answer, "^ERR "), answer)
  for i = 1, taken and 0 or batch.entries do -- the process never will: they count with the next batch's drops
    drop(batch.registrations[i].plugin, "worker_refused")
  end
  counted = counted + batch.drops + (taken and batch.entries or 0)
  entries, bytes = entries - batch.entries, bytes - size
  batches[first], first = nil, first + 1
  assert(taken, answer)
end

local function idle()
  return first > last and not next(dropped)
end

-- drain sends batches until the queue is all but empty. A worker that exits says goodbye: nothing is missing.
local function drain()
  local exiting = ngx.worker.exiting()
  if idle() and not (exiting and connections > 0) then
    return
  end
  local socket = connect()
  for _ = 1, 100 do -- and then another timer goes on: one that never ends never gives its memory back
    if idle() then
      break
    end
    deliver(socket)
    if first == last and not exiting then -- the batch that is filling
      break
    end
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
  local lines = { "HELLO 2 " .. worker .. " " .. number .. "\n", concat((drop_lines())) }
  for n = first, last do
    local batch = batches[n]
    for i = 1, batch.entries do
      local id = find(batch.ids[i], "^%x+$") and batch.ids[i] or "-"
      lines[#lines + 1] = "LEFT " .. n .. " " .. batch.registrations[i].plugin .. " " .. id .. "\n"
    end
    lines[#lines + 1] = concat(batch.lines)
  end
  local text, file, err = concat(lines), io.open(kong.configuration.prefix .. "/kafka-metering.lane.lost", "a")
  if file then
    file:setvbuf("full", #text + 1) -- one write: other workers end at the same time
    file:write(text)
    file:close()
  end
  kong.log.err("kafka-metering: the worker ends, and exchanges are lost with it: ", entries, err and ". No word: " .. err or "")
  batches, first, entries, bytes, counted = {}, last + 1, 0, 0, number
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

-- flush runs ten times a second, and when there is enough for a batch. When a worker exits OpenResty runs all timers at once.
local function flush()
  called = false
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
  flushing, flushed = false, ngx.now()
end

local function due()
  return wait == 0 and (first < last or abs(ngx.now() - flushed) >= BATCH_PAUSE)
end

-- describe puts into a record what the front has seen of the exchange.
local function describe(record, ctx)
  local seen, flags, first_byte = ctx.kafka_metering, var.request_completion == "OK" and "d" or "", -1
  local request, kind, encoding, head, skipped, tail
  if seen then
    -- A plugin behind us that puts a body of its own in the place of the upstream's ends it at the first piece (ai-proxy,
    -- kong.response.set_raw_body): we are not called again, but Kong notes the end; if there was none, when it begins to log.
    local ended = ctx.KONG_BODY_FILTER_ENDED_AT_NS
    ended = seen.eof or ended and ended ~= ctx.KONG_LOG_START_NS
    flags = flags .. (ended and "be" or "b")
    if not ended then
      local patience = tonumber((kong.router.get_service() or NONE).read_timeout) or math.huge
      local stalled = max(seen.pause, ngx.now() - seen.last) * 1000 >= 0.98 * patience -- ngx.now is not exact
      flags = stalled and flags .. "s" or flags
    end
    first_byte = seen.began and max(0, floor((seen.began - ngx.req.start_time()) * 1000 + 0.5)) or -1
    if seen.tapped then
      flags, kind, encoding, head = flags .. "t", seen.kind, seen.encoding, concat(seen.head)
      tail = concat(seen.tail, "", seen.from, seen.to)
      skipped = seen.bytes - #head - #tail
    end
    if seen.posted then
      request = ngx.req.get_body_data() or "" -- nil unless it has been read, and is not in a file
      request = #request <= MAX_REQUEST and request or nil
    end
  end
  record[FLAGS], record[FIRST_BYTE], record[DELIVERED] = flags, first_byte, tonumber(var.body_bytes_sent)
  record[REQUEST], record[TYPE], record[ENCODING] = request, kind, encoding
  record[HEAD], record[SKIPPED], record[TAIL] = head, skipped, tail
end

-- enqueue puts the exchange into the batch that is open.
local function enqueue(conf, ctx)
  local r = registration(conf)
  if entries >= MAX_ENTRIES or bytes >= MAX_BYTES then
    return drop(r.plugin, "worker_queue_full")
  end
  local record, err = log_of(r, ctx)
  if not record then
    warn("an exchange cannot be handed over: ", err)
    return drop(r.plugin, "worker_log")
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

local function ensure_usage()
  local header = kong.request.get_header
  local kind, length = header("content-type") or "", tonumber(header("content-length"))
  if kong.request.get_method() ~= "POST" or not find(kong.request.get_path(), "/completions/?$") or not length
    or length > MAX_ENSURED or header("content-encoding") or not find(kind:lower(), "^application/json") then
    return
  end
  local body = kong.request.get_raw_body() -- nil when nginx has it in a file
  local edited = body and with_usage(body)
  return edited and kong.service.request.set_raw_body(edited)
end

-- The phases. Whatever goes wrong in them is this plugin's trouble and not the request's.

local function guarded(fn, ...)
  local ok, err = pcall(fn, ...)
  return ok or warn(err)
end

function Front:init_worker()
  worker = ngx.worker.pid() .. "." .. floor(ngx.now() * 1000)
  timer_every(BATCH_DELAY, flush)
  local exit_worker = Kong and Kong.exit_worker -- all that is called on kong stop, which ends workers as they are
  if exit_worker then
    function Kong.exit_worker(...)
      if not idle() then
        guarded(leave_word)
      end
      return exit_worker(...)
    end
  end
end

function Front:access(conf)
  return conf.llm and conf.llm.ensure_stream_usage and guarded(ensure_usage)
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
    drop(conf.__plugin_id or "-", "worker_error")
  end
  if not (called or flushing) and (ngx.worker.exiting() or entries >= BATCH_ENTRIES and due()) then
    called = timer_at(0, flush) -- without a timer the next exchange, or the tenth of a second, tries again
  end
end

return Front
