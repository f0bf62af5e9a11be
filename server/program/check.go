package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"parlor/rooms/replica"
	"parlor/rooms/sqlite"
	"parlor/server/acme"
	"parlor/server/api"
	"parlor/server/config"
)

const checkUsage = `Look whether the configuration and this machine are fit for the server: its keys, ports,
names, certificate, disk, limits and replica. If the server runs it looks itself. The exit
status is 1 if something failed, and 0 if there are warnings alone.

  parlor check
  parlor check --local      only whether the server takes work, for a container's health
  parlor check --from URL   and whether its ports are reached from outside

PARLOR_CHECK_FROM may have the URL in place of --from, whose secret all users of this
machine can see in the list of its processes.

`

const (
	// checkTime is how long the checks may take.
	checkTime = 10 * time.Second
	// healthTime is how long the server may take to answer /readyz.
	healthTime = 5 * time.Second
)

// errChecks: the table shows what failed.
var errChecks = errors.New("this machine or its configuration is not fit: see what failed above")

// check checks the configuration and the machine.
func check(ctx context.Context, env Environment) error {
	var c clientFlags
	var local bool
	var from string
	f := newFlags("parlor check", checkUsage, clientUsage)
	f.BoolVar(&local, "local", false, "ask /readyz of the server on this machine, and nothing else")
	f.StringVar(&from, "from", "", "`URL` of a Parlor on another machine, https://KEY:SECRET@host, that is to try this machine's ports")
	c.register(f)
	if err := parse(f, env); err != nil {
		return err
	}
	if local {
		return c.checkHealth(ctx, env)
	}
	found := c.checkAll(ctx, env)
	if from == "" {
		from = config.CheckFrom(env.Environ)
	}
	if from != "" {
		found = append(found, c.checkFrom(ctx, env, from)...)
	}
	out := api.Checks{State: api.Worst(found), Checks: found}
	err := printChecks(env.Out, out, c.json)
	if err == nil && out.State == api.CheckFailed {
		err = errChecks
	}
	return err
}

// checkHealth asks the server whether it takes work.
func (c *clientFlags) checkHealth(ctx context.Context, env Environment) error {
	server, err := c.connect(env)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.base+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := server.http.Do(req)
	if err != nil {
		return server.unreached(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return server.unreached(err)
	}
	answer := printable(strings.TrimSpace(string(body)), 4*lineWidth)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server takes no work: %s", answer)
	}
	_, err = fmt.Fprintln(env.Out, answer)
	return err
}

// checkAll checks the configuration here, and everything else inside the server if it
// runs.
func (c *clientFlags) checkAll(ctx context.Context, env Environment) []api.Check {
	sources := c.sources(env)
	if sources.Empty() {
		return []api.Check{rowFailed("configuration", "there is none", "name it with --config or PARLOR_CONFIG, or write one with parlor init")}
	}
	cfg, warnings, err := config.Load(sources)
	if err != nil {
		return []api.Check{rowFailed("configuration", err.Error(), "mend it: the server does not start with it")}
	}
	all := checkConfiguration(warnings)
	look := &inspection{cfg: cfg}
	server, err := c.connect(env)
	listens := false // something has the server's port
	if err == nil {
		listens = answersTCP(ctx, server.base)
		var answer api.Checks
		_, err = server.get(ctx, "/status/check", nil, &answer)
		if err == nil {
			return append(append(all, rowOK("server", "it runs at "+server.base)), answer.Checks...)
		}
	}
	p, isProblem := errors.AsType[*problemAnswer](err)
	switch {
	case isProblem:
		look.running = true
		all = append(all, rowWarning("server", "it runs, and cannot be asked: "+p.Error(),
			"see whether it runs with this configuration and is of this version: what follows is seen from outside of it"))
	// Only where something has the port: a server that starts at this moment would find its
	// lock taken.
	case listens && sqlite.InUse(cfg.Database):
		look.running = true
		all = append(all, rowWarning("server", "it runs, and cannot be asked: "+err.Error(),
			"see its log; without a certificate it cannot answer over TLS: what follows is seen from outside of it"))
	default:
		all = append(all, rowOK("server", err.Error()))
	}
	return append(all, look.checks(ctx)...)
}

