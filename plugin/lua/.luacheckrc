-- luacheck: the handler runs in Kong, the layer of the tests in nginx, the specs under busted.
std = "ngx_lua+luajit"
self = false
max_line_length = 130
files["kong"] = { read_globals = { "kong" }, globals = { "Kong" } }
files["test"] = { globals = { "kong" }, ignore = { "122" } }
files["spec"] = { std = "+busted", globals = { "kong", "ngx" }, ignore = { "212" } }
