#!/bin/sh
# Installs what the tests of the Lua front need, on Debian: nginx with ngx_http_lua, LuaJIT with cjson, busted and luacheck.
# The tests say so and are skipped where it is missing. The service is not started.
set -eu
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get update
apt-get install -y --no-install-recommends nginx libnginx-mod-http-lua lua-cjson luajit2 lua-busted lua-check
