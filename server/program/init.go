package program

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/sqlite"
	"parlor/server/api"
	"parlor/server/config"
)

const initUsage = `Write a configuration with a new API key and secret, and with --install all that a server
on this machine needs: its user, its folders, the program and the unit of systemd. What is
there already stays as it is.

  parlor init                         parlor.yaml in this folder
  sudo parlor init --install --domain calls.example.com
  sudo parlor init --install --proxy --dry-run

On a terminal it asks what no flag tells.

`

const (
	serverUser     = "parlor"
	installedState = "/var/lib/parlor"
	installedPath  = "/usr/local/bin/parlor"
	unitFile       = "/etc/systemd/system/parlor.service"
	socketFile     = "/etc/systemd/system/parlor.socket"
	usersFile      = "/etc/sysusers.d/parlor.conf"
	ownersFile     = "/etc/tmpfiles.d/parlor.conf"
	packageUnit    = "/usr/lib/systemd/system/parlor.service" // of the Debian package
)

// unit is the systemd service. A small Debian has no kill but its shell's. The watchdog is
// patient, because a stalled disk holds up the writer and must not end calls. The server is
// started again without a limit, because a network that comes late, or a full disk, is longer
// away than the seconds of systemd's default.
const unit = `[Unit]
Description=Parlor, a WebRTC conference server
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=` + installedPath + ` --config ` + installedConfig + `
ExecReload=/bin/sh -c "kill -HUP $MAINPID"
User=` + serverUser + `
Group=` + serverUser + `
StateDirectory=parlor
StateDirectoryMode=0750
WorkingDirectory=` + installedState + `
UMask=0077
Restart=on-failure
RestartSec=1
TimeoutStartSec=infinity
TimeoutStopSec=20
WatchdogSec=120
LimitNOFILE=1048576
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
`

// socketUnit makes systemd hold the HTTP port, so that a restart refuses no connection.
const socketUnit = `[Unit]
Description=The port of Parlor

[Socket]
ListenStream=%s
NoDelay=yes
Backlog=4096

[Install]
WantedBy=sockets.target
`

// owners gives the server's user what was made in another root, where there is no user yet.
const owners = `d /etc/parlor 0750 ` + serverUser + ` ` + serverUser + `
z ` + installedConfig + ` 0600 ` + serverUser + ` ` + serverUser + `
Z ` + installedState + ` - ` + serverUser + ` ` + serverUser + `
`

// initRequest holds the command line's flags.
type initRequest struct {
	config, domain   string
	port             int // 0 = the default
	database, invite string
	nodeIP, replica  string
	certFile, key    string
	proxy, install   bool
	socket, dryRun   bool
	root             string
	out              io.Writer
	environ          []string // that the server will have too; none if it is installed

	link string // of the invitation that was made; "" = none was
}

// initialise writes what a new server needs.
func initialise(ctx context.Context, env Environment) error {
	r := initRequest{out: env.Out}
	f := newFlags("parlor init", initUsage, "")
	f.StringVar(&r.config, "config", "", "configuration `file` to write (parlor.yaml; "+installedConfig+" with --install)")
	f.StringVar(&r.domain, "domain", "", "`name` that leads to this machine: get a certificate for it, serve all on port 443")
	f.Func("port", "TCP `port` of HTTP and WebSocket (7880; 443 with --domain)", r.setPort)
	f.StringVar(&r.database, "database", "", "SQLite `file` (parlor.db; in "+installedState+" with --install)")
	f.StringVar(&r.invite, "invite", "", "have invitations, and print the first, for a host of that `room` (lobby with --domain; \"\" for none)")
	f.StringVar(&r.nodeIP, "node-ip", "", "`address` that clients reach this machine by, if it is behind NAT")
	f.StringVar(&r.certFile, "cert-file", "", "PEM `file` of the TLS certificate chain")
	f.StringVar(&r.key, "key-file", "", "PEM `file` of its private key")
	f.BoolVar(&r.proxy, "proxy", false, "a proxy on this machine speaks HTTPS: HTTP is for it alone, media for everybody")
	f.StringVar(&r.replica, "replica", "", "`URL` that the database is replicated to")
	f.BoolVar(&r.install, "install", false, "make user and folders, and install program and unit; for root")
	f.BoolVar(&r.socket, "socket", false, "with --install: systemd holds the port, so that a restart refuses no connection")
	f.StringVar(&r.root, "root", "", "with --install: `folder` to install into, in place of /; makes no user")
	f.BoolVar(&r.dryRun, "dry-run", false, "only say what would be done")
	if err := parse(f, env); err != nil {
		return err
	}
	if f.NFlag() == 0 && isTerminal(env.In) {
		if err := r.ask(env.In); err != nil {
			return err
		}
	}
	if !given(f, "invite") && r.domain != "" {
		r.invite = "lobby"
	}
	if r.database == "" {
		r.database = "parlor.db"
		if r.install {
			r.database = filepath.Join(installedState, "parlor.db")
		}
	}
	if wrong := r.wrong(); wrong != "" {
		fmt.Fprintf(env.Err, "%s; see parlor init --help\n", wrong)
		return errUsage
	}
	if r.install && r.root == "" && !r.dryRun && os.Geteuid() != 0 {
		return errors.New("--install is for root: it makes a user, and writes into /etc and /usr/local")
	}
	if !r.install { // systemd starts an installed server without this shell's environment
		r.environ = env.Environ
	}
	text, err := r.configuration()
	if err != nil {
		return err
	}
	cfg, err := r.effective(text)
	if err != nil {
		return err
	}
	if r.invite != "" {
		if err := checkInvited(cfg, r.invite); err != nil {
			return err
		}
	}
	if err := r.do(ctx, text, cfg); err != nil {
		return err
	}
	return r.next(cfg)
}

