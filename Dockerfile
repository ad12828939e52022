# Kong Gateway with the kafka-metering plugin server. Kong finds it through its settings: see docker-compose.yml.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w" -o /kafka-metering ./plugin

FROM kong:3.9
# The name of the file is the name of the plugin.
COPY --from=build /kafka-metering /usr/local/bin/kafka-metering
# The Lua front, which sees streams as they pass. Without this line Kong talks to the Go process over its plugin protocol.
COPY --from=build /src/plugin/lua/kong /usr/local/share/lua/5.1/kong
# A volume for the spool takes over this directory's owner: Kong, and with it the plugin server, does not run as root.
USER root
RUN install -d -o kong -g 0 -m 0750 /var/lib/kafka-metering
USER kong
