package static_test

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"parlor/static"
)

func newHandler(t *testing.T) *static.Handler {
	t.Helper()
	h, err := static.NewHandler(static.Files())
	require.NoError(t, err)
	return h
}

// get makes a request as a browser would, with the given headers in pairs.
func get(h http.Handler, method, target string, headers ...string) *http.Response {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r io.Reader) string {
	t.Helper()
	content, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(content)
}

func TestPageIsServedWithStrictPolicy(t *testing.T) {
	res := get(newHandler(t), "GET", "/")
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"))
	require.Contains(t, res.Header.Get("Content-Security-Policy"), "default-src 'self'")
	require.NotContains(t, res.Header.Get("Content-Security-Policy"), "unsafe")
	require.Equal(t, "no-referrer", res.Header.Get("Referrer-Policy"), "the address may hold a token")
	require.Contains(t, body(t, res.Body), "<title>Parlor</title>")
}

// The dashboard shows what strangers have written to those who have the key.
func TestDashboardHasTheStrictestPolicy(t *testing.T) {
	res := get(newHandler(t).Dashboard(), "GET", "/admin")
	require.Equal(t, 200, res.StatusCode)
	policy := res.Header.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'", "require-trusted-types-for 'script'", "connect-src 'self';"} {
		require.Contains(t, policy, part)
	}
	require.NotContains(t, policy, "unsafe")
	require.Equal(t, "DENY", res.Header.Get("X-Frame-Options"))
	require.Equal(t, "no-referrer", res.Header.Get("Referrer-Policy"))
	require.Equal(t, policy, get(newHandler(t), "GET", "/static/admin/index.html").Header.Get("Content-Security-Policy"), "by its other name, too")
}

func TestFilesHaveTheTypesThatBrowsersInsistOn(t *testing.T) {
	h := newHandler(t)
	for name, want := range map[string]string{
		"app.js":                               "text/javascript; charset=utf-8",
		"style.css":                            "text/css; charset=utf-8",
		"icon.svg":                             "image/svg+xml",
		"vendor/livekit-client-2.23.0.LICENSE": "text/plain; charset=utf-8",
	} {
		res := get(h, "GET", static.Prefix+name)
		require.Equal(t, 200, res.StatusCode, name)
		require.Equal(t, want, res.Header.Get("Content-Type"), name)
		require.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"), name)
	}
}

func TestUnknownPathsAndMethodsAreRefused(t *testing.T) {
	h := newHandler(t)
	for _, target := range []string{"/nothing", "/static", "/static/", "/static/js", "/static/nothing.js", "/static/../static.go", "/index.html"} {
		require.Equal(t, 404, get(h, "GET", target).StatusCode, target)
	}
	res := get(h, "POST", "/")
	require.Equal(t, 405, res.StatusCode)
	require.Equal(t, "GET, HEAD", res.Header.Get("Allow"))
}

func TestUnchangedFileIsNotSentAgain(t *testing.T) {
	h := newHandler(t)
	first := get(h, "GET", "/static/app.js")
	tag := first.Header.Get("ETag")
	require.NotEmpty(t, tag)
	require.Equal(t, "no-cache", first.Header.Get("Cache-Control"))

	again := get(h, "GET", "/static/app.js", "If-None-Match", tag)
	require.Equal(t, 304, again.StatusCode)
	require.Empty(t, body(t, again.Body))

	other := get(h, "GET", "/static/app.js", "If-None-Match", `"other"`)
	require.Equal(t, 200, other.StatusCode)
}

func TestVendoredFilesAreCachedForGood(t *testing.T) {
	res := get(newHandler(t), "GET", "/static/vendor/livekit-client-2.23.0.umd.js")
	require.Equal(t, 200, res.StatusCode)
	require.Contains(t, res.Header.Get("Cache-Control"), "immutable")
}

// Only the workers that find a person in a picture compile WebAssembly.
func TestOnlyTheWorkersOfBackgroundsCompile(t *testing.T) {
	h := newHandler(t)
	files := static.Files()
	workers, err := fs.Glob(files, "background-*/*worker.js.gz")
	require.NoError(t, err)
	require.Len(t, workers, 2)
	for _, name := range workers {
		res := get(h, "GET", static.Prefix+strings.TrimSuffix(name, ".gz"))
		require.Equal(t, "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'", res.Header.Get("Content-Security-Policy"))
		require.Contains(t, res.Header.Get("Cache-Control"), "immutable")
	}
	require.NotContains(t, get(h, "GET", "/").Header.Get("Content-Security-Policy"), "wasm")
}