// answersTCP reports whether something accepts connections at an address.
func answersTCP(ctx context.Context, base string) bool {
	u, err := url.Parse(base)
	if err != nil {
		return false
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent on it
	return true
}

// inspection is the subject of the checks.
type inspection struct {
	cfg     *config.Config
	running bool     // a server has the ports
	server  *program // the server that runs in this process; nil = none
}

// checks does all checks at the same time. A check that gets no answer in time has
// failed.
func (i *inspection) checks(ctx context.Context) []api.Check {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	each := []func(context.Context) []api.Check{
		i.checkKeys, i.checkPortsAndMapping, i.checkCertificate, i.checkNames, i.checkDisk, i.checkReplica, i.checkAuthorityClock, checkLimits,
	}
	found := make([][]api.Check, len(each))
	var looking sync.WaitGroup
	for at, look := range each {
		looking.Go(func() { found[at] = look(ctx) })
	}
	looking.Wait()
	return slices.Concat(found...)
}

// checkPortsAndMapping does these one after the other, as both may bind the ports.
func (i *inspection) checkPortsAndMapping(ctx context.Context) []api.Check {
	return append(i.checkPorts(ctx), i.checkMapping(ctx)...)
}

func rowOK(what, found string) api.Check {
	return api.Check{What: what, State: api.CheckOK, Found: found}
}

func rowWarning(what, found, do string) api.Check {
	return api.Check{What: what, State: api.CheckWarning, Found: found, Do: do}
}

func rowFailed(what, found, do string) api.Check {
	return api.Check{What: what, State: api.CheckFailed, Found: found, Do: do}
}

// printChecks prints a row for each check, and below it what to do.
func printChecks(w io.Writer, all api.Checks, asJSON bool) error {
	if asJSON {
		return writeJSONValue(w, all)
	}
	for _, c := range all.Checks {
		for at, line := range strings.Split(c.Found, "\n") {
			head := strings.Repeat(" ", 28)
			if at == 0 {
				head = fmt.Sprintf("%-8s %-18s ", c.State, printable(c.What, cellWidth))
			}
			if _, err := fmt.Fprintln(w, head+printable(line, 8*lineWidth)); err != nil {
				return err
			}
		}
		if c.Do != "" {
			if _, err := fmt.Fprintf(w, "%28s→ %s\n", "", printable(c.Do, 8*lineWidth)); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkConfiguration reports the warnings about the configuration.
func checkConfiguration(warnings []string) []api.Check {
	if len(warnings) == 0 {
		return []api.Check{rowOK("configuration", "it has no faults")}
	}
	var all []api.Check
	for _, w := range warnings {
		all = append(all, rowWarning("configuration", w, "change it if this is not what you mean"))
	}
	return all
}

// exampleSecret is the secret of the README, which everybody knows.
const exampleSecret = "a-secret-of-at-least-32-characters"

// checkKeys checks how hard the secrets are to guess. It shows none of them.
func (i *inspection) checkKeys(context.Context) []api.Check {
	return []api.Check{judgeKeys(i.cfg)}
}

func judgeKeys(cfg *config.Config) api.Check {
	const do = "make a new one: openssl rand -base64 32"
	var known, weak []string
	for name, secret := range cfg.Keys {
		different := map[rune]bool{}
		for _, r := range secret {
			different[r] = true
		}
		switch {
		case secret == exampleSecret:
			known = append(known, name)
		case !cfg.Development && (len(secret) < 32 || len(different) < 10):
			weak = append(weak, name)
		}
	}
	slices.Sort(known)
	slices.Sort(weak)
	switch {
	case len(known) > 0:
		return rowFailed("keys", "everybody knows the secret of "+strings.Join(known, ", ")+": it is the README's", do)
	case cfg.Development && !onlyLoopback(cfg.BindAddresses):
		return rowFailed("keys", "everybody knows the keys of development, and the server is open to the network", "run it without --dev")
	case cfg.Development:
		return rowWarning("keys", "everybody knows the keys of development", "run it without --dev where others can reach it")
	case len(weak) > 0:
		return rowWarning("keys", "the secret of "+strings.Join(weak, ", ")+" is short or repeats itself", do)
	}
	return rowOK("keys", count(int64(len(cfg.Keys)), "key")+", of 32 characters or more")
}

func onlyLoopback(hosts []string) bool {
	return len(hosts) > 0 && !slices.ContainsFunc(hosts, func(host string) bool {
		ip := net.ParseIP(host)
		return ip == nil || !ip.IsLoopback()
	})
}

// checkPorts checks whether the ports are free, or reports that the server has them.
func (i *inspection) checkPorts(ctx context.Context) []api.Check {
	const what = "ports"
	if i.server != nil {
		return []api.Check{rowOK(what, "the server has them: "+strings.Join(addressesOf(i.server.listeners), " ")+", media on "+i.server.mediaAddresses())}
	}
	if i.running {
		return []api.Check{rowOK(what, "a server has them")}
	}
	p := &program{cfg: i.cfg, log: discard()}
	var taken []error
	try := func(hosts []string, port int, setting string) {
		all, err := listenOn(ctx, hosts, port)
		for _, l := range all {
			_ = l.Close() // nothing was accepted on it
		}
		if err != nil {
			taken = append(taken, portHint(err, setting))
		}
	}
	hosts, mediaHosts := p.present(i.cfg.BindAddresses), p.present(i.cfg.RTC.BindAddresses)
	try(hosts, i.cfg.Port, "--port")
	if i.cfg.Prometheus.Port != 0 {
		try(hosts, i.cfg.Prometheus.Port, "prometheus.port")
	}
	if i.cfg.Admin && i.cfg.AdminPort != 0 {
		try(hosts, i.cfg.AdminPort, "admin_port")
	}
	if i.cfg.DebugHandler.Port != 0 {
		try(p.existing(loopback), i.cfg.DebugHandler.Port, "debug_handler.port")
	}
	if i.cfg.RTC.TCPPort != 0 {
		try(mediaHosts, i.cfg.RTC.TCPPort, "--tcp-port")
	}
	if i.cfg.TURN.Enabled && i.cfg.TURN.TLSPort != 0 {
		try(mediaHosts, i.cfg.TURN.TLSPort, "turn.tls_port")
	}
	if i.cfg.TLS.HTTPPort != 0 {
		try(hosts, i.cfg.TLS.HTTPPort, "tls.http_port")
	}
	udp := slices.Clone(i.cfg.RTC.UDPPorts())
	if i.cfg.TURN.Enabled && i.cfg.TURN.UDPPort > 0 && !slices.Contains(udp, i.cfg.TURN.UDPPort) {
		udp = append(udp, i.cfg.TURN.UDPPort)
	}
	for _, port := range udp {
		if err := tryUDP(ctx, mediaHosts, port); err != nil {
			taken = append(taken, portHint(err, "--udp-port"))
		}
	}
	if len(taken) > 0 {
		return []api.Check{rowFailed(what, errors.Join(taken...).Error(), "free them, or change them")}
	}
	return []api.Check{rowOK(what, "they are free; open them in the firewall: "+portsOf(i.cfg))}
}

// tryUDP binds a UDP port on each host, and closes it again.
func tryUDP(ctx context.Context, hosts []string, port int) error {
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	for _, host := range hosts {
		c, err := new(net.ListenConfig).ListenPacket(ctx, "udp", net.JoinHostPort(host, fmt.Sprint(port)))
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		_ = c.Close() // nothing was sent on it
	}
	return nil
}

// openPort is a port, or a range of them, that clients on other machines need.
type openPort struct {
	protocol    string // TCP or UDP
	first, last int
	uses        []string
}

func (p *openPort) String() string {
	text := fmt.Sprintf("%s %d", p.protocol, p.first)
	if p.last != p.first {
		text += fmt.Sprintf("-%d", p.last)
	}
	return text
}

// openPorts are the ports that a firewall must open, in the order of their first use,
// without those for this machine alone.
func openPorts(cfg *config.Config) (all []openPort) {
	open := func(protocol string, first, last int, use string) {
		at := slices.IndexFunc(all, func(p openPort) bool { return p.protocol == protocol && p.first <= first && last <= p.last })
		switch {
		case first == 0:
		case at >= 0:
			all[at].uses = append(all[at].uses, use)
		default:
			all = append(all, openPort{protocol, first, last, []string{use}})
		}
	}
	tcp := func(port int, use string) { open("TCP", port, port, use) }
	if !onlyLoopback(cfg.BindAddresses) {
		tcp(cfg.Port, "HTTP")
		tcp(cfg.TLS.HTTPPort, "to HTTPS")
	}
	if onlyLoopback(cfg.RTC.BindAddresses) {
		return all
	}
	tcp(cfg.RTC.TCPPort, "media")
	udp := cfg.RTC.UDPPorts()
	open("UDP", udp[0], udp[len(udp)-1], "media")
	if cfg.TURN.Enabled {
		tcp(cfg.TURN.TLSPort, "TURN")
		open("UDP", cfg.TURN.UDPPort, cfg.TURN.UDPPort, "TURN")
	}
	return all
}

// portsOf lists the ports that a firewall must open.
func portsOf(cfg *config.Config) string {
	var ports []string
	for _, p := range openPorts(cfg) {
		ports = append(ports, fmt.Sprintf("%v (%s)", &p, strings.Join(p.uses, ", ")))
	}
	if onlyLoopback(cfg.RTC.BindAddresses) {
		ports = append(ports, "none for media")
	}
	return strings.Join(ports, ", ")
}

// certificateSoon is how long before its end a certificate should have been renewed.
const certificateSoon = 14 * 24 * time.Hour

// checkCertificate checks how long the certificate is valid.
func (i *inspection) checkCertificate(ctx context.Context) []api.Check {
	const what = "certificate"
	switch {
	case i.cfg.TLS.CertFile != "":
	case i.cfg.Domain != "":
		return []api.Check{i.checkAuthority(ctx, what)}
	case i.cfg.TLS.SelfSigned:
		return []api.Check{rowWarning(what, "the server signs it itself", "have people compare its fingerprint, or set domain: browsers warn of it")}
	default:
		if i.cfg.Development || onlyLoopback(i.cfg.BindAddresses) {
			return []api.Check{rowOK(what, "none: the server is for this machine, or for a proxy on it")}
		}
		return []api.Check{rowWarning(what, "none, and browsers give a page camera and microphone over HTTPS alone",
			"set tls.cert_file and tls.key_file, or put a proxy in front that speaks HTTPS")}
	}
	if _, err := newCertificate(i.cfg.TLS.CertFile, i.cfg.TLS.KeyFile, discard()); err != nil {
		return []api.Check{rowFailed(what, err.Error(), "mend tls.cert_file and tls.key_file: the server does not start with them")}
	}
	leaf, err := readCertificate(i.cfg.TLS.CertFile)
	if err != nil {
		return []api.Check{rowFailed(what, err.Error(), "mend tls.cert_file")}
	}
	return []api.Check{judgeCertificate(what, strings.Join(leaf.DNSNames, ", "), leaf.NotBefore, leaf.NotAfter, time.Now())}
}

// checkAuthority checks the certificate that the server got by ACME.
func (i *inspection) checkAuthority(ctx context.Context, what string) api.Check {
	names := acmeNames(i.cfg)
	until, err := acme.Kept(ctx, certificatesOf(i.cfg), names)
	if err != nil {
		return rowWarning(what, err.Error(), "start the server, which asks the certificate authority, and see what its log says; only its own user can read what it has")
	}
	return judgeCertificate(what, strings.Join(names, ", "), time.Time{}, until, time.Now())
}

func judgeCertificate(what, names string, from, until, now time.Time) api.Check {
	left := until.Sub(now)
	text := fmt.Sprintf("for %s, until %s, %s from now", names, until.Local().Format("2006-01-02 15:04"), count(int64(left.Hours()/24), "day"))
	switch {
	case now.Before(from):
		return rowFailed(what, fmt.Sprintf("for %s, and not valid before %s", names, from.Local().Format("2006-01-02 15:04")), "set this machine's clock, or get another certificate")
	case left <= 0:
		return rowFailed(what, fmt.Sprintf("for %s, and not valid any more since %s", names, until.Local().Format("2006-01-02 15:04")), "renew it; the server reads the new files by itself")
	case left < certificateSoon:
		return rowWarning(what, text, "renew it; the server reads the new files by itself")
	}
	return rowOK(what, text)
}

// checkReplica checks the replica, and compares its clock with this machine's.
func (i *inspection) checkReplica(ctx context.Context) []api.Check {
	const what = "replica"
	if i.cfg.Replica == "" {
		return []api.Check{rowOK(what, "none: what this machine's disk loses is lost")}
	}
	s, err := replica.Look(ctx, i.cfg.Replica)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []api.Check{rowWarning(what, "there is nothing there yet: "+err.Error(), "see whether the path is right; the first start makes it")}
	case err != nil:
		return []api.Check{rowFailed(what, "it cannot be reached: "+err.Error(), "mend the URL, the credentials or the network: without it nothing is written after half a minute")}
	}
	all := []api.Check{i.judgeLease(&s, time.Now())}
	if s.Clocked {
		all = append(all, judgeClock(s.Ahead, "the replica"))
	}
	return all
}

// judgeLease reports the holder of the replica's lease.
func (i *inspection) judgeLease(s *replica.Sight, now time.Time) api.Check {
	const what = "replica"
	reached := fmt.Sprintf("it answers; its newest generation is %d", s.Generation)
	switch {
	case i.server != nil && i.server.replica != nil:
		if err := i.server.replica.Check(); err != nil {
			return rowFailed(what, "the lease is not sure: "+err.Error(), "see replication in parlor status")
		}
		if ails := i.server.ails(); ails != "" {
			return rowWarning(what, ails, "see replication in parlor status")
		}
		return rowOK(what, fmt.Sprintf("%s; this server has the lease, with epoch %d", reached, s.Epoch))
	case s.Owner == "" || s.Expires.Before(now):
		return rowOK(what, reached+"; nobody has the lease")
	}
	return rowWarning(what, fmt.Sprintf("%s; %s has the lease, until %s", reached, s.Owner, s.Expires.Local().Format("15:04:05")),
		"if that is another machine, stop the server there before this one starts")
}

// clockSlack is how far a clock may be off. Tokens have a leeway of a minute, and the
// lease lasts half a minute.
const clockSlack = 5 * time.Second

func judgeClock(ahead time.Duration, other string) api.Check {
	const what = "clock"
	const do = "set it by NTP: tokens, certificates and the lease depend on it"
	switch {
	case ahead.Abs() < clockSlack:
		return rowOK(what, "it agrees with that of "+other+" within seconds")
	case ahead > 0:
		return rowFailed(what, fmt.Sprintf("it is %s ahead of that of %s", ahead.Round(time.Second), other), do)
	}
	return rowFailed(what, fmt.Sprintf("it is %s behind that of %s", -ahead.Round(time.Second), other), do)
}

// Bounds for warnings about the disk, and for failure.
const (
	littleDisk   = 1 << 30
	hardlyDisk   = 100 << 20
	slowSync     = 50 * time.Millisecond
	syncsToCheck = 9
)

// checkDisk checks the free space for the database, and how long its writes take.
func (i *inspection) checkDisk(context.Context) []api.Check {
	folder := filepath.Dir(i.cfg.Database)
	if fi, err := os.Stat(folder); err != nil || !fi.IsDir() {
		return []api.Check{rowFailed("disk", "there is no folder "+folder+" for the database", "make it, for the server's user to write, or mend database in the configuration")}
	}
	var all []api.Check
	if free, err := freeBytes(folder); err != nil {
		all = append(all, rowWarning("disk", "its room cannot be told: "+err.Error(), "look with df"))
	} else {
		all = append(all, judgeRoom(free))
	}
	took, err := syncTime(folder)
	if err != nil {
		return append(all, rowFailed("disk writes", err.Error(), "let the server's user write into "+folder+"; run this check as that user"))
	}
	return append(all, judgeSync(took))
}

func judgeRoom(free int64) api.Check {
	text := bytesOf(free) + " free for the database"
	switch {
	case free < hardlyDisk:
		return rowFailed("disk", text, "make room: a full disk refuses joins")
	case free < littleDisk:
		return rowWarning("disk", text, "make room: an upgrade keeps a copy of the database, too")
	}
	return rowOK("disk", text)
}

func judgeSync(took time.Duration) api.Check {
	text := fmt.Sprintf("a write is on disk after %.1f ms", float64(took.Microseconds())/1000)
	if took > slowSync {
		return rowWarning("disk writes", text, "put the database on a faster disk: each join waits for it")
	}
	return rowOK("disk writes", text)
}

// syncTime is the median time until a write into the folder is on disk.
func syncTime(folder string) (_ time.Duration, err error) {
	f, err := os.CreateTemp(folder, ".parlor-check-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	page := make([]byte, 4096)
	took := make([]time.Duration, syncsToCheck)
	for i := range took {
		began := time.Now()
		if _, err := f.Write(page); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
