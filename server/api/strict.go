package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"parlor/server/problem"
)

// readJSON decodes a request's body into v, a pointer to a struct. It reports every field
// that is unknown or has the wrong type, with its path, because a misspelt setting must
// not be ignored silently.
func (s *rest) readJSON(r *http.Request, v any) error {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return problem.New(http.StatusUnsupportedMediaType, "unsupported_media_type", "the body must be application/json")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return bodyProblem(err)
	}
	leave, err := s.checkJSON(r.Context(), body)
	if err != nil {
		return err
	}
	defer leave()
	if !json.Valid(body) {
		return problem.New(http.StatusBadRequest, "malformed", "the body is not JSON")
	}
	if err := checkText(body); err != nil {
		return err
	}
	var tree any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		return problem.New(http.StatusBadRequest, "malformed", "the body is not JSON: %v", err)
	}
	if _, ok := tree.(map[string]any); !ok {
		return problem.New(http.StatusBadRequest, "malformed", "the body must be a JSON object")
	}
	if wrong := check(tree, reflect.TypeOf(v).Elem(), ""); len(wrong) > 0 {
		slices.SortFunc(wrong, func(a, b problem.Field) int { return strings.Compare(a.Path, b.Path) })
		return problem.Fields(wrong...)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return problem.New(http.StatusBadRequest, "malformed", "the body cannot be decoded: %v", err)
	}
	return nil
}

// readOptionalJSON is readJSON for a body that may be left out.
func (s *rest) readOptionalJSON(r *http.Request, v any) error {
	if r.ContentLength == 0 {
		return nil
	}
	return s.readJSON(r, v)
}

// checker is a type that checks JSON values itself: wrong returns what is wrong, or "".
type checker interface{ wrong(value any) string }

// check lists the fields of tree that do not fit t. A null counts as absent.
func check(tree any, t reflect.Type, path string) []problem.Field {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if tree == nil {
		return nil
	}
	if c, ok := reflect.Zero(t).Interface().(checker); ok {
		if msg := c.wrong(tree); msg != "" {
			return []problem.Field{{Path: path, Detail: msg}}
		}
		return nil
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return checkObject(tree, t, path)
	case reflect.Slice:
		return checkArray(tree, t, path)
	}
	if msg := checkScalar(tree, t.Kind()); msg != "" {
		return []problem.Field{{Path: path, Detail: msg}}
	}
	return nil
}

func checkObject(tree any, t reflect.Type, path string) (wrong []problem.Field) {
	node, ok := tree.(map[string]any)
	if !ok {
		return []problem.Field{{Path: path, Detail: "must be an object"}}
	}
	var fields map[string]reflect.Type
	if t.Kind() == reflect.Struct {
		fields = jsonFields(t)
	}
	for name, v := range node {
		at := name
		if path != "" {
			at = path + "." + name
		}
		switch f, known := fields[name]; {
		case known:
			wrong = append(wrong, check(v, f, at)...)
		case fields != nil:
			wrong = append(wrong, problem.Field{Path: at, Detail: "unknown field"})
		default:
			wrong = append(wrong, check(v, t.Elem(), at)...)
		}
	}
	return wrong
}

func checkArray(tree any, t reflect.Type, path string) (wrong []problem.Field) {
	node, ok := tree.([]any)
	if !ok {
		return []problem.Field{{Path: path, Detail: "must be an array"}}
	}
	for i, v := range node {
		wrong = append(wrong, check(v, t.Elem(), fmt.Sprintf("%s[%d]", path, i))...)
	}
	return wrong
}

func checkScalar(tree any, k reflect.Kind) string {
	ok, want := false, ""
	switch k {
	case reflect.String:
		want = "must be a string"
		_, ok = tree.(string)
	case reflect.Bool:
		want = "must be true or false"
		_, ok = tree.(bool)
	case reflect.Uint32:
		want = "must be a whole number from 0 to 4294967295"
		n, isNumber := tree.(json.Number)
		_, err := strconv.ParseUint(n.String(), 10, 32)
		ok = isNumber && err == nil
	default:
		return "cannot be read" // a type that is not handled here: a test finds it
	}
	if ok {
		return ""
	}
	return want
}

// jsonFields are a struct's fields by their JSON names.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		fields[name] = t.Field(i).Type
	}
	return fields
}
