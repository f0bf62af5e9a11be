package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"parlor/server/authorize"
	"parlor/server/permission"
	"parlor/server/problem"
)

// document is the API's OpenAPI 3.1 document. It is made from the table that routes
// requests, and from the types that bodies are decoded into and encoded from, so that it
// matches the server.
type document struct {
	OpenAPI    string                         `json:"openapi"`
	Info       docInfo                        `json:"info"`
	Servers    []docServer                    `json:"servers"`
	Security   []map[string][]string          `json:"security"`
	Tags       []docTag                       `json:"tags"`
	Paths      map[string]map[string]docRoute `json:"paths"`
	Webhooks   map[string]map[string]docRoute `json:"webhooks"`
	Components docComponents                  `json:"components"`
}

type docInfo struct {
	Title       string `json:"title"`
	Version     string `json:"version"`
	Description string `json:"description"`
}

type docServer struct {
	URL string `json:"url"`
}

type docTag struct {
	Name string `json:"name"`
}

type docRoute struct {
	OperationID string                 `json:"operationId"`
	Tags        []string               `json:"tags,omitempty"`
	Summary     string                 `json:"summary"`
	Description string                 `json:"description"`
	Security    []map[string][]string  `json:"security,omitempty"`
	Role        string                 `json:"x-role,omitempty"` // of a session of the dashboard
	Parameters  []docParameter         `json:"parameters,omitempty"`
	RequestBody *docBody               `json:"requestBody,omitempty"`
	Responses   map[string]docResponse `json:"responses"`
}

type docParameter struct {
	Name        string `json:"name"`
	In          string `json:"in"`
	Required    bool   `json:"required,omitempty"`
	Description string `json:"description,omitempty"`
	Schema      schema `json:"schema"`
}

type docBody struct {
	Required bool                `json:"required"`
	Content  map[string]docMedia `json:"content"`
}

type docMedia struct {
	Schema  schema          `json:"schema"`
	Example json.RawMessage `json:"example,omitempty"`
}

type docResponse struct {
	Description string              `json:"description"`
	Content     map[string]docMedia `json:"content,omitempty"`
}

type docComponents struct {
	Schemas         map[string]schema            `json:"schemas"`
	SecuritySchemes map[string]map[string]string `json:"securitySchemes"`
}

const aboutAPI = "Rooms over HTTP. Bodies are JSON; what is not known in them is refused, and what is not Unicode. Errors are problem details " +
	"(RFC 9457) with a stable code. Times are RFC 3339 in UTC, timeouts are whole seconds or \"never\". Lists come in pages. " +
	"Rooms and participants have an ETag, which If-Match takes. A POST with an Idempotency-Key is done once: a retry within a day gets the same " +
	"answer, another request with that key 422; a request that is refused as malformed or not allowed does not use the key up. Credentials are an access token with the grant that a call needs, or an API key and its " +
	"secret as HTTP Basic, which may do everything. A token whose identity is banned from its room, or that was revoked for it, is refused " +
	"with 403 (code banned or revoked)."

// describe makes the document for the operations.
func describe(version string, ops []operation) *document {
	if version == "" {
		version = "devel"
	}
	d := &document{
		OpenAPI:  "3.1.0",
		Info:     docInfo{Title: "Parlor", Version: version, Description: aboutAPI},
		Servers:  []docServer{{"/v1"}},
		Security: []map[string][]string{{"token": {}}, {"key": {}}, {"session": {}}},
		Paths:    map[string]map[string]docRoute{},
		Components: docComponents{
			Schemas: map[string]schema{},
			SecuritySchemes: map[string]map[string]string{
				"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
				"key":   {"type": "http", "scheme": "basic", "description": "An API key and its secret."},
				"session": {
					"type": "apiKey", "in": "cookie", "name": "parlor-admin",
					"description": "A session of the dashboard, from its own pages alone; over TLS the cookie is __Host-parlor-admin. x-role is the least role that it needs.",
				},
			},
		},
	}
	for i := range ops {
		op := &ops[i]
		if d.Paths[op.path] == nil {
			d.Paths[op.path] = map[string]docRoute{}
		}
		if !slices.Contains(d.Tags, docTag{op.tag}) {
			d.Tags = append(d.Tags, docTag{op.tag})
		}
		d.Paths[op.path][strings.ToLower(op.method)] = d.route(op)
	}
	d.Webhooks = map[string]map[string]docRoute{"authorize": {"post": d.authorize()}}
	return d
}

