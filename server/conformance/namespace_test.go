package conformance

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/livekit/protocol/livekit"
	"github.com/miekg/dns"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The addresses of a small Internet.
const (
	vmAddress        = "203.0.113.2"
	authorityAddress = "198.51.100.2"
	officeAddress    = "192.0.2.2"
	homeAddress      = "192.0.2.130" // the router's address
)

// letsEncrypt is the default authority of a server.
const letsEncrypt = "acme-v02.api.letsencrypt.org"

// TestFromNothingToACall: on a machine to which a name leads, and on which only the ports
// in the README are open, one command with that name makes a server over which two people
// hear each other. One is in a network that permits only TCP to port 443, the other is
// behind a NAT.
func TestFromNothingToACall(t *testing.T) {
	parlorOnly(t)
	switch os.Getenv(inNamespace) {
	case "":
		runInNamespace(t)
	case "internet":
		fromNothingToACall(t)
	case "authority":
		beAuthority(t)
	default:
		beCaller(t)
	}
}

// runInNamespace runs the calling test again in a process with its own network and mount
// namespaces. Without such namespaces or the ip command the test is skipped.
func runInNamespace(t *testing.T) {
	t.Helper()
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		return cmd
	}
	if out, err := command("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1").CombinedOutput(); err != nil {
		t.Logf("the call is not tried, since there is no namespace to be had: %v %s", err, out)
		return
	}
	cmd := command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=internet", "PARLOR_BINARY="+env.binary)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	t.Logf("%s", out)
}

// machine is a machine with its own network.
type machine struct {
	*testing.T
	name    string
	network int // descriptor of its network namespace
}

// newMachine makes a machine without connections.
func newMachine(t *testing.T, name string) *machine {
	m := &machine{T: t, name: name}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			m.network, err = unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		made <- err
	}()
	require.NoError(t, <-made)
	m.ip("link set lo up")
	return m
}

// on runs f on a thread in the machine's network. Processes that f starts are in it too.
func (m *machine) on(f func() error) {
	m.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(m.network, unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	require.NoError(m, <-done, m.name)
}

func (m *machine) ip(args string) {
	m.Helper()
	m.on(func() error { return ip(args) })
}

func ip(args string) error {
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}

// plug connects two machines, with the addresses of both ends. The first is the second's
// default route.
func plug(router *machine, routerAddress string, m *machine, address string, bits int) {
	m.ip(fmt.Sprintf("link add eth0 type veth peer name %s netns /proc/%d/fd/%d", m.name, os.Getpid(), router.network))
	router.ip(fmt.Sprintf("address add %s/%d dev %s", routerAddress, bits, m.name))
	router.ip("link set " + m.name + " up")
	m.ip(fmt.Sprintf("address add %s/%d dev eth0", address, bits))
	m.ip("link set eth0 up")
	m.ip("route add default via " + routerAddress)
}

// forward makes a machine a router.
func (m *machine) forward() {
	m.on(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
}

// masquerade makes a router hide the network behind it.
func (m *machine) masquerade() {
	m.on(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"})
		chain := c.AddChain(&nftables.Chain{Name: "out", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte("eth0"), make([]byte, 12)...)},
			&expr.Masq{},
		}})
		return c.Flush()
	})
}

// start runs a program on the machine, which ends with the test.
func (m *machine) start(dir string, output io.Writer, environ []string, name string, args ...string) {
	m.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
	cmd.Env = append(os.Environ(), environ...)
	stdin, err := cmd.StdinPipe()
	require.NoError(m, err)
	m.on(cmd.Start)
	m.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = stdin.Close()                       // ends a part
		_ = cmd.Wait()                          // its exit status says no more
	})
}

// part is another process of the test, with its output.
type part struct {
	*machine
	logBuffer
}

// be runs this test as another part on the machine. The part ends with the test.
func (m *machine) be(name string, environ ...string) *part {
	m.Helper()
	p := &part{machine: m}
	m.start("", p, append(environ, inNamespace+"="+name), os.Args[0], "-test.run=^"+m.Name()+"$", "-test.v")
	return p
}