// checkInvited returns what is wrong with the name of a room that an invitation is for.
func checkInvited(cfg *config.Config, room string) error {
	err := rooms.CheckRoomName(room, cfg.Limit.MaxRoomNameLength)
	if err == nil && !utf8.ValidString(room) {
		err = errors.New("the room's name must be UTF-8")
	}
	if err != nil {
		return fmt.Errorf("--invite: %w", err)
	}
	return nil
}

// given reports whether a flag was on the command line.
func given(f *flag.FlagSet, name string) (yes bool) {
	f.Visit(func(fl *flag.Flag) { yes = yes || fl.Name == name })
	return yes
}

// setPort takes the port that HTTP is to have. Any free one, as 0 is in a configuration, is
// refused: the firewall must know it.
func (r *initRequest) setPort(value string) error {
	port, err := strconv.ParseUint(value, 10, 16)
	if err != nil || port == 0 {
		return errors.New("must be from 1 to 65535")
	}
	r.port = int(port)
	return nil
}

// wrong returns what is wrong with the flags; "" if nothing is.
func (r *initRequest) wrong() string {
	_, err := netip.ParseAddr(r.nodeIP)
	switch {
	case r.nodeIP != "" && err != nil:
		return "--node-ip must be an IP address"
	case (r.certFile == "") != (r.key == ""):
		return "--cert-file and --key-file belong together"
	case r.proxy && (r.certFile != "" || r.domain != ""):
		return "--proxy is for a server without a certificate of its own"
	case !r.install && (r.socket || r.root != ""):
		return "--socket and --root are for --install"
	case r.install && r.config != "":
		return "--install writes " + installedConfig
	case r.install && r.database != filepath.Join(installedState, "parlor.db"):
		return "--install has the database in " + installedState
	}
	return ""
}

// ask asks a person on a terminal.
func (r *initRequest) ask(in io.Reader) error {
	lines := bufio.NewScanner(in)
	question := func(text string) (string, error) {
		if _, err := fmt.Fprint(r.out, text+" "); err != nil {
			return "", err
		}
		if !lines.Scan() {
			return "", errors.Join(errors.New("the answers ended early"), lines.Err())
		}
		return strings.TrimSpace(lines.Text()), nil
	}
	domain, err := question("DNS name that leads to this machine, if it has one that browsers are to use []:")
	if err != nil {
		return err
	}
	if r.domain = domain; domain != "" {
		r.nodeIP, err = question("Address that clients reach this machine by, if it is behind NAT []:")
		return err
	}
	port, err := question("TCP port of HTTP and WebSocket [7880]:")
	if err != nil {
		return err
	}
	if port != "" {
		if err := r.setPort(port); err != nil {
			return fmt.Errorf("%q is not a port: it %w", port, err)
		}
	}
	proxy, err := question("Does a proxy on this machine speak HTTPS for it? [y/N]:")
	if err != nil {
		return err
	}
	r.proxy = strings.HasPrefix(strings.ToLower(proxy), "y")
	r.nodeIP, err = question("Address that clients reach this machine by, if it is behind NAT []:")
	return err
}

// file is the configuration's path, under the root.
func (r *initRequest) file() string {
	switch {
	case r.install:
		return filepath.Join(r.root, installedConfig)
	case r.config != "":
		return r.config
	}
	return "parlor.yaml"
}

