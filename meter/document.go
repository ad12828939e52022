package meter

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"kafka-metering/meter/scan"
)

// Redacted stands in a document for what may be a secret.
const Redacted = "REDACTED"

// secretWords are what names of headers and query arguments hold that carry secrets: authorization, cookie, x-api-key.
var secretWords = []string{"auth", "cookie", "key", "token", "secret", "passw", "credential", "session", "signature", "csrf"}

// Secret reports whether the name of a header or a query argument is that of a secret.
func Secret(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(name, word) })
}

// Document returns the observation as meters see it, as one JSON object in UTF-8: Kong's log, and what the observation adds
// to it. It is for eyes and for keeping: values of headers and query arguments that may be secrets are [Redacted], and of
// the body only what p reads is there. [Program.Replay] reads it again.
func (p *Program) Document(o *Observation) []byte {
	b := []byte{'{'}
	gjson.Parse(o.log).ForEach(func(k, v gjson.Result) bool {
		if name := k.String(); !slices.Contains(addedRoots, name) {
			b = append(appendRedacted(append(appendString(b, name), ':'), v, []string{name}), ',')
		}
		return true
	})
	added, _ := o.appendAdded([]byte{'{'}, p.subjectOf(o), func(string) bool { return true })
	b = append(b, added[1:]...)
	if body := p.bodyOf(o); body != "" {
		b = append(append(b, `,"body":`...), body...)
	}
	return append(b, '}')
}

// appendRedacted appends a value of Kong's log.
func appendRedacted(b []byte, v gjson.Result, path []string) []byte {
	switch {
	case v.IsObject():
		inside := path[len(path)-1]
		named := len(path) == 2 && (inside == "headers" || inside == "querystring")
		b = append(b, '{')
		v.ForEach(func(k, v gjson.Result) bool {
			b = append(appendString(b, k.String()), ':')
			if named && Secret(k.String()) {
				b = appendString(b, Redacted)
			} else {
				b = appendRedacted(b, v, append(slices.Clip(path), k.String()))
			}
			b = append(b, ',')
			return true
		})
		return closed(b, '{', '}')
	case v.IsArray():
		b = append(b, '[')
		v.ForEach(func(_, v gjson.Result) bool {
			b = append(appendRedacted(b, v, path), ',')
			return true
		})
		return closed(b, '[', ']')
	case v.Type == gjson.String:
		s := v.Str
		if name := strings.Join(path, "."); name == "request.uri" || name == "request.url" || name == "upstream_uri" {
			s = redactedQuery(s)
		}
		return appendString(b, s)
	default:
		return append(b, v.Raw...)
	}
}

// redactedQuery returns a URI without the values of query arguments that may be secrets.
func redactedQuery(uri string) string {
	path, query, found := strings.Cut(uri, "?")
	if !found {
		return uri
	}
	arguments := strings.Split(query, "&")
	for i, a := range arguments {
		name, _, hasValue := strings.Cut(a, "=")
		if plain, err := url.QueryUnescape(name); hasValue && (err != nil || Secret(plain)) {
			arguments[i] = name + "=" + Redacted
		}
	}
	return path + "?" + strings.Join(arguments, "&")
}

// bodyOf returns what the program reads of the body, as JSON; "" when that is nothing.
func (p *Program) bodyOf(o *Observation) string {
	shape, slot, ok := p.paths.added.Sub("body")
	if !ok || len(o.Body) == 0 {
		return ""
	}
	found := make([]string, p.paths.slots+1)
	p.fillBody(o, shape, slot, found)
	if slot != scan.Nowhere && found[slot] != "" {
		return found[slot]
	}
	tree := map[string]any{}
	if shape != nil {
		shape.Paths(func(keys []string, at int) bool {
			if at == scan.Nowhere || found[at] == "" {
				return true
			}
			into := tree
			for _, key := range keys[:len(keys)-1] {
				next, ok := into[key].(map[string]any)
				if !ok {
					if into[key] != nil {
						return true // the whole of it is there
					}
					next = map[string]any{}
					into[key] = next
				}
				into = next
			}
			into[keys[len(keys)-1]] = found[at]
			return true
		})
	}
	if len(tree) == 0 {
		return ""
	}
	return string(appendTree(nil, tree))
}

func appendTree(b []byte, tree map[string]any) []byte {
	b = append(b, '{')
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		b = append(appendString(b, name), ':')
		if raw, ok := tree[name].(string); ok {
			b = append(b, raw...)
		} else {
			b = appendTree(b, tree[name].(map[string]any))
		}
		b = append(b, ',')
	}
	return closed(b, '{', '}')
}

// Replay reads a document that [Program.Document] has made, for this program or another one. Of it [Program.Events] makes
// what the program would have made of the exchange. The error is [ErrNotObject].
func (p *Program) Replay(document string) (*Observation, error) {
	o, err := p.Observe(document)
	if err != nil {
		return nil, err
	}
	s := scan.Scanner[string]{Unescape: true}
	o.replayed = make([]string, len(o.values))
	if err := s.Scan(document, &p.paths.added, o.replayed); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotObject, err)
	}
	const redacted = `"` + Redacted + `"`
	for _, source := range p.subjects {
		if o.values[source.slot] == redacted { // a header's name may look like a secret's; who was billed is kept
			o.values[source.slot] = gjson.Get(document, "subject").Raw
		}
	}
	for slot, value := range o.values {
		if value == redacted {
			o.values[slot] = "" // nobody knows it
		}
	}
	return o, nil
}
