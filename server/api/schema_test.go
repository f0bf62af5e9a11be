package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/server/api"
)

type object = map[string]any

// openAPI is the published description, parsed as a client does.
var openAPI = sync.OnceValue(func() object {
	all, err := api.Documents("1.2.3")
	if err != nil {
		panic(err)
	}
	w := httptest.NewRecorder()
	all["/openapi.json"].ServeHTTP(w, httptest.NewRequest("GET", "/openapi.json", nil))
	var doc object
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		panic(err)
	}
	return doc
})

// conforms checks an answer of the server against the description: so every test of a
// route also tests its schema.
func conforms(t *testing.T, req *http.Request, resp *http.Response, body string) {
	t.Helper()
	path, found := strings.CutPrefix(req.URL.EscapedPath(), "/v1")
	if !found || resp.Header.Get("Content-Type") == "text/event-stream" {
		return
	}
	method := strings.ToLower(req.Method)
	if method == "head" { // as GET
		method = "get"
	}
	operation, ok := operationOf(path, method)
	if !ok {
		require.Contains(t, []int{401, 404, 405}, resp.StatusCode, path)
		return
	}
	responses := operation["responses"].(object)
	described, ok := responses[fmt.Sprint(resp.StatusCode)].(object)
	if !ok {
		require.True(t, resp.StatusCode >= 400 || resp.StatusCode == 304, "%s %s answers %d, which is not documented", req.Method, path, resp.StatusCode)
		described = responses["default"].(object)
	}
	if body == "" {
		return
	}
	media, ok := described["content"].(object)[resp.Header.Get("Content-Type")].(object)
	require.True(t, ok, "%s %s answers with %s", req.Method, path, resp.Header.Get("Content-Type"))
	var v any
	require.NoError(t, json.Unmarshal([]byte(body), &v))
	require.Empty(t, mismatch(media["schema"].(object), v, ""), "%s %s: %s", req.Method, path, body)
}

func operationOf(path, method string) (object, bool) {
	paths := openAPI()["paths"].(object)
	if methods, ok := paths[path].(object); ok { // before those with variables, as OpenAPI has it
		op, ok := methods[method].(object)
		return op, ok
	}
	for template, methods := range paths {
		pattern := "^" + regexp.MustCompile(`\{\w+\}`).ReplaceAllString(template, "[^/]+") + "$"
		if regexp.MustCompile(pattern).MatchString(path) {
			op, ok := methods.(object)[method].(object)
			return op, ok
		}
	}
	return nil, false
}

// mismatch describes how v does not fit a schema; "" if it fits. Properties that are not
// in the schema do not fit, because the description must be complete.
func mismatch(s object, v any, at string) string {
	if ref, ok := s["$ref"].(string); ok {
		name := ref[strings.LastIndexByte(ref, '/')+1:]
		return mismatch(openAPI()["components"].(object)["schemas"].(object)[name].(object), v, at)
	}
	if all, ok := s["oneOf"].([]any); ok {
		fit := 0
		for _, one := range all {
			if mismatch(one.(object), v, at) == "" {
				fit++
			}
		}
		if fit != 1 {
			return fmt.Sprintf("%s fits %d of oneOf", at, fit)
		}
		return ""
	}
	if values, ok := s["enum"].([]any); ok {
		for _, one := range values {
			if one == v {
				return ""
			}
		}
		return fmt.Sprintf("%s is %v, not one of %v", at, v, values)
	}
	return mismatchType(s, v, at)
}

func mismatchType(s object, v any, at string) string {
	wrong := fmt.Sprintf("%s is %v, not %v", at, v, s["type"])
	switch s["type"] {
	case "null":
		if v != nil {
			return wrong
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return wrong
		}
	case "integer", "number":
		if n, ok := v.(float64); !ok || (s["type"] == "integer" && n != float64(int64(n))) {
			return wrong
		}
	case "string":
		text, ok := v.(string)
		if !ok {
			return wrong
		}
		if _, err := time.Parse(time.RFC3339, text); s["format"] == "date-time" && err != nil {
			return wrong
		}
	case "array":
		list, ok := v.([]any)
		if !ok {
			return wrong
		}
		for i, item := range list {
			if m := mismatch(s["items"].(object), item, fmt.Sprintf("%s[%d]", at, i)); m != "" {
				return m
			}
		}
	case "object":
		return mismatchObject(s, v, at)
	default:
		return at + " has no type"
	}
	return ""
}

func mismatchObject(s object, v any, at string) string {
	o, ok := v.(object)
	if !ok {
		return at + " is not an object"
	}
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := o[name.(string)]; !ok {
			return fmt.Sprintf("%s.%v is missing", at, name)
		}
	}
	properties, listed := s["properties"].(object)
	for name, value := range o {
		p, known := properties[name].(object)
		switch {
		case known:
		case listed:
			return at + "." + name + " is not in the schema"
		default:
			if p, known = s["additionalProperties"].(object); !known {
				continue // any object
			}
		}
		if m := mismatch(p, value, at+"."+name); m != "" {
			return m
		}
	}
	return ""
}

func TestWhatDoesNotConformIsNoticed(t *testing.T) {
	token := object{"$ref": "#/components/schemas/Token"}
	ok := func() object { return object{"token": "x", "expires_at": "2030-01-01T00:00:00Z"} }
	require.Empty(t, mismatch(token, ok(), ""))
	for field, value := range map[string]any{"token": 1.5, "expires_at": "soon", "more": true} {
		v := ok()
		v[field] = value
		require.NotEmpty(t, mismatch(token, v, ""), field)
	}
	require.NotEmpty(t, mismatch(token, object{"token": "x"}, ""), "expires_at is missing")
}
