-- A worker of nginx without nginx, for unit tests: time stands still until a test moves it, timers run when a test says so,
-- and at the other end of the socket there is a process that does as a test tells it. load() returns a fresh handler in it.
local buffer, cjson = require "string.buffer", require "cjson.safe"

local M = {}

local function flatten(message, into)
  if type(message) ~= "table" then
    into[#into + 1] = tostring(message)
    return into
  end
  for i = 1, #message do
    flatten(message[i], into)
  end
  return into
end

-- paths is what the process answers of the paths that it reads.
function M.paths(paths)
  local all = {}
  for i, path in ipairs(paths) do
    local keys = {}
    for k, key in ipairs(path) do
      keys[k] = ("%q"):format(key)
    end
    all[i] = "[" .. table.concat(keys, ",") .. "]"
  end
  return "[" .. table.concat(all, ",") .. "]"
end

-- document returns the log that has an exchange's members at these paths.
function M.document(paths, x)
  local log = {}
  for i, path in ipairs(paths) do
    local into = log
    for k = 1, #path - 1 do
      into[path[k]] = into[path[k]] or {}
      into = into[path[k]]
    end
    into[path[#path]] = x[12 + i]
  end
  return log
end

-- process is the other end. It takes what the real one takes, and remembers it.
local function new_process()
  return {
    away = false, -- nobody listens
    mute = false, -- takes everything and answers nothing
    answer = nil, -- to a BATCH, instead of OK
    needs = '{"body":"llm"}',
    hellos = {}, configs = {}, paths = {}, batches = {}, byes = 0,
  }
end

-- take parses one message, the whole of it, and returns the answer.
local function take(process, text)
  local word = text:match("^%u+")
  if word == "HELLO" then
    process.hellos[#process.hellos + 1] = text
    return "OK 2"
  elseif word == "CONFIG" then
    process.configs[#process.configs + 1] = text
    local id, size, rest = text:match("^CONFIG (%d+) (%d+) %d+\n(.*)$")
    local lists = rest:sub(size + 1)
    local needs = cjson.decode(lists ~= "" and lists or process.needs)
    process.paths[tonumber(id)] = { needs.log, needs.calls }
    return "OK " .. #process.needs, process.needs
  elseif word == "BYE" then
    process.byes = process.byes + 1
    return nil
  end
  local number, again, drops, entries, size, rest = text:match("^BATCH (%d+) (%d) (%d+) (%d+) (%d+)\n(.*)$")
  assert(number, "not a message: " .. text:sub(1, 100))
  local batch = { text = text, number = tonumber(number), again = again == "1", drops = {}, exchanges = {} }
  for _ = 1, tonumber(drops) do
    local plugin, reason, count, after = rest:match("^DROP (%S+) (%S+) (%d+)\n(.*)$")
    batch.drops[plugin .. " " .. reason], rest = tonumber(count), after
  end
  assert(#rest == tonumber(size), "a batch is not as long as it says")
  local exchanges = buffer.new():set(rest)
  for _ = 1, tonumber(entries) do
    local x = exchanges:decode()
    local log = type(x[12]) == "string" and cjson.decode(x[12]) or M.document(process.paths[x[1]][x[12]], x)
    batch.exchanges[#batch.exchanges + 1] = {
      number = x[2], flags = x[3], first_byte = x[4], request = x[6], kind = x[7], encoding = x[8], head = x[9], skipped = x[10],
      tail = x[11], log = log,
    }
  end
  assert(#exchanges == 0, "something follows the batch")
  process.batches[#process.batches + 1] = batch
  return process.answer or "OK " .. number
end

-- new returns a worker: its ngx, its kong, its timers, and the process.
function M.new()
  local w = { time = 1795428217, timers = {}, lines = {}, process = new_process(), pooled = nil, exiting = false, slept = 0,
    request_id = "r" } -- of all requests; "" is Kong before 3.5

  local function socket()
    local s = { incoming = {} }
    function s:settimeouts() end
    function s:connect(path, options)
      assert(path == "unix:/kong/kafka-metering.lane.socket")
      self.pool = options.pool
      if w.pooled and w.pool == self.pool then
        self.reused, self.process, w.pooled = 1, w.pooled, nil
        return 1
      elseif w.process.away then
        return nil, "connection refused"
      end
      self.reused, self.process = 0, w.process
      return 1
    end
    function s:getreusedtimes() return self.reused end
    function s:send(message)
      if self.process ~= w.process then
        return nil, "closed" -- by a process that is gone
      end
      local text = table.concat(flatten(message, {}))
      if not self.process.mute then
        local line, body = take(self.process, text)
        self.incoming = { line, body }
      end
      return #text
    end
    function s:receive(what)
      if w.during_receive then
        w.during_receive()
      end
      local line = table.remove(self.incoming, 1)
      if not line then
        return nil, "timeout"
      end
      assert(what == "*l" or what == #line)
      return line
    end
    function s:setkeepalive(_, size)
      assert(size == 1)
      w.pooled, w.pool = self.process, self.pool
      return 1
    end
    function s:close() return 1 end
    return s
  end

  w.request = {} -- of the exchange at hand: method, status, headers, body, …
  w.ngx = {
    null = setmetatable({}, { __tostring = function() return "null" end }),
    now = function() return w.time end,
    sleep = function(seconds) w.slept, w.time = w.slept + seconds, w.time + seconds end,
    ctx = {}, arg = {},
    var = setmetatable({}, { __index = function(_, name)
      return w.request.var and w.request.var[name] or name == "kong_request_id" and w.request_id or nil
    end }),
    header = setmetatable({}, { __index = function(_, name) return (w.request.response_headers or {})[name:lower()] end }),
    req = {
      get_method = function() return w.request.method or "GET" end,
      start_time = function() return w.request.start or w.time end,
      get_body_data = function() return w.request.body end,
    },
    socket = { tcp = socket },
    worker = { exiting = function() return w.exiting end, pid = function() return 812 end },
    timer = {
      at = function(delay, fn)
        if w.no_timers then
          return nil, "too many pending timers"
        end
        assert(delay == 0 or not w.exiting, "process exiting")
        w.timers[#w.timers + 1] = { at = w.time + delay, fn = fn }
        return true
      end,
      every = function(interval, fn)
        w.every = { at = w.time + interval, interval = interval, fn = fn }
        return true
      end,
    },
  }
  setmetatable(w.ngx, { __index = function(_, name) return name == "status" and (w.request.status or 200) or nil end })
  local function write(level)
    return function(...)
      local words = {}
      for i = 1, select("#", ...) do
        words[i] = tostring((select(i, ...)))
      end
      w.lines[#w.lines + 1] = level .. ": " .. table.concat(words)
    end
  end
  w.log = { request = { id = "r" }, response = { status = 200 }, source = "upstream" } -- what kong.log.serialize says
  w.kong = {
    configuration = { prefix = "/kong" },
    log = { warn = write("warn"), err = write("err"), serialize = function()
      if w.serialize_fails then
        error("it is broken")
      end
      return w.log
    end },
    request = {
      get_method = function() return w.request.method or "GET" end,
      get_headers = function()
        return setmetatable(w.request.headers or {}, { __index = function(t, k) return rawget(t, k:lower()) end })
      end,
      get_query = function() return w.request.query or {} end,
      get_start_time = function() return 1795428217000 end,
    },
    response = { get_source = function() return w.request.source or "service" end },
    router = {
      get_service = function() return w.request.service or { read_timeout = 60000 } end,
    },
  }

  -- load returns a fresh handler that lives in this worker.
  function w.load()
    _G.ngx, _G.kong, _G.Kong = w.ngx, w.kong, w.Kong
    cjson.null = w.ngx.null
    package.loaded["kong.plugins.kafka-metering.handler"] = nil
    local handler = dofile("kong/plugins/kafka-metering/handler.lua")
    handler:init_worker()
    return handler
  end

  -- run runs the timers that are due after so many seconds, in their order, and those that they start.
  function w.run(seconds)
    local till = w.time + seconds
    while true do
      local next_one = w.every
      for _, timer in ipairs(w.timers) do
        if not next_one or timer.at < next_one.at then
          next_one = timer
        end
      end
      if not next_one or next_one.at > till then
        break
      end
      w.time = math.max(w.time, next_one.at)
      if next_one == w.every then
        w.every.at = w.every.at + w.every.interval
      else
        for i, timer in ipairs(w.timers) do
          if timer == next_one then
            table.remove(w.timers, i)
          end
        end
      end
      next_one.fn(false)
    end
    w.time = math.max(w.time, till)
  end

  -- exit begins the worker's exit: all timers run at once.
  function w.exit()
    w.exiting = true
    local timers = w.timers
    timers[#timers + 1] = w.every
    w.timers, w.every = {}, nil
    for _, timer in ipairs(timers) do
      timer.fn(true)
    end
    w.run(0)
  end

  -- exchange runs one exchange through the handler's phases. The request's chunks are its body; it ends unless cut is set.
  function w.exchange(handler, conf, request)
    w.request, w.ngx.ctx = request or {}, request and request.ctx or {}
    w.ngx.ctx.service = w.request.service
    w.request.var = w.request.var or { request_completion = "OK", body_bytes_sent = "10" }
    handler:header_filter(conf)
    local chunks = w.request.chunks or { "x" }
    for i = 1, #chunks do
      w.ngx.arg = setmetatable({}, { -- the tap must not write there
        __index = { chunks[i], i == #chunks and not w.request.cut },
        __newindex = function() error("ngx.arg was assigned") end,
      })
      handler:body_filter(conf)
    end
    handler:log(conf)
  end

  return w
end

return M
