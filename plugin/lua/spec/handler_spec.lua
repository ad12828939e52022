local fake = require "fake_nginx"

local CONF = function() return { __plugin_id = "p-1", max_body_bytes = 1000, llm = {} } end

-- post is a request whose answer is tapped.
local function post(more)
  local request = { method = "POST", response_headers = { ["content-type"] = "application/json" } }
  for key, value in pairs(more or {}) do
    request[key] = value
  end
  return request
end

local function total(batches)
  local exchanges, drops = 0, 0
  for _, b in ipairs(batches) do
    exchanges = exchanges + #b.exchanges
    for _, count in pairs(b.drops) do
      drops = drops + count
    end
  end
  return exchanges, drops
end

describe("the lane", function()
  local w, handler, conf

  before_each(function()
    w = fake.new()
    handler, conf = w.load(), CONF()
  end)

  local function exchanges(n)
    for _ = 1, n do
      w.exchange(handler, conf)
    end
  end

  it("sends what there is twenty times a second", function()
    exchanges(7)
    w.run(0.04)
    assert.equal(0, #w.process.batches)
    w.run(0.02)
    assert.equal(1, #w.process.batches)
    assert.equal(7, #w.process.batches[1].exchanges)
    assert.equal("HELLO 2 812.1795428217000 0\n", w.process.hellos[1])
  end)

  it("numbers exchanges from one on", function()
    exchanges(3)
    w.run(0.2)
    exchanges(2)
    w.run(0.2)
    local numbers = {}
    for _, b in ipairs(w.process.batches) do
      for _, x in ipairs(b.exchanges) do
        numbers[#numbers + 1] = x.number
      end
    end
    assert.same({ 1, 2, 3, 4, 5 }, numbers)
  end)

  it("registers a configuration once for a connection", function()
    exchanges(3)
    w.run(0.2)
    exchanges(3)
    w.run(0.2)
    assert.equal(1, #w.process.hellos)
    assert.equal(1, #w.process.configs)
    assert.matches('^CONFIG 1 %d+ 0\n{.*"__plugin_id":"p%-1"', w.process.configs[1])
    local other = CONF() -- Kong has read its configuration again
    w.exchange(handler, other)
    w.run(0.2)
    assert.equal(1, #w.process.hellos)
    assert.equal(2, #w.process.configs)
  end)

  it("writes the problems of a configuration into Kong's log", function()
    w.process.needs = '{"body":"none","problems":"meter \\"bad\\" is left out"}'
    exchanges(3)
    w.run(0.2)
    assert.same({ 'err: meter "bad" is left out' }, w.lines)
  end)

  it("sends a batch again, the very same, until it is acknowledged", function()
    w.process.mute = true
    exchanges(5)
    w.run(0.2)
    w.process.mute = false
    w.process.answer = "nonsense"
    w.run(2)
    local attempts = #w.process.batches
    assert.is_true(attempts >= 1)
    w.process.answer = nil
    exchanges(5)
    w.run(5)
    local first, same_one, after = w.process.batches[1], w.process.batches[attempts + 1], w.process.batches[attempts + 2]
    assert.equal(first.number, same_one.number)
    assert.is_true(same_one.again)
    assert.same(first.exchanges, same_one.exchanges)
    assert.equal(first.number + 1, after.number)
    assert.is_false(after.again)
    assert.equal(5, #after.exchanges)
  end)

  it("goes on with the next process, and tells it how far the last one came", function()
    exchanges(5)
    w.run(0.2)
    local before = w.process
    w.process = fake.new().process -- the pooled connection is dead now
    exchanges(3)
    w.run(0.3)
    assert.equal(1, #before.batches)
    assert.equal("HELLO 2 812.1795428217000 5\n", w.process.hellos[1])
    assert.equal(1, #w.process.configs)
    assert.equal(3, #w.process.batches[1].exchanges)
    assert.same({}, w.lines)
  end)

  it("asks for a process that is away three times a second, and says so once a minute", function()
    w.process.away = true
    exchanges(1)
    local connects = 0
    local tcp = w.ngx.socket.tcp
    w.ngx.socket.tcp = function()
      connects = connects + 1
      return tcp()
    end
    for _ = 1, 1000 do
      exchanges(1)
      w.run(0.059)
    end
    assert.is_true(connects >= 150 and connects <= 250, connects .. " attempts in a minute")
    assert.equal(1, #w.lines)
    assert.matches("takes no exchanges", w.lines[1])
    w.process.away = false
    w.run(2.1)
    assert.equal(1001, (total(w.process.batches)))
  end)

  it("drops the newest when the queue is full, and says how many with the next batch", function()
    w.process.away = true
    exchanges(20500)
    w.run(1)
    exchanges(500)
    w.process.away = false
    w.run(60)
    assert.same({ ["p-1 worker_queue_full"] = 1000 }, w.process.batches[1].drops)
    local sent, dropped = total(w.process.batches)
    assert.equal(20000, sent)
    assert.equal(1000, dropped)
    exchanges(1)
    w.run(1)
    local last = w.process.batches[#w.process.batches]
    assert.equal(21001, last.exchanges[1].number)
    assert.same({}, last.drops)
  end)

  it("bounds the queue's bytes", function()
    w.process.away = true
    local big = ("x"):rep(1000 * 1000)
    conf.max_body_bytes = 2000 * 1000
    for _ = 1, 100 do
      w.exchange(handler, conf, post { chunks = { big } })
    end
    w.process.away = false
    w.run(60)
    local sent, dropped = total(w.process.batches)
    assert.is_true(sent >= 67 and sent <= 69, sent .. " of a megabyte were kept in 64 MiB")
    assert.equal(100, sent + dropped)
  end)

  it("leaves what comes while a batch is under way to the next one", function()
    local busy = true
    w.during_receive = function()
      if busy and #w.process.batches == 1 then
        busy = false
        exchanges(950)
      end
    end
    exchanges(100)
    w.run(0.05)
    assert.equal(1, #w.process.batches)
    w.run(0.05)
    assert.equal(2, #w.process.batches)
    assert.equal(950, #w.process.batches[2].exchanges)
  end)

  it("sends full batches one after the other", function()
    exchanges(4600)
    w.run(0.05)
    assert.equal(4000, (total(w.process.batches)))
    w.run(0.05)
    assert.equal(4600, (total(w.process.batches)))
    assert.equal(3, #w.process.batches)
  end)

  it("forgets old configurations with their connection", function()
    for i = 1, 250 do -- Kong reads its configuration anew after each change of any plugin
      conf = CONF()
      exchanges(1)
      w.run(0.05)
      assert.equal(i, (total(w.process.batches)))
    end
    assert.equal(3, #w.process.hellos)
    assert.equal(250, #w.process.configs)
  end)

  it("learns of a secret that Kong has renewed in its place", function()
    conf.authentication = { password = "old" }
    exchanges(1)
    w.run(30)
    conf.authentication.password = "new"
    exchanges(1)
    w.run(31)
    exchanges(1)
    w.run(1)
    assert.equal(2, #w.process.configs)
    assert.matches("new", w.process.configs[2])
    assert.equal(3, (total(w.process.batches)))
  end)

  it("counts what the process refuses, and goes on", function()
    w.process.answer = "ERR lane protocol: no"
    exchanges(4)
    w.run(0.15)
    w.process.answer = nil
    exchanges(1)
    w.run(5)
    local last = w.process.batches[#w.process.batches]
    assert.same({ ["p-1 worker_refused"] = 4 }, last.drops)
    assert.equal(5, last.exchanges[1].number)
  end)

  it("tells of drops alone on the connection that is there when it exits, or with a configuration", function()
    w.process.away = true
    exchanges(20010)
    w.run(1)
    w.process.away = false
    w.exit()
    local sent, dropped = total(w.process.batches)
    assert.equal(20000, sent)
    assert.equal(10, dropped)
    assert.equal(1, #w.process.hellos)
    w.process.away, w.pooled = true, nil
    w.serialize_fails = true
    exchanges(1)
    w.serialize_fails = false
    w.process.away = false
    w.run(0)
    assert.equal(2, #w.process.hellos)
    assert.equal(2, #w.process.configs)
    assert.same({ ["p-1 worker_error"] = 1 }, w.process.batches[#w.process.batches].drops)
  end)

  it("tells of drops again with which a batch is refused", function()
    w.serialize_fails = true
    exchanges(1)
    w.serialize_fails = false
    exchanges(1)
    w.process.answer = "ERR lane protocol: no"
    w.run(0.06)
    w.process.answer = nil
    exchanges(1)
    w.run(5)
    assert.same({ ["p-1 worker_refused"] = 1, ["p-1 worker_error"] = 1 }, w.process.batches[#w.process.batches].drops)
  end)

  it("goes on when the clock is set back", function()
    exchanges(1)
    w.run(0.2)
    w.process.away, w.pooled = true, nil
    exchanges(1)
    w.run(0.3)
    w.time, w.every.at = w.time - 3600, w.every.at - 3600 -- timers do not go by that clock
    w.process.away = false
    w.exchange(handler, conf, { start = w.time + 3600 })
    w.run(2)
    assert.equal(3, (total(w.process.batches)))
    assert.equal(0, w.process.batches[2].exchanges[2].first_byte)
  end)

  it("goes on when there were no timers to be had", function()
    w.no_timers = true
    exchanges(3)
    w.run(1)
    w.no_timers = false
    exchanges(1)
    w.run(1)
    assert.equal(4, (total(w.process.batches)))
  end)

  it("says goodbye when the worker exits", function()
    exchanges(3)
    w.exit()
    assert.equal(3, (total(w.process.batches)))
    assert.equal(1, w.process.byes)
    exchanges(1) -- a stream that was still open
    w.run(0)
    assert.equal(4, (total(w.process.batches)))
    assert.equal(2, w.process.byes)
  end)

  it("leaves word of what it could not hand over when the worker exits", function()
    local path, text = nil, ""
    local open = io.open
    io.open = function(name, mode) -- luacheck: ignore 122
      assert(mode == "a")
      path = name
      return { setvbuf = function() end, write = function(_, t) text = text .. t end, close = function() return true end }
    end
    exchanges(2)
    w.run(0.2)
    w.process.away, w.pooled = true, nil
    exchanges(20005)
    w.run(0.2)
    w.exit()
    io.open = open -- luacheck: ignore 122
    assert.equal("/kong/kafka-metering.lane.lost", path)
    assert.matches("^HELLO 2 812%.1795428217000 20007\n", text)
    local _, left = text:gsub("LEFT p%-1 %-\n", "")
    assert.equal(20000, left)
    assert.matches("DROP p%-1 worker_queue_full 5\n", text)
    assert.is_true(w.slept < 4)
  end)

  it("says which exchanges it leaves, and which batch they were sent in", function()
    local text = ""
    local open = io.open
    io.open = function() -- luacheck: ignore 122
      return { setvbuf = function() end, write = function(_, t) text = text .. t end, close = function() return true end }
    end
    exchanges(1)
    w.run(0.2)
    w.process.mute = true
    w.exchange(handler, conf, { ctx = { request_id = "0af1" } })
    w.exchange(handler, conf, { ctx = { request_id = "no hex" } })
    w.run(0.2)
    w.exchange(handler, conf, { ctx = { request_id = "0af3" } })
    w.exit()
    io.open = open -- luacheck: ignore 122
    assert.equal("HELLO 2 812.1795428217000 4\nSENT 2\nLEFT p-1 0af1\nLEFT p-1 -\nSENT 3\nLEFT p-1 0af3\n", text)
  end)

  it("leaves word when Kong is stopped, which ends workers as they are", function()
    local text, stopped = "", 0
    local open = io.open
    io.open = function() -- luacheck: ignore 122
      return { setvbuf = function() end, write = function(_, t) text = text .. t end, close = function() return true end }
    end
    w.Kong = { exit_worker = function() stopped = stopped + 1 end }
    handler = w.load()
    exchanges(1)
    w.run(0.2)
    w.Kong.exit_worker()
    assert.equal("", text)
    exchanges(2)
    w.Kong.exit_worker()
    io.open = open -- luacheck: ignore 122
    assert.equal(2, stopped)
    assert.equal("HELLO 2 812.1795428217200 3\nSENT 2\nLEFT p-1 -\nLEFT p-1 -\n", text:gsub("812%.%d+", "812.1795428217200"), nil)
  end)

  it("says which batch had drops alone, and goes on as another worker", function()
    local text = ""
    local open = io.open
    io.open = function() -- luacheck: ignore 122
      local function close() return nil, "disk full" end
      return { setvbuf = function() end, write = function(_, t) text = text .. t end, close = close }
    end
    exchanges(1)
    w.run(0.2)
    w.process.mute, w.serialize_fails = true, true
    exchanges(1)
    w.run(0.2)
    w.exit()
    io.open = open -- luacheck: ignore 122
    assert.equal("HELLO 2 812.1795428217000 2\nSENT 2\nDROP p-1 worker_error 1\n", text)
    assert.matches("without word: disk full", w.lines[#w.lines])
    w.process.mute, w.serialize_fails = false, false
    exchanges(1) -- a stream that was open yet
    w.run(0)
    local batch = w.process.batches[#w.process.batches]
    assert.equal(1, batch.number)
    assert.equal(1, batch.exchanges[1].number)
    assert.not_equal(w.process.hellos[1], w.process.hellos[#w.process.hellos])
  end)

  it("tries again while the worker exits", function()
    w.process.away = true
    exchanges(3)
    w.ngx.sleep = function()
      w.process.away = false
    end
    w.exit()
    assert.equal(3, (total(w.process.batches)))
    assert.equal(1, w.process.byes)
  end)
end)

describe("the tap", function()
  local w, handler, conf

  before_each(function()
    w = fake.new()
    handler, conf = w.load(), CONF()
  end)

  local function seen(request)
    w.exchange(handler, conf, request)
    w.run(1)
    local b = w.process.batches[#w.process.batches]
    return b.exchanges[#b.exchanges]
  end

  it("copies the body of what may be an answer of an LLM", function()
    local x = seen(post { chunks = { "one ", "", "two ", "three" }, body = '{"model":"m"}' })
    assert.equal("dbet", x.flags)
    assert.equal("one two three", x.head)
    assert.equal("", x.tail)
    assert.equal(0, x.skipped)
    assert.equal("application/json", x.kind)
    assert.equal('{"model":"m"}', x.request)
  end)

  it("knows by the headers what cannot carry usage", function()
    for kind, tapped in pairs {
      ["application/json; charset=utf-8"] = true, ["application/problem+json"] = true, ["text/event-stream"] = true,
      ["application/x-ndjson"] = true, ["application/vnd.amazon.eventstream"] = true, ["Text/Event-Stream"] = true,
      ["text/plain"] = true, ["application/octet-stream"] = true, ["image/png"] = false, ["text/html"] = false,
      ["application/grpc"] = false, ["video/mp4"] = false,
    } do
      local x = seen(post { response_headers = { ["content-type"] = kind } })
      assert.equal(tapped, x.flags:find("t", 1, true) ~= nil, kind)
    end
    assert.matches("t", seen(post { response_headers = {} }).flags)
  end)

  it("leaves alone what has no body, what Kong answers, and what failed", function()
    assert.equal("d", seen({ method = "HEAD" }).flags)
    assert.equal("d", seen(post { status = 204, chunks = {} }).flags)
    assert.equal("d", seen(post { status = 304, chunks = {} }).flags)
    assert.equal("d", seen(post { status = 101, chunks = {} }).flags)
    assert.equal("d", seen(post { source = "exit" }).flags)
    assert.equal("dbe", seen({ method = "GET" }).flags)
    assert.equal("dbe", seen(post { status = 500 }).flags)
  end)

  it("takes the process's word for what is needed", function()
    w.process.needs = '{"body":"none"}'
    seen(post())
    local x = seen(post { body = "{}" })
    assert.equal("dbe", x.flags)
    assert.is_nil(x.request)
    w, conf = fake.new(), CONF()
    handler = w.load()
    w.process.needs = '{"body":"any"}'
    seen(post())
    assert.equal("dbet", seen(post { method = "GET", status = 404 }).flags)
  end)

  it("says what became of the body", function()
    assert.equal("b", seen({ cut = true, var = { request_completion = "" } }).flags)
    assert.equal("db", seen({ cut = true }).flags)
    assert.equal("", seen({ status = 499, source = "error", chunks = {}, var = { request_completion = "" } }).flags)
    local function silent(patience, seconds)
      local request = post { cut = true }
      w.request, w.ngx.ctx = request, { balancer_data = { read_timeout = patience } }
      request.var = { request_completion = "OK" }
      handler:header_filter(conf)
      w.time = w.time + seconds
      handler:log(conf)
      w.run(1)
      local b = w.process.batches[#w.process.batches]
      return b.exchanges[#b.exchanges].flags
    end
    assert.equal("dbst", silent(60000, 60))
    assert.equal("dbst", silent(60000, 59)) -- ngx.now is not exact
    assert.equal("dbt", silent(60000, 58))
    assert.equal("dbst", silent(5000, 4.72)) -- nginx's timer is early
    assert.equal("dbt", silent(5000, 4.6))
    assert.equal("dbst", silent(100, 0.06))
    assert.equal("dbt", silent(100, 0.04))
    assert.equal("dbt", silent(nil, 1000))
  end)

  it("takes the end of a body from Kong where another plugin has replaced it", function()
    local function cut(ended, began)
      return seen(post { cut = true, ctx = { KONG_BODY_FILTER_ENDED_AT_NS = ended, KONG_LOG_START_NS = began } }).flags
    end
    assert.equal("dbet", cut(7, 9))
    assert.equal("dbt", cut(9, 9)) -- there was none: Kong fills it in when it begins to log
    assert.equal("dbt", cut(nil, 9))
  end)

  it("measures the time to the first byte", function()
    local x = seen(post { start = w.time - 0.25 })
    assert.equal(250, x.first_byte)
    assert.equal(-1, seen(post { chunks = {} }).first_byte)
  end)

  it("keeps the head and the tail of a large body, whatever its pieces", function()
    math.randomseed(7)
    for round = 1, 300 do
      conf.max_body_bytes = math.random(100, 2000)
      handler = w.load()
      local chunks, whole, size = {}, {}, math.random(0, 6000)
      while size > 0 do
        local n = math.min(size, round % 3 == 0 and 8000 or math.random(1, 300))
        local piece = {}
        for i = 1, n do
          piece[i] = string.char(math.random(0, 255))
        end
        chunks[#chunks + 1], size = table.concat(piece), size - n
        whole[#whole + 1] = chunks[#chunks]
      end
      whole = table.concat(whole)
      local x = seen(post { chunks = chunks })
      assert.equal(#whole, #x.head + x.skipped + #x.tail)
      assert.is_true(whole:sub(1, #x.head) == x.head, "the head is another")
      assert.is_true(#x.tail == 0 or whole:sub(-#x.tail) == x.tail, "the tail is another")
      assert.is_true(#whole >= conf.max_body_bytes or x.skipped == 0, "something is missing without need")
      assert.is_true(#x.head + #x.tail <= conf.max_body_bytes, #x.head + #x.tail .. " bytes of " .. conf.max_body_bytes)
      if x.skipped > 0 then
        assert.is_true(#x.head == math.floor(conf.max_body_bytes / 2) and #x.tail >= conf.max_body_bytes / 2 - 301)
      end
    end
  end)

  it("takes a long request for none", function()
    assert.is_nil(seen(post { body = ("x"):rep(100000) }).request)
  end)
end)

describe("the log", function()
  local w, handler, conf

  before_each(function()
    w = fake.new()
    handler, conf = w.load(), CONF()
  end)

  local function logs(n, request)
    for _ = 1, n do
      w.exchange(handler, conf, request and request())
      w.run(1)
    end
    local all = {}
    for _, b in ipairs(w.process.batches) do
      for _, x in ipairs(b.exchanges) do
        all[#all + 1] = x.log
      end
    end
    return all
  end

  local function request()
    return {
      var = {
        request_completion = "OK", body_bytes_sent = "10", request_length = "95", kong_request_id = "r", args = "a=1",
        is_args = "?", http_x_team = "research", http_authorization = "Bearer secret", upstream_uri = "/up",
        request_uri = "/down?a=1",
      },
      headers = { ["x-team"] = "research", authorization = "Bearer secret", cookie = "secret" },
      query = { a = "1", key = "secret" },
      service = { id = "s", name = "svc", read_timeout = 60000 },
    }
  end

  it("is Kong's own until the process has said what it needs, and then no more than that", function()
    local function wanted()
      return {
        request = {
          id = "r", querystring = { a = "1" }, headers = { ["x-team"] = "research", authorization = "REDACTED" },
        },
        service = { name = "svc" }, upstream_uri = "/up?a=1", consumer = {},
      }
    end
    w.log = wanted()
    w.log.extra = "much"
    w.process.needs = '{"body":"none","log":' .. fake.paths {
      { "request", "id" }, { "request", "headers", "x-team" }, { "request", "headers", "authorization" },
      { "request", "headers", "absent" }, { "request", "querystring", "a" }, { "service", "name" }, { "upstream_uri" },
      { "consumer", "username" },
    } .. "}"
    local all = logs(3, request)
    assert.equal("much", all[1].extra)
    for i = 2, 3 do
      assert.same(wanted(), all[i])
    end
    assert.same({}, w.lines)
  end)

  it("is Kong's own where the process needs what only Kong can tell", function()
    for _, path in ipairs { { "correlation_id" }, { "request" }, { "request", "url" }, { "service" }, { "a", "b", "c" } } do
      w = fake.new()
      handler, conf = w.load(), CONF()
      w.process.needs = '{"body":"none","log":' .. fake.paths { { "started_at" }, path } .. "}"
      w.log.extra = "much"
      local all = logs(2, request)
      assert.equal("much", all[2].extra, table.concat(path, "."))
    end
  end)

  it("is Kong's own where requests have no id, which is a hash of it then", function()
    w.process.needs = '{"body":"none","log":' .. fake.paths { { "started_at" } } .. "}"
    w.log.extra, w.request_id = "much", ""
    local all = logs(3, function()
      local old = request()
      old.var.kong_request_id = nil
      return old
    end)
    assert.equal("much", all[3].extra)
  end)

  it("is Kong's own from the moment on that the two differ, and a line says which member", function()
    w.process.needs = '{"body":"none","log":' .. fake.paths { { "request", "id" } } .. "}"
    w.log.request.id = "another"
    local all = logs(4, request)
    assert.equal("another", all[2].request.id)
    assert.equal("another", all[4].request.id)
    assert.equal(1, #w.lines)
    assert.matches("logs request.id differently", w.lines[1])
  end)

  it("is Kong's own where a plugin has put something that is read into it", function()
    w.log.upstream_uri, w.log.correlation_id = "/up?a=1", "c-1"
    w.process.needs = '{"body":"none","log":' .. fake.paths { { "upstream_uri" }, { "ai", "proxy", "usage" } } .. "}"
    local function adds(key)
      return function()
        local added = request()
        added.ctx = { serialize_values = { { key = key } } }
        return added
      end
    end
    local function last(key)
      local all = logs(1, adds(key))
      return all[#all]
    end
    logs(2, request)
    w.log.ai = { proxy = { usage = { total_tokens = 33 } } }
    assert.equal(33, last("ai.proxy.usage").ai.proxy.usage.total_tokens)
    w.log.ai = nil
    assert.equal("c-1", last("upstream_uri").correlation_id)
    assert.is_nil(last("correlation_id").correlation_id) -- which nobody reads
    assert.is_nil(last("ailment").correlation_id)
    assert.same({}, w.lines)
  end)

  it("holds more of a POST, and of a WebSocket", function()
    w.log.service, w.log.upstream_uri = { name = "svc" }, "/up?a=1"
    w.process.needs = '{"body":"llm","log":' .. fake.paths { { "service", "name" } }
      .. ',"calls":' .. fake.paths { { "service", "name" }, { "upstream_uri" } } .. "}"
    local all = logs(3, request)
    assert.same({ service = { name = "svc" } }, all[3])
    all = logs(1, function()
      local posted = request()
      posted.method = "POST"
      return posted
    end)
    assert.same({ service = { name = "svc" }, upstream_uri = "/up?a=1" }, all[4])
    all = logs(1, function()
      local upgraded = request()
      upgraded.status = 101
      return upgraded
    end)
    assert.same({ service = { name = "svc" }, upstream_uri = "/up?a=1" }, all[5])
    assert.same({}, w.lines)
  end)

  it("keeps to the lists of the process that it was made for, also where the next one needs something else", function()
    w.log.service, w.log.upstream_uri = { name = "svc", id = "s" }, "/up?a=1"
    local first = fake.paths { { "service", "name" }, { "upstream_uri" } }
    local second = fake.paths { { "service", "id" }, { "service", "name" } }
    w.process.needs = '{"body":"none","log":' .. first .. "}"
    logs(2, request)
    w.process = fake.new().process -- another one, which has been upgraded
    w.process.away, w.process.needs = true, '{"body":"none","log":' .. second .. "}"
    logs(3, request)
    w.process.away = false
    w.run(3)
    local all = logs(3, request)
    assert.equal(6, #all)
    for i = 1, 3 do
      assert.same({ service = { name = "svc" }, upstream_uri = "/up?a=1" }, all[i], "the " .. i)
    end
    assert.same("svc", all[4].service.name) -- its configuration is registered: that is the whole log
    for i = 5, 6 do
      assert.same({ service = { name = "svc", id = "s" } }, all[i])
    end
    assert.equal(2, #w.process.configs)
    assert.matches('^CONFIG 1 %d+ %d+\n{.*}{"body":"none","log":%[%["service","name"%]', w.process.configs[1])
    assert.matches("^CONFIG 2 %d+ 0\n{", w.process.configs[2])
  end)

  it("is Kong's own where of a POST the process needs what only Kong can tell", function()
    w.process.needs = '{"body":"llm","log":' .. fake.paths { { "request", "id" } }
      .. ',"calls":' .. fake.paths { { "request", "id" }, { "request", "url" } } .. "}"
    w.log.extra = "much"
    local all = logs(2, function()
      local posted = request()
      posted.method = "POST"
      return posted
    end)
    assert.equal("much", all[2].extra)
  end)

  it("is what is needed of it where the whole of it, with what AI plugins have added, is too long", function()
    w.process.needs = '{"body":"llm","log":' .. fake.paths { { "request", "id" }, { "ai", "proxy", "usage" } } .. "}"
    logs(2, request)
    w.log.ai = { proxy = { usage = { total_tokens = 33 }, payload = ("x"):rep(5 * 2^20) } }
    local all = logs(1, function()
      local added = request()
      added.ctx = { serialize_values = { { key = "ai.proxy.usage" }, { key = "ai.proxy.payload" } } }
      return added
    end)
    assert.same({ request = { id = "r" }, ai = { proxy = {} } }, all[3])
  end)

  it("breaks nothing when Kong's log breaks", function()
    w.serialize_fails = true
    logs(3)
    w.serialize_fails = false
    w.exchange(handler, conf)
    w.run(1)
    local sent, dropped = total(w.process.batches)
    assert.equal(1, sent)
    assert.equal(3, dropped)
    assert.equal(1, w.process.batches[1].drops["p-1 worker_error"])
  end)

  it("is dropped and counted when it cannot be encoded", function()
    w.log.response.body = function() end
    logs(1)
    w.log.response.body = nil
    logs(1)
    local sent, dropped = total(w.process.batches)
    assert.equal(1, sent)
    assert.equal(1, dropped)
  end)
end)
