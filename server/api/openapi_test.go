package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/require"

	"parlor/rooms/log"
	"parlor/server/access"
)

// published is the published description of the API.
func published(t *testing.T) (doc document, raw string) {
	t.Helper()
	all, err := Documents("1.2.3")
	require.NoError(t, err)
	w := httptest.NewRecorder()
	all["/openapi.json"].ServeHTTP(w, httptest.NewRequest("GET", "/openapi.json", nil))
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
	return doc, w.Body.String()
}

func TestEveryRouteIsDocumentedAndEveryDocumentedRouteExists(t *testing.T) {
	doc, raw := published(t)
	require.Equal(t, "3.1.0", doc.OpenAPI)
	routed := map[string]bool{}
	rest := REST(Config{Verifier: access.NewVerifier(nil)})
	require.NoError(t, chi.Walk(rest, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if method == http.MethodHead { // need not be listed: RFC 9110, section 9.1
			method = http.MethodGet
		}
		routed[strings.ToLower(method)+" "+route] = true
		return nil
	}))
	ids := map[string]bool{}
	for path, methods := range doc.Paths {
		for method, r := range methods {
			require.True(t, routed[method+" "+path], "%s %s is documented and does not exist", method, path)
			delete(routed, method+" "+path)
			require.False(t, ids[r.OperationID], "%s is used twice", r.OperationID)
			ids[r.OperationID] = true
			require.NotEmpty(t, r.Summary)
			for _, p := range r.Parameters {
				require.Equal(t, p.In == "path", strings.Contains(path, "{"+p.Name+"}"), "%s: %s", path, p.Name)
			}
		}
	}
	require.Empty(t, routed, "routes that are not documented")
	for _, ref := range regexp.MustCompile(`"\$ref": "#/components/schemas/(\w+)"`).FindAllStringSubmatch(raw, -1) {
		require.Contains(t, doc.Components.Schemas, ref[1])
	}
}

func TestEveryEventTypeIsDocumented(t *testing.T) {
	doc, _ := published(t)
	for _, p := range doc.Paths["/events"]["get"].Parameters {
		if p.Name == "type" {
			for _, name := range log.Names() {
				require.Contains(t, p.Description, name)
			}
			return
		}
	}
	require.Fail(t, "the event log takes no type")
}

// A timeout is a number or the word never, described in a form that code generators
// understand: some do not support const beside another type.
func TestTimeoutsAreForGenerators(t *testing.T) {
	doc, raw := published(t)
	require.False(t, strings.Contains(raw, `"const"`), "a const")
	for name, least := range map[string]float64{"Room": 0, "CreateRequest": 1, "EditRequest": 1, "RoomConfig": 1, "AuthorizeRoomSettings": 1} {
		properties := doc.Components.Schemas[name]["properties"].(map[string]any)
		for _, field := range []string{"empty_timeout", "departure_timeout"} {
			require.Equal(t, []any{
				map[string]any{"type": "integer", "minimum": least},
				map[string]any{"type": "string", "enum": []any{"never"}},
			}, properties[field].(map[string]any)["oneOf"], "%s.%s", name, field)
		}
	}
}

// An example is a body that the server accepts, and has only fields that the server
// knows.
func TestExamplesAreTaken(t *testing.T) {
	for _, op := range (&rest{}).operations() {
		if op.body == nil {
			require.Empty(t, op.example, op.id)
			continue
		}
		r := httptest.NewRequest(op.method, "/", strings.NewReader(op.example))
		r.Header.Set("Content-Type", "application/json")
		require.NoError(t, (&rest{}).readJSON(r, reflect.New(reflect.TypeOf(op.body)).Interface()), op.id)
	}
}

// A schema accepts what the strict reader accepts, and refuses what it refuses.
func TestRequestSchemasAreStrict(t *testing.T) {
	doc, _ := published(t)
	for _, op := range (&rest{}).operations() {
		if op.body == nil {
			continue
		}
		body := doc.Paths[op.path][strings.ToLower(op.method)].RequestBody
		name := strings.TrimPrefix(body.Content["application/json"].Schema["$ref"].(string), "#/components/schemas/")
		component := doc.Components.Schemas[name]
		require.Equal(t, false, component["additionalProperties"], name)
		known := component["properties"].(map[string]any)
		fields := jsonFields(reflect.TypeOf(op.body))
		require.Len(t, known, len(fields), name)
		for field := range fields {
			require.Contains(t, known, field, name)
		}
	}
}

// The reference is drawn in the browser from /openapi.json: it may run its own script,
// and fetch only from this server.
func TestReferencePage(t *testing.T) {
	all, err := Documents("1.2.3")
	require.NoError(t, err)
	var w *httptest.ResponseRecorder
	for path, contentType := range map[string]string{"/docs": "text/html", "/docs/style.css": "text/css", "/docs/reference.js": "text/javascript"} {
		w = httptest.NewRecorder()
		require.Contains(t, all, path)
		all[path].ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		require.Equal(t, 200, w.Code, path)
		require.Contains(t, w.Header().Get("Content-Type"), contentType)
		require.NotRegexp(t, `(src|href)="(https?:)?//|@import|url\(|innerHTML`, w.Body.String(), "nothing is fetched from others, and nothing becomes HTML")
		require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'; script-src 'self';")
		require.NotContains(t, w.Header().Get("Content-Security-Policy"), "unsafe")
	}
	w = httptest.NewRecorder()
	all["/docs"].ServeHTTP(w, httptest.NewRequest("GET", "/docs", nil))

	again := httptest.NewRequest("GET", "/docs", nil)
	again.Header.Set("If-None-Match", w.Header().Get("ETag"))
	w = httptest.NewRecorder()
	all["/docs"].ServeHTTP(w, again)
	require.Equal(t, 304, w.Code)
	require.Empty(t, w.Body.String())
}
