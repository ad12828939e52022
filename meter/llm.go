package meter

// LLM is what is known of an exchange that was a call to a language model: the observation's llm object. Text comes
// from the provider and is not trusted: it may hold invalid UTF-8 until it is written into an event.
type LLM struct {
	Provider     string // OpenMeter's price name: openai, anthropic, google, …; empty when not known
	Operation    string // OpenTelemetry's gen_ai.operation.name: chat, generate_content, …
	RequestModel string // the model asked for, where the exchange shows it
	Model        string // the model that the response names
	Stream       *bool  // whether the response was a stream of events; nil when that is not known
	FinishReason string // in the provider's own word
	ResponseID   string

	Usage       Usage
	UsageStatus UsageStatus
	UsageSource UsageSource // empty when UsageStatus is missing
	Tokenizer   string      // what counted an estimated usage
}

// UsageStatus says how far the declared usage can be trusted to be all of it.
type UsageStatus string

// The usage statuses.
const (
	UsageFinal     UsageStatus = "final"     // the provider declared it, and the response was seen to its end
	UsagePartial   UsageStatus = "partial"   // a cut or broken response that had already declared something
	UsageEstimated UsageStatus = "estimated" // counted here, or by Kong, and not declared
	UsageMissing   UsageStatus = "missing"   // nothing was declared, or nothing could be read
)

// UsageSource says where the usage was declared.
type UsageSource string

// The usage sources.
const (
	SourceBody    UsageSource = "body"     // a JSON response
	SourceStream  UsageSource = "stream"   // the events of a streamed response
	SourceHeader  UsageSource = "header"   // response headers
	SourceAIProxy UsageSource = "ai_proxy" // Kong's own statistics: no cached tokens, wrong for some streams
)

// ProviderOTel returns OpenTelemetry's gen_ai.provider.name for a provider name of ours, or the name itself where
// OpenTelemetry has none.
func ProviderOTel(provider string) string {
	if name, ok := otelProviders[provider]; ok {
		return name
	}
	return provider
}

// otelProviders follows OpenTelemetry's gen_ai.provider.name registry (GenAI semantic conventions 1.37).
var otelProviders = map[string]string{
	"azure":     "azure.ai.openai",
	"bedrock":   "aws.bedrock",
	"google":    "gcp.gemini",
	"vertex_ai": "gcp.vertex_ai",
	"mistral":   "mistral_ai",
	"xai":       "x_ai",
	"watsonx":   "ibm.watsonx.ai",
}
