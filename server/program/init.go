package program

import (
	"bufio"
	"context"
	"errors"
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

	"go.yaml.in/yaml/v3"

	"parlor/server/config"
)

const initUsage = `Write a configuration with a new API key and secret, and with --install all that a server
on this machine needs: its user, its folders, the program and the unit of systemd. What is
there already stays as it is.

  parlor init                         parlor.yaml in this folder
  sudo parlor init --install
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
)

// unit is the systemd service. Its watchdog is patient, because a stalled disk holds up
// the writer and must not end calls.
const unit = `[Unit]
Description=Parlor, a WebRTC conference server
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart=` + installedPath + ` --config ` + installedConfig + `
ExecReload=/bin/kill -HUP $MAINPID
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

// initRequest holds the command line's flags.
type initRequest struct {
	config          string
	port            int
	nodeIP, replica string
	certFile, key   string
	proxy, install  bool
	socket, dryRun  bool
	root            string
	out             io.Writer
}

// initialise writes what a new server needs.
func initialise(ctx context.Context, env Environment) error {
	r := initRequest{out: env.Out}
	f := newFlags("parlor init", initUsage, "")
	f.StringVar(&r.config, "config", "", "configuration `file` to write (parlor.yaml; "+installedConfig+" with --install)")
	f.IntVar(&r.port, "port", 7880, "TCP `port` of HTTP and WebSocket (7880)")
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
	if wrong := r.wrong(); wrong != "" {
		fmt.Fprintf(env.Err, "%s; see parlor init --help\n", wrong)
		return errUsage
	}
	if r.install && r.root == "" && !r.dryRun && os.Geteuid() != 0 {
		return errors.New("--install is for root: it makes a user, and writes into /etc and /usr/local")
	}
	if err := r.do(ctx); err != nil {
		return err
	}
	return r.next(env)
}

// wrong returns what is wrong with the flags; "" if nothing is.
func (r *initRequest) wrong() string {
	_, err := netip.ParseAddr(r.nodeIP)
	switch {
	case r.port < 1 || r.port > 65535:
		return "--port must be from 1 to 65535"
	case r.nodeIP != "" && err != nil:
		return "--node-ip must be an IP address"
	case (r.certFile == "") != (r.key == ""):
		return "--cert-file and --key-file belong together"
	case r.proxy && r.certFile != "":
		return "--proxy is for a server without a certificate of its own"
	case !r.install && (r.socket || r.root != ""):
		return "--socket and --root are for --install"
	case r.install && r.config != "":
		return "--install writes " + installedConfig
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
	port, err := question("TCP port of HTTP and WebSocket [7880]:")
	if err != nil {
		return err
	}
	if port != "" {
		if r.port, err = strconv.Atoi(port); err != nil {
			return fmt.Errorf("%q is not a port", port)
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

// do makes everything that is missing.
func (r *initRequest) do(ctx context.Context) error {
	text, err := r.configuration()
	if err != nil {
		return err
	}
	if !r.install {
		return r.write(r.file(), text, 0o600)
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
	if err := r.installProgram(); err != nil {
		return err
	}
	if err := r.write(filepath.Join(r.root, unitFile), unit, 0o644); err != nil {
		return err
	}
	if !r.socket {
		return nil
	}
	listen := strconv.Itoa(r.port)
	if r.proxy {
		listen = net.JoinHostPort("127.0.0.1", listen)
	}
	return r.write(filepath.Join(r.root, socketFile), fmt.Sprintf(socketUnit, listen), 0o644)
}

// configuration is a new parlor.yaml.
func (r *initRequest) configuration() (string, error) {
	key, secret := config.NewKey()
	database := "parlor.db"
	if r.install {
		database = filepath.Join(installedState, "parlor.db")
	}
	type section = map[string]any
	rtc := section{"udp_port": config.DefaultUDPPort, "tcp_port": 7881}
	all := section{
		"port": r.port, "database": database, "rtc": rtc,
		"keys": section{key: secret},
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
	text, err := yaml.Marshal(all)
	return "# The configuration of Parlor. Its README lists every key. Only the server may read this:\n# the secret makes tokens for every room.\n" + string(text), err
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
	_, err := fmt.Fprintf(r.out, "kept %s, which is there\n", path)
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
	if r.root != "" || r.dryRun {
		return nil // there is no user
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
		return r.write(filepath.Join(r.root, usersFile), "u "+serverUser+" - \"Parlor\" "+installedState+"\n", 0o644)
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

// next tells the operator what is left to do.
func (r *initRequest) next(env Environment) error {
	if r.dryRun {
		return nil
	}
	cfg, _, err := config.Load(config.Sources{File: r.file(), Environ: env.Environ})
	if err != nil {
		return fmt.Errorf("the configuration cannot be used:\n%w", err)
	}
	host := "localhost"
	if name, err := os.Hostname(); err == nil {
		host = name
	}
	if cfg.RTC.NodeIP.V4.IsValid() {
		host = cfg.RTC.NodeIP.V4.String()
	}
	scheme, open := "http", portsOf(cfg)
	if cfg.TLS.CertFile != "" {
		scheme = "https"
	}
	page := fmt.Sprintf("%s://%s/", scheme, net.JoinHostPort(host, strconv.Itoa(cfg.Port)))
	switch {
	case onlyLoopback(cfg.BindAddresses):
		page = fmt.Sprintf("behind your proxy, which hands on to http://127.0.0.1:%d/", cfg.Port)
		open += ", and what your proxy needs"
	case cfg.TLS.CertFile == "":
		page += "  (browsers give camera and microphone to HTTPS alone: see README)"
	}
	start := "parlor --config " + r.file()
	check := "parlor check --config " + r.file()
	if r.install {
		start, check = "systemctl daemon-reload && systemctl enable --now parlor", "parlor check"
		if r.socket {
			start = "systemctl daemon-reload && systemctl enable --now parlor.socket parlor"
		}
	}
	_, err = fmt.Fprintf(r.out, "\n  page      %s\n  API key   %s, whose secret is in %s\n  firewall  open %s\n  start     %s\n  check     %s\n",
		page, firstKey(cfg), r.file(), open, start, check)
	return err
}
