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
-- format is in plugin/lane/doc.go. What is called is documented by Kong or OpenResty, but for a few members of ngx.ctx
-- that kong.log.serialize reads, and which would cost ten times as much to get from it: verify compares as we go.
local cjson = require "cjson.safe"

local kong, ngx, next, pairs, rawget, tonumber, type = kong, ngx, next, pairs, rawget, tonumber, type
local var, find, sub, floor, min, max = ngx.var, string.find, string.sub, math.floor, math.min, math.max

local MAX_ENTRIES, MAX_BYTES = 20000, 64 * 2^20    -- of the queue: ten seconds of 2,000 exchanges without bodies
local BATCH_ENTRIES, BATCH_DELAY = 100, 0.1        -- a batch is sent when there are so many, or after so many seconds;
local BATCH_MOST_ENTRIES, BATCH_MOST_BYTES = 2000, 4 * 2^20        -- it takes all there is, up to here
local RETRY_DELAY, RETRY_MOST = 0.1, 2             -- seconds between attempts to reach a process that is away
local EXIT_ATTEMPTS, EXIT_DELAY = 5, 0.2           -- of a worker that exits
local TIMEOUTS, EXIT_TIMEOUTS = { 1000, 5000, 10000 }, { 200, 1000, 2000 }    -- ms: connect, send, hear that it is on disk
local MAX_LOG, MAX_REQUEST, MAX_ENSURED = 4 * 2^20, 64 * 2^10, 2^20           -- bytes: log, request bodies that are read

-- PRIORITY. Filters run from high to low. Ours is above ai-proxy (770), response-transformer (800), jq (811) and whatever
-- else rewrites bodies, so that the tap sees what the provider sent; and below authentication and rate limiting (900 and
-- up), so that access sees only requests that those let pass, and changes no body whose signature they check. The price:
-- log runs before other log plugins, and does not see what they add to the log in their own log phase.
local Front = { VERSION = "0.1.0", PRIORITY = 840 }

local worker                    -- this worker's name
local number = 0                -- of the last exchange
local counted = 0               -- exchanges that the process has acknowledged, or whose loss it has been told of
local queue, first, last, queued = {}, 1, 0, 0                     -- entries first to last; their bytes
local dropped = {}              -- "<plugin> <reason>" -> count, not told yet
local batch, batches = nil, 0   -- the one under way, or to be sent again; the number of the last
local connections = 0           -- registrations belong to a connection
local registrations, registered = setmetatable({}, { __mode = "k" }), 0       -- by configuration; the last one's id
local flushing, due, not_before, failures, gone, warned = false, nil, 0, 0, false, -60

local function warn(...) -- at most once a minute, whatever happens how often
  if ngx.now() - warned >= 60 then
    warned = ngx.now()
    kong.log.warn(...)
  end
end

-- registration is what this worker knows of a configuration: its id on the lane, and what the process needs of an exchange.
-- Until the process has said so, that is the whole log, and the body of what may be an answer of an LLM.
local function registration(conf)
  local r = registrations[conf]
  if not r then
    registered = registered + 1
    r = { id = registered, json = assert(cjson.encode(conf)), plugin = conf.__plugin_id or "-", body = "llm",
          half = floor((conf.max_body_bytes or 2^20) / 2), checks = 0 }
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
  local status, method = ngx.status, ngx.req.get_method()
  if kong.response.get_source() ~= "service" or status < 200 or status == 204 or status == 304 or method == "HEAD" then
    return -- without a body, or Kong's own
  end
  local seen, r = { last = ngx.now(), pause = 0 }, registration(conf)
  ngx.ctx.kafka_metering = seen
  seen.posted = r.body ~= "none" and method == "POST"
  if r.body == "any" or seen.posted and status < 300 then
    local kind, encoding = ngx.header["Content-Type"] or "", ngx.header["Content-Encoding"] or ""
    if #kind < 256 and #encoding < 256 and type(encoding) == "string" and readable(kind:lower()) then
      seen.kind, seen.encoding, seen.half = kind, encoding, r.half
      seen.head, seen.head_bytes, seen.skipped = {}, 0, 0 -- a list of pieces
      seen.tail, seen.tail_bytes, seen.from, seen.to = {}, 0, 1, 0 -- a window on what comes after them
    end
  end
end

