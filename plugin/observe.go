package main

import (
	"errors"
	"fmt"

	"github.com/Kong/go-pdk"
	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
)

// exchange is what a front offers of one finished exchange. It is asked in the order of the methods: after an answer
// that fails, the others fail too.
type exchange interface {
	// Serialize returns Kong's serialized log: JSON that may hold bytes that are not UTF-8.
	Serialize() ([]byte, error)
	// Body returns the response body of a buffered exchange, as the upstream encoded it.
	Body() ([]byte, error)
}

// pdkExchange asks Kong over its plugin protocol. A failing call ends the event on Kong's side: it closes the connection.
type pdkExchange struct{ kong *pdk.PDK }

// Serialize asks for the log as bytes. Kong's answer has the same field and wire type either way, but the PDK's own
// Serialize reads it as a string and refuses it whole over one byte that is not UTF-8, such as ?a=%ff: a client could
// use a service unmetered.
func (e pdkExchange) Serialize() ([]byte, error) {
	var out kong_plugin_protocol.ByteString
	if err := e.kong.Log.Ask("kong.log.serialize", nil, &out); err != nil {
		return nil, fmt.Errorf("ask Kong for the serialized log: %w", err)
	}
	return out.GetV(), nil
}

// Body asks for the body that Kong has buffered.
func (e pdkExchange) Body() ([]byte, error) {
	var out kong_plugin_protocol.RawBodyResult
	if err := e.kong.ServiceResponse.Ask("kong.service.response.get_raw_body", nil, &out); err != nil {
		return nil, fmt.Errorf("ask Kong for the response body: %w", err)
	}
	if _, isContent := out.GetKind().(*kong_plugin_protocol.RawBodyResult_Content); !isContent && out.GetKind() != nil {
		return nil, errors.New("ask Kong for the response body: it is not in memory " + out.GetBodyFilepath() + out.GetError())
	}
	return out.GetContent(), nil
}
