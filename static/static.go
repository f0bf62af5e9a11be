// Package static holds the web page for calls: HTML, CSS, scripts and the vendored
// livekit-client. They are embedded in the binary and served without a build step. The
// page loads nothing from third parties.
package static

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

//go:embed index.html style.css icon.svg app.js js vendor/*.gz vendor/*.css vendor/*.LICENSE background-3.2.0 admin
var embedded embed.FS

// Prefix is the path under which a [Handler] serves the files by their names. The page
// itself is at "/".
const Prefix = "/static/"

// contentSecurityPolicy allows the page to load only files of this server. WebSockets may
// go anywhere, because the signalling address that comes with a token may be another
// server's.
const contentSecurityPolicy = "default-src 'self'; " +
	"connect-src 'self' ws: wss:; " +
	"media-src 'self' blob: mediastream:; " +
	"img-src 'self' data: blob:; " +
	"object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"

// dashboardPolicy is that of the dashboard, which shows what strangers have written to those
// who have the key: its own files alone, no frame around it, and no text that becomes markup
// or a script (Trusted Types).
const dashboardPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// background is the folder of the library that blurs backgrounds. Its version is in the name.
const background = "background-3.2.0/"

// workerPolicy is that of its workers, which alone compile WebAssembly. A worker has the
// policy of its own response, so the page needs no such permission.
const workerPolicy = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'"

// Files returns the embedded files, named relative to this folder.
func Files() fs.FS { return embedded }

// Handler serves the page at "/" and the files under [Prefix]. It may be used
// concurrently.
type Handler struct {
	assets map[string]*asset // does not change
}

// asset is one file with its HTTP headers. It is read and compressed when it is first asked
// for: many servers never show the page.
type asset struct {
	name         string
	contentType  string
	cacheControl string
	policy       string // of a page or a worker; "" = none
	packed       bool   // the file is gzipped, and is served under its name without .gz

	// load sets the following.
	load    func() error
	gzipped []byte // nil if compression saves little
	hash    string

	plain func() ([]byte, error) // of a packed file, for the few clients that take no gzip
}

// NewHandler serves files, which must have an index.html at the root.
func NewHandler(files fs.FS) (*Handler, error) {
	h := &Handler{assets: make(map[string]*asset)}
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		h.assets[strings.TrimSuffix(name, packedSuffix)] = newAsset(files, name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the page's files: %w", err)
	}
	if _, ok := h.assets["index.html"]; !ok {
		return nil, fmt.Errorf("read the page's files: index.html: %w", fs.ErrNotExist)
	}
	return h, nil
}

// packedSuffix is the end of the names of files that are gzipped, so that the binary stays
// small.
const packedSuffix = ".gz"

func newAsset(files fs.FS, file string) *asset {
	name, packed := strings.CutSuffix(file, packedSuffix)
	a := &asset{
		name:        file,
		contentType: contentType(name),
		packed:      packed,
		// The names do not change with the content, so the browser must revalidate. With
		// the ETag the answer is nearly always 304.
		cacheControl: "no-cache",
	}
	if path.Ext(name) == ".html" {
		a.policy = contentSecurityPolicy
	}
	if name == "admin/index.html" {
		a.policy = dashboardPolicy
	}
	if strings.HasPrefix(name, background) && strings.HasSuffix(name, "worker.js") {
		a.policy = workerPolicy
	}
	if strings.HasPrefix(name, "vendor/") || strings.HasPrefix(name, background) {
		// The name of the file or of the folder contains the version.
		a.cacheControl = "public, max-age=31536000, immutable"
	}
	a.load = sync.OnceValue(func() error { return a.read(files) })
	return a
}

func (a *asset) read(files fs.FS) error {
	content, err := fs.ReadFile(files, a.name)
	if err != nil {
		return fmt.Errorf("read the page's files: %w", err)
	}
	sum := sha256.Sum256(content)
	a.hash = hex.EncodeToString(sum[:8])
	if a.packed {
		a.gzipped = content
		a.plain = sync.OnceValues(func() ([]byte, error) { return unpack(content) })
		return nil
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	a.plain = func() ([]byte, error) { return content, nil }
	if packed.Len() < len(content)*9/10 {
		a.gzipped = bytes.Clone(packed.Bytes())
	}
	return nil
}

func unpack(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// contentType does not use package mime: that reads the operating system's tables, which
// on some machines give .js a type that browsers refuse.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".js", ".mjs":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".json":
		return "application/json"
	case ".wasm":
		return "application/wasm"
	case ".tflite":
		return "application/octet-stream"
	default:
		return "text/plain; charset=utf-8"
	}
}

// ServeHTTP answers GET and HEAD with the file, or with 304 if the client has it (RFC
// 9110, section 13.1.2). It answers 404 for unknown files, and 405 for other methods.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := "index.html"
	if r.URL.Path != "/" {
		var under bool
		if name, under = strings.CutPrefix(r.URL.Path, Prefix); !under {
			http.NotFound(w, r)
			return
		}
	}
	a, ok := h.assets[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	a.serve(w, r)
}

// Dashboard serves the dashboard's page, whatever the path. Its script and style are among
// the files under [Prefix].
func (h *Handler) Dashboard() http.Handler {
	page := h.assets["admin/index.html"]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		page.serve(w, r)
	})
}

func (a *asset) serve(w http.ResponseWriter, r *http.Request) {
	if err := a.load(); err != nil {
		http.Error(w, "the file cannot be read", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", a.contentType)
	header.Set("Cache-Control", a.cacheControl)
	header.Set("X-Content-Type-Options", "nosniff")
	if a.policy != "" {
		header.Set("Content-Security-Policy", a.policy)
	}
	if strings.HasPrefix(a.contentType, "text/html") {
		// The page's address may contain a token.
		header.Set("Referrer-Policy", "no-referrer")
	}
	if a.gzipped != nil {
		header.Add("Vary", "Accept-Encoding")
	}
	content, tag := a.gzipped, a.hash+"-gzip"
	if a.gzipped != nil && acceptsGzip(r.Header) {
		header.Set("Content-Encoding", "gzip")
	} else {
		var err error
		if content, err = a.plain(); err != nil {
			header.Del("Cache-Control")
			http.Error(w, "the file cannot be unpacked", http.StatusInternalServerError)
			return
		}
		tag = a.hash
	}
	header.Set("ETag", `"`+tag+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// acceptsGzip reports whether the request accepts gzip by name (RFC 9110, section
// 12.5.3). "*" is not considered, because no client of the page depends on it.
func acceptsGzip(header http.Header) bool {
	for _, line := range header.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(coding, ";")
			if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
				continue
			}
			q := strings.ReplaceAll(strings.ToLower(params), " ", "")
			return q != "q=0" && strings.TrimRight(q, "0") != "q=0."
		}
	}
	return false
}
