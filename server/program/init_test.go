package program

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/sqlite"
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
		{"--port", "-1"}, {"--port", "0"}, {"--port", "65536"}, {"--node-ip", "calls.example"}, {"--cert-file", "c.pem"}, {"--proxy", "--cert-file", "c.pem", "--key-file", "k.pem"},
		{"--socket"}, {"--root", dir}, {"--install", "--config", file}, {"argument"},
		{"--proxy", "--domain", "calls.example.com"}, {"--install", "--database", file},
	} {
		status, out, _ := command(t, nil, append([]string{"init"}, wrong...)...)
		require.Equal(t, 2, status, wrong)
		require.Empty(t, out)
	}
}

// TestCommandInitForADomain has one file and one link as its result: what a server for a
// domain needs, and the way in for the first host.
func TestCommandInitForADomain(t *testing.T) {
	dir := t.TempDir()
	file, database := filepath.Join(dir, "parlor.yaml"), filepath.Join(dir, "calls.db")
	args := []string{"init", "--config", file, "--database", database, "--domain", "calls.example.com"}
	_, planned, _ := command(t, nil, append(args, "--dry-run")...)
	require.Equal(t, "would write "+file+" (mode 0600)\nwould make "+database+" (mode 0600), with an invitation for a host of lobby\n", planned)
	require.Empty(t, folderOf(t, dir))

	status, out, errs := command(t, nil, args...)
	require.Zero(t, status, errs)
	cfg := initialised(t, file)
	require.Equal(t, "calls.example.com", cfg.Domain)
	require.Equal(t, 443, cfg.Port)
	require.True(t, cfg.Invitations)
	require.Len(t, cfg.Keys[firstKey(cfg)], 43)
	require.Contains(t, out, "https://calls.example.com/\n")
	require.Contains(t, out, "open TCP 443 (HTTP, media, TURN), TCP 80 (to HTTPS), UDP 443 (media, TURN)\n")
	link := regexp.MustCompile(`https://calls\.example\.com/#invite=(IN_\w+)\.([\w-]{43}) `).FindStringSubmatch(out)
	require.NotNil(t, link, out)

	fi, err := os.Stat(database)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode())
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: database})
	require.NoError(t, err)
	invited, err := s.FindInvitation(t.Context(), link[1])
	require.NoError(t, err)
	require.NoError(t, s.Close(t.Context()))
	require.Equal(t, sha256.Sum256([]byte(link[2])), invited.SecretHash)
	require.Equal(t, "lobby", invited.RoomName)
	require.Equal(t, rooms.RoleHost, invited.Role)
	require.Equal(t, firstKey(cfg), invited.APIKey)
	require.NoError(t, invited.Usable(rooms.NowMs(time.Now())))
	require.Error(t, invited.Usable(rooms.NowMs(time.Now().Add(25*time.Hour))), "for a day")

	status, out, errs = command(t, nil, args...)
	require.Zero(t, status, errs)
	require.Contains(t, out, "kept "+file+", which is there, and flags change nothing in it")
	require.Contains(t, out, "kept "+database)
	require.NotContains(t, out, "#invite=", "the link is shown once")
	require.Contains(t, out, "parlor invite ROOM --host --config "+file)

	// A database on a replica may not be replaced by an empty one, and no log of a database
	// that is away may be taken for the new one's.
	other := t.TempDir()
	replicated := []string{"init", "--config", filepath.Join(other, "parlor.yaml"), "--database", filepath.Join(other, "parlor.db"), "--domain", "calls.example.com"}
	status, _, errs = command(t, nil, append(replicated, "--replica", "file://"+t.TempDir())...)
	require.Zero(t, status, errs)
	require.NoFileExists(t, filepath.Join(other, "parlor.db"))
	require.NoError(t, os.WriteFile(database+"-wal", []byte("commits"), 0o600))
	require.NoError(t, os.Remove(database))
	status, _, errs = command(t, nil, args...)
	require.Zero(t, status, errs)
	require.NoFileExists(t, database)

	// What the environment says of the server holds for its first link, too, but not for an
	// installed one, which systemd starts.
	elsewhere := t.TempDir()
	environ := []string{"PARLOR_PORT=8443", "PARLOR_LIMIT_MAX_ROOM_NAME_LENGTH=10"}
	inherited := []string{"init", "--config", filepath.Join(elsewhere, "parlor.yaml"), "--database", filepath.Join(elsewhere, "parlor.db"), "--domain", "calls.example.com"}
	for _, name := range []string{"a room of more than ten bytes", "\xff"} {
		for _, dry := range []string{"--dry-run", "--dry-run=false"} {
			status, _, errs = command(t, environ, append(inherited, "--invite", name, dry)...)
			require.Equal(t, 1, status)
			require.Contains(t, errs, "--invite: ")
		}
	}
	require.Empty(t, folderOf(t, elsewhere), "nobody can be in that room")
	status, out, errs = command(t, environ, inherited...)
	require.Zero(t, status, errs)
	require.Contains(t, out, "https://calls.example.com:8443/#invite=")
	status, out, errs = command(t, environ, "init", "--install", "--root", t.TempDir(), "--domain", "calls.example.com", "--invite", "a longer name")
	require.Zero(t, status, errs)
	require.Contains(t, out, "https://calls.example.com/#invite=")
	status, _, errs = command(t, append(environ, "PARLOR_DATABASE="+filepath.Join(elsewhere, "other.db")), append(inherited[:2:2], filepath.Join(elsewhere, "more.yaml"), "--domain", "calls.example.com")...)
	require.Zero(t, status, errs)
	require.Len(t, folderOf(t, elsewhere), 3, "the server would not find the invitation")

	for _, wrong := range []string{"calls", "192.0.2.1", "calls example.com"} {
		status, _, errs := command(t, nil, "init", "--config", filepath.Join(dir, "wrong.yaml"), "--domain", wrong)
		require.Equal(t, 1, status, wrong)
		require.Contains(t, errs, "domain")
		require.NoFileExists(t, filepath.Join(dir, "wrong.yaml"), "what no server could use would be kept")
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
		installedPath: 0o755, unitFile: 0o644, socketFile: 0o644, usersFile: 0o644, installedState: 0o750 | os.ModeDir, ownersFile: 0o644,
	} {
		fi, err := os.Stat(filepath.Join(root, path))
		require.NoError(t, err)
		require.Equal(t, mode, fi.Mode(), path)
	}
	text, err := os.ReadFile(filepath.Join(root, unitFile))
	require.NoError(t, err)
	for _, line := range []string{
		"StartLimitIntervalSec=0", "Type=notify", "WatchdogSec=120", "NoNewPrivileges=yes", "ProtectSystem=strict", "StateDirectory=parlor", "LimitNOFILE=1048576",
		`ExecReload=/bin/sh -c "kill -HUP $MAINPID"`, "AmbientCapabilities=CAP_NET_BIND_SERVICE", "ExecStart=/usr/local/bin/parlor --config /etc/parlor/parlor.yaml",
	} {
		require.Contains(t, string(text), "\n"+line+"\n")
	}
	text, err = os.ReadFile(filepath.Join(root, socketFile))
	require.NoError(t, err)
	require.Contains(t, string(text), "\nListenStream=127.0.0.1:7880\n")

	require.NoError(t, os.WriteFile(filepath.Join(root, unitFile), []byte("mine"), 0o600))
	status, out, errs = command(t, nil, args...)
	require.Zero(t, status, errs)
	require.Equal(t, 8, strings.Count(out, "kept "), out)
	text, err = os.ReadFile(filepath.Join(root, unitFile))
	require.NoError(t, err)
	require.Equal(t, "mine", string(text))
	require.Equal(t, cfg.Keys, initialised(t, filepath.Join(root, installedConfig)).Keys)
}