// What others have written takes little room in the binary.
func TestFilesOfOthersArePacked(t *testing.T) {
	h := newHandler(t)
	files := static.Files()
	var packed []string
	for _, dir := range []string{"vendor", "background-*"} {
		some, err := fs.Glob(files, dir+"/*.gz")
		require.NoError(t, err)
		packed = append(packed, some...)
		plain, err := fs.Glob(files, dir+"/*.js")
		require.NoError(t, err)
		require.Empty(t, plain, "gzip -9n them")
	}
	require.Len(t, packed, 13)
	types := map[string]string{".js": "text/javascript; charset=utf-8", ".LICENSE": "text/plain; charset=utf-8", ".wasm": "application/wasm", ".tflite": "application/octet-stream"}
	for _, name := range packed {
		target := static.Prefix + strings.TrimSuffix(name, ".gz")
		require.Equal(t, 404, get(h, "GET", static.Prefix+name).StatusCode)
		plain := get(h, "GET", target)
		require.Equal(t, types[path.Ext(target)], plain.Header.Get("Content-Type"))
		require.Empty(t, plain.Header.Get("Content-Encoding"))
		sent := get(h, "GET", target, "Accept-Encoding", "gzip")
		require.Equal(t, "gzip", sent.Header.Get("Content-Encoding"))
		require.NotEqual(t, plain.Header.Get("ETag"), sent.Header.Get("ETag"))
		unpacked, err := gzip.NewReader(sent.Body)
		require.NoError(t, err)
		require.Equal(t, body(t, plain.Body), body(t, unpacked))
	}
}

// Instead of a file that cannot be unpacked comes an error, which nobody keeps.
func TestPackedFileThatIsDamaged(t *testing.T) {
	h, err := static.NewHandler(fstest.MapFS{"index.html": {}, "admin/index.html": {}, "vendor/a.js.gz": {Data: []byte("no gzip")}})
	require.NoError(t, err)
	res := get(h, "GET", "/static/vendor/a.js")
	require.Equal(t, 500, res.StatusCode)
	require.Empty(t, res.Header.Get("Cache-Control"))
}

func TestCompression(t *testing.T) {
	h := newHandler(t)
	const target = "/static/vendor/livekit-client-2.23.0.umd.js"
	plain := get(h, "GET", target)
	require.Empty(t, plain.Header.Get("Content-Encoding"))
	require.Equal(t, "Accept-Encoding", plain.Header.Get("Vary"))
	want := body(t, plain.Body)

	packed := get(h, "GET", target, "Accept-Encoding", "br, gzip;q=0.8")
	require.Equal(t, "gzip", packed.Header.Get("Content-Encoding"))
	require.NotEqual(t, plain.Header.Get("ETag"), packed.Header.Get("ETag"), "two representations need two tags")
	unpacked, err := gzip.NewReader(packed.Body)
	require.NoError(t, err)
	require.Equal(t, want, body(t, unpacked))

	for _, accept := range []string{"br", "gzip;q=0", "gzip; q=0.00", "identity, GZIP;Q=0", ""} {
		require.Empty(t, get(h, "GET", target, "Accept-Encoding", accept).Header.Get("Content-Encoding"), accept)
	}
	require.Equal(t, "gzip", get(h, "GET", target, "Accept-Encoding", "GZIP;q=0.01").Header.Get("Content-Encoding"))
}