// authorize describes the authorization hook: its question and its answers.
func (d *document) authorize() docRoute {
	asJSON := func(v any, request bool, example string) map[string]docMedia {
		return map[string]docMedia{"application/json": {Schema: d.schema(reflect.TypeOf(v), request), Example: json.RawMessage(example)}}
	}
	return docRoute{
		OperationID: "authorize",
		Summary:     "Asked of hooks.authorize before somebody is let into a room, and before a room is opened by a join.",
		Description: "Signed as webhooks are: LiveKit's Authorization over the body's SHA-256, and the headers of Standard Webhooks. " +
			"An answer that is none of these, or comes too late, is a failure: hooks.on_failure says what then.",
		RequestBody: &docBody{Required: true, Content: asJSON(authorize.Question{}, false, "")},
		Responses: map[string]docResponse{
			"200": {Description: "Yes or no, with changes.", Content: asJSON(authorize.Answer{}, true,
				`{"allow":true,"participant":{"permissions":{"can_publish":false}},"room":{"departure_timeout":"never"}}`)},
			"204": {Description: "Yes."},
			"403": {Description: "No; a JSON body may have a message."},
		},
	}
}

var pathVariable = regexp.MustCompile(`{(\w+)}`)

func (d *document) route(op *operation) docRoute {
	r := docRoute{
		OperationID: op.id, Tags: []string{op.tag}, Summary: op.summary, Description: "Needs " + op.grant.doc + ".", Role: op.least().String(),
		Responses: map[string]docResponse{"default": {
			Description: "What is wrong.",
			Content:     map[string]docMedia{"application/problem+json": {Schema: d.schema(reflect.TypeFor[problem.Problem](), false)}},
		}},
	}
	switch op.grant.doc {
	case toOperate.doc:
		r.Security = []map[string][]string{{"key": {}}, {"session": {}}}
	case toSession.doc:
		r.Security = []map[string][]string{{"session": {}}}
	case toSignIn.doc:
		r.Security = []map[string][]string{{}}
	}
	for _, m := range pathVariable.FindAllStringSubmatch(op.path, -1) {
		r.Parameters = append(r.Parameters, docParameter{Name: m[1], In: "path", Required: true, Schema: schema{"type": "string"}})
	}
	for _, p := range op.query {
		r.Parameters = append(r.Parameters, docParameter{Name: p.name, In: "query", Description: p.doc, Schema: p.schema()})
	}
	for _, p := range op.headers() {
		r.Parameters = append(r.Parameters, docParameter{Name: p.name, In: "header", Description: p.doc, Schema: p.schema()})
	}
	if op.body != nil {
		t := reflect.TypeOf(op.body)
		r.RequestBody = &docBody{Required: !op.optional, Content: map[string]docMedia{
			"application/json": {Schema: d.schema(t, true), Example: json.RawMessage(op.example)},
		}}
	}
	done := docResponse{Description: http.StatusText(op.status)}
	if op.answer != nil {
		done.Content = map[string]docMedia{"application/json": {Schema: d.schema(reflect.TypeOf(op.answer), false)}}
	}
	if op.stream {
		if done.Content == nil {
			done.Content = map[string]docMedia{}
		}
		done.Content["text/event-stream"] = docMedia{Schema: schema{"type": "string"}}
	}
	r.Responses[strconv.Itoa(op.status)] = done
	if op.accepted != nil {
		r.Responses["202"] = docResponse{http.StatusText(http.StatusAccepted), map[string]docMedia{
			"application/json": {Schema: d.schema(reflect.TypeOf(op.accepted), false)},
		}}
	}
	if op.alsoOK {
		r.Responses["200"] = docResponse{"OK", maps.Clone(done.Content)}
	}
	return r
}