// awaitLine waits until the part has printed a line that begins so.
func (p *part) awaitLine(begin string) (line string) {
	p.Helper()
	defer func() {
		if p.Failed() {
			p.Logf("%s said:\n%s", p.name, p.tail(40))
		}
	}()
	eventuallyWithin(p.T, 2*patience, p.name+" says "+begin, func() bool {
		for said := range strings.Lines(p.String()) {
			if strings.HasPrefix(said, begin) {
				line = strings.TrimSpace(said)
			}
		}
		return line != ""
	})
	return line
}

func fromNothingToACall(t *testing.T) {
	dir := t.TempDir()
	resolvers, trust := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "trust.pem")
	require.NoError(t, os.WriteFile(resolvers, []byte("nameserver "+authorityAddress+"\n"), 0o644))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	require.NoError(t, unix.Mount(resolvers, "/etc/resolv.conf", "", unix.MS_BIND, ""))

	internet, vm, ca := newMachine(t, "internet"), newMachine(t, "vm"), newMachine(t, "ca")
	office, router, home := newMachine(t, "office"), newMachine(t, "router"), newMachine(t, "home")
	internet.forward()
	plug(internet, "203.0.113.1", vm, vmAddress, 24)
	plug(internet, "198.51.100.1", ca, authorityAddress, 24)
	plug(internet, "192.0.2.1", office, officeAddress, 25)
	plug(internet, "192.0.2.129", router, homeAddress, 25)
	router.forward()
	router.masquerade()
	plug(router, "10.0.0.1", home, "10.0.0.2", 24)
	// The permitted packets. To the office: those of the name server, and TCP to port
	// 443. To the machine: the ports of the README, and answers.
	for at, rule := range []string{
		"iif office to " + authorityAddress + " ipproto udp dport 53 lookup main",
		"iif office ipproto tcp dport 443 lookup main",
		"iif office blackhole",
		"to " + vmAddress + " ipproto tcp dport 443 lookup main",
		"to " + vmAddress + " ipproto udp dport 443 lookup main",
		"to " + vmAddress + " ipproto tcp dport 80 lookup main",
		"from " + authorityAddress + " to " + vmAddress + " sport 443 lookup main",
		"from " + authorityAddress + " to " + vmAddress + " sport 53 lookup main",
		"from " + authorityAddress + " to " + vmAddress + " sport 7880-7882 lookup main", // another Parlor's answers
		"to " + vmAddress + " blackhole",
	} {
		internet.ip(fmt.Sprintf("rule add priority %d %s", 100+at, rule))
	}
	ca.be("authority", "TRUST="+trust).awaitLine("READY")

	folder := filepath.Join(dir, "vm")
	require.NoError(t, os.Mkdir(folder, 0o755))
	trusted := []string{"SSL_CERT_FILE=" + trust, "SSL_CERT_DIR=" + dir}
	server := &part{machine: vm}
	began := time.Now()
	vm.start(folder, server, trusted, env.binary, "--domain", domain) // the first command
	eventuallyWithin(t, 2*patience, "the server has a certificate", func() bool { return strings.Contains(server.String(), "a TLS certificate is in use") })
	served := time.Since(began)
	var files []string
	require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, folder+"/"))
		}
		return err
	}))

	// A Parlor elsewhere tells that the ports are open.
	elsewhere := filepath.Join(dir, "elsewhere")
	require.NoError(t, os.Mkdir(elsewhere, 0o755))
	other := &part{machine: ca}
	ca.start(elsewhere, other, nil, env.binary, "--dev", "--bind", authorityAddress)
	eventuallyWithin(t, 2*patience, "the other Parlor runs", func() bool { return strings.Contains(other.String(), "msg=serving") })
	var found, said bytes.Buffer
	cmd := exec.Command(env.binary, "check", "--domain", domain, "--from", "http://devkey:secret@"+authorityAddress+":7880")
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = folder, append(os.Environ(), trusted...), &found, &said
	var err error
	vm.on(func() error { err = cmd.Run(); return nil })
	require.NoError(t, err, "%s%s", &found, &said)
	for _, reached := range []string{"TCP 443 at " + vmAddress + ": it accepts connections", "TCP 80 at", "UDP 443 at " + vmAddress + ": it answers"} {
		require.Regexp(t, "(?m)^ok +from outside +"+reached, found.String(), said.String())
	}
	require.Regexp(t, "(?m)^ok +clock +it agrees with that of the certificate authority", found.String())
	require.Regexp(t, "(?m)^ok +DNS ", found.String())

	// This one tells the same of the other, which has no TURN: its media answers itself.
	keys, err := os.ReadFile(filepath.Join(folder, "keys.yaml"))
	require.NoError(t, err)
	key, secret, _ := strings.Cut(strings.TrimSpace(string(keys)), ": ")
	cmd = exec.Command(env.binary, "check", "--dev", "--from", "https://"+key+":"+secret+"@"+domain)
	found.Reset()
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = elsewhere, append(os.Environ(), append(trusted, "PARLOR_BIND_ADDRESSES="+authorityAddress)...), &found, &said
	ca.on(func() error { _ = cmd.Run(); return nil }) // its well-known key is a fault
	for _, reached := range []string{"TCP 7880", "TCP 7881", "UDP 7882"} {
		require.Regexp(t, "(?m)^ok +from outside +"+reached+" at "+authorityAddress, found.String(), said.String())
	}

	token := func(identity string) string { // a token for each caller
		var out, said bytes.Buffer
		cmd := exec.Command(env.binary, "token", "--domain", domain, "--room", "lobby", "--identity", identity)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = folder, append(os.Environ(), trusted...), &out, &said
		vm.on(cmd.Run)
		return strings.TrimSpace(out.String())
	}
	callers := []*part{
		office.be("ann", append(trusted, "TOKEN="+token("ann"), "OTHER=ben")...),
		home.be("ben", append(trusted, "TOKEN="+token("ben"), "OTHER=ann")...),
	}
	for _, c := range callers {
		t.Logf("%s: %s", c.name, c.awaitLine("HEARS"))
	}
	t.Logf("certificate after %v, both hear each other after %v; files that Parlor wrote: %v", served, time.Since(began), files)
	require.Contains(t, files, "keys.yaml")
	require.NoError(t, server.verdict())
}

