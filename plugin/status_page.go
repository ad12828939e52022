package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
)

var (
	//go:embed status.html
	statusHTML string
	//go:embed status.css
	statusCSS string

	statusTemplate = template.Must(template.New("status").Funcs(template.FuncMap{
		"css": func() template.CSS { return template.CSS("\n" + statusCSS) },
	}).Parse(statusHTML))
)

// statusPolicy lets a browser apply the page's own style, and run and load nothing at all, whatever a text on it holds.
var statusPolicy = func() string {
	sum := sha256.Sum256([]byte("\n" + statusCSS))
	return fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
		base64.StdEncoding.EncodeToString(sum[:]))
}()

// writeStatus writes the status page: HTML without scripts, every text in it escaped.
func writeStatus(w http.ResponseWriter, s status) error {
	var page bytes.Buffer
	if err := statusTemplate.Execute(&page, s); err != nil {
		http.Error(w, "the status page cannot be written: "+err.Error(), http.StatusInternalServerError)
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", statusPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	_, _ = page.WriteTo(w) // who has gone away needs no answer
	return nil
}
