package extract

import (
	"bytes"
	"strings"
)

// Readable reports whether a response of that content type can declare usage or be read by a meter, so that a front
// need not copy images and files. A missing content type may be anything.
func Readable(contentType string) bool {
	mediaType := mediaTypeOf(contentType)
	switch mediaType {
	case "", "text/event-stream", "text/plain", "application/octet-stream":
		return true // servers mislabel JSON and streams as the last two
	case eventStreamType:
		return true
	}
	return strings.Contains(mediaType, "json")
}

// Streams reports whether a content type is that of a stream of events.
func Streams(contentType string) bool {
	mediaType := mediaTypeOf(contentType)
	return mediaType == "text/event-stream" || mediaType == eventStreamType || isLines(contentType)
}

// eventStreamType is the media type of AWS's event streams.
const eventStreamType = "application/vnd.amazon.eventstream"

// mediaTypeOf returns the media type of a Content-Type, without its parameters.
func mediaTypeOf(contentType string) string {
	mediaType, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	return strings.TrimSpace(mediaType)
}

// JSONBody returns the decoded body of a response that is one JSON document, for meters that read it; nil when it is
// not labelled as one, was not seen whole, or exceeds the size up to which bodies are read. Whether it is valid JSON the
// reader checks. The result may be r.Body.
func JSONBody(r *Response) []byte {
	mediaType := mediaTypeOf(r.ContentType)
	if !r.Complete || len(r.Body) > maxDocument || mediaType != "application/json" && !strings.HasSuffix(mediaType, "+json") {
		return nil
	}
	codings, err := codingsOf(r.ContentEncoding, r.Body)
	if err != nil {
		return nil
	}
	if len(codings) == 0 {
		return r.Body
	}
	var out bytes.Buffer
	d := newDecoder(codings, func(b []byte) error {
		if out.Len()+len(b) > maxDocument {
			return ErrTooLarge
		}
		out.Write(b)
		return nil
	})
	writeErr := d.Write(r.Body)
	if err := d.Close(); err != nil || writeErr != nil {
		return nil
	}
	return out.Bytes()
}
