package relay

import (
	"context"
	"fmt"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/createtopics"
)

// createError is why a topic could not be created.
type createError struct{ cause error }

func (e *createError) Error() string { return "create topic: " + e.cause.Error() }
func (e *createError) Unwrap() error { return e.cause }

// create creates topics with the brokers' defaults, puts what is wrong with each
// into errs, and reports whether one of them exists now.
func (c *client) create(ctx context.Context, names []string, errs map[string]error) (created bool) {
	request := &createtopics.Request{TimeoutMs: int32((c.settings.Timeout / 2).Milliseconds())}
	for _, name := range names {
		request.Topics = append(request.Topics, createtopics.RequestTopic{Name: name, NumPartitions: -1, ReplicationFactor: -1})
	}
	answer, err := c.transport.RoundTrip(ctx, c.addr, request)
	response, ok := answer.(*createtopics.Response)
	if err == nil && !ok {
		err = fmt.Errorf("answer is a %T", answer)
	}
	if err != nil {
		for _, name := range names {
			errs[name] = &createError{err}
		}
		return false
	}
	for _, t := range response.Topics {
		switch code := kafka.Error(t.ErrorCode); code {
		case 0, kafka.TopicAlreadyExists:
			created = true
			errs[t.Name] = kafka.LeaderNotAvailable // until the brokers list it
		default:
			errs[t.Name] = &createError{brokerError(t.ErrorCode, t.ErrorMessage)}
		}
	}
	return created
}
