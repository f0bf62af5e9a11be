// Command release makes everything that a version of Parlor is published as, without a
// daemon and without cgo: archives of static binaries for Linux, macOS and Windows, Debian
// packages, container images, a software bill of materials, and the checksums of all.
//
//	go -C .ci/release run .
//
// What is made of one commit is the same each time: times are those of the commit.
package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // the packager of .deb
	"github.com/goreleaser/nfpm/v2/files"
)

// allTargets are the systems that a release is for.
const allTargets = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64"

// compilerProfile is what the server's CPU time goes to, for the compiler; relative to the
// source. It is not called default.pgo, with which every go vet and go test would compile all
// packages a second time.
const compilerProfile = "media/bench/parlor.pgo"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var r release
	flag.StringVar(&r.out, "out", "../../dist", "`folder` to make everything in")
	flag.StringVar(&r.root, "root", "../..", "`folder` of Parlor's source")
	flag.StringVar(&r.version, "version", "", "the `version`, such as 1.4.0 (made of the commit)")
	flag.StringVar(&r.roots, "ca", "/etc/ssl/certs/ca-certificates.crt", "PEM `file` of the certificate authorities that the image trusts")
	targets := flag.String("targets", allTargets, "the `systems` to build for")
	flag.Parse()
	r.flags = []string{"-trimpath", "-pgo=" + compilerProfile}
	if err := r.run(ctx, strings.Split(*targets, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is one run.
type release struct {
	out, root, version, roots string
	flags                     []string // more for go build

	date time.Time // of the commit
	made []string  // names of the files in out
}

// target is one system that is built for, and its binary.
type target struct{ os, arch, binary string }

func (r *release) run(ctx context.Context, targets []string) error {
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := r.describe(ctx); err != nil {
		return err
	}
	for i, name := range targets {
		t := target{}
		t.os, t.arch, _ = strings.Cut(name, "/")
		t.binary = filepath.Join(work, t.os+"-"+t.arch, "parlor")
		if t.os == "windows" {
			t.binary += ".exe"
		}
		steps := []func(context.Context, target) error{r.build, r.archive}
		if t.os == "linux" {
			steps = append(steps, r.debian, r.image)
		}
		if i == 0 { // the modules are the same in all
			steps = append(steps, r.bill)
		}
		for _, step := range steps {
			if err := step(ctx, t); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return r.checksums()
}

// describe finds the date of the commit and the version.
func (r *release) describe(ctx context.Context) error {
	text, err := exec.CommandContext(ctx, "git", "-C", r.root, "log", "-1", "--format=%cI %h").Output()
	if err != nil {
		return fmt.Errorf("find the commit: %w", err)
	}
	date, commit, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	if r.date, err = time.Parse(time.RFC3339, date); err != nil {
		return err
	}
	r.date = r.date.UTC()
	if r.version == "" {
		r.version = fmt.Sprintf("0.0.0-%s.%s", r.date.Format("20060102150405"), commit)
	}
	return nil
}

func (r *release) build(ctx context.Context, t target) error {
	args := append([]string{"build", "-buildvcs=true", "-ldflags=-s -w", "-o", t.binary}, append(r.flags, ".")...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+t.os, "GOARCH="+t.arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// create makes a file of the release.
func (r *release) create(name string, write func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(r.out, name))
	if err != nil {
		return err
	}
	r.made = append(r.made, name)
	return errors.Join(write(f), f.Close())
}

// entry is a file in an archive.
type entry struct {
	name    string
	mode    os.FileMode
	content []byte
}

// entries are what an archive has: the program, and what has to go with it.
func (r *release) entries(t target, folder string) ([]entry, error) {
	var all []entry
	for _, f := range []struct {
		from string
		mode os.FileMode
	}{
		{t.binary, 0o755}, {filepath.Join(r.root, "LICENSE"), 0o644}, {filepath.Join(r.root, "README.md"), 0o644},
	} {
		content, err := os.ReadFile(f.from)
		if err != nil {
			return nil, err
		}
		all = append(all, entry{folder + "/" + filepath.Base(f.from), f.mode, content})
	}
	licenses, err := r.licenses()
	if err != nil {
		return nil, err
	}
	return append(all, entry{folder + "/licenses.txt", 0o644, licenses}), nil
}

// licenses are what parlor licenses shows.
func (r *release) licenses() ([]byte, error) {
	f, err := os.Open(filepath.Join(r.root, "server/program/licenses.txt.gz"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(text)
}

func (r *release) archive(_ context.Context, t target) error {
	folder := fmt.Sprintf("parlor_%s_%s_%s", r.version, t.os, t.arch)
	all, err := r.entries(t, folder)
	if err != nil {
		return err
	}
	if t.os == "windows" {
		return r.create(folder+".zip", func(w io.Writer) error { return r.zip(w, all) })
	}
	return r.create(folder+".tar.gz", func(w io.Writer) error {
		z := gzip.NewWriter(w)
		return errors.Join(r.tar(z, all, 0), z.Close())
	})
}

func (r *release) zip(w io.Writer, all []entry) error {
	z := zip.NewWriter(w)
	for _, e := range all {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate, Modified: r.date}
		h.SetMode(e.mode)
		f, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		if _, err := f.Write(e.content); err != nil {
			return err
		}
	}
	return z.Close()
}

// tar writes files, and folders, whose names end in a slash, of that user.
func (r *release) tar(w io.Writer, all []entry, user int) error {
	t := tar.NewWriter(w)
	for _, e := range all {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: int64(e.mode.Perm()), Size: int64(len(e.content)), ModTime: r.date, Uid: user, Gid: user}
		if strings.HasSuffix(e.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if e.mode&os.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(e.content); err != nil {
			return err
		}
	}
	return t.Close()
}

// The unit is what parlor init writes, with the package's path of the program.
const (
	initPath    = "/usr/local/bin/parlor"
	packagePath = "/usr/bin/parlor"
	unitPath    = "/usr/lib/systemd/system/parlor.service"
	usersPath   = "/usr/lib/sysusers.d/parlor.conf"
)

// afterInstall makes the user and the folders. The configuration is left to parlor init, which
// is told the server's name.
const afterInstall = `#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers parlor.conf
elif ! getent passwd parlor >/dev/null; then
	useradd --system --user-group --no-create-home --home-dir /var/lib/parlor --shell /usr/sbin/nologin parlor
fi
install -d -m 0750 -o parlor -g parlor /etc/parlor /var/lib/parlor
[ -e /etc/parlor/parlor.yaml ] || cat <<'END'

  Parlor has no configuration yet. With the name that leads to this machine:

    parlor init --install --domain calls.example.com
    systemctl enable --now parlor

END
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	[ -z "$2" ] || systemctl try-restart parlor.service # an upgrade
fi
`

const beforeRemove = `#!/bin/sh
set -e
[ "$1" = remove ] || exit 0
[ ! -d /run/systemd/system ] || systemctl disable --now parlor.service
`

// afterRemove takes the configuration away, and leaves the rooms and certificates.
const afterRemove = `#!/bin/sh
set -e
[ "$1" = purge ] || exit 0
rm -f /etc/parlor/parlor.yaml
[ ! -d /etc/parlor ] || rmdir --ignore-fail-on-non-empty /etc/parlor
[ ! -d /var/lib/parlor ] || rmdir --ignore-fail-on-non-empty /var/lib/parlor
[ ! -d /var/lib/parlor ] || echo "the database stays in /var/lib/parlor"
`

func (r *release) debian(ctx context.Context, t target) error {
	// What parlor init writes is the same on every architecture.
	root, err := os.MkdirTemp(filepath.Dir(t.binary), "root")
	if err != nil {
		return err
	}
	program, args := "go", append(append([]string{"run"}, r.flags...), ".")
	if t.os == runtime.GOOS && t.arch == runtime.GOARCH {
		program, args = t.binary, nil
	}
	cmd := exec.CommandContext(ctx, program, append(args, "init", "--install", "--root", root)...)
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("parlor init: %w\n%s", err, out)
	}
	write := func(name string, content []byte) (string, error) {
		path := filepath.Join(filepath.Dir(t.binary), name)
		return path, os.WriteFile(path, content, 0o644)
	}
	unit, err := os.ReadFile(filepath.Join(root, "etc/systemd/system/parlor.service"))
	if err != nil {
		return err
	}
	if !bytes.Contains(unit, []byte("ExecStart="+initPath+" ")) {
		return errors.New("the unit of parlor init does not start " + initPath)
	}
	licenses, err := r.licenses()
	if err != nil {
		return err
	}
	var errs [5]error
	paths := [5]string{}
	paths[0], errs[0] = write("parlor.service", bytes.ReplaceAll(unit, []byte(initPath), []byte(packagePath)))
	paths[1], errs[1] = write("postinst", []byte(afterInstall))
	paths[2], errs[2] = write("prerm", []byte(beforeRemove))
	paths[3], errs[3] = write("postrm", []byte(afterRemove))
	paths[4], errs[4] = write("copyright", licenses)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	file := func(from, to string, mode os.FileMode) *files.Content {
		return &files.Content{Source: from, Destination: to, FileInfo: &files.ContentFileInfo{Mode: mode, MTime: r.date}}
	}
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: "parlor", Arch: t.arch, Platform: "linux", Version: r.version, Section: "net", Priority: "optional",
		Maintainer: "Parlor", Description: "WebRTC conference server that speaks LiveKit's protocol", License: "Apache-2.0", MTime: r.date,
		Overridables: nfpm.Overridables{
			Depends: []string{"ca-certificates", "passwd"},
			Contents: files.Contents{
				file(t.binary, packagePath, 0o755), file(paths[0], unitPath, 0o644),
				file(filepath.Join(root, "etc/sysusers.d/parlor.conf"), usersPath, 0o644),
				file(paths[4], "/usr/share/doc/parlor/copyright", 0o644),
				file(filepath.Join(r.root, "README.md"), "/usr/share/doc/parlor/README.md", 0o644),
			},
			Scripts: nfpm.Scripts{PostInstall: paths[1], PreRemove: paths[2], PostRemove: paths[3]},
		},
	})
	packager, err := nfpm.Get("deb")
	if err != nil {
		return err
	}
	if err := nfpm.PrepareForPackager(info, "deb"); err != nil {
		return err
	}
	return r.create(fmt.Sprintf("parlor_%s_%s.deb", r.version, t.arch), func(w io.Writer) error { return packager.Package(info, w) })
}

// imageUser has no rights in the container.
const imageUser = 65532

// image makes a container image that docker load and podman load take: the program, the
// authorities that it trusts, and folders that it may write to.
func (r *release) image(_ context.Context, t target) error {
	program, err := os.ReadFile(t.binary)
	if err != nil {
		return err
	}
	roots, err := os.ReadFile(r.roots)
	if err != nil {
		return fmt.Errorf("read the certificate authorities, see -ca: %w", err)
	}
	users := fmt.Appendf(nil, "root:x:0:0::/:/\nparlor:x:%d:%d::/data:/\n", imageUser, imageUser)
	var system, own bytes.Buffer
	if err := errors.Join(
		r.tar(&system, []entry{
			{"parlor", 0o755, program}, {"etc/", 0o755, nil}, {"etc/passwd", 0o644, users}, {"etc/ssl/", 0o755, nil}, {"etc/ssl/certs/", 0o755, nil},
			{"etc/ssl/certs/ca-certificates.crt", 0o644, roots}, {"tmp/", 0o777 | os.ModeSticky, nil},
		}, 0),
		r.tar(&own, []entry{{"data/", 0o750, nil}}, imageUser),
	); err != nil {
		return err
	}
	img := empty.Image
	for _, content := range []*bytes.Buffer{&system, &own} {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil })
		if err != nil {
			return err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = t.os, t.arch, v1.Time{Time: r.date}
	config.Config = v1.Config{
		User: fmt.Sprintf("%d:%d", imageUser, imageUser), WorkingDir: "/data", Entrypoint: []string{"/parlor"},
		Volumes:     map[string]struct{}{"/data": {}},
		Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "/parlor", "check", "--local"}, Interval: 30 * time.Second, Timeout: 10 * time.Second, StartPeriod: 60 * time.Second},
		StopSignal:  "SIGTERM",
		Labels:      map[string]string{"org.opencontainers.image.version": r.version, "org.opencontainers.image.title": "Parlor"},
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	tag, err := name.NewTag("parlor:" + strings.ReplaceAll(r.version, "+", "-"))
	if err != nil {
		return err
	}
	return r.create(fmt.Sprintf("parlor_%s_image_%s.tar", r.version, t.arch), func(w io.Writer) error { return tarball.Write(tag, img, w) })
}

// bill lists the modules that are in the binary.
func (r *release) bill(_ context.Context, t target) error {
	info, err := buildinfo.ReadFile(t.binary)
	if err != nil {
		return err
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp: r.date.Format(time.RFC3339),
		Component: &cyclonedx.Component{Type: cyclonedx.ComponentTypeApplication, Name: "parlor", Version: r.version},
	}
	components := []cyclonedx.Component{{Type: cyclonedx.ComponentTypeLibrary, Name: "std", Version: info.GoVersion, PackageURL: "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go")}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Version == "(devel)" {
			continue // a folder of ours
		}
		components = append(components, cyclonedx.Component{
			Type: cyclonedx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: "pkg:golang/" + m.Path + "@" + m.Version,
		})
	}
	bom.Components = &components
	return r.create(fmt.Sprintf("parlor_%s.cdx.json", r.version), func(w io.Writer) error {
		return cyclonedx.NewBOMEncoder(w, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
	})
}

func (r *release) checksums() error {
	slices.Sort(r.made)
	var text strings.Builder
	for _, name := range r.made {
		content, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(content), name)
	}
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(text.String()), 0o644)
}
