package extract

import (
	"net/url"
	"strings"
)

// hosts maps the hosts of LLM APIs to provider names: OpenMeter's price names, which are the keys of models.dev but for
// the hosting providers that OpenMeter names itself (azure, bedrock, vertex_ai). An entry matches its host and every
// host below it; one that starts with a dash matches hosts that end in it, and one with a star every host between.
var hosts = []struct{ host, provider string }{
	{"openai.com", "openai"},
	{"openai.azure.com", "azure"},
	{"openai.azure.us", "azure"},
	{"services.ai.azure.com", "azure"},
	{"cognitiveservices.azure.com", "azure"},
	{"models.ai.azure.com", "azure"},
	{"anthropic.com", "anthropic"},
	{"generativelanguage.googleapis.com", "google"},
	{"aiplatform.googleapis.com", "vertex_ai"},
	{"-aiplatform.googleapis.com", "vertex_ai"}, // us-central1-aiplatform.googleapis.com
	{"aiplatform.us.rep.googleapis.com", "vertex_ai"},
	{"aiplatform.eu.rep.googleapis.com", "vertex_ai"},
	{"bedrock-runtime.*.amazonaws.com", "bedrock"},
	{"bedrock-runtime-fips.*.amazonaws.com", "bedrock"},
	{"bedrock-runtime.*.amazonaws.com.cn", "bedrock"},
	{"bedrock-runtime.*.api.aws", "bedrock"},
	{"bedrock-mantle.*.api.aws", "bedrock"},
	{"bedrock-agent-runtime.*.amazonaws.com", "bedrock"},
	{"bedrock-agent-runtime.*.api.aws", "bedrock"},
	{"mistral.ai", "mistral"},
	{"cohere.com", "cohere"},
	{"cohere.ai", "cohere"},
	{"deepseek.com", "deepseek"},
	{"groq.com", "groq"},
	{"x.ai", "xai"},
	{"perplexity.ai", "perplexity"},
	{"openrouter.ai", "openrouter"},
	{"together.xyz", "togetherai"},
	{"together.ai", "togetherai"},
	{"fireworks.ai", "fireworks-ai"},
	{"cerebras.ai", "cerebras"},
	{"moonshot.ai", "moonshotai"},
	{"moonshot.cn", "moonshotai-cn"},
	{"dashscope-intl.aliyuncs.com", "alibaba"},
	{"dashscope-us.aliyuncs.com", "alibaba"},
	{"dashscope.aliyuncs.com", "alibaba-cn"},
	{"z.ai", "zai"},
	{"minimax.io", "minimax"},
	{"minimax.chat", "minimax-cn"},
	{"router.huggingface.co", "huggingface"},
	{"api-inference.huggingface.co", "huggingface"},
	{"ai-gateway.vercel.sh", "vercel"},
	{"models.github.ai", "github-models"},
	{"models.inference.ai.azure.com", "github-models"},
	{"api.cloudflare.com", "cloudflare-workers-ai"},
	{"deepinfra.com", "deepinfra"},
	{"api.nvidia.com", "nvidia"},
	{"azuredatabricks.net", "databricks"},
	{"cloud.databricks.com", "databricks"},
	{"gcp.databricks.com", "databricks"},
	{"snowflakecomputing.com", "snowflake"},
	{"ollama.com", "ollama-cloud"},
	{"ai21.com", "ai21"},
	{"writer.com", "writer"},
	{"ml.cloud.ibm.com", "watsonx"},
	{"voyageai.com", "voyage"},
	{"jina.ai", "jina"},
	{"deepgram.com", "deepgram"},
	{"replicate.com", "replicate"},
	{"aleph-alpha.com", "aleph-alpha"},
	{"portkey.ai", "portkey"},
	{"endpoints.huggingface.cloud", "huggingface"},
	{"inference.generativeai.*.oci.oraclecloud.com", "oci"},
	{"hunyuan.tencentcloudapi.com", "tencent"},
	{"hunyuan.cloud.tencent.com", "tencent"},
	{"pinecone.io", "pinecone"},
	{"avian.io", "avian"},
	{"crusoecloud.com", "crusoe"},
	{"nebius.com", "nebius"},
	{"nebius.ai", "nebius"},
	{"novita.ai", "novita-ai"},
	{"siliconflow.com", "siliconflow"},
	{"siliconflow.cn", "siliconflow-cn"},
	{"sambanova.ai", "sambanova"},
	{"hyperbolic.xyz", "hyperbolic"},
	{"upstage.ai", "upstage"},
	{"bigmodel.cn", "zhipuai"},
	{"minimaxi.com", "minimax-cn"},
	{"volces.com", "volcengine"},
	{"qianfan.baidubce.com", "baidu"},
	{"aip.baidubce.com", "baidu"},
	{"baseten.co", "baseten"},
	{"chutes.ai", "chutes"},
	{"friendli.ai", "friendli"},
	{"inceptionlabs.ai", "inception"},
	{"inference.net", "inference"},
	{"api.llama.com", "llama"},
	{"scaleway.ai", "scaleway"},
}

