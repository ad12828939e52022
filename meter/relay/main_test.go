package relay

import (
	"os"
	"testing"

	"kafka-metering/meter/relay/kafkatest"
)

func TestMain(m *testing.M) { os.Exit(kafkatest.Run(m)) }
