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
local cjson = require "cjson.safe"

local kong, ngx, next, pairs, ipairs, rawget, tonumber, type = kong, ngx, next, pairs, ipairs, rawget, tonumber, type
local var, encode, concat, find, sub = ngx.var, cjson.encode, table.concat, string.find, string.sub
local floor, max, min = math.floor, math.max, math.min

-- Kong has timers of its own under OpenResty's names, which do not run any more once a worker has begun to exit. It keeps
-- OpenResty's: a stream that ends after kong reload is handed over by one of those.
local timer_at, timer_every = _G.native_timer_at or ngx.timer.at, _G.native_timer_every or ngx.timer.every

local MAX_ENTRIES, MAX_BYTES = 20000, 64 * 2^20    -- of the queue: ten seconds of 2,000 exchanges without bodies
local BATCH_ENTRIES, BATCH_DELAY = 100, 0.1        -- a batch is sent when there are so many, or after so many seconds;
local BATCH_MOST_ENTRIES, BATCH_MOST_BYTES = 2000, 4 * 2^20        -- it takes all there is, up to here
local RETRY_DELAY, RETRY_MOST = 0.1, 2             -- seconds between attempts to reach a process that is away
local EXIT_PATIENCE, EXIT_DELAY = 3, 0.2           -- seconds that a worker which exits tries, and waits between attempts
local CONNECT_TIMEOUT, SEND_TIMEOUT, DISK_TIMEOUT = 1000, 2000, 5000          -- ms; the last until a batch is on disk
local MAX_LOG, MAX_REQUEST, MAX_ENSURED = 4 * 2^20, 64 * 2^10, 2^20           -- bytes: log, request bodies that are read
local MAX_TEXTS = 1000                             -- that are kept with their JSON

-- PRIORITY. Filters run from high to low. Ours is above ai-proxy (770), response-transformer (800), jq (811) and whatever
-- else rewrites bodies, so that the tap sees what the provider sent; and below authentication and rate limiting (900 and
-- up), so that access sees only requests that those let pass, and changes no body whose signature they check. The price:
-- log runs before other log plugins, and does not see what they add to the log in their own log phase.
local Front = { VERSION = "0.1.0", PRIORITY = 840 }

local last_warning = -60
local function warn(...) -- at most once a minute, whatever happens how often
  if ngx.now() - last_warning >= 60 then
    last_warning = ngx.now()
    kong.log.warn("kafka-metering: ", ...)
  end
end

-- A registration is what this worker knows of a configuration: its number on the lane, and what the process needs of an
-- exchange. Until the process has said so, that is the whole log, and the body of what may be an answer of an LLM.
local registrations, registered = setmetatable({}, { __mode = "k" }), 0       -- by configuration; the last one's number