// headers are the request headers with a meaning for op beyond HTTP's.
func (op *operation) headers() []parameter {
	var all []parameter
	if op.method == post && !op.open {
		all = append(all, parameter{name: "Idempotency-Key", doc: "Any text, new for each request that is not a retry."})
	}
	if op.conditional {
		all = append(all, parameter{name: "If-Match", doc: "The ETag as last seen: 412 if it has changed since."})
	}
	if op.stream {
		all = append(all, parameter{name: "Last-Event-ID", doc: "The id of the last event that was received."})
	}
	return all
}

func (p *parameter) schema() schema {
	s := schema{"type": "string"}
	switch {
	case p.number:
		s = schema{"type": "integer", "minimum": 1}
	case p.values != nil:
		s["enum"] = p.values
	}
	if p.many {
		return schema{"type": "array", "items": s}
	}
	return s
}

// schema is a JSON Schema (draft 2020-12).
type schema map[string]any

// schema is t's schema; for a struct it is a reference to its component. Schemas of
// requests are strict: they allow no unknown fields.
func (d *document) schema(t reflect.Type, request bool) schema {
	switch t {
	case reflect.TypeFor[timestamp](), reflect.TypeFor[wireTime](), reflect.TypeFor[time.Time]():
		return schema{"type": "string", "format": "date-time"}
	case reflect.TypeFor[timeout](), reflect.TypeFor[wireTimeout](), reflect.TypeFor[authorize.Timeout]():
		least := 0
		if request {
			least = 1
		}
		// An enum of one value, not a const: clients of openapi-python-client take a
		// const in a union for the only possible value.
		return schema{"oneOf": []schema{{"type": "integer", "minimum": least}, {"type": "string", "enum": []string{"never"}}}}
	case reflect.TypeFor[json.RawMessage]():
		return schema{"type": "object"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem(), request)
	case reflect.Struct:
		return d.component(t, request)
	case reflect.Map:
		return schema{"type": "object", "additionalProperties": d.schema(t.Elem(), request)}
	case reflect.Slice:
		return schema{"type": "array", "items": d.schema(t.Elem(), request)}
	case reflect.Bool:
		return schema{"type": "boolean"}
	case reflect.String:
		return schema{"type": "string"}
	case reflect.Float64:
		return schema{"type": "number"}
	case reflect.Uint32:
		return schema{"type": "integer", "minimum": 0, "maximum": 4294967295}
	}
	return schema{"type": "integer", "format": "int64"}
}

func (d *document) component(t reflect.Type, request bool) schema {
	name := componentName(t)
	ref := schema{"$ref": "#/components/schemas/" + name}
	if _, known := d.Components.Schemas[name]; known {
		return ref
	}
	properties, required := map[string]schema{}, []string{}
	s := schema{"type": "object", "properties": properties}
	d.Components.Schemas[name] = s
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		field, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if options != "omitempty" {
			required = append(required, field)
		}
		p := d.schema(f.Type, request)
		if values := f.Tag.Get("enum"); values != "" {
			limited := p
			if f.Type.Kind() == reflect.Slice {
				limited = p["items"].(schema)
			}
			limited["enum"] = strings.Split(values, ",")
		}
		if f.Type.Kind() == reflect.Pointer && options != "omitempty" && f.Tag.Get("required") == "" {
			p = schema{"oneOf": []schema{p, {"type": "null"}}}
		}
		if text := f.Tag.Get("doc"); text != "" {
			p["description"] = text
		}
		properties[field] = p
	}
	if len(required) > 0 {
		s["required"] = required
	}
	if request {
		s["additionalProperties"] = false
	}
	return ref
}

// componentName is the name of t in generated clients.
func componentName(t reflect.Type) string {
	name := strings.ToUpper(t.Name()[:1]) + t.Name()[1:]
	if strings.HasSuffix(t.PkgPath(), "/events") && name == "Page" {
		return "EventPage"
	}
	switch t {
	case reflect.TypeFor[problem.Field]():
		return "FieldProblem"
	case reflect.TypeFor[permission.Edit]():
		return "PermissionEdit"
	}
	if strings.HasSuffix(t.PkgPath(), "/authorize") {
		return "Authorize" + name
	}
	return name
}
