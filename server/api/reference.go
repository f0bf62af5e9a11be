package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
)

//go:embed reference.html
var referenceHTML string

//go:embed reference.css
var referenceCSS string

// Documents returns what documents REST, by path: /openapi.json, and /docs,
// which is rendered from it. Both are the same for everybody.
func Documents(version string) (map[string]http.Handler, error) {
	d := describe(version, (&rest{}).operations())
	machines, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return nil, fmt.Errorf("make the OpenAPI document: %w", err)
	}
	people, err := d.html()
	if err != nil {
		return nil, fmt.Errorf("make the API's reference: %w", err)
	}
	style := sha256.Sum256([]byte(referenceCSS))
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(style[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
	return map[string]http.Handler{
		"/openapi.json": fixed("application/json", "", machines),
		"/docs":         fixed("text/html; charset=utf-8", policy, people),
	}, nil
}

// fixed serves a body that never changes.
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

// What the page shows, as its template walks it.
type (
	pageGroup struct {
		Name   string
		Routes []pageRoute
	}
	pageRoute struct {
		docRoute
		Method, Path string
		Request      map[string]docMedia
		Answers      []pageAnswer
	}
	pageAnswer struct {
		Status string
		Types  []template.HTML
	}
	pageType struct {
		Name   string
		Fields []pageField
	}
	pageField struct {
		Name, Doc string
		Required  bool
		Schema    schema
	}
)

func (d *document) html() ([]byte, error) {
	page, err := template.New("reference").Funcs(template.FuncMap{"typeOf": typeOf}).Parse(referenceHTML)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = page.Execute(&out, struct {
		Info   docInfo
		Style  template.CSS
		Groups []pageGroup
		Types  []pageType
	}{d.Info, template.CSS(referenceCSS), d.groups(), d.types()}) // our own style sheet
	return out.Bytes(), err
}

func (d *document) groups() []pageGroup {
	var all []pageGroup
	for _, tag := range d.Tags {
		g := pageGroup{Name: tag.Name}
		for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
			for _, method := range []string{"get", "post", "put", "patch", "delete"} {
				if r, ok := d.Paths[path][method]; ok && r.Tags[0] == tag.Name {
					g.Routes = append(g.Routes, pageRouteOf(r, method, path))
				}
			}
		}
		all = append(all, g)
	}
	asked := pageGroup{Name: "hooks"}
	for name, methods := range d.Webhooks {
		for method, r := range methods {
			asked.Routes = append(asked.Routes, pageRouteOf(r, method, "hooks."+name))
		}
	}
	return append(all, asked)
}

func pageRouteOf(r docRoute, method, path string) pageRoute {
	out := pageRoute{docRoute: r, Method: strings.ToUpper(method), Path: path}
	if r.RequestBody != nil {
		out.Request = r.RequestBody.Content
	}
	for _, status := range slices.Sorted(maps.Keys(r.Responses)) {
		a := pageAnswer{Status: status}
		for _, media := range r.Responses[status].Content {
			a.Types = append(a.Types, typeOf(media.Schema))
		}
		slices.Sort(a.Types)
		out.Answers = append(out.Answers, a)
	}
	return out
}

func (d *document) types() []pageType {
	var all []pageType
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		s := d.Components.Schemas[name]
		properties, _ := s["properties"].(map[string]schema)
		required, _ := s["required"].([]string)
		t := pageType{Name: name}
		for _, field := range slices.Sorted(maps.Keys(properties)) {
			doc, _ := properties[field]["description"].(string)
			t.Fields = append(t.Fields, pageField{field, doc, slices.Contains(required, field), properties[field]})
		}
		all = append(all, t)
	}
	return all
}

// typeOf says a schema in a few words, with links to the types.
func typeOf(s schema) template.HTML {
	text := template.HTMLEscapeString
	if ref, ok := s["$ref"].(string); ok {
		name := text(ref[strings.LastIndexByte(ref, '/')+1:])
		return template.HTML(`<a href="#type-` + name + `">` + name + `</a>`) // escaped
	}
	if all, ok := s["oneOf"].([]schema); ok {
		var words []string
		for _, one := range all {
			words = append(words, string(typeOf(one)))
		}
		return template.HTML(strings.Join(words, " or ")) // escaped, each
	}
	if values, ok := s["enum"].([]string); ok {
		return template.HTML(text(strings.Join(values, " | "))) // escaped
	}
	if items, ok := s["items"].(schema); ok {
		return "list of " + typeOf(items)
	}
	if values, ok := s["additionalProperties"].(schema); ok {
		return "map to " + typeOf(values)
	}
	name, _ := s["type"].(string)
	if s["format"] == "date-time" {
		name = "time"
	}
	return template.HTML(text(name)) // escaped
}
