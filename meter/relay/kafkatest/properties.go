package kafkatest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
)

// logging sends what is worth a look to the broker's standard output.
const logging = `Configuration:
  Appenders:
    Console:
      name: C
      PatternLayout:
        pattern: "%d{HH:mm:ss.SSS} %p %m (%c{1})%n%throwable{3}"
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        - ref: C
`

// serverProperties is the configuration of a node that is broker and controller.
func (c *Cluster) serverProperties(n *node) []byte {
	replicas := min(len(c.nodes), 3)
	var voters, addresses, advertised []string
	for _, v := range c.nodes {
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", v.id, v.ports[controller]))
	}
	for _, l := range listeners {
		addresses = append(addresses, fmt.Sprintf("%s://127.0.0.1:%d", l, n.ports[l]))
		if l != controller {
			advertised = append(advertised, fmt.Sprintf("%s://%s", l, n.advertised(l)))
		}
	}
	p := map[string]string{
		"process.roles":             "broker,controller",
		"node.id":                   fmt.Sprint(n.id),
		"controller.quorum.voters":  strings.Join(voters, ","),
		"controller.listener.names": string(controller),
		"listeners":                 strings.Join(addresses, ","),
		"advertised.listeners":      strings.Join(advertised, ","),
		"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SSL:SSL,MTLS:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT," +
			"SASL_SSL:SASL_SSL,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"inter.broker.listener.name": string(Plaintext),
		"log.dirs":                   filepath.Join(c.dir, fmt.Sprintf("data-%d", n.id)),

		"ssl.keystore.type":                  "PEM",
		"ssl.keystore.location":              filepath.Join(c.dir, "broker.pem"),
		"ssl.truststore.type":                "PEM",
		"ssl.truststore.location":            filepath.Join(c.dir, "authority.pem"),
		"listener.name.mtls.ssl.client.auth": "required",
		"ssl.principal.mapping.rules":        "RULE:^CN=([^,]+).*$/$1/,DEFAULT",

		"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":           "User:ANONYMOUS;User:" + Admin,

		"auto.create.topics.enable":                        "false",
		"num.partitions":                                   "3",
		"default.replication.factor":                       fmt.Sprint(replicas),
		"min.insync.replicas":                              fmt.Sprint(max(1, replicas-1)),
		"offsets.topic.replication.factor":                 fmt.Sprint(replicas),
		"offsets.topic.num.partitions":                     "1",
		"transaction.state.log.replication.factor":         fmt.Sprint(replicas),
		"transaction.state.log.num.partitions":             "1",
		"share.coordinator.state.topic.num.partitions":     "1",
		"share.coordinator.state.topic.replication.factor": fmt.Sprint(replicas),
		"group.initial.rebalance.delay.ms":                 "0",

		// A broker that is gone is noticed soon.
		"broker.heartbeat.interval.ms":          "300",
		"broker.session.timeout.ms":             "2000",
		"controller.quorum.election.timeout.ms": "500",
		"controller.quorum.fetch.timeout.ms":    "1000",
		"replica.lag.time.max.ms":               "3000",

		// A quota is felt soon, and its end too.
		"quota.window.num":          "3",
		"quota.window.size.seconds": "1",

		"num.network.threads": "1",
		"num.io.threads":      "2",
	}
	for _, l := range []Listener{SASLPlaintext, SASLTLS} {
		prefix := "listener.name." + strings.ToLower(string(l)) + "."
		p[prefix+"sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
		p[prefix+"plain.sasl.jaas.config"] = fmt.Sprintf("org.apache.kafka.common.security.plain.PlainLoginModule required user_%s=%q user_%s=%q;",
			Admin, AdminPassword, User, UserPassword)
		for _, mechanism := range []string{"scram-sha-256", "scram-sha-512"} {
			p[prefix+mechanism+".sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		}
	}
	maps.Copy(p, c.options.Config)
	var b bytes.Buffer
	for key, value := range p {
		fmt.Fprintf(&b, "%s=%s\n", key, value)
	}
	return b.Bytes()
}

// freePort returns a port on which nobody listens, below those that systems give
// to outgoing connections: a broker that was killed gets it back.
func freePort() (int, error) {
	for range 100 {
		port := 16_000 + rand.IntN(16_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no port is free")
}