local function registration(conf)
  local r = registrations[conf]
  if not r then
    registered = registered + 1
    r = { id = registered, json = assert(encode(conf)), plugin = conf.__plugin_id or "-", body = "llm",
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
      seen.kind, seen.encoding, seen.half, seen.bytes = kind, encoding, r.half, 0
      seen.head, seen.head_bytes = {}, 0 -- a list of pieces
      seen.tail, seen.tail_bytes, seen.from, seen.to = {}, 0, 1, 0 -- a window on those that come after them
    end
  end
end

-- keep takes one half of what is kept of a body from its beginning, and the other from its end.
local function keep(seen, piece)
  local half = seen.half
  local room = half - seen.head_bytes
  seen.bytes = seen.bytes + #piece
  if room > 0 then
    local beginning = sub(piece, 1, room)
    seen.head[#seen.head + 1], seen.head_bytes = beginning, seen.head_bytes + #beginning
    piece = sub(piece, room + 1)
  end
  if piece ~= "" then
    piece = sub(piece, -half) -- a response that another plugin has buffered passes in one piece
    seen.to, seen.tail_bytes = seen.to + 1, seen.tail_bytes + #piece
    seen.tail[seen.to] = piece
    while seen.tail_bytes > half do
      seen.tail_bytes = seen.tail_bytes - #seen.tail[seen.from]
      seen.tail[seen.from], seen.from = nil, seen.from + 1
    end
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

-- Kong's log, as far as it is read. kong.log.serialize makes all of it, which costs ten times as much.

-- fields has the members of the log as kong.log.serialize makes them (Kong 3.9: kong/pdk/log.lua). What it reads of ngx.ctx
-- is not documented: confirmed compares as we go.
local fields = {
  ["request.id"] = function(ctx) return ctx.request_id or var.kong_request_id or "" end,
  ["request.method"] = function() return kong.request.get_method() end,
  ["request.uri"] = function(ctx) return ctx.request_uri or var.request_uri or "" end,
  ["request.size"] = function() return tonumber(var.request_length) end,
  ["response.status"] = function() return ngx.status end,
  ["response.size"] = function() return tonumber(var.bytes_sent) end,
  ["latencies.kong"] = function(ctx) return ctx.KONG_PROXY_LATENCY or ctx.KONG_RESPONSE_LATENCY or 0 end,
  ["latencies.proxy"] = function(ctx) return ctx.KONG_WAITING_TIME or -1 end,
  ["latencies.request"] = function() return floor((ngx.now() - ngx.req.start_time()) * 1000 + 0.5) end,
  ["authenticated_entity.id"] = function() return (kong.client.get_credential() or {}).id end,
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
  started_at = function() return kong.request.get_start_time() end,
  source = function() return kong.response.get_source() == "service" and "upstream" or "kong" end,
  workspace = function(ctx) return ctx.workspace end,
}

local function nothing() -- of what AI plugins log: where they have logged something, replaced sees it
  return nil
end

local function member_of(entity)
  return function(name)
    return function() return (entity() or {})[name] end
  end
end

-- objects makes such functions for single members of those objects that have any number of them.
local objects = {
  ["request.headers"] = function(name)
    local variable = "http_" .. name:gsub("%-", "_") -- tells quickly that there is none
    local secret = name == "authorization" or name == "proxy-authorization"
    return function()
      local value = var[variable] and rawget(kong.request.get_headers(), name)
      return value and secret and "REDACTED" or value
    end
  end,
  ["request.querystring"] = function(name)
    return function() return var.args and rawget(kong.request.get_query(), name) end
  end,
  ["response.headers"] = function(name)
    return function() return ngx.header[name] end
  end,
  route = member_of(kong.router.get_route),
  service = member_of(kong.router.get_service),
  consumer = member_of(kong.client.get_consumer),
}

-- plan returns how to write the document that the process needs: for each member the function that returns its value, and
-- the text with a place for it. It returns nil where a member is none of ours: then the whole log is sent.
local function plan(document)
  local steps, roots, text = {}, {}, {}
  for i, member in ipairs(document.members) do
    local path = member.path
    local object = objects[concat(path, ".", 1, #path - 1)]
    local get = fields[concat(path, ".")] or path[1] == "ai" and nothing or object and object(path[#path])
    if not get then
      return nil
    end
    steps[i], roots[path[1]] = { get = get, path = path, count = member.count }, true
    text[2 * i - 1], text[2 * i] = member.before, ""
  end
  text[#text + 1] = document.after
  return { steps = steps, roots = roots, text = text }
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

-- confirmed compares our members with those of Kong's log.
local function confirmed(excerpt, ctx)
  local whole = kong.log.serialize()
  for _, step in ipairs(excerpt.steps) do
    local logged = whole
    for _, key in ipairs(step.path) do
      logged = type(logged) == "table" and rawget(logged, key) or nil
    end
    if not same(step.get(ctx), logged) then
      warn("this Kong logs ", concat(step.path, "."), " differently; its whole log is sent, which is slower")
      return false
    end
  end
  return true
end

-- replaced: a plugin has put something into the log (kong.log.set_serialize_value) where we look. AI plugins do.
local function replaced(excerpt, ctx)
  for _, item in ipairs(ctx.serialize_values or {}) do
    if excerpt.roots[item.key:match("^[^.]*")] then
      return true
    end
  end
end

-- json returns a value as JSON. Most short texts are the same in many exchanges: cjson need not read them each time.
local texts, known = {}, 0
local function json(value)
  if type(value) ~= "string" or #value > 64 then
    return type(value) == "number" and value or encode(value)
  end
  local text = texts[value]
  if not text then
    text = encode(value)
    if known == MAX_TEXTS then
      texts, known = {}, 0
    end
    texts[value], known = text, known + 1
  end
  return text
end

-- log_of returns the exchange's log as JSON. A configuration's first exchange, its second, fourth, eighth and so on are
-- compared with Kong's own log: where that differs (another version of Kong) it is sent from then on.
local function log_of(r)
  local excerpt, ctx = ngx.req.get_method() == "POST" and r.call or r.request, ngx.ctx
  if not excerpt or replaced(excerpt, ctx) then
    return encode(kong.log.serialize())
  end
  r.exchanges = r.exchanges + 1
  if bit.band(r.exchanges, r.exchanges - 1) == 0 and not confirmed(excerpt, ctx) then
    r.request, r.call = nil, nil
    return encode(kong.log.serialize())
  end
  local steps, text = excerpt.steps, excerpt.text
  for i = 1, #steps do
    local value = steps[i].get(ctx)
    if value and steps[i].count then -- of a list
      text[2 * i] = "[" .. ("0"):rep(#value, ",") .. "]"
    else
      text[2 * i] = json(value)
    end
  end
  return concat(text)
end

-- The lane

local worker                    -- this worker's name
local number = 0                -- of the last exchange
local counted = 0               -- exchanges that the process has acknowledged, or whose loss it has been told of
local queue, first, last, queued = {}, 1, 0, 0                     -- entries first to last; their bytes
local dropped = {}              -- "<plugin> <reason>" -> count, not told yet
local batch, batches = nil, 0   -- the one under way, or to be sent again; the number of the last
local connections = 0           -- registrations belong to a connection
local called, flushing, failures, not_before = false, false, 0, 0  -- of flush

local function drop(plugin, reason)
  local key = plugin .. " " .. reason
  dropped[key] = (dropped[key] or 0) + 1
end

local function drop_lines()
  local lines, count = {}, 0
  for key, n in pairs(dropped) do
    lines[#lines + 1], count = "DROP " .. key .. " " .. n .. "\n", count + n
  end
  dropped = {}
  return lines, count
end

-- ask sends a message and returns the first line of the answer.
local function ask(socket, message)
  local ok, err = socket:send(message)
  if ok then
    ok, err = socket:receive("*l")
  end
  return ok, err
end

local function connect()
  local socket = ngx.socket.tcp()
  socket:settimeouts(CONNECT_TIMEOUT, SEND_TIMEOUT, DISK_TIMEOUT)
  local path = "unix:" .. kong.configuration.prefix .. "/kafka-metering.lane.socket"
  local ok, err = socket:connect(path, { pool = "kafka-metering", pool_size = 1 })
  if not ok then
    return nil, err
  elseif socket:getreusedtimes() == 0 then
    connections = connections + 1
    ok, err = ask(socket, "HELLO 1 " .. worker .. " " .. counted .. "\n")
    if ok ~= "OK 1" then
      socket:close()
      return nil, ok or err
    end
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
  r.connection, r.body = connections, needs.body
  r.request = needs.log and plan(needs.log)
  r.call = needs.calls and plan(needs.calls)
  return true
end

-- next_batch is what the queue has, up to the limits, and the drops that nobody has been told of.
local function next_batch()
  local upto, bytes = first - 1, 0
  while upto < last and upto - first + 1 < BATCH_MOST_ENTRIES and bytes < BATCH_MOST_BYTES do
    upto = upto + 1
    bytes = bytes + queue[upto].bytes
  end
  local lines, drops = drop_lines()
  batches = batches + 1
  return { number = batches, again = 0, upto = upto, lines = lines, drops = drops }
end

-- deliver sends a batch, and takes it off the queue when the process has it on disk. Else the next call sends it again, with
-- the same number: the process knows whether it has had it.
local function deliver(socket)
  batch = batch or next_batch()
  local b, entries = batch, batch.upto - first + 1
  local message = { "BATCH " .. b.number .. " " .. b.again .. " " .. #b.lines .. " " .. entries .. "\n", b.lines }
  for i = first, b.upto do
    local r = queue[i].registration
    if r.connection ~= connections then
      local ok, err = register(socket, r)
      if not ok then
        return nil, err
      end
    end
    message[#message + 1] = queue[i].data
  end
  b.again = 1
  local answer, err = ask(socket, message)
  local taken = answer == "OK " .. b.number
  if not taken and not (answer and find(answer, "^ERR ")) then
    return nil, answer or err
  end
  for i = first, b.upto do
    if not taken then -- the process never will: they count with the next batch's drops
      drop(queue[i].registration.plugin, "worker_refused")
    end
    queued, queue[i] = queued - queue[i].bytes, nil
  end
  counted = counted + b.drops + (taken and entries or 0)
  first, batch = b.upto + 1, nil
  return taken, answer
end

local function idle()
  return not batch and first > last and not next(dropped)
end

-- drain sends batches until the queue is all but empty. A worker that exits says goodbye: nothing is missing.
local function drain()
  local exiting = ngx.worker.exiting()
  if idle() and not (exiting and connections > 0) then
    return true
  end
  local socket, err = connect()
  if not socket then
    return nil, err
  end
  for _ = 1, 100 do -- and then another timer goes on: one that never ends never gives its memory back
    if idle() then
      break
    end
    local ok
    ok, err = deliver(socket)
    if not ok then
      socket:close()
      return nil, err
    elseif last - first + 1 < BATCH_ENTRIES and not exiting then
      break
    end
  end
  if exiting then
    return true, socket:send("BYE\n"), socket:close()
  end
  return true, socket:setkeepalive(0, 1)
end

-- abandon leaves word of what a worker that exits could not deliver, in a file that the process reads. It may have had the
-- batch that was sent last.
local function abandon()
  local text = { "HELLO 1 ", worker, " ", number, "\n", concat(batch and batch.lines or {}) }
  for i = first, last do
    local x = queue[i]
    if batch and batch.again == 1 and i <= batch.upto and find(x.id, "^%x+$") then
      text[#text + 1] = "SENT " .. batch.number .. " " .. x.registration.plugin .. " " .. x.id .. "\n"
    else
      drop(x.registration.plugin, "worker_exit")
    end
  end
  text[#text + 1] = concat((drop_lines()))
  local file, err = io.open(kong.configuration.prefix .. "/kafka-metering.lane.lost", "a")
  if file then
    file:write(concat(text))
    file:close()
  end
  kong.log.err("kafka-metering: the process is away while this worker exits; exchanges are lost: ", last - first + 1, err)
  queue, first, last, queued, batch, counted = {}, 1, 0, 0, nil, number
end

-- leave hands over what there is before the worker's end.
local function leave()
  local last_attempt = ngx.now() + EXIT_PATIENCE
  while true do
    pcall(drain)
    if idle() then
      return
    elseif ngx.now() > last_attempt then
      return abandon()
    end
    ngx.sleep(EXIT_DELAY)
  end
end

-- flush runs ten times a second, and when there is enough for a batch. When a worker exits OpenResty runs all timers at once.
local function flush()
  called = false
  if flushing or ngx.now() < not_before and not ngx.worker.exiting() then
    return
  end
  flushing = true
  if not ngx.worker.exiting() then
    local ran, ok, err = pcall(drain)
    failures = ran and ok and 0 or failures + 1
    not_before = failures == 0 and 0 or ngx.now() + min(RETRY_MOST, RETRY_DELAY * 2 ^ (failures - 1))
    if failures > 1 then -- once is a process that has begun anew
      warn("the process takes no exchanges, they are kept: ", ran and err or ok)
    end
  end
  if ngx.worker.exiting() then
    leave()
  end
  flushing = false
end

-- record puts the exchange into the queue.
local function record(conf)
  local r = registration(conf)
  if last - first + 1 >= MAX_ENTRIES or queued >= MAX_BYTES then
    return drop(r.plugin, "worker_queue_full")
  end
  local log, err = log_of(r)
  if not log or #log > MAX_LOG then
    warn("an exchange cannot be handed over: ", err or "its log is too long")
    return drop(r.plugin, "worker_log")
  end
  local seen = ngx.ctx.kafka_metering or {}
  local flags, first_byte, request, tail = var.request_completion == "OK" and "d" or "-", -1, "", {}
  if seen.last then
    local service = kong.router.get_service() or {}
    local patience = tonumber(service.read_timeout) or math.huge
    local stalled = max(seen.pause, ngx.now() - seen.last) * 1000 >= 0.98 * patience -- ngx.now is not exact
    flags = flags .. "b" .. (seen.eof and "e" or "") .. (stalled and "s" or "") .. (seen.head and "t" or "")
    first_byte = seen.began and floor((seen.began - ngx.req.start_time()) * 1000 + 0.5) or -1
  end
  if seen.posted then
    request = ngx.req.get_body_data() or "" -- nil unless it has been read, and is not in a file
    request = #request <= MAX_REQUEST and request or ""
  end
  for i = seen.from or 1, seen.to or 0 do
    tail[#tail + 1] = seen.tail[i]
  end
  local kind, encoding, head_bytes, tail_bytes = seen.kind or "", seen.encoding or "", seen.head_bytes or 0, seen.tail_bytes or 0
  local skipped = (seen.bytes or 0) - head_bytes - tail_bytes
  local line = "EXCHANGE " .. r.id .. " " .. number .. " " .. flags .. " " .. first_byte .. " " .. (var.body_bytes_sent or 0)
    .. " " .. #log .. " " .. #request .. " " .. #kind .. " " .. #encoding
    .. " " .. head_bytes .. " " .. skipped .. " " .. tail_bytes .. "\n"
  local bytes = #line + #log + #request + #kind + #encoding + head_bytes + tail_bytes
  last, queued = last + 1, queued + bytes
  queue[last] = { data = { line, log, request, kind, encoding, seen.head or "", tail }, registration = r, bytes = bytes,
                  id = fields["request.id"](ngx.ctx) }
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
  return ok or warn(err)
end

function Front:init_worker()
  worker = ngx.worker.pid() .. "." .. floor(ngx.now() * 1000)
  timer_every(BATCH_DELAY, flush)
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
  local exiting = ngx.worker.exiting()
  if not (called or flushing) and (exiting or last - first + 1 >= BATCH_ENTRIES and ngx.now() >= not_before) then
    called = timer_at(0, flush) -- without a timer the next exchange, or the tenth of a second, tries again
  end
end

return Front
