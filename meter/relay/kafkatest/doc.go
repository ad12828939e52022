// Package kafkatest starts Apache Kafka for tests, with the JDK at hand and the
// jars that testdata/kafka/pom.xml names. Maven fetches them once, into
// os.UserCacheDir()/kafka-metering.
//
// A test that needs a broker as it is takes [Shared]; one that breaks brokers
// takes [Start]. Both skip the test, and say what to install, where there is no
// Kafka to be had; and under -short. The tests' TestMain calls [Run] so that
// nothing is left running.
//
// The listener [Proxied] is reached through a [Proxy], which cuts connections
// where it is told to, slows them down, or lets them go silent.
//
// With addresses in the environment variable KAFKA_METERING_TEST_BROKERS
// (host:port, separated by commas, without TLS and SASL, an administrator's),
// Shared is that cluster; what needs another listener or a broker that can be
// killed is then skipped.
package kafkatest
