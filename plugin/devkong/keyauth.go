package devkong

import (
	"sync"

	"kafka-metering/schema"
)

// keyAuthPriority is key-auth's place among the plugins.
const keyAuthPriority = 1250

// keyAuthSchema is the configuration of Kong's key-auth plugin, as far as the stand-in has it.
var keyAuthSchema = sync.OnceValue(func() *schema.Field {
	f, err := schema.Parse([]byte(`{"type": "record", "fields": [
		{"key_names": {"type": "array", "required": true, "default": ["apikey"], "elements": {"type": "string"}}},
		{"hide_credentials": {"type": "boolean", "required": true, "default": false}},
		{"anonymous": {"type": "string"}},
		{"key_in_header": {"type": "boolean", "required": true, "default": true}},
		{"key_in_query": {"type": "boolean", "required": true, "default": true}},
		{"key_in_body": {"type": "boolean", "required": true, "default": false}},
		{"run_on_preflight": {"type": "boolean", "required": true, "default": true}},
		{"realm": {"type": "string"}}
	]}`))
	if err != nil {
		panic("bug: schema of key-auth: " + err.Error())
	}
	return f
})

// keyAuth is one configuration of the key-auth plugin.
type keyAuth struct {
	names                        []string
	inHeader, inQuery, preflight bool
	hide                         bool
	anonymous, realm             string
}

// newKeyAuth reads a configuration that keyAuthSchema has completed. It returns what the stand-in does not have.
func newKeyAuth(config map[string]any) (k *keyAuth, missing string) {
	k = &keyAuth{
		inHeader: config["key_in_header"] == true, inQuery: config["key_in_query"] == true,
		preflight: config["run_on_preflight"] == true, hide: config["hide_credentials"] == true,
	}
	k.anonymous, _ = config["anonymous"].(string)
	k.realm, _ = config["realm"].(string)
	for _, name := range config["key_names"].([]any) {
		k.names = append(k.names, name.(string))
	}
	if config["key_in_body"] == true {
		return k, "key_in_body: the stand-in looks for keys in headers and the query only"
	}
	return k, ""
}

// access authenticates a transaction as key-auth does. A refusal is the message of a 401.
func (k *keyAuth) access(t *transaction) (refusal string) {
	if !k.preflight && t.r.Method == "OPTIONS" {
		return ""
	}
	refusal = k.authenticate(t)
	if refusal == "" || k.anonymous == "" {
		return refusal
	}
	t.setConsumer(t.config.entities.findConsumer(reference(k.anonymous)), nil)
	return ""
}

func (k *keyAuth) authenticate(t *transaction) (refusal string) {
	query := queryArgs(t.query)
	key := ""
	for _, name := range k.names {
		var value any
		if k.inHeader {
			switch values := t.headers.Values(name); len(values) {
			case 0:
			case 1:
				value = values[0]
			default:
				return "Duplicate API key found"
			}
		}
		if value == nil && k.inQuery {
			value = query[name]
		}
		if _, several := value.([]any); several {
			return "Duplicate API key found"
		}
		if text, ok := value.(string); ok {
			key = text
			if k.hide {
				t.headers.Del(name)
				t.query = withoutArg(t.query, name)
			}
			break
		}
	}
	if key == "" {
		return "No API key found in request"
	}
	c := t.config.entities.keys[key]
	if c == nil {
		return "Unauthorized"
	}
	t.setConsumer(c.consumer, c)
	return ""
}

// setConsumer tells the upstream, and the plugins that follow, who is calling.
func (t *transaction) setConsumer(c *Consumer, cred *credential) {
	t.consumer, t.credential = c, cred
	put := func(name, value string) {
		t.headers.Del(name)
		if value != "" {
			t.headers.Set(name, value)
		}
	}
	var who Consumer
	if c != nil {
		who = *c
	}
	put("X-Consumer-Id", who.ID)
	put("X-Consumer-Custom-Id", who.CustomID)
	put("X-Consumer-Username", who.Username)
	if cred != nil {
		put("X-Credential-Identifier", cred.ID)
		put("X-Anonymous-Consumer", "")
	} else {
		put("X-Credential-Identifier", "")
		put("X-Anonymous-Consumer", "true")
	}
}