local function keep(seen, piece)
  local half = seen.half
  local room = half - seen.head_bytes
  if room > 0 then
    local first_part = sub(piece, 1, room)
    seen.head[#seen.head + 1], seen.head_bytes = first_part, seen.head_bytes + #first_part
    if #piece <= room then
      return
    end
    piece = sub(piece, room + 1)
  end
  if #piece > half then -- a response that another plugin has buffered passes in one piece
    seen.skipped, piece = seen.skipped + #piece - half, sub(piece, -half)
  end
  seen.to, seen.tail_bytes = seen.to + 1, seen.tail_bytes + #piece
  seen.tail[seen.to] = piece
  while seen.tail_bytes > half do
    local gone_bytes = #seen.tail[seen.from]
    seen.tail[seen.from], seen.from = nil, seen.from + 1
    seen.tail_bytes, seen.skipped = seen.tail_bytes - gone_bytes, seen.skipped + gone_bytes
  end
end

local function see(seen)
  local now = ngx.now()
  seen.pause, seen.last, seen.began = max(seen.pause, now - seen.last), now, seen.began or now
  local piece = seen.head and ngx.arg[1]
  if piece and piece ~= "" then
    keep(seen, piece)
  end
  seen.eof = seen.eof or ngx.arg[2]
end

-- The log, as far as it is read

-- fields says how to get the members of Kong's log that kong.log.serialize makes (Kong 3.9: kong/pdk/log.lua), as Lua.
local fields = {
  ["request.id"] = [[ctx.request_id or var.kong_request_id or ""]],
  ["request.method"] = [[kong.request.get_method()]],
  ["request.uri"] = [[ctx.request_uri or var.request_uri or ""]],
  ["request.size"] = [[tonumber(var.request_length)]],
  ["response.status"] = [[ngx.status]],
  ["response.size"] = [[tonumber(var.bytes_sent)]],
  ["latencies.kong"] = [[ctx.KONG_PROXY_LATENCY or ctx.KONG_RESPONSE_LATENCY or 0]],
  ["latencies.proxy"] = [[ctx.KONG_WAITING_TIME or -1]],
  ["latencies.receive"] = [[ctx.KONG_RECEIVE_TIME or 0]],
  ["latencies.request"] = [[tonumber(var.request_time) * 1000]],
  upstream_uri = [[upstream_uri(ctx)]],
  upstream_status = [[var.upstream_status or ctx.buffered_status or ""]],
  tries = [[ctx.balancer_data and ctx.balancer_data.tries]],
  client_ip = [[var.remote_addr]],
  started_at = [[kong.request.get_start_time()]],
  source = [[kong.response.get_source() == "service" and "upstream" or "kong"]],
  workspace = [[ctx.workspace]],
  -- What AI plugins log is in the whole log alone; serialize_values says that something was added to it.
  ai = [[ctx.serialize_values and kong.log.serialize().ai]],
}

-- objects are those of which single members are read: how to get one, whose name stands for NAME.
local objects = {
  ["request.headers"] = [[request_header(NAME)]],
  ["request.querystring"] = [[var.args and rawget(kong.request.get_query(), NAME)]],
  ["response.headers"] = [[ngx.header[NAME] ]],
  route = [[(kong.router.get_route() or none)[NAME] ]],
  service = [[(kong.router.get_service() or none)[NAME] ]],
  consumer = [[(kong.client.get_consumer() or none)[NAME] ]],
  authenticated_entity = [[(kong.client.get_credential() or none)[NAME] ]],
}

local env = { kong = kong, ngx = ngx, none = {}, rawget = rawget, tonumber = tonumber, var = var }

-- request_header returns a header as Kong logs it; nginx's variable tells quickly that there is none.
function env.request_header(name)
  local value = var["http_" .. name:gsub("%-", "_")] and rawget(kong.request.get_headers(), name)
  return value and (name == "authorization" or name == "proxy-authorization") and "REDACTED" or value
end

function env.upstream_uri(ctx)
  local uri, asked = var.upstream_uri or "", ctx.request_uri or var.request_uri or ""
  if uri == "" or find(uri, "?", 1, true) then
    return uri
  end
  return sub(asked, -1) == "?" and uri .. "?" or var.is_args == "?" and uri .. "?" .. (var.args or "") or uri
end

-- projection compiles the paths that the process needs into a function that returns a log with those members alone: Lua
-- without a loop, because LuaJIT makes fast code of that. It returns nil when a path is none of ours: then the whole log is
-- sent.
local function projection(paths)
  local root = {}
  for _, path in pairs(paths) do
    local depth = (fields[path[1]] or objects[path[1]]) and 1 or 2
    local name = table.concat(path, ".", 1, min(depth, #path))
    local code = fields[name] or path[depth + 1] and objects[name] and objects[name]:gsub("NAME", ("%q"):format(path[depth + 1]))
    if not code then
      return nil
    end
    local into = root
    for i = 1, (fields[name] and depth or depth + 1) - 1 do
      into[path[i]] = into[path[i]] or {}
      into = into[path[i]]
    end
    into[fields[name] and path[depth] or path[depth + 1]] = code
  end
  local function constructor(t)
    local members = {}
    for key, code in pairs(t) do
      members[#members + 1] = ("[%q]=%s"):format(key, type(code) == "table" and constructor(code) or code)
    end
    return "{" .. table.concat(members, ",") .. "}"
  end
  return setfenv(loadstring("local ctx = ... return " .. constructor(root)), env)
end

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then
    return a == b or (a == nil or a == ngx.null) and (b == nil or b == ngx.null)
  end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function at(t, path)
  for i = 1, #path do
    t = type(t) == "table" and rawget(t, path[i]) or nil
  end
  return t
end

-- project returns the exchange's log, as far as it is read. For a configuration's first exchange, its second, fourth,
-- eighth and so on it compares with Kong's own: where they differ (another version of Kong, a plugin that rewrites the log)
-- Kong's log is sent from then on.
local function project(r)
  local call = ngx.req.get_method() == "POST"
  local get = call and r.call or r.request
  if not get then
    return kong.log.serialize()
  end
  local log = get(ngx.ctx)
  r.checks = r.checks + 1
  if bit.band(r.checks, r.checks - 1) ~= 0 then
    return log
  end
  local whole = kong.log.serialize()
  for _, path in pairs(call and r.call_paths or r.paths) do
    if not same(at(log, path), at(whole, path)) then
      warn("kafka-metering: this Kong logs ", table.concat(path, "."), " differently; its whole log is sent, which is slower")
      r.request, r.call = nil, nil
      return whole
    end
  end
  return log
end

-- The lane

local function drop(plugin, reason)
  local key = plugin .. " " .. reason
  dropped[key] = (dropped[key] or 0) + 1
end

-- ask sends a message and returns the first line of the answer.
local function ask(socket, message)
  local ok, err = socket:send(message)
  if ok then
    ok, err = socket:receive("*l")
  end
  return ok, err
end

local function connect(exiting)
  local socket, t = ngx.socket.tcp(), exiting and EXIT_TIMEOUTS or TIMEOUTS
  socket:settimeouts(t[1], t[2], t[3])
  local path = "unix:" .. kong.configuration.prefix .. "/kafka-metering.lane.socket"
  local ok, err = socket:connect(path, { pool = "kafka-metering", pool_size = 1 })
  if not ok then
    return nil, err
  elseif socket:getreusedtimes() > 0 then
    return socket, nil, true
  end
  connections = connections + 1
  worker = worker or ngx.worker.pid() .. "." .. floor(ngx.now() * 1000)
  ok, err = ask(socket, "HELLO 1 " .. worker .. " " .. counted .. "\n")
  if ok ~= "OK 1" then
    socket:close()
    return nil, ok or err
  end
  return socket
end

-- register tells the process of a configuration, and learns what it needs of an exchange.
local function register(socket, r)
  local answer, err = ask(socket, "CONFIG " .. r.id .. " " .. #r.json .. "\n" .. r.json)
  local size = answer and tonumber(answer:match("^OK (%d+)$"))
  local needs = size and cjson.decode(socket:receive(size))
  if not needs then
    return nil, err or answer
  elseif needs.problems then
    kong.log.err(needs.problems)
  end
  r.connection, r.body, r.paths, r.call_paths = connections, needs.body, needs.log or {}, { unpack(needs.log or {}) }
  for _, path in pairs(needs.calls or {}) do
    r.call_paths[#r.call_paths + 1] = path
  end
  r.request, r.call = needs.log and projection(r.paths), needs.log and projection(r.call_paths)
  return true
end

-- take makes a batch of the front of the queue, and of the drops that nobody has been told of.
local function take()
  local drops, bytes = {}, 0
  local b = { from = first, to = first - 1, entries = 0, drops = 0, message = { "", drops } }
  for key, count in pairs(dropped) do
    drops[#drops + 1] = "DROP " .. key .. " " .. count .. "\n"
    b.drops = b.drops + count
  end
  dropped, batches = {}, batches + 1
  while b.to < last and b.entries < BATCH_MOST_ENTRIES and bytes < BATCH_MOST_BYTES do
    b.to, b.entries = b.to + 1, b.entries + 1
    b.message[b.entries + 2], bytes = queue[b.to].data, bytes + queue[b.to].bytes
  end
  b.number = batches
  return b
end

-- forget takes the batch off the queue: it is on disk, or nobody will ever take it.
local function forget(b)
  for i = b.from, b.to do
    queued, queue[i] = queued - queue[i].bytes, nil
  end
  first, batch, counted = b.to + 1, nil, counted + b.entries + b.drops
end

-- deliver sends a batch, and returns true when the process has it on disk. Sent again it has the same number: the process
-- knows whether it has had it.
local function deliver(socket, b)
  for i = b.from, b.to do
    local r = queue[i].registration
    if r.connection ~= connections then
      local ok, err = register(socket, r)
      if not ok then
        return nil, err
      end
    end
  end
  b.message[1] = "BATCH " .. b.number .. " " .. (b.again or 0) .. " " .. #b.message[2] .. " " .. b.entries .. "\n"
  b.again = 1
  local answer, err = ask(socket, b.message)
  if answer == "OK " .. b.number then
    forget(b)
    return true
  elseif answer and find(answer, "^ERR ") then -- it will never be taken
    for i = b.from, b.to do
      drop(queue[i].registration.plugin, "worker_refused")
    end
    b.entries = 0 -- they count with the next batch's drops
    forget(b)
  end
  return nil, answer or err
end

local function idle()
  return not batch and first > last and not next(dropped)
end

-- drain sends batches until the queue is all but empty, and a worker that exits says goodbye.
local function drain(exiting)
  if idle() and (not exiting or gone or connections == 0) then
    return true
  end
  local socket, err, reused = connect(exiting)
  gone = exiting
  if socket and idle() then
    return true, socket:send("BYE\n"), socket:close()
  end
  for _ = 1, 100 do -- and then another timer goes on: one that never ends never gives its memory back
    batch = batch or take()
    local ok = socket
    if ok then
      ok, err = deliver(socket, batch)
    end
    if not ok and socket and reused and batch then -- the process may have gone since the connection was used last
      socket:close()
      socket, err = connect(exiting)
      if socket then
        ok, err = deliver(socket, batch)
      end
    end
    if not ok then
      return nil, err, socket and socket:close()
    end
    if idle() or last - first + 1 < BATCH_ENTRIES and not exiting then
      break
    end
    reused = false
  end
  if exiting then
    return true, socket:send("BYE\n"), socket:close()
  end
  return true, socket:setkeepalive(0, 1)
end

-- abandon leaves word of what a worker that ends could not deliver, in a file that the process reads.
local function abandon()
  for i = first, last do
    drop(queue[i].registration.plugin, "worker_exit")
  end
  local lines = batch and batch.message[2] or {}
  for key, count in pairs(dropped) do
    lines[#lines + 1] = "DROP " .. key .. " " .. count .. "\n"
  end
  local text = "HELLO 1 " .. worker .. " " .. number .. "\n" .. table.concat(lines)
  local file, err = io.open(kong.configuration.prefix .. "/kafka-metering.lane.lost", "a")
  if file then
    file:write(text)
    file:close()
  end
  kong.log.err("kafka-metering: the process is away while this worker exits; these exchanges are lost: ", text, err)
  queue, first, last, queued, dropped, batch, counted = {}, 1, 0, 0, {}, nil, number
end

local flush

-- schedule has flush run after a delay, or sooner.
local function schedule(delay)
  local now = ngx.now()
  local soonest = max(now + delay, not_before)
  if ngx.worker.exiting() then
    soonest = now -- OpenResty takes no other timers then
  end
  if not due or soonest < due then
    local ok, err = ngx.timer.at(soonest - now, flush, soonest)
    due = ok and soonest or nil -- without a timer the next exchange tries again
    return ok or warn("kafka-metering: no timer: ", err)
  end
end

flush = function(_, time)
  local exiting, tries = ngx.worker.exiting(), 0
  if flushing or time ~= due and not exiting then -- a sooner one has been before
    return
  end
  flushing, due = true, nil
  local ran, ok, err
  repeat
    if tries > 0 then
      ngx.sleep(EXIT_DELAY)
    end
    ran, ok, err = pcall(drain, exiting)
    tries = tries + 1
  until ran and ok or not exiting or tries == EXIT_ATTEMPTS
  flushing, not_before = false, 0
  if ran and ok then
    failures = 0
  elseif exiting then
    abandon()
  else
    failures = failures + 1
    not_before = ngx.now() + min(RETRY_MOST, RETRY_DELAY * 2 ^ (failures - 1))
    warn("kafka-metering: the process takes no exchanges, they are kept: ", ran and err or ok)
  end
  if not idle() then
    schedule(last - first + 1 < BATCH_ENTRIES and BATCH_DELAY or 0)
  end
end

-- record puts the exchange into the queue.
local function record(conf)
  local r = registration(conf)
  if last - first + 1 >= MAX_ENTRIES or queued >= MAX_BYTES then
    return drop(r.plugin, "worker_queue_full")
  end
  local log, err = cjson.encode(project(r))
  if not log or #log > MAX_LOG then
    warn("kafka-metering: an exchange cannot be handed over: ", err or "its log is too long")
    return drop(r.plugin, "worker_log")
  end
  local seen = ngx.ctx.kafka_metering or {}
  local flags, first_byte, request, tail = var.request_completion == "OK" and "d" or "-", -1, "", {}
  if seen.last then
    local service = kong.router.get_service() or {}
    local patience = tonumber(service.read_timeout) or math.huge
    local stalled = max(seen.pause, ngx.now() - seen.last) * 1000 >= 0.98 * patience -- ngx.now is not exact
    flags = flags .. "b" .. (seen.eof and "e" or "") .. (stalled and "s" or "")
    first_byte = seen.began and floor((seen.began - ngx.req.start_time()) * 1000 + 0.5) or -1
  end
  if seen.posted then
    request = ngx.req.get_body_data() or "" -- nil unless it has been read, and is not in a file
    request = #request <= MAX_REQUEST and request or ""
  end
  if seen.head then
    flags = flags .. "t"
    for i = seen.from, seen.to do
      tail[#tail + 1] = seen.tail[i]
    end
  end
  local kind, encoding, head_bytes, tail_bytes = seen.kind or "", seen.encoding or "", seen.head_bytes or 0, seen.tail_bytes or 0
  local text = "EXCHANGE " .. r.id .. " " .. number .. " " .. flags .. " " .. first_byte .. " " .. (var.body_bytes_sent or 0)
    .. " " .. #log .. " " .. #request .. " " .. #kind .. " " .. #encoding
    .. " " .. head_bytes .. " " .. (seen.skipped or 0) .. " " .. tail_bytes .. "\n" .. log .. request .. kind .. encoding
  local bytes = #text + head_bytes + tail_bytes
  last, queued = last + 1, queued + bytes
  queue[last] = { data = seen.head and { text, seen.head, tail } or text, registration = r, bytes = bytes }
end

-- ensure_stream_usage

-- with_usage returns an OpenAI-style streaming request with stream_options.include_usage added, and nil for anything else,
-- and where the client has decided. The text is edited, so that the rest stays as it was sent, and then compared.
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
  request.stream_options = type(options) == "table" and options or {}
  request.stream_options.include_usage = true
  return edited and same(request, cjson.decode(edited)) and edited or nil
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
  return ok or warn("kafka-metering: ", err)
end

function Front:init_worker()
  -- It waits for the worker's exit: OpenResty then runs all timers at once.
  ngx.timer.every(3600, function(premature)
    return premature and flush()
  end)
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
  if not guarded(record, conf) then
    drop(conf.__plugin_id or "-", "worker_error")
  end
  if not flushing then
    schedule(last - first + 1 >= BATCH_ENTRIES and 0 or BATCH_DELAY)
  end
end

return Front