// do makes everything that is missing, with that text of the configuration, or what is in
// force already.
func (r *initRequest) do(ctx context.Context, text string, cfg *config.Config) error {
	if !r.install {
		if err := r.write(r.file(), text, 0o600); err != nil {
			return err
		}
		return r.inviteHost(ctx, cfg)
	}
	if err := r.makeUser(ctx); err != nil {
		return err
	}
	for _, folder := range []string{filepath.Dir(installedConfig), installedState} {
		if err := r.makeFolder(filepath.Join(r.root, folder)); err != nil {
			return err
		}
	}
	if err := r.writeFor(r.file(), text, 0o600, r.give); err != nil {
		return err
	}
	if err := r.inviteHost(ctx, cfg); err != nil {
		return err
	}
	if err := r.installUnit(); err != nil {
		return err
	}
	if !r.socket {
		return nil
	}
	listen := strconv.Itoa(r.port)
	switch {
	case r.port == 0 && r.domain != "":
		listen = "443"
	case r.port == 0:
		listen = "7880"
	}
	if r.proxy {
		listen = net.JoinHostPort("127.0.0.1", listen)
	}
	return r.write(filepath.Join(r.root, socketFile), fmt.Sprintf(socketUnit, listen), 0o644)
}

// configuration is a new parlor.yaml, which the server can use.
func (r *initRequest) configuration() (string, error) {
	key, secret := config.NewKey()
	type section = map[string]any
	rtc := section{}
	all := section{"database": r.database, "keys": section{key: secret}}
	if r.domain != "" {
		all["domain"] = r.domain // which implies the ports
	} else {
		all["port"], rtc["udp_port"], rtc["tcp_port"] = 7880, config.DefaultUDPPort, 7881
	}
	if r.port != 0 {
		all["port"] = r.port
	}
	if r.invite != "" {
		all["invitations"] = true
	}
	if r.proxy {
		all["bind_addresses"] = []string{"127.0.0.1"}
		rtc["bind_addresses"] = []string{"0.0.0.0", "::"}
	}
	if r.nodeIP != "" {
		rtc["node_ip"] = r.nodeIP
	}
	if r.certFile != "" {
		all["tls"] = section{"cert_file": r.certFile, "key_file": r.key}
	}
	if r.replica != "" {
		all["replica"] = r.replica
	}
	if len(rtc) > 0 {
		all["rtc"] = rtc
	}
	raw, err := yaml.Marshal(all)
	if err != nil {
		return "", err
	}
	text := "# The configuration of Parlor. Its README lists every key. Only the server may read this:\n# the secret makes tokens for every room.\n" + string(raw)
	return text, nil
}

// effective is the configuration that the server will have: that of the file which is there,
// else that of text. It is loaded before it is written, because a wrong one would be kept.
func (r *initRequest) effective(text string) (*config.Config, error) {
	if r.dryRun && isForbidden(r.file()) {
		if _, err := fmt.Fprintf(r.out, "%s may not be read by this user: what follows is for a new one\n", r.file()); err != nil {
			return nil, err
		}
		return r.unwritten(text)
	}
	if _, err := os.Lstat(r.file()); err == nil {
		cfg, _, err := config.Load(config.Sources{File: r.file(), Environ: r.environ})
		if err != nil {
			return nil, fmt.Errorf("the configuration cannot be used:\n%w", err)
		}
		return cfg, nil
	}
	return r.unwritten(text)
}

// isForbidden reports whether a file, if there is one, may not be read.
func isForbidden(file string) bool {
	f, err := os.Open(file)
	if err == nil {
		_ = f.Close() // nothing was read
	}
	return errors.Is(err, fs.ErrPermission)
}

// unwritten is the configuration of text.
func (r *initRequest) unwritten(text string) (*config.Config, error) {
	folder, err := os.MkdirTemp("", "parlor-init-*")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(folder, "parlor.yaml")
	var cfg *config.Config
	err = os.WriteFile(file, []byte(text), 0o600)
	if err == nil {
		if cfg, _, err = config.Load(config.Sources{File: file, Environ: r.environ}); err != nil {
			err = fmt.Errorf("such a configuration cannot be used:\n%s", strings.ReplaceAll(err.Error(), file+":", "line "))
		}
	}
	return cfg, errors.Join(err, os.RemoveAll(folder))
}