// hostProvider returns the provider whose host it is, or "". The host may have a port.
func hostProvider(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host, ']') < i {
		host = host[:i]
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, h := range hosts {
		if hostMatches(host, h.host) {
			return h.provider
		}
	}
	return ""
}

func hostMatches(host, entry string) bool {
	if before, after, star := strings.Cut(entry, "*"); star {
		return len(host) > len(before)+len(after) && strings.HasPrefix(host, before) && strings.HasSuffix(host, after)
	}
	rest, ok := strings.CutSuffix(host, entry)
	return ok && (rest == "" || rest[len(rest)-1] == '.' || entry[0] == '-')
}

// pathProviders are the parts of a path that only one provider has, for exchanges whose host is a gateway of one's own.
var pathProviders = []struct{ part, provider string }{
	{"/publishers/", "vertex_ai"},
	{"/openai/deployments/", "azure"},
	{"/agentAliases/", "bedrock"},
}

// providerOf returns OpenMeter's name for who answered: the configured one, else what host or path show. For a host that
// nobody knows it is "", whatever dialect the server speaks: every second server speaks OpenAI's, and a foreign model
// must not be charged at OpenAI's prices. nativeProvider may know more once the model is known.
func providerOf(r *Response, path string) string {
	if r.configured() {
		return r.Provider
	}
	if provider := hostProvider(r.Host); provider != "" {
		return provider
	}
	for _, p := range pathProviders {
		if strings.Contains(path, p.part) {
			return p.provider
		}
	}
	if bedrockModel(path) != "" {
		return "bedrock"
	}
	return ""
}

// bedrockModel returns the escaped model of a path of Bedrock's runtime, or "".
func bedrockModel(path string) string {
	_, after, ok := strings.Cut(path, "/model/")
	if !ok {
		return ""
	}
	for _, action := range [...]string{"/converse", "/converse-stream", "/invoke", "/invoke-with-response-stream"} {
		if model, ok := strings.CutSuffix(after, action); ok {
			return model
		}
	}
	return ""
}

// pathModel returns the model that an upstream's path names: /models/{m}:generateContent (Gemini, Vertex AI),
// /model/{m}/converse (Bedrock; of an ARN, which has an account's number, the last part), /ai/run/{m} (Cloudflare) or
// /deployments/{d}/ (Azure, where it is the name that the customer gave a deployment). It is "" elsewhere.
func pathModel(path string) string {
	model := ""
	if _, after, ok := strings.Cut(path, "/deployments/"); ok {
		model, _, _ = strings.Cut(after, "/")
	} else if _, after, ok := strings.Cut(path, "/ai/run/"); ok {
		model = after
	} else if model = bedrockModel(path); model == "" {
		last := path[strings.LastIndexByte(path, '/')+1:]
		if colon := strings.LastIndexByte(last, ':'); colon > 0 && strings.HasSuffix(path[:len(path)-len(last)], "odels/") {
			model = last[:colon]
		}
	}
	if plain, err := url.PathUnescape(model); err == nil {
		model = plain
	}
	if strings.HasPrefix(model, "arn:") {
		model = model[strings.LastIndexByte(model, '/')+1:]
	}
	if len(model) > maxText {
		return ""
	}
	return model
}
