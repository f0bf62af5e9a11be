package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"parlor/server/problem"
)

func TestUnknownFieldsAreNamedWithTheirPath(t *testing.T) {
	type inner struct {
		Known string `json:"known"`
	}
	type outer struct {
		List []inner           `json:"list"`
		Map  map[string]*inner `json:"map"`
	}
	r := httptest.NewRequest("POST", "/", strings.NewReader(
		`{"list":[{"known":"x"},{"a":1,"known":null}],"map":{"m":{"b":1}},"c":{"known":1}}`))
	r.Header.Set("Content-Type", "application/json")
	err := (&rest{}).readJSON(r, &outer{})
	var p *problem.Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, []problem.Field{
		{Path: "c", Detail: "unknown field"}, {Path: "list[1].a", Detail: "unknown field"}, {Path: "map.m.b", Detail: "unknown field"},
	}, p.Errors)
}

// FuzzReadJSON: every body is either accepted, or refused as the sender's fault.
func FuzzReadJSON(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"name":"x"}`, `{"tags":{"a":[{}]}}`, `{"empty_timeout":1e999}`, `[`, `{"a":{"b":{"c":1}}}`,
		`null`, `{"empty_timeout":"never"}`, `{"name":"\ud800"}`, `{"":1}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		var req createRequest
		err := (&rest{}).readJSON(r, &req)
		if err == nil {
			if !json.Valid([]byte(body)) {
				t.Fatal("what is not JSON was taken")
			}
			if !strings.Contains(body, "\ufffd") && !strings.Contains(strings.ToLower(body), `\ufffd`) && strings.Contains(req.Name, "\ufffd") {
				t.Fatalf("a name became %q", req.Name)
			}
			return
		}
		p, ok := err.(*problem.Problem)
		if !ok || p.Status < http.StatusBadRequest || p.Status >= http.StatusInternalServerError || p.Detail == "" {
			t.Fatalf("not a problem of the sender's: %#v", err)
		}
	})
}

func FuzzCursor(f *testing.F) {
	f.Add("eyJTSUQiOiJ4In0")
	f.Fuzz(func(t *testing.T, s string) {
		if c, ok := readCursor(s); ok {
			again, ok := readCursor(writeCursor(c))
			if !ok || again != c {
				t.Fatalf("%v became %v", c, again)
			}
		}
	})
}