// inviteHost makes the database, with an invitation for the first host. If there is a
// database, or might be one on a replica, the running server makes invitations.
func (r *initRequest) inviteHost(ctx context.Context, cfg *config.Config) error {
	switch {
	case r.invite == "" || r.proxy: // a proxy's address is not known
		return nil
	case !cfg.Invitations || cfg.Database != r.database || cfg.Replica != "":
		return nil // the file that was there, or the environment, says otherwise
	}
	path := filepath.Join(r.root, r.database)
	if r.root == "" {
		path = r.database
	}
	for _, part := range []string{path, path + "-wal"} {
		if _, err := os.Lstat(part); err == nil {
			return r.keep(part)
		}
	}
	what := fmt.Sprintf("%s (mode 0600), with an invitation for a host of %s", path, printable(r.invite, lineWidth))
	if r.dryRun {
		return r.say("", "make", what)
	}
	// It is made in a folder of this user's, and copied without following links, because
	// the folder of an installed server belongs to its user.
	folder, err := os.MkdirTemp("", "parlor-init-*")
	if err != nil {
		return err
	}
	err = r.firstDatabase(ctx, cfg, filepath.Join(folder, "parlor.db"), path)
	if err = errors.Join(err, os.RemoveAll(folder)); err != nil {
		r.link = ""
		return err
	}
	return r.say("made", "", what)
}

// invitedFor is how long the first invitation can be used.
const invitedFor = 24 * time.Hour

// firstDatabase makes a database with an invitation at temp, and copies it to path.
func (r *initRequest) firstDatabase(ctx context.Context, cfg *config.Config, temp, path string) (err error) {
	store, err := sqlite.Open(ctx, sqlite.Config{Path: temp})
	if err != nil {
		return err
	}
	i := rooms.Invitation{
		ID: guid.New("IN_"), RoomName: r.invite, Role: rooms.RoleHost, APIKey: firstKey(cfg),
		CreatedMs: rooms.NowMs(time.Now()), ExpiresMs: rooms.NowMs(time.Now().Add(invitedFor)),
	}
	secret := i.NewSecret()
	if err := errors.Join(store.AddInvitation(ctx, i, 1), store.Close(ctx)); err != nil {
		return err
	}
	whole := temp + ".copy" // one file, without a log beside it
	if _, err := sqlite.BackUp(ctx, temp, whole); err != nil {
		return err
	}
	in, err := os.Open(whole)
	if err != nil {
		return err
	}
	defer in.Close()
	page, _ := r.page(cfg)
	r.link = api.InvitationLink(page, secret)
	return create(path, in, 0o600, r.give)
}

// say reports what was done; with --dry-run, what would be done.
func (r *initRequest) say(did, would, what string) error {
	verb := did
	if r.dryRun {
		verb = "would " + would
	}
	_, err := fmt.Fprintf(r.out, "%s %s\n", verb, what)
	return err
}

func (r *initRequest) keep(path string) error {
	unchanged := ""
	if path == r.file() {
		unchanged = ", and flags change nothing in it"
	}
	_, err := fmt.Fprintf(r.out, "kept %s, which is there%s\n", path, unchanged)
	return err
}

// write writes a file that does not exist.
func (r *initRequest) write(path, text string, mode fs.FileMode) error {
	return r.writeFor(path, text, mode, func(*os.File) error { return nil })
}

// writeFor is write for a file that give hands to its owner before it gets its mode.
func (r *initRequest) writeFor(path, text string, mode fs.FileMode, give func(*os.File) error) error {
	what := fmt.Sprintf("%s (mode %#o)", path, mode)
	if _, err := os.Lstat(path); err == nil {
		return r.keep(path)
	}
	if r.dryRun {
		return r.say("", "write", what)
	}
	if r.root != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
	}
	if err := create(path, strings.NewReader(text), mode, give); err != nil {
		return err
	}
	return r.say("wrote", "", what)
}

// create makes a file with that mode and in's content. The file must not exist.
func create(path string, in io.Reader, mode fs.FileMode, give func(*os.File) error) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	err = errors.Join(err, give(f), f.Chmod(mode), f.Sync(), f.Close()) // Chmod sets the mode whatever the umask
	if err != nil {
		return errors.Join(err, os.Remove(path)) // a half-written file would be kept the next time
	}
	return nil
}

// makeFolder makes a folder that belongs to the server's user.
func (r *initRequest) makeFolder(path string) error {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return r.keep(path)
	}
	if r.dryRun {
		return r.say("", "make", path+" (mode 0750)")
	}
	if err := os.MkdirAll(path, 0o750); err != nil {
		return err
	}
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := errors.Join(r.give(folder), folder.Close()); err != nil {
		return err
	}
	return r.say("made", "", path+" (mode 0750)")
}

