//go:build linux

package program

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bound is a receiving socket of a process.
type bound struct {
	network string // tcp or udp
	netip.AddrPort
}

// socketsOf lists the listening TCP sockets and all UDP sockets of a process, according
// to the kernel.
func socketsOf(t *testing.T, pid int) []bound {
	t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	require.NoError(t, err)
	own := map[string]bool{}
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(proc, "fd", fd.Name())); err == nil { // otherwise it is closed by now
			own[target] = true
		}
	}
	var all []bound
	for _, file := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, err := os.ReadFile(filepath.Join(proc, "net", file))
		if os.IsNotExist(err) {
			continue // the kernel has no IPv6
		}
		require.NoError(t, err)
		for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n")[1:] {
			const local, state, inode, listens = 1, 3, 9, "0A"
			f := strings.Fields(line)
			if !own["socket:["+f[inode]+"]"] || strings.HasPrefix(file, "tcp") && f[state] != listens {
				continue
			}
			all = append(all, bound{file[:3], kernelAddr(t, f[local])})
		}
	}
	return all
}

// kernelAddr parses an address in /proc/net: words of 32 bits in the processor's byte
// order.
func kernelAddr(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	host, port, ok := strings.Cut(text, ":")
	require.True(t, ok, text)
	raw, err := hex.DecodeString(host)
	require.NoError(t, err)
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word)
	}
	addr, ok := netip.AddrFromSlice(raw)
	require.True(t, ok, text)
	number, err := strconv.ParseUint(port, 16, 16)
	require.NoError(t, err)
	return netip.AddrPortFrom(addr, uint16(number))
}

// TestEverySocketObeysTheBindingRule: bind_addresses applies to every socket of the
// process, except that rtc.bind_addresses replaces it for media, and --dev binds only
// loopback.
func TestEverySocketObeysTheBindingRule(t *testing.T) {
	loopback := func(a netip.Addr) bool { return a.IsLoopback() }
	is := func(text string) func(netip.Addr) bool {
		return func(a netip.Addr) bool { return a == netip.MustParseAddr(text) }
	}
	anyIPv4 := func(a netip.Addr) bool { return a.Is4() }
	anything := func(netip.Addr) bool { return true }
	const keys = "keys: {key: 0123456789abcdef0123456789abcdef}\n"
	for name, c := range map[string]struct {
		config      string
		args        []string
		http, media func(netip.Addr) bool
		beyond      bool   // an address other than loopback is bound for media, if the machine has one
		warning     string // in the log; "" = none
	}{
		"development":                {"", []string{"--dev"}, loopback, loopback, false, ""},
		"development on one address": {"", []string{"--dev", "--bind", "127.0.0.2"}, is("127.0.0.2"), is("127.0.0.2"), false, ""},
		"development for others":     {"", []string{"--dev", "--bind", "0.0.0.0"}, is("0.0.0.0"), anyIPv4, true, "others can reach 0.0.0.0"},
		"development in a container": {"", []string{"--dev", "--bind", "0.0.0.0", "--node-ip", "127.0.0.1"},
			is("0.0.0.0"), anyIPv4, true, "others can reach 0.0.0.0"},
		"development, media elsewhere": {"rtc: {bind_addresses: [127.0.0.2]}", []string{"--dev"}, loopback, is("127.0.0.2"), false, ""},
		"loopback":                     {keys + "bind_addresses: [127.0.0.1]", nil, is("127.0.0.1"), is("127.0.0.1"), false, "rtc.bind_addresses"},
		"behind a proxy": {keys + "bind_addresses: [127.0.0.1]\nrtc: {bind_addresses: [0.0.0.0], enable_loopback_candidate: true}", nil,
			is("127.0.0.1"), anyIPv4, true, ""},
		"everything": {keys + "rtc: {enable_loopback_candidate: true}", nil, anything, anything, true, ""},
		"both families": {keys + "bind_addresses: [0.0.0.0, '::']\nrtc: {enable_loopback_candidate: true}", nil,
			func(a netip.Addr) bool { return a.IsUnspecified() }, anything, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			httpPort, tcpPort, metricsPort := freePort(t), freePort(t), freePort(t)
			file := filepath.Join(dir, "parlor.yaml")
			text := fmt.Sprintf("%s\nprometheus: {port: %d}\n", c.config, metricsPort)
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			log := &transcript{}
			cmd := exec.Command(binary(t), append([]string{"--config", file, "--port", strconv.Itoa(httpPort),
				"--udp-port", "0", "--tcp-port", strconv.Itoa(tcpPort), "--database", filepath.Join(dir, "parlor.db")}, c.args...)...)
			cmd.Stdout, cmd.Stderr = log, log
			require.NoError(t, cmd.Start())
			ended := make(chan struct{})
			go func() { _ = cmd.Wait(); close(ended) }() // it is killed
			t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
			require.Eventually(t, func() bool {
				select {
				case <-ended:
					return true
				default:
					return strings.Contains(log.String(), "msg=serving")
				}
			}, time.Minute, 10*time.Millisecond)
			require.Contains(t, log.String(), "msg=serving")

			ports := map[int]int{}
			beyond := false
			for _, s := range socketsOf(t, cmd.Process.Pid) {
				port := int(s.Port())
				ports[port]++
				require.Contains(t, log.String(), strconv.Itoa(port), "the start line tells of it")
				if s.network == "tcp" && (port == httpPort || port == metricsPort) {
					require.True(t, c.http(s.Addr()), "%v in %s", s, log)
					continue
				}
				require.True(t, c.media(s.Addr()), "%v in %s", s, log)
				beyond = beyond || !s.Addr().IsLoopback()
			}
			for _, port := range []int{httpPort, tcpPort, metricsPort} {
				require.Positive(t, ports[port], "of %v in %s", ports, log)
			}
			require.Len(t, ports, 4, "and one of UDP: %v in %s", ports, log)
			require.Equal(t, c.beyond, beyond, log)
			if c.warning == "" {
				require.NotContains(t, log.String(), "bind_addresses")
			} else {
				require.Contains(t, log.String(), c.warning)
			}
		})
	}
}
