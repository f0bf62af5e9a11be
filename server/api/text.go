package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"parlor/server/problem"
)

const (
	notUnicode = "must be valid UTF-8"
	hasNUL     = "must not hold a NUL"
	// deepest is how many levels of a body are searched for bad text: each level reads
	// the levels beneath it once more.
	deepest = 8
)

// readable refuses text in a request's path that is not Unicode: decoders would replace
// it by U+FFFD, and make two names one.
func readable(r *http.Request) error {
	params := chi.RouteContext(r.Context()).URLParams
	for _, name := range params.Keys {
		if name == "*" { // the mount point
			continue
		}
		value, err := pathValue(r, name)
		if err != nil {
			return err
		}
		if wrong := unreadable(value); wrong != "" {
			return problem.Fields(problem.Field{Path: name, Detail: wrong})
		}
	}
	return nil
}

// unreadable returns what is wrong with the text of a name; "" if nothing is.
func unreadable(s string) string {
	switch {
	case !utf8.ValidString(s):
		return notUnicode
	case strings.ContainsRune(s, 0):
		return hasNUL
	}
	return ""
}

// checkText refuses a body, valid JSON, with bytes that are not UTF-8 (RFC 8259,
// section 8.1) or with an escaped half of a surrogate pair (section 8.2).
func checkText(body []byte) error {
	if isUnicode(body) {
		return nil
	}
	at, found := findBadText(body, "", deepest)
	if !found || at == "" {
		at = "body"
	}
	return problem.Fields(problem.Field{Path: at, Detail: notUnicode + ", without half of a surrogate pair"})
}

// isUnicode reports whether JSON text is valid Unicode.
func isUnicode(body []byte) bool {
	if !utf8.Valid(body) {
		return false
	}
	for i := 0; i < len(body); i++ {
		if body[i] != '\\' { // it occurs only in strings
			continue
		}
		switch first := escaped(body[i:]); {
		case !utf16.IsSurrogate(first):
			i++
		case utf16.DecodeRune(first, escaped(body[i+6:])) == utf8.RuneError:
			return false
		default:
			i += 11
		}
	}
	return true
}

// escaped is the code unit of the \uXXXX at the beginning of s; -1 if there is none.
func escaped(s []byte) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(s[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

// findBadText returns the path of the first value whose text is not Unicode, or, if a
// field's name is not, of its object.
func findBadText(raw json.RawMessage, path string, depth int) (at string, found bool) {
	if isUnicode(raw) {
		return "", false
	}
	var object map[string]json.RawMessage
	var list []json.RawMessage
	switch {
	case depth == 0:
	case json.Unmarshal(raw, &object) == nil:
		names := make([]string, 0, len(object))
		for name := range object {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			if at, found := findBadText(object[name], strings.TrimPrefix(path+"."+name, "."), depth-1); found {
				return at, true
			}
		}
	case json.Unmarshal(raw, &list) == nil:
		for i := range list {
			if at, found := findBadText(list[i], fmt.Sprintf("%s[%d]", path, i), depth-1); found {
				return at, true
			}
		}
	}
	return path, true
}