func TestHandlerNeedsAnIndex(t *testing.T) {
	_, err := static.NewHandler(fstest.MapFS{"app.js": {Data: []byte("1")}})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// The page may have no inline script or style, which the policy would block silently, and
// every file that it names must exist.
func TestPageKeepsItsOwnPolicy(t *testing.T) {
	files := static.Files()
	for _, name := range []string{"index.html", "admin/index.html"} {
		page := read(t, files, name)
		require.NotRegexp(t, `<style|\sstyle=|\son[a-z]+=`, page)
		require.NotRegexp(t, `<script(?:\s+(?:type|defer)[^\s>]*)*>`, page, "a script without src")
		refs := regexp.MustCompile(`(?:src|href)="/?(static/[^"]+)"`).FindAllStringSubmatch(page, -1)
		require.NotEmpty(t, refs)
		for _, ref := range refs {
			require.NotEmpty(t, read(t, files, strings.TrimPrefix(ref[1], "static/")))
		}
	}
}

var (
	importing = regexp.MustCompile(`(?m)^(?:import|export)[^;]*?from '([^']+)'`)
	elementID = regexp.MustCompile(`\$\('#([a-z-]+)`)
	absolute  = regexp.MustCompile(`(?:https?|wss?):\\?/\\?/[a-z]`)
)

// There is no build step that would find a misspelt import or id.
func TestScriptsNameWhatExists(t *testing.T) {
	files := static.Files()
	page := read(t, files, "index.html")
	scripts, err := fs.Glob(files, "js/*.js")
	require.NoError(t, err)
	dashboard, err := fs.Glob(files, "admin/*.js")
	require.NoError(t, err)
	require.NotEmpty(t, dashboard)
	for _, name := range slices.Concat(scripts, dashboard, []string{"app.js"}) {
		page := page
		if strings.HasPrefix(name, "admin/") {
			page = read(t, files, "admin/index.html")
		}
		script := read(t, files, name)
		for _, match := range importing.FindAllStringSubmatch(script, -1) {
			_, err := fs.Stat(files, path.Join(path.Dir(name), match[1]))
			require.NoError(t, err, "%s imports %s", name, match[1])
		}
		for _, match := range elementID.FindAllStringSubmatch(script, -1) {
			require.Contains(t, page, `id="`+match[1]+`"`, name)
		}
		require.NotContains(t, script, "innerHTML", "%s: text from others must never be markup", name)
		script = strings.ReplaceAll(script, "http://www.w3.org/2000/svg", "") // a name, not an address
		require.NotRegexp(t, absolute, script, "%s: nothing is asked of a third party", name)
	}
}

// read gives what is in a file, packed or not.
func read(t *testing.T, files fs.FS, name string) string {
	t.Helper()
	packed, err := files.Open(name + ".gz")
	if errors.Is(err, fs.ErrNotExist) {
		content, err := fs.ReadFile(files, name)
		require.NoError(t, err)
		return string(content)
	}
	require.NoError(t, err)
	defer packed.Close()
	plain, err := gzip.NewReader(packed)
	require.NoError(t, err)
	return body(t, plain)
}

// languages reads the catalogues of the page. A text is a string, or an object of plural forms.
func languages(t *testing.T) map[string]map[string]any {
	t.Helper()
	files := static.Files()
	names, err := fs.Glob(files, "js/texts/*.json")
	require.NoError(t, err)
	found := map[string]map[string]any{}
	for _, name := range names {
		var texts map[string]any
		require.NoError(t, json.Unmarshal([]byte(read(t, files, name)), &texts), name)
		found[strings.TrimSuffix(path.Base(name), ".json")] = texts
	}
	return found
}

var placeholder = regexp.MustCompile(`\{[^}]*\}`)

// forms are the texts of one entry of a catalogue.
func forms(entry any) (list []string) {
	switch entry := entry.(type) {
	case string:
		return []string{entry}
	case map[string]any:
		for _, form := range entry {
			list = append(list, forms(form)...)
		}
	}
	return list
}

// Every language has every text, with the same placeholders, and the categories of its
// plural (Unicode CLDR).
func TestEveryLanguageHasEveryText(t *testing.T) {
	plurals := map[string][]string{
		"en": {"one", "other"}, "de": {"one", "other"}, "es": {"many", "one", "other"}, "fr": {"many", "one", "other"}, "zh": {"other"},
	}
	all := languages(t)
	require.ElementsMatch(t, slices.Collect(maps.Keys(plurals)), slices.Collect(maps.Keys(all)))
	english := all["en"]
	for code, texts := range all {
		require.ElementsMatch(t, slices.Collect(maps.Keys(english)), slices.Collect(maps.Keys(texts)), code)
		require.Contains(t, read(t, static.Files(), "js/texts.js"), " "+code+": '")
		for key, entry := range texts {
			want := slices.Compact(slices.Sorted(slices.Values(placeholder.FindAllString(forms(english[key])[0], -1))))
			for _, form := range forms(entry) {
				require.NotEmpty(t, strings.TrimSpace(form), "%s: %s", code, key)
				require.Equal(t, want, slices.Compact(slices.Sorted(slices.Values(placeholder.FindAllString(form, -1)))), "%s: %s", code, key)
			}
			if categories, ok := entry.(map[string]any); ok {
				require.ElementsMatch(t, plurals[code], slices.Collect(maps.Keys(categories)), "%s: %s", code, key)
			}
		}
	}
}

var (
	namedText   = regexp.MustCompile(`data-(?:text|label|tip|placeholder)="([^"]+)"`)
	shownText   = regexp.MustCompile(`>([^<>]*\pL[^<>]*)<`)
	shownName   = regexp.MustCompile(`\s(?:aria-label|placeholder|title|alt)="[^"]*\pL`)
	pageHead    = regexp.MustCompile(`(?s)<head>.*</head>|<noscript>.*?</noscript>|<kbd>.</kbd>|<!--.*?-->`)
	askedText   = regexp.MustCompile(`(?:\bt\(|\bsay\([^,]+, |banner\.show\()'([^']+)'`)
	literal     = regexp.MustCompile("'((?:[^'\\\\\n]|\\\\.)*)'|`([^`\n]*)`")
	comment     = regexp.MustCompile(`(?m)(?:^|\s)//.*$|/\*.*?\*/`)
	shownInCode = regexp.MustCompile("(?:toast\\(|textContent[:=] *|placeholder = |title = |'aria-label': *|'aria-label', *|text: *|label: *)['`][^'`$\n]*\\pL{2}")
	sentence    = regexp.MustCompile(`^\pLu\pLl+,? \pLl+|\pLl+ \pLl+[.?!]$`)
)

// Nothing that a person reads stands in the page or its scripts instead of the catalogues,
// and each text of the catalogues is used.
func TestEveryTextIsInTheCatalogues(t *testing.T) {
	files := static.Files()
	texts := languages(t)["en"]
	page := read(t, files, "index.html")
	body := pageHead.ReplaceAllString(page, "")
	for _, match := range shownText.FindAllStringSubmatch(body, -1) {
		require.Equal(t, "Parlor", strings.TrimSpace(match[1]), "a text in index.html")
	}
	require.NotRegexp(t, shownName, body)
	// What a script may make of a template such as `device.on.${kind}`.
	var used []*regexp.Regexp
	asked := map[string]bool{"@direction": true}
	for _, match := range namedText.FindAllStringSubmatch(page, -1) {
		require.Contains(t, texts, match[1], "index.html")
		asked[match[1]] = true
	}
	scripts, err := fs.Glob(files, "js/*.js")
	require.NoError(t, err)
	for _, name := range append(scripts, "app.js") {
		script := comment.ReplaceAllString(read(t, files, name), "")
		for _, shown := range shownInCode.FindAllString(strings.ReplaceAll(script, "document.title = 'Parlor'", ""), -1) {
			require.Fail(t, "a text in a script", "%s: %s", name, shown)
		}
		for _, match := range askedText.FindAllStringSubmatch(script, -1) {
			require.Contains(t, texts, match[1], name)
		}
		for _, match := range literal.FindAllStringSubmatch(script, -1) {
			text := match[1] + match[2]
			require.False(t, sentence.MatchString(text), "%s: %s", name, text)
			asked[text] = true
			if strings.Contains(text, "${") {
				used = append(used, regexp.MustCompile("^"+regexp.MustCompile(`\\\$\\\{.*?\\\}`).ReplaceAllString(regexp.QuoteMeta(text), `[a-z-]+`)+"$"))
			}
		}
	}
	for key := range texts {
		require.True(t, asked[key] || slices.ContainsFunc(used, func(pattern *regexp.Regexp) bool { return pattern.MatchString(key) }), "nothing uses %s", key)
	}
}

// What a first visit loads is small: the page, its style, its scripts, the library, and the
// texts of one language.
func TestFirstVisitIsSmall(t *testing.T) {
	h := newHandler(t)
	files := static.Files()
	loaded := []string{"style.css", "icon.svg", "app.js", "vendor/livekit-client-2.23.0.umd.js"}
	for i := 2; i < len(loaded); i++ {
		for _, match := range importing.FindAllStringSubmatch(read(t, files, loaded[i]), -1) {
			if name := path.Join(path.Dir(loaded[i]), match[1]); !slices.Contains(loaded, name) {
				loaded = append(loaded, name)
			}
		}
	}
	require.Greater(t, len(loaded), 20, "the modules are found")
	var texts int
	for code := range languages(t) {
		texts = max(texts, len(body(t, get(h, "GET", "/static/js/texts/"+code+".json", "Accept-Encoding", "gzip").Body)))
	}
	sum := texts + len(body(t, get(h, "GET", "/", "Accept-Encoding", "gzip").Body))
	for _, name := range loaded {
		sum += len(body(t, get(h, "GET", static.Prefix+name, "Accept-Encoding", "gzip").Body))
	}
	require.Less(t, sum, 250_000, "bytes on the wire")
	t.Logf("a first visit loads %d bytes", sum)
}
