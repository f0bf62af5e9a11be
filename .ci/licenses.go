//go:build ignore

// Licenses writes the licences of everything in the binary and in the page to
// server/program/licenses.txt.gz, which "parlor licenses" shows.
//
//	go run .ci/licenses.go          writes it
//	go run .ci/licenses.go -check   fails if it is not what would be written
package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// notice is gzipped: it repeats itself, and is a hundredth of the binary otherwise.
const notice = "server/program/licenses.txt.gz"

func main() {
	check := flag.Bool("check", false, "compare instead of writing")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	parts, err := modules()
	if err != nil {
		return err
	}
	var vendored []part
	dirs, err := filepath.Glob("static/background-*")
	if err != nil {
		return err
	}
	for _, dir := range append([]string{"static/vendor"}, dirs...) {
		some, err := page(dir)
		if err != nil {
			return err
		}
		vendored = append(vendored, some...)
	}
	golang, err := text(runtime.GOROOT(), "LICENSE")
	if err != nil {
		return err
	}
	parts = append(parts, part{"the Go runtime and standard library", golang})
	body := format(append(parts, vendored...))
	if !check {
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := w.Write(body); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		return os.WriteFile(notice, packed.Bytes(), 0o644)
	}
	packed, err := os.ReadFile(notice)
	if err != nil {
		return err
	}
	old, err := unpack(packed) // another Go may pack the same text otherwise
	if err != nil {
		return fmt.Errorf("%s: %w", notice, err)
	}
	if !bytes.Equal(old, body) {
		return errors.New(notice + " is out of date; run go generate")
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

// part is a piece of software with a licence.
type part struct{ name, text string }

// modules are the modules with a package in the program, on any system that it is built
// for. Those in server/lean are our own work and have our licence.
func modules() ([]part, error) {
	dirs := map[string]string{} // by name and version
	for _, system := range []string{"linux", "darwin", "windows"} {
		list := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}\t{{.Dir}}{{end}}{{end}}", ".")
		list.Env = append(os.Environ(), "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0")
		list.Stderr = os.Stderr
		out, err := list.Output()
		if err != nil {
			return nil, fmt.Errorf("go list for %s: %w", system, err)
		}
		for line := range strings.Lines(string(out)) {
			if name, dir, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
				dirs[name] = dir
			}
		}
	}
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	ours := filepath.Join(root, "server", "lean") + string(filepath.Separator)
	var all []part
	for name, dir := range dirs {
		files, err := licenceFiles(dir)
		if err != nil {
			return nil, err
		}
		if len(files) == 0 && strings.HasPrefix(dir, ours) {
			continue
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("%s has no licence", name)
		}
		t, err := text(dir, files...)
		if err != nil {
			return nil, err
		}
		all = append(all, part{name, t})
	}
	return all, nil
}

var licenceName = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|unlicense|patents)([-.].*)?$`)

// licenceFiles are the licence files in a module's root folder.
func licenceFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var files []string
	for _, e := range entries {
		if !e.IsDir() && licenceName.MatchString(e.Name()) && filepath.Ext(e.Name()) != ".go" {
			files = append(files, e.Name())
		}
	}
	return files, err
}

func text(dir string, files ...string) (string, error) {
	var b strings.Builder
	for i, f := range files {
		body, err := read(filepath.Join(dir, f))
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteString("\n\n" + f + ":\n\n")
		}
		b.WriteString(strings.Trim(strings.ReplaceAll(string(body), "\r\n", "\n"), "\n"))
	}
	return b.String(), nil
}

// read is what is in a file, or in the one beside it that is packed.
func read(name string) ([]byte, error) {
	body, err := os.ReadFile(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return body, err
	}
	if body, err = os.ReadFile(name + ".gz"); err != nil {
		return nil, err
	}
	return unpack(body)
}

var comment = regexp.MustCompile(`(?s)/\*.*?\*/`)

// built is the end of a script's name that says how its package was built.
var built = regexp.MustCompile(`(\.umd|\.e2ee\.worker)?\.(js|wasm|tflite)$`)

// page lists third-party scripts and models of the page: the licence beside each, else that
// of the folder, and the notices inside it of the software that its author bundled.
func page(dir string) ([]part, error) {
	var scripts []string
	for _, pattern := range []string{"*.js", "*.gz"} {
		some, err := fs.Glob(os.DirFS(dir), pattern)
		if err != nil {
			return nil, err
		}
		scripts = append(scripts, some...)
	}
	var all []part
	for _, file := range scripts {
		name := strings.TrimSuffix(file, ".gz")
		if strings.HasSuffix(name, ".LICENSE") {
			continue
		}
		t, err := text(dir, built.ReplaceAllString(name, ".LICENSE"))
		if errors.Is(err, fs.ErrNotExist) {
			t, err = text(dir, "LICENSE")
		}
		if err != nil {
			return nil, err
		}
		body, err := read(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, c := range comment.FindAllString(string(body), -1) {
			if low := strings.ToLower(c); (strings.Contains(low, "copyright") || strings.Contains(low, "@license")) && !strings.Contains(t, c) {
				t += "\n\n" + c
			}
		}
		all = append(all, part{name, t})
	}
	return all, nil
}

// format writes each text once, below the names of all parts that have it.
func format(parts []part) []byte {
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.name, b.name) })
	var texts []string
	names := map[string][]string{}
	for _, p := range parts {
		if names[p.text] == nil {
			texts = append(texts, p.text)
		}
		names[p.text] = append(names[p.text], p.name)
	}
	var b bytes.Buffer
	b.WriteString("Parlor is under the Apache License 2.0. In its binary and its page is work of others,\nunder the licences below.\n")
	for _, t := range texts {
		b.WriteString("\n" + strings.Repeat("=", 80) + "\n")
		for _, name := range names[t] {
			b.WriteString(name + "\n")
		}
		b.WriteString(strings.Repeat("-", 80) + "\n\n" + t + "\n")
	}
	return b.Bytes()
}