// TestCommandInitCompletesAPackage has the configuration and the first host's link as its
// result, where a package has brought program and unit.
func TestCommandInitCompletesAPackage(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(packageUnit)), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, packageUnit), []byte("[Unit]\n"), 0o600))
	status, out, errs := command(t, nil, "init", "--install", "--root", root, "--domain", "calls.example.com")
	require.Zero(t, status, errs)
	require.Contains(t, out, "#invite=IN_")
	require.Equal(t, "calls.example.com", initialised(t, filepath.Join(root, installedConfig)).Domain)
	require.FileExists(t, filepath.Join(root, installedState, "parlor.db"))
	require.NoFileExists(t, filepath.Join(root, unitFile), "it would go over the package's")
	require.NoFileExists(t, filepath.Join(root, installedPath))
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
	r := initRequest{out: io.Discard}
	require.NoError(t, r.ask(strings.NewReader("\n\nyes\n192.0.2.1\n")))
	require.Empty(t, r.domain)
	require.Zero(t, r.port)
	require.True(t, r.proxy)
	require.Equal(t, "192.0.2.1", r.nodeIP)
	require.NoError(t, r.ask(strings.NewReader("\n443\n\n\n")))
	require.Equal(t, 443, r.port)
	require.False(t, r.proxy)
	require.NoError(t, r.ask(strings.NewReader("calls.example.com\n192.0.2.1\n")), "a domain leaves less to ask")
	require.Equal(t, "calls.example.com", r.domain)
	for _, wrong := range []string{"many", "0", "-1", "65536"} {
		require.ErrorContains(t, r.ask(strings.NewReader("\n"+wrong+"\n")), "is not a port")
	}
	require.ErrorContains(t, r.ask(strings.NewReader("\n443\n")), "ended early")
	require.False(t, isTerminal(strings.NewReader("443\n")))
	require.False(t, isTerminal(nil))
}
