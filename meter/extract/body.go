package extract

import (
	"bytes"
	"strings"
)

// Readable reports whether a response of that content type can declare usage or be read by a meter, so that a front
// need not copy images and files. A missing content type may be anything.
func Readable(contentType string) bool {
	mediaType, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	mediaType = strings.TrimSpace(mediaType)
	switch mediaType {
	case "", "text/event-stream", "text/plain", "application/octet-stream":
		return true // servers mislabel JSON and streams as the last two
	}
	return strings.Contains(mediaType, "json")
}

// JSONBody returns the decoded body of a response that is one JSON document, for meters that read it; nil when it is
// not labelled as one, was not seen whole, or exceeds the size up to which bodies are read. Whether it is valid JSON the
// reader checks. The result may be r.Body.
func JSONBody(r *Response) []byte {
	mediaType, _, _ := strings.Cut(strings.ToLower(r.ContentType), ";")
	if mediaType = strings.TrimSpace(mediaType); !r.Complete || mediaType != "application/json" && !strings.HasSuffix(mediaType, "+json") {
		return nil
	}
	z, err := decompress(r.Body, r.ContentEncoding)
	if err != nil || len(r.Body) > maxDocument {
		return nil
	}
	if z == nil {
		return r.Body
	}
	defer z.Close() //nolint:errcheck // a reader over memory
	var out bytes.Buffer
	err = inflate(z, func(b []byte) error {
		if out.Len()+len(b) > maxDocument {
			return ErrTooLarge
		}
		out.Write(b)
		return nil
	})
	if err != nil {
		return nil
	}
	return out.Bytes()
}
