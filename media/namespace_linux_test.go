package media

import (
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// inNamespace runs the calling test again in a process with its own network namespace,
// and reports whether this is that process. Without such namespaces or the ip command the
// test is skipped: other tests follow addresses without the kernel.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const inside = "TEST_IN_NAMESPACE"
	if os.Getenv(inside) != "" {
		return true
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		return cmd
	}
	if out, err := command("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1").CombinedOutput(); err != nil {
		t.Logf("the kernel's part is not tested, since there is no namespace to be had: %v %s", err, out)
		return false
	}
	cmd := command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	return false
}

// The kernel's reports are handled: an address that comes, an interface that goes down,
// an address that goes.
func TestTheKernelsAddressesAreFollowed(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ip := func(args string) {
		out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		require.NoError(t, err, "ip %s: %s", args, out)
	}
	ip("link set lo up")
	log := &lockedLog{}
	e := newTestEngine(t, func(c *Config) {
		c.BindAddresses, c.TCPPort, c.Log = []string{"0.0.0.0"}, TCPEphemeral, slog.New(slog.NewTextHandler(log, nil))
	})
	advertises(t, e, "127.0.0.1")
	ip("link add v0 type veth peer name v1")
	ip("link set v1 up")
	ip("link set v0 up")
	ip("address add 198.51.100.7/24 dev v0")
	advertises(t, e, "127.0.0.1", "198.51.100.7")
	require.NotContains(t, log.String(), "no word from the kernel")
	ip("link set v0 down")
	advertises(t, e, "127.0.0.1")
	ip("link set v0 up")
	advertises(t, e, "127.0.0.1", "198.51.100.7")
	ip("address del 198.51.100.7/24 dev v0")
	advertises(t, e, "127.0.0.1")
	require.False(t, slices.Contains(e.net.now.Load().local, parseAll("198.51.100.7")[0]))
}

// TestAForgedRelay: packets from the network with an address that only relays have are
// dropped.
func TestAForgedRelay(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, args := range []string{"link set lo up", "address add 192.0.0.8/32 dev lo"} {
		out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		require.NoError(t, err, "ip %s: %s", args, out)
	}
	e, _ := newRelayingEngine(t, nil)
	forger, err := net.ListenPacket("udp4", "192.0.0.8:0")
	require.NoError(t, err)
	defer forger.Close()
	media, _ := e.Addrs()
	for _, to := range []net.Addr{net.UDPAddrFromAddrPort(media[0]), net.UDPAddrFromAddrPort(e.TURNAddrs()[0])} {
		before := e.net.muxed.Own.Load()
		_, err = forger.WriteTo([]byte{0x80, 0xcd, 0, 1, 0, 0, 0, 0}, to)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return e.net.muxed.Own.Load() == before+1 }, patience, time.Millisecond)
	}
}

// lockedLog is a log that may be read while it is written.
type lockedLog struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
