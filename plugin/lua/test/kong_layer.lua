-- What Kong does around a plugin, as far as the Lua front is concerned, for tests in a plain nginx with ngx_http_lua: the
-- functions of the PDK that the front calls, the members of ngx.ctx that Kong's log is made of, and the log itself, after
-- Kong 3.9 (kong/pdk, kong/init.lua, kong/pdk/log.lua). It authenticates nobody: the request header apikey is the consumer.
local cjson = require "cjson.safe"

local M = {}
local handler, config

local function log(level)
  return function(...)
    ngx.log(level, ...)
  end
end

local SOURCES = { service = "upstream", exit = "kong", error = "kong" }

local function pdk(prefix)
  return {
    configuration = { prefix = prefix },
    log = { err = log(ngx.ERR), warn = log(ngx.WARN), serialize = function() return M.serialize() end },
    request = {
      get_method = function() -- of what the client has sent, not of the redirect to Kong's error handler
        return ngx.ctx.KONG_UNEXPECTED and ngx.var.request:match("^%S+") or ngx.req.get_method()
      end,
      get_headers = ngx.req.get_headers,
      get_header = function(name)
        local value = ngx.req.get_headers()[name]
        return type(value) == "table" and value[1] or value
      end,
      get_query = function()
        if ngx.ctx.KONG_UNEXPECTED then
          return ngx.decode_args(ngx.var.request:match("%?(%S*)") or "")
        end
        return ngx.req.get_uri_args()
      end,
      get_path = function() return ngx.var.uri end,
      get_start_time = function() return ngx.ctx.KONG_PROCESSING_START or ngx.req.start_time() * 1000 end,
      get_raw_body = function(most) -- Kong 3.9: bytes that are read from a file
        ngx.req.read_body()
        local body, file = ngx.req.get_body_data(), ngx.req.get_body_file()
        if body or not file then
          return body or ""
        end
        local f = most and io.open(file, "rb")
        if f and f:seek("end") <= most then
          f:seek("set")
          body = f:read("*a")
        end
        if f then
          f:close()
        end
        return body
      end,
    },
    response = {
      get_source = function(ctx)
        ctx = ctx or ngx.ctx
        return ctx.KONG_UNEXPECTED and "error" or ctx.KONG_EXITED and "exit" or ctx.KONG_PROXIED and "service" or "error"
      end,
    },
    service = { request = { set_raw_body = ngx.req.set_body_data } },
    router = {
      get_service = function() return ngx.ctx.service end,
    },
  }
end

M.serialized = 0 -- how often this worker has made the whole log

function M.serialize()
  M.serialized = M.serialized + 1
  local ctx, var = ngx.ctx, ngx.var
  local request_uri, upstream_uri = var.request_uri or "", var.upstream_uri or ""
  if upstream_uri ~= "" and not upstream_uri:find("?", nil, true) then
    if request_uri:byte(-1) == ("?"):byte() then
      upstream_uri = upstream_uri .. "?"
    elseif var.is_args == "?" then
      upstream_uri = upstream_uri .. "?" .. (var.args or "")
    end
  end
  local headers, credential = ngx.req.get_headers(), ctx.authenticated_credential
  for _, name in ipairs { "authorization", "proxy-authorization" } do
    if headers[name] ~= nil then
      headers[name] = "REDACTED"
    end
  end
  local whole = {
    request = {
      id = var.kong_request_id, uri = request_uri, method = kong.request.get_method(), headers = headers,
      url = var.scheme .. "://" .. var.host .. ":" .. var.server_port .. request_uri,
      querystring = kong.request.get_query(), size = tonumber(var.request_length, 10),
    },
    upstream_uri = upstream_uri,
    upstream_status = var.upstream_status or ctx.buffered_status or "",
    response = { status = ngx.status, headers = ngx.resp.get_headers(), size = tonumber(var.bytes_sent, 10) },
    latencies = {
      kong = ctx.KONG_PROXY_LATENCY or ctx.KONG_RESPONSE_LATENCY or 0, proxy = ctx.KONG_WAITING_TIME or -1,
      request = tonumber(var.request_time) * 1000, receive = ctx.KONG_RECEIVE_TIME or 0,
    },
    tries = ctx.balancer_data and ctx.balancer_data.tries,
    authenticated_entity = credential and { id = credential.id, consumer_id = credential.consumer_id },
    route = ctx.route, service = ctx.service, consumer = ctx.authenticated_consumer,
    client_ip = var.remote_addr, started_at = kong.request.get_start_time(), source = SOURCES[kong.response.get_source()],
    workspace = ctx.workspace, workspace_name = "default",
  }
  for _, item in ipairs(ctx.serialize_values or {}) do
    whole[item.key] = item.value
  end
  return whole
end

-- kong_timers puts Kong's timers into the place of OpenResty's: they do not run once the worker exits.
local function kong_timers()
  for _, name in ipairs { "at", "every" } do
    local native = ngx.timer[name]
    _G["native_timer_" .. name] = native
    ngx.timer[name] = function(delay, fn, ...)
      return native(delay, function(premature, ...)
        return not ngx.worker.exiting() and fn(premature, ...)
      end, ...)
    end
  end
end