// beAuthority is the name server and Let's Encrypt.
func beAuthority(t *testing.T) {
	l, err := net.Listen("tcp", authorityAddress+":53")
	require.NoError(t, err)
	pc, err := net.ListenPacket("udp", authorityAddress+":53")
	require.NoError(t, err)
	names := map[string]net.IP{domain: net.ParseIP(vmAddress).To4(), letsEncrypt: net.ParseIP(authorityAddress).To4()}
	answerNames(t, &dns.Server{Listener: l}, names)
	answerNames(t, &dns.Server{PacketConn: pc}, names)
	front, root := newPebble(t, 80, 443, authorityAddress+":53", quarter)
	cert, key := selfSigned(t, letsEncrypt)
	own, err := os.ReadFile(cert)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(os.Getenv("TRUST"), slices.Concat(own, root), 0o644))
	front443, err := net.Listen("tcp", authorityAddress+":443")
	require.NoError(t, err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/directory" {
			r.URL.Path = "/dir"
		}
		front.ServeHTTP(w, r)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.ServeTLS(front443, cert, key) }) // until it is closed
	defer func() { _ = s.Close(); serving.Wait() }()
	fmt.Println("\nREADY")
	_, _ = bufio.NewReader(os.Stdin).ReadString(0) // until the test ends
}

// beCaller is a caller with a stock client.
func beCaller(t *testing.T) {
	p := dual.joinAt(t, "wss://"+domain, os.Getenv("TOKEN"))
	p.publishMicrophone(t)
	voice := p.remote(t, os.Getenv("OTHER"), livekit.TrackSource_MICROPHONE)
	p.awaitMedia(t, voice.SID(), 20)
	var pair *webrtc.ICECandidatePair
	require.Eventually(t, func() bool { // it may hear before it has chosen the pair by which it speaks
		var err error
		pair, err = p.LocalParticipant.GetPublisherPeerConnection().SCTP().Transport().ICETransport().GetSelectedCandidatePair()
		return err == nil && pair != nil
	}, time.Minute, 10*time.Millisecond)
	fmt.Printf("\nHEARS %s by %v\n", os.Getenv("OTHER"), pair)
	if os.Getenv(inNamespace) == "ann" {
		require.True(t, pair.Local.Protocol == webrtc.ICEProtocolTCP || pair.Local.Typ == webrtc.ICECandidateTypeRelay, pair)
	}
	_, _ = bufio.NewReader(os.Stdin).ReadString(0) // until the test ends
}
