package api

import (
	"crypto/sha256"
	"embed"
	"encoding/json"
	"fmt"
	"net/http"
)

// referenceFiles are the reference page for people. The page renders itself from
// /openapi.json: a template engine in the server would keep every exported method of
// every type in the binary, because templates call methods by name.
//
//go:embed reference
var referenceFiles embed.FS

// referencePolicy is the reference page's Content-Security-Policy: its own script and
// style, and requests to this server alone.
const referencePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'self'"

// Documents returns the documentation of REST, by path: /openapi.json, and the page /docs
// with its script and style, which renders it. They are the same for every caller.
func Documents(version string) (map[string]http.Handler, error) {
	d := describe(version, (&rest{}).operations())
	machines, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return nil, fmt.Errorf("make the OpenAPI document: %w", err)
	}
	all := map[string]http.Handler{"/openapi.json": fixed("application/json", "", machines)}
	for path, file := range map[string]struct{ name, contentType string }{
		"/docs":              {"index.html", "text/html; charset=utf-8"},
		"/docs/style.css":    {"style.css", "text/css; charset=utf-8"},
		"/docs/reference.js": {"reference.js", "text/javascript; charset=utf-8"},
	} {
		body, err := referenceFiles.ReadFile("reference/" + file.name)
		if err != nil {
			return nil, fmt.Errorf("read the API's reference: %w", err)
		}
		all[path] = fixed(file.contentType, referencePolicy, body)
	}
	return all, nil
}

// fixed serves a constant body.
func fixed(contentType, policy string, body []byte) http.Handler {
	sum := sha256.Sum256(body)
	tag := fmt.Sprintf("%q", fmt.Sprintf("%x", sum[:8]))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		if policy != "" {
			h.Set("Content-Security-Policy", policy)
		}
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(body) // the client may be gone
	})
}
