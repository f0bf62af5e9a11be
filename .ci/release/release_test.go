package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// TestRelease makes a release for this machine, checks its sums, unpacks the package and
// verifies its unit, and runs the file system of the image as a root, for a user without
// rights and with nothing else in it.
func TestRelease(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // neither a package nor an image is made
	}
	out := t.TempDir()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	require.NoError(t, os.WriteFile(roots, []byte("# nobody is trusted\n"), 0o644))
	r := release{out: out, root: "../..", version: "1.2.3", roots: roots}
	require.NoError(t, r.run(t.Context(), []string{"linux/" + runtime.GOARCH}))

	sums, err := os.ReadFile(filepath.Join(out, "SHA256SUMS"))
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(sums)), "\n")
	require.Len(t, lines, 4, "archive, package, image, bill of materials")
	for _, line := range lines {
		sum, name, _ := strings.Cut(line, "  ")
		content, err := os.ReadFile(filepath.Join(out, name))
		require.NoError(t, err)
		got := sha256.Sum256(content)
		require.Equal(t, sum, hex.EncodeToString(got[:]), name)
	}
	t.Run("package", func(t *testing.T) { testPackage(t, filepath.Join(out, "parlor_1.2.3_"+runtime.GOARCH+".deb")) })
	t.Run("image", func(t *testing.T) { testImage(t, filepath.Join(out, "parlor_1.2.3_image_"+runtime.GOARCH+".tar")) })

	text, err := os.ReadFile(filepath.Join(out, "parlor_1.2.3.cdx.json"))
	require.NoError(t, err)
	var bom struct {
		Components []struct{ Name, Version string }
	}
	require.NoError(t, json.Unmarshal(text, &bom))
	require.Contains(t, fmt.Sprint(bom.Components), "github.com/pion/webrtc/v4")
	require.NotContains(t, fmt.Sprint(bom.Components), "lean", "folders of the source are no modules of others")
}

// maxProgram is the bound of the program's size, in bytes. A library that is many times as
// large as what is used of it is best seen on the day that it comes.
const maxProgram = 35_800_000

func testPackage(t *testing.T, file string) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Log("there is no dpkg-deb here: the package is not unpacked")
		return
	}
	root := t.TempDir()
	run(t, "dpkg-deb", "--extract", file, root)
	control := run(t, "dpkg-deb", "--field", file)
	require.Contains(t, control, "Version: 1.2.3\n")
	require.Contains(t, control, "Architecture: "+runtime.GOARCH+"\n")
	program, err := elf.Open(filepath.Join(root, packagePath))
	require.NoError(t, err)
	defer program.Close()
	libraries, err := program.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libraries, "it is static")
	info, err := os.Stat(filepath.Join(root, packagePath))
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(maxProgram), "see what came with it: go version -m, go tool nm -size -sort size")
	copyright, err := os.ReadFile(filepath.Join(root, "usr/share/doc/parlor/copyright"))
	require.NoError(t, err)
	require.Contains(t, string(copyright), "github.com/pion/webrtc/v4")
	require.FileExists(t, filepath.Join(root, usersPath))
	scripts := t.TempDir()
	run(t, "dpkg-deb", "--control", file, scripts)
	run(t, "sh", "-n", filepath.Join(scripts, "postinst"))
	run(t, "sh", "-n", filepath.Join(scripts, "prerm"))
	run(t, "sh", "-n", filepath.Join(scripts, "postrm"))
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("there is no systemd-analyze here: the unit is not verified")
		return
	}
	// It wants the program where the unit starts it.
	unit, err := os.ReadFile(filepath.Join(root, unitPath))
	require.NoError(t, err)
	here := filepath.Join(t.TempDir(), "parlor.service")
	require.NoError(t, os.WriteFile(here, bytes.ReplaceAll(unit, []byte(packagePath), []byte(filepath.Join(root, packagePath))), 0o644))
	require.NotContains(t, run(t, "systemd-analyze", "verify", "--recursive-errors=no", here), here+":")
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}

func testImage(t *testing.T, file string) {
	img, err := tarball.ImageFromPath(file, nil)
	require.NoError(t, err)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, []string{"/parlor"}, config.Config.Entrypoint)
	require.Equal(t, []string{"CMD", "/parlor", "check", "--local"}, config.Config.Healthcheck.Test)
	require.NotContains(t, config.Config.User, "0:0")
	root := t.TempDir()
	unpack(t, mutate.Extract(img), root)

	command := func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "/parlor", args...)
		cmd.Dir, cmd.Env = "/data", []string{"PATH=/"}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Chroot: root, Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		return cmd
	}
	version, err := command(t.Context(), "version").CombinedOutput()
	if err != nil && strings.Contains(err.Error(), "operation not permitted") {
		t.Logf("there are no user namespaces here: the image is not run: %v", err)
		return
	}
	require.NoError(t, err, string(version))
	require.Regexp(t, `^parlor \S+ commit [0-9a-f]{12} of 20\d\d-\S+Z go1\S* linux/`, string(version))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	require.NoError(t, l.Close())
	environ := []string{"PARLOR_DEVELOPMENT=true", "PARLOR_BIND_ADDRESSES=127.0.0.1", "PARLOR_PORT=" + port, "PARLOR_RTC_UDP_PORT=0", "PARLOR_RTC_TCP_PORT=0"}
	server := command(t.Context())
	server.Env = append(server.Env, environ...)
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	require.NoError(t, server.Start())
	defer func() {
		require.NoError(t, server.Process.Signal(syscall.SIGTERM))
		require.NoError(t, server.Wait(), log.String())
	}()
	require.Eventually(t, func() bool {
		health := command(t.Context(), "check", "--local")
		health.Env = append(health.Env, environ...)
		return health.Run() == nil
	}, time.Minute, 100*time.Millisecond, "its health check passes")
}

// unpack writes the files of an image.
func unpack(t *testing.T, image io.ReadCloser, root string) {
	t.Helper()
	defer image.Close()
	files := tar.NewReader(image)
	for {
		h, err := files.Next()
		if err == io.EOF {
			return
		}
		require.NoError(t, err)
		path := filepath.Join(root, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			require.NoError(t, os.MkdirAll(path, 0o755))
			continue
		}
		content, err := io.ReadAll(files)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, content, h.FileInfo().Mode()))
	}
}
