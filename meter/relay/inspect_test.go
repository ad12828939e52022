package relay

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestInspectAsksABrokerWhatTheUserMayDo has a user who may see the topic and not write to it: kafka-go's own answer, from its
// memory, would not say.
func TestInspectAsksABrokerWhatTheUserMayDo(t *testing.T) {
	acl := func(operation kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: topic, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: operation, Allow: true}
	}
	c := newCluster(t, kfake.EnableSASL(), kfake.EnableACLs(),
		kfake.User("PLAIN", "reader", "secret", acl(kmsg.ACLOperationDescribe)),
		kfake.User("PLAIN", "writer", "secret", acl(kmsg.ACLOperationDescribe), acl(kmsg.ACLOperationWrite)))
	for user, may := range map[string]bool{"reader": false, "writer": true} {
		inspected, err := Inspect(t.Context(), Settings{Brokers: c.ListenAddrs(), Mechanism: "PLAIN", User: user, Password: "secret"}, topic)
		if err != nil {
			t.Fatal(user, err)
		}
		if !inspected.Operations.Known() || inspected.Operations.Write() != may {
			t.Errorf("%s may write: %v, known: %v", user, inspected.Operations.Write(), inspected.Operations.Known())
		}
	}
}
