package extract

import (
	"strings"
	"testing"
)

func TestHostsAndPathsTellTheProvider(t *testing.T) {
	for _, c := range []struct{ host, path, configured, want string }{
		{"api.openai.com", "/v1/chat/completions", "", "openai"},
		{"API.OpenAI.com.:443", "/", "", "openai"},
		{"eu.api.openai.com", "/", "auto", "openai"},
		{"api.openai.com", "/", "acme", "acme"},
		{"evilopenai.com", "/", "", ""},
		{"openai.com.evil.net", "/", "", ""},
		{"r.openai.azure.com", "/", "", "azure"},
		{"us-central1-aiplatform.googleapis.com", "/", "", "vertex_ai"},
		{"bedrock-runtime.eu-west-1.amazonaws.com", "/", "", "bedrock"},
		{"bedrock-runtime.amazonaws.com", "/", "", ""},
		{"[::1]:8000", "/v1/chat/completions", "", ""},
		{"gateway.internal", "/v1/projects/p/locations/l/publishers/anthropic/models/m:rawPredict", "", "vertex_ai"},
		{"gateway.internal", "/openai/deployments/d/chat/completions", "", "azure"},
		{"gateway.internal", "/aws/model/amazon.nova-lite-v1%3A0/converse-stream", "", "bedrock"},
		{"gateway.internal", "/model/m/train", "", ""},
		{"", "", "", ""},
	} {
		if got := providerOf(&Response{Host: c.host, Provider: c.configured}, c.path); got != c.want {
			t.Errorf("%s%s: got %q, want %q", c.host, c.path, got, c.want)
		}
	}
}

func TestPathsTellTheModelThatWasAskedFor(t *testing.T) {
	for path, want := range map[string]string{
		"/v1beta/models/gemini-2.5-pro:generateContent":                                                                 "gemini-2.5-pro",
		"/v1/projects/p/publishers/anthropic/models/claude@20250219:rawPredict":                                         "claude@20250219",
		"/openai/deployments/my%20gpt/chat/completions":                                                                 "my gpt",
		"/model/amazon.nova-lite-v1%3A0/converse":                                                                       "amazon.nova-lite-v1:0",
		"/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Feu.amazon.nova-lite-v1%3A0/invoke": "eu.amazon.nova-lite-v1:0",
		"/model/arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2/converse-stream":              "a1b2",
		"/client/v4/accounts/a/ai/run/@cf/meta/llama-3.1-8b-instruct":                                                   "@cf/meta/llama-3.1-8b-instruct",
		"/v1/models/gpt-4o":           "",
		"/v1/chat/completions":        "",
		"/v1/models/:generateContent": "",
		"/v1beta/models/" + strings.Repeat("m", 300) + ":generateContent": "",
	} {
		if got := pathModel(path); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}
