package meter

import "maps"

// apiDimensions are the dimensions of an exchange, whatever it carried.
var apiDimensions = map[string]string{
	"request_id":          "request.id",
	"request_method":      "request.method",
	"route_name":          "route.name",
	"route_id":            "route.id",
	"service_name":        "service.name",
	"service_id":          "service.id",
	"workspace":           "workspace",
	"consumer_id":         "consumer.id",
	"consumer_username":   "consumer.username",
	"consumer_custom_id":  "consumer.custom_id",
	"status":              "response.status",
	"status_class":        "status_class(response.status)",
	"upstream_status":     "status(upstream_status)",
	"response_source":     "source",
	"request_bytes":       "request.size",
	"response_bytes":      "response.size",
	"duration_ms":         "latencies.request",
	"kong_latency_ms":     "latencies.kong",
	"upstream_latency_ms": "latencies.proxy",
	"tries":               "size(tries)",
	"outcome":             "outcome",
}

// Event types of the presets.
const (
	TypeAPIRequest = "kong.api_request"
	TypeLLMRequest = "kong.llm_request"
	TypeLLMUsage   = "kong.llm_usage"
)

// APIRequests is the preset meter_api_requests: one event for each exchange.
func APIRequests() Meter {
	return Meter{Slug: "kong_api_requests", EventType: TypeAPIRequest, Aggregation: Count, GroupBy: apiDimensions}
}

// AITokenUsage is the preset meter_ai_token_usage: one event for each disjoint type of token of an LLM call.
func AITokenUsage() Meter {
	return Meter{
		Slug: "kong_ai_token_usage", EventType: TypeLLMRequest, Aggregation: Sum,
		Filter: "has(llm.tokens)", ForEach: "llm.tokens", Value: "each.tokens", ValueProperty: "tokens",
		GroupBy: map[string]string{
			"type":           "each.type",
			"model":          "llm.model",
			"provider":       "llm.provider",
			"request_model":  "llm.request_model",
			"route_name":     "route.name",
			"service_name":   "service.name",
			"request_method": "request.method",
			"request_id":     "request.id",
			"usage_status":   "llm.usage_status",
			"usage_source":   "llm.usage_source",
		},
	}
}

// AICalls is the preset meter_ai_calls: one wide event for each LLM call, also when its usage is missing.
func AICalls() Meter {
	group := map[string]string{"time_to_first_byte_ms": "capture.time_to_first_byte_ms"}
	maps.Copy(group, apiDimensions)
	for _, name := range llmScalars {
		group[name] = "llm." + name
	}
	for q := range numQuantities {
		group[q.String()] = "llm." + q.String()
	}
	for a := range numAmounts {
		group[a.String()] = "llm." + a.String()
	}
	return Meter{Slug: "kong_ai_calls", EventType: TypeLLMUsage, Aggregation: Count, Filter: "has(llm.usage_status)", GroupBy: group, ValueProperty: "value"}
}