// give makes the server's user the owner of f. It uses the descriptor and not the name,
// because the server's user might have put a link in place of the name.
func (r *initRequest) give(f *os.File) error {
	if !r.install || r.root != "" {
		return nil // it stays this user's, or there is no server's user yet
	}
	u, err := user.Lookup(serverUser)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return f.Chown(uid, gid)
}

// makeUser makes the server's user. In another root, systemd makes it when that system
// starts.
func (r *initRequest) makeUser(ctx context.Context) error {
	if r.root != "" {
		if err := r.write(filepath.Join(r.root, usersFile), "u "+serverUser+" - \"Parlor\" "+installedState+"\n", 0o644); err != nil {
			return err
		}
		return r.write(filepath.Join(r.root, ownersFile), owners, 0o644)
	}
	if _, err := user.Lookup(serverUser); err == nil {
		return r.keep("the user " + serverUser)
	}
	what := "the user " + serverUser
	if r.dryRun {
		return r.say("", "make", what)
	}
	out, err := exec.CommandContext(ctx, "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", installedState,
		"--shell", "/usr/sbin/nologin", serverUser).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the user %s: %w: %s", serverUser, err, strings.TrimSpace(string(out)))
	}
	return r.say("made", "", what)
}

// installUnit makes the unit and the program that it starts, unless a package has brought
// both.
func (r *initRequest) installUnit() error {
	packaged := filepath.Join(r.root, packageUnit)
	if _, err := os.Lstat(packaged); err == nil {
		return r.keep(packaged)
	}
	if err := r.installProgram(); err != nil {
		return err
	}
	return r.write(filepath.Join(r.root, unitFile), unit, 0o644)
}

// installProgram copies this program to the path in the unit.
func (r *initRequest) installProgram() error {
	to := filepath.Join(r.root, installedPath)
	if _, err := os.Lstat(to); err == nil {
		return r.keep(to)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if r.dryRun {
		return r.say("", "copy", self+" to "+to)
	}
	in, err := os.Open(self)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := create(to, in, 0o755, func(*os.File) error { return nil }); err != nil {
		return err
	}
	return r.say("copied", "", self+" to "+to)
}

// page is the page's address, and what a person should know about it.
func (r *initRequest) page(cfg *config.Config) (url, note string) {
	if url := pageOf(cfg); url != "" {
		return url, ""
	}
	host, scheme := "localhost", "http"
	if name, err := os.Hostname(); err == nil {
		host = name
	}
	if cfg.RTC.NodeIP.V4.IsValid() {
		host = cfg.RTC.NodeIP.V4.String()
	}
	if cfg.SpeaksTLS() {
		scheme = "https"
	}
	url = fmt.Sprintf("%s://%s/", scheme, net.JoinHostPort(host, strconv.Itoa(cfg.Port)))
	switch {
	case onlyLoopback(cfg.BindAddresses):
		return fmt.Sprintf("http://127.0.0.1:%d/", cfg.Port), "for your proxy, by whose address people reach it"
	case !cfg.SpeaksTLS():
		return url, "browsers give camera and microphone to HTTPS alone: see README"
	}
	return url, ""
}

// next tells the operator what is left to do.
func (r *initRequest) next(cfg *config.Config) (err error) {
	if r.dryRun {
		return nil
	}
	line := func(name, value, note string) {
		if note != "" {
			note = "  (" + note + ")"
		}
		if err == nil {
			_, err = fmt.Fprintf(r.out, "  %-11s %s%s\n", name, value, note)
		}
	}
	from := " --config " + r.file()
	start := "parlor" + from
	if r.install {
		from, start = "", "systemctl daemon-reload && systemctl enable --now parlor"
		if r.socket {
			start = "systemctl daemon-reload && systemctl enable --now parlor.socket parlor"
		}
	}
	open := portsOf(cfg)
	if onlyLoopback(cfg.BindAddresses) {
		open += ", and what your proxy needs"
	}
	page, note := r.page(cfg)
	_, err = fmt.Fprintln(r.out)
	line("page", page, note)
	switch {
	case r.link != "":
		line("invitation", r.link, "for a host of "+printable(r.invite, lineWidth)+", for a day; it is shown this once")
	case cfg.Invitations && onlyLoopback(cfg.BindAddresses):
		line("invitation", "parlor invite ROOM --host --url https://NAME"+from, "when server and proxy run")
	case cfg.Invitations:
		line("invitation", "parlor invite ROOM --host"+from, "when the server runs")
	}
	line("API key", firstKey(cfg)+", whose secret is in "+r.file(), "")
	line("firewall", "open "+open, "")
	line("start", start, "")
	line("check", "parlor check"+from, "")
	return err
}