-- init reads the plugin's configuration and loads its handler, as Kong does in init.
function M.init(prefix)
  kong_timers()
  kong = pdk(prefix) -- luacheck: ignore 111
  Kong = { exit_worker = function() end } -- luacheck: ignore 111
  local file = assert(io.open(prefix .. "/config.json"))
  config = assert(cjson.decode(file:read("*a")))
  file:close()
  handler = require "kong.plugins.kafka-metering.handler"
end

function M.init_worker()
  handler:init_worker()
end

local services = {
  slow = { id = "s-slow", name = "slow", host = "upstream", read_timeout = 600 },
  llm = { id = "s-llm", name = "llm", host = "upstream", read_timeout = 60000 },
}
local route = { id = "r-1", name = "everything", service = { id = "s-llm" }, request_buffering = true }
local unbuffered = { id = "r-1", name = "everything", service = { id = "s-llm" }, request_buffering = false }

local contexts = {} -- of requests, as Kong keeps them

-- access is what Kong does before a plugin's access, and then the plugin's.
function M.access(with_plugin)
  local ctx = ngx.ctx
  contexts[ngx.var.kong_request_id], ctx.upstream_uri = ctx, ngx.var.uri
  ctx.KONG_PROCESSING_START = ngx.req.start_time() * 1000
  ctx.workspace = "0dc6f45b-8f8d-40d2-a504-473544ee190b"
  ctx.route = ngx.var.uri:find("^/unbuffered") and unbuffered or route
  ctx.service = ngx.var.uri:find("^/slow") and services.slow or services.llm
  ctx.balancer_data = { tries = {}, read_timeout = ctx.service.read_timeout }
  local key = ngx.req.get_headers()["apikey"]
  if key then
    ctx.authenticated_consumer = { id = "c-" .. key, username = key, custom_id = "cust-" .. key }
    ctx.authenticated_credential = { id = "k-" .. key, consumer_id = "c-" .. key, key = "secret" }
  end
  if ngx.var.uri:find("^/rejected") then
    ctx.KONG_EXITED = true
    ngx.status = 401
    ngx.header["Content-Type"] = "application/json"
    ngx.say('{"message":"No API key found in request"}')
    return ngx.exit(401)
  end
  if with_plugin then
    handler:access(config)
  end
  ctx.KONG_PROXIED = true
  ctx.KONG_ACCESS_ENDED_AT = ngx.now() * 1000
  -- The balancer is next.
  ctx.balancer_data.tries[1] = { ip = "127.0.0.1", port = 1, balancer_start = ngx.now() * 1000, balancer_latency = 0 }
end

function M.header_filter(with_plugin)
  local ctx = ngx.ctx
  local now = ngx.now() * 1000
  ctx.KONG_HEADER_FILTER_START = now
  if ctx.KONG_PROXIED then
    ctx.KONG_WAITING_TIME = now - ctx.KONG_ACCESS_ENDED_AT
    ctx.KONG_PROXY_LATENCY = now - ctx.KONG_PROCESSING_START
  else
    ctx.KONG_RESPONSE_LATENCY = now - (ctx.KONG_PROCESSING_START or now)
  end
  if ngx.var.uri:find("^/replaced") then
    ctx.replaces = true
    ngx.header["Content-Length"] = nil
  end
  if with_plugin then
    handler:header_filter(config)
  end
end

function M.body_filter(with_plugin)
  if with_plugin then
    handler:body_filter(config)
  end
  local ctx = ngx.ctx
  if ctx.replaces then -- another plugin, which puts a body of its own in the place of the upstream's, as ai-proxy does
    ngx.arg[1], ngx.arg[2] = '{"replaced":true}', true
  end
  if ngx.arg[2] then
    ctx.KONG_BODY_FILTER_ENDED_AT_NS = ngx.now() * 1e9
  end
  if ngx.arg[2] and ctx.KONG_PROXIED then
    ctx.KONG_RECEIVE_TIME = ngx.now() * 1000 - (ctx.KONG_HEADER_FILTER_START or 0)
  end
end

-- failed is Kong's error handler for an upstream that cannot be reached: Kong.handle_error.
function M.failed()
  local ctx = contexts[ngx.var.kong_request_id] -- nginx begins a new one with the redirect
  ngx.ctx, ngx.var.upstream_uri = ctx, ctx.upstream_uri
  ngx.ctx.KONG_UNEXPECTED = true
  ngx.ctx.KONG_PROXIED = nil
end

function M.log()
  local ctx = ngx.ctx
  ctx.KONG_LOG_START_NS = ngx.now() * 1e9 + 1000
  ctx.KONG_BODY_FILTER_ENDED_AT_NS = ctx.KONG_BODY_FILTER_ENDED_AT_NS or ctx.KONG_LOG_START_NS
  handler:log(config)
  M.forget()
end

function M.forget()
  contexts[ngx.var.kong_request_id] = nil
end

-- log_to_file is a log plugin that encodes Kong's log and writes it to a file: the price of that alone.
local file
function M.log_to_file()
  file = file or assert(io.open(kong.configuration.prefix .. "/access.json", "a"))
  file:write(cjson.encode(M.serialize()), "\n")
  file:flush()
  M.forget()
end

return M
