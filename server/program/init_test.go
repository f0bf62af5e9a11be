package program

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"parlor/server/config"
)

// initialised loads the configuration that init has written.
func initialised(t *testing.T, file string) *config.Config {
	t.Helper()
	cfg, warnings, err := config.Load(config.Sources{File: file})
	require.NoError(t, err)
	require.Empty(t, warnings)
	fi, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode())
	return cfg
}

func TestCommandInitWritesAConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "parlor.yaml")
	args := []string{"init", "--config", file, "--port", "8080", "--node-ip", "192.0.2.1"}
	status, out, errs := command(t, nil, append(args, "--dry-run")...)
	require.Zero(t, status, errs)
	require.Equal(t, "would write "+file+" (mode 0600)\n", out)
	require.NoFileExists(t, file)

	status, out, errs = command(t, nil, args...)
	require.Zero(t, status, errs)
	cfg := initialised(t, file)
	require.Len(t, cfg.Keys, 1)
	require.Len(t, cfg.Keys[firstKey(cfg)], 43)
	require.Equal(t, 8080, cfg.Port)
	require.Equal(t, "192.0.2.1", cfg.RTC.NodeIP.V4.String())
	require.Contains(t, out, "http://192.0.2.1:8080/")
	require.Contains(t, out, "open TCP 8080 (HTTP), TCP 7881 (media), UDP 7882 (media)")
	require.Contains(t, out, firstKey(cfg))
	require.NotContains(t, out, cfg.Keys[firstKey(cfg)], "the secret is in the file alone")

	status, out, _ = command(t, nil, args...)
	require.Zero(t, status)
	require.Contains(t, out, "kept "+file)
	require.Equal(t, cfg.Keys, initialised(t, file).Keys, "what is there stays")
	status, _, errs = command(t, nil, "init", "--config", filepath.Join(dir, "other.yaml"))
	require.Zero(t, status, errs)
	require.NotEqual(t, cfg.Keys, initialised(t, filepath.Join(dir, "other.yaml")).Keys, "each has a key of its own")

	for _, wrong := range [][]string{
		{"--port", "0"}, {"--node-ip", "calls.example"}, {"--cert-file", "c.pem"}, {"--proxy", "--cert-file", "c.pem", "--key-file", "k.pem"},
		{"--socket"}, {"--root", dir}, {"--install", "--config", file}, {"argument"},
	} {
		status, out, _ := command(t, nil, append([]string{"init"}, wrong...)...)
		require.Equal(t, 2, status, wrong)
		require.Empty(t, out)
	}
}

func TestCommandInitInstalls(t *testing.T) {
	root := t.TempDir()
	args := []string{"init", "--install", "--root", root, "--proxy", "--socket"}
	_, planned, _ := command(t, nil, append(args, "--dry-run")...)
	require.Empty(t, folderOf(t, root))
	status, out, errs := command(t, nil, args...)
	require.Zero(t, status, errs)
	require.Equal(t, strings.Count(planned, "\n"), strings.Count(out[:strings.Index(out, "\n\n")], "\n")+1, "as was said")
	cfg := initialised(t, filepath.Join(root, installedConfig))
	require.Equal(t, []string{"127.0.0.1"}, cfg.BindAddresses)
	require.Equal(t, []string{"0.0.0.0", "::"}, cfg.RTC.BindAddresses, "the proxy is for HTTP alone")
	require.Equal(t, "/var/lib/parlor/parlor.db", cfg.Database)
	require.Contains(t, out, "open TCP 7881 (media), UDP 7882 (media), and what your proxy needs")
	for path, mode := range map[string]os.FileMode{
		installedPath: 0o755, unitFile: 0o644, socketFile: 0o644, usersFile: 0o644, installedState: 0o750 | os.ModeDir,
	} {
		fi, err := os.Stat(filepath.Join(root, path))
		require.NoError(t, err)
		require.Equal(t, mode, fi.Mode(), path)
	}
	text, err := os.ReadFile(filepath.Join(root, unitFile))
	require.NoError(t, err)
	for _, line := range []string{
		"Type=notify", "WatchdogSec=120", "NoNewPrivileges=yes", "ProtectSystem=strict", "StateDirectory=parlor", "LimitNOFILE=1048576",
		"AmbientCapabilities=CAP_NET_BIND_SERVICE", "ExecStart=/usr/local/bin/parlor --config /etc/parlor/parlor.yaml",
	} {
		require.Contains(t, string(text), "\n"+line+"\n")
	}
	text, err = os.ReadFile(filepath.Join(root, socketFile))
	require.NoError(t, err)
	require.Contains(t, string(text), "\nListenStream=127.0.0.1:7880\n")

	require.NoError(t, os.WriteFile(filepath.Join(root, unitFile), []byte("mine"), 0o600))
	status, out, errs = command(t, nil, args...)
	require.Zero(t, status, errs)
	require.Equal(t, 7, strings.Count(out, "kept "), out)
	text, err = os.ReadFile(filepath.Join(root, unitFile))
	require.NoError(t, err)
	require.Equal(t, "mine", string(text))
	require.Equal(t, cfg.Keys, initialised(t, filepath.Join(root, installedConfig)).Keys)
}

// folderOf is the content of a folder.
func folderOf(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	all, err := os.ReadDir(dir)
	require.NoError(t, err)
	return all
}

// TestCommandInitAsks only on a terminal, where it can be answered.
func TestCommandInitAsks(t *testing.T) {
	r := initRequest{out: io.Discard, port: 7880}
	require.NoError(t, r.ask(strings.NewReader("\nyes\n192.0.2.1\n")))
	require.Equal(t, 7880, r.port)
	require.True(t, r.proxy)
	require.Equal(t, "192.0.2.1", r.nodeIP)
	require.NoError(t, r.ask(strings.NewReader("443\n\n\n")))
	require.Equal(t, 443, r.port)
	require.False(t, r.proxy)
	require.ErrorContains(t, r.ask(strings.NewReader("many\n")), "is not a port")
	require.ErrorContains(t, r.ask(strings.NewReader("443\n")), "ended early")
	require.False(t, isTerminal(strings.NewReader("443\n")))
	require.False(t, isTerminal(nil))
}
