package extract

import (
	"bytes"
	"testing"
)

func TestContentTypesThatCanDeclareUsageAreReadable(t *testing.T) {
	for contentType, want := range map[string]bool{
		"": true, "application/json": true, "Application/JSON; charset=utf-8": true, "text/event-stream;charset=UTF-8": true,
		"application/x-ndjson": true, "application/jsonl": true, "application/stream+json": true, "application/problem+json": true,
		"application/vnd.amazon.eventstream": true, "text/plain": true, "application/octet-stream": true,
		"text/html": false, "image/png": false, "audio/mpeg": false, "application/pdf": false, "video/mp4": false,
	} {
		if got := Readable(contentType); got != want {
			t.Errorf("%q: got %v", contentType, got)
		}
	}
}

func TestABodyIsForMetersWhenItIsOneWholeDocument(t *testing.T) {
	body := []byte(`{"rows": 3}`)
	for name, c := range map[string]struct {
		r    Response
		want []byte
	}{
		"a document":                   {Response{Body: body, Complete: true, ContentType: "application/json; charset=utf-8"}, body},
		"another kind of JSON":         {Response{Body: body, Complete: true, ContentType: "application/vnd.api+json"}, body},
		"gzip":                         {Response{Body: gzipped(body), Complete: true, ContentType: "application/json", ContentEncoding: "gzip"}, body},
		"brotli":                       {Response{Body: brotlied(body), Complete: true, ContentType: "application/json", ContentEncoding: "br"}, body},
		"unpacked on the way":          {Response{Body: body, Complete: true, ContentType: "application/json", ContentEncoding: "br"}, body},
		"cut":                          {Response{Body: body, ContentType: "application/json"}, nil},
		"cut in its coding":            {Response{Body: gzipped(body)[:20], Complete: true, ContentType: "application/json"}, nil},
		"an unknown coding":            {Response{Body: body, Complete: true, ContentType: "application/json", ContentEncoding: "compress"}, nil},
		"a stream":                     {Response{Body: body, Complete: true, ContentType: "text/event-stream"}, nil},
		"lines":                        {Response{Body: body, Complete: true, ContentType: "application/x-ndjson"}, nil},
		"not labelled":                 {Response{Body: body, Complete: true}, nil},
		"too large":                    {Response{Body: make([]byte, maxDocument+1), Complete: true, ContentType: "application/json"}, nil},
		"too large when it is decoded": {Response{Body: gzipped(make([]byte, maxDocument+1)), Complete: true, ContentType: "application/json"}, nil},
	} {
		if got := JSONBody(&c.r); !bytes.Equal(got, c.want) || (got == nil) != (c.want == nil) {
			t.Errorf("%s: got %.40q", name, got)
		}
	}
}
