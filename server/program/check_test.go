package program

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v3"
	"github.com/stretchr/testify/require"

	"parlor/media"
	"parlor/rooms/replica"
	"parlor/server/api"
	"parlor/server/config"
)

// stateOf is the state of a check in the JSON output of the command.
func stateOf(t *testing.T, out, what string) string {
	t.Helper()
	var all api.Checks
	require.NoError(t, json.Unmarshal([]byte(out), &all), out)
	for _, c := range all.Checks {
		if c.What == what {
			require.NotEmpty(t, c.Found)
			require.Equal(t, c.State == api.CheckOK, c.Do == "", "what is not right has something to be done about it: %+v", c)
			return c.State
		}
	}
	return ""
}

// hangsUp listens, and ends every connection at once.
func hangsUp(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		accepting.Wait()
	})
	return l
}

// TestCommandCheckLooksAtTheMachine of a running server, and without one.
func TestCommandCheckLooksAtTheMachine(t *testing.T) {
	dir := t.TempDir()
	h := start(t, filepath.Join(dir, "parlor.db"), config.Setting{Path: "replica", Value: "file://" + filepath.Join(dir, "replica"), From: "test"})
	out := h.ask("check")
	require.Contains(t, out, "it runs at "+h.url)
	require.Contains(t, out, "this server has the lease")
	require.Contains(t, out, strings.TrimPrefix(h.url, "http://"))
	require.Regexp(t, `(?m)^warning  keys +everybody knows the keys of development\n +→ run it without --dev`, out)
	require.Equal(t, "ready\n", h.ask("check", "--local"))
	for _, what := range []string{"server", "ports", "certificate", "disk", "disk writes", "replica"} {
		require.Contains(t, []string{api.CheckOK, api.CheckWarning}, stateOf(t, h.ask("check", "--json"), what), what)
	}
	// A server that has no certificate yet ends every connection.
	mute := hangsUp(t)
	file := filepath.Join(dir, "parlor.yaml")
	write := func(text string) {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	_, port, err := net.SplitHostPort(mute.Addr().String())
	require.NoError(t, err)
	write("bind_addresses: [127.0.0.1]\nport: " + port + "\ndatabase: " + filepath.Join(dir, "parlor.db") + "\nkeys: {k: a-secret-of-at-least-32-characters}\n")
	_, out, _ = command(t, nil, "check", "--json", "--config", file)
	require.Equal(t, api.CheckWarning, stateOf(t, out, "server"), out)
	require.Equal(t, api.CheckOK, stateOf(t, out, "ports"), "no other program has them")
	require.NoError(t, h.stop())
	_, out, _ = command(t, nil, "check", "--json", "--config", file)
	require.Equal(t, api.CheckFailed, stateOf(t, out, "ports"), "another program has them")

	_, port, err = net.SplitHostPort(hangsUp(t).Addr().String())
	require.NoError(t, err)
	write("bind_addresses: [127.0.0.1]\nport: " + port + "\nrtc: {udp_port: 0, tcp_port: 0}\ndatabase: " + filepath.Join(dir, "absent", "parlor.db") +
		"\nkeys: {k: a-secret-of-at-least-32-characters}\nreplica: file://" + filepath.Join(dir, "replica") + "\n")

	for from, want := range map[string]string{
		"http://localhost:1":           "has no API key",
		"http://devkey:secret@[::1]:1": "all ports are of this machine alone",
	} {
		_, byFlag, errs := command(t, nil, "check", "--config", file, "--from", from)
		require.Contains(t, byFlag, want)
		require.NotContains(t, byFlag, "secret@")
		require.NotContains(t, errs, "PARLOR_CHECK_FROM")
		_, byVariable, _ := command(t, []string{"PARLOR_CHECK_FROM=" + from}, "check", "--config", file)
		require.Contains(t, byVariable, want)
		require.NotContains(t, byVariable, "not one that Parlor reads")
	}

	status, out, errs := command(t, nil, "check", "--json", "--config", file, "--url", h.url)
	require.Equal(t, 1, status, out)
	require.Contains(t, errs, "see what failed")
	require.Equal(t, api.CheckFailed, stateOf(t, out, "ports"))
	require.Contains(t, out, "choose another with --port")
	require.Equal(t, api.CheckFailed, stateOf(t, out, "keys"))
	require.NotContains(t, out, exampleSecret)
	require.Equal(t, api.CheckFailed, stateOf(t, out, "disk"))
	require.Equal(t, api.CheckOK, stateOf(t, out, "replica"), "which was given up")
	require.Equal(t, api.CheckOK, stateOf(t, out, "server"), "it is no fault that it does not run")
	require.Contains(t, out, "no server runs at")

	write("keys: {k: 0123456789abcdef0123456789abcdef}\nbogus: 1\n")
	status, out, _ = command(t, nil, "check", "--json", "--config", file)
	require.Equal(t, 1, status)
	require.Equal(t, api.CheckFailed, stateOf(t, out, "configuration"))
	status, out, _ = command(t, nil, "check", "--json")
	require.Equal(t, 1, status)
	require.Equal(t, api.CheckFailed, stateOf(t, out, "configuration"))
	status, _, errs = command(t, nil, "check", "--local", "--dev", "--url", h.url)
	require.Equal(t, 1, status)
	require.Contains(t, errs, "no server runs at")
}

// TestCommandCheckHealthTellsThatNoWorkIsTaken: a stopping server is not healthy.
func TestCommandCheckHealthTellsThatNoWorkIsTaken(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	h.rooms.Stop()
	status, _, errs := command(t, nil, "check", "--local", "--dev", "--url", h.url)
	require.Equal(t, 1, status)
	require.Contains(t, errs, "the server takes no work")
}

func TestCommandCheckJudges(t *testing.T) {
	addr := netip.MustParseAddr
	now := time.Now()
	held := &replica.Sight{Owner: "process 1 on a", Epoch: 3, Expires: now.Add(time.Minute)}
	for name, tc := range map[string]struct {
		check api.Check
		want  string
	}{
		"a name that leads here":      {judgeName("a.example", []netip.Addr{addr("192.0.2.1")}, []netip.Addr{addr("192.0.2.1")}, true), "ok"},
		"a name that leads to a NAT":  {judgeName("a.example", []netip.Addr{addr("192.0.2.9")}, []netip.Addr{addr("10.0.0.1")}, true), "ok"},
		"another name that does":      {judgeName("a.example", []netip.Addr{addr("192.0.2.9")}, []netip.Addr{addr("10.0.0.1")}, false), "warning"},
		"a name that leads elsewhere": {judgeName("a.example", []netip.Addr{addr("192.0.2.9")}, []netip.Addr{addr("192.0.2.1")}, true), "warning"},
		"a name that leads to both":   {judgeName("a.example", []netip.Addr{addr("::ffff:192.0.2.1"), addr("2001:db8::1")}, []netip.Addr{addr("192.0.2.1")}, true), "warning"},
		"no NAT":                      {judgeMapping(addr("192.0.2.1"), []netip.Addr{addr("192.0.2.1")}, false), "ok"},
		"a NAT that is told of":       {judgeMapping(addr("192.0.2.1"), nil, true), "ok"},
		"a NAT":                       {judgeMapping(addr("192.0.2.1"), []netip.Addr{addr("10.0.0.1")}, false), "warning"},
		"a port that a NAT keeps":     {judgeSight(media.Sight{Port: 443, Mapped: netip.MustParseAddrPort("192.0.2.1:443"), Strangers: media.Reached})[0], "ok"},
		"a port that it changes":      {judgeSight(media.Sight{Port: 443, Mapped: netip.MustParseAddrPort("192.0.2.1:1024")})[0], "warning"},
		"a port that is closed":       {judgeSight(media.Sight{Port: 443, Mapped: netip.MustParseAddrPort("192.0.2.1:443"), Strangers: media.NotReached})[0], "warning"},
		"a new certificate":           {judgeCertificate("c", "a", now.Add(-time.Hour), now.Add(80*24*time.Hour), now), "ok"},
		"one to renew":                {judgeCertificate("c", "a", now.Add(-time.Hour), now.Add(3*24*time.Hour), now), "warning"},
		"one that has ended":          {judgeCertificate("c", "a", now.Add(-time.Hour), now.Add(-time.Minute), now), "failed"},
		"one of tomorrow":             {judgeCertificate("c", "a", now.Add(time.Hour), now.Add(24*time.Hour), now), "failed"},
		"a clock":                     {judgeClock(-2*time.Second, "b"), "ok"},
		"a clock ahead":               {judgeClock(time.Minute, "b"), "failed"},
		"a clock behind":              {judgeClock(-time.Minute, "b"), "failed"},
		"room":                        {judgeRoom(10 << 30), "ok"},
		"little room":                 {judgeRoom(500 << 20), "warning"},
		"no room":                     {judgeRoom(5 << 20), "failed"},
		"a disk":                      {judgeSync(2 * time.Millisecond), "ok"},
		"a slow disk":                 {judgeSync(time.Second), "warning"},
		"a lease of another":          {(&inspection{}).judgeLease(held, now), "warning"},
		"a lease that has run out":    {(&inspection{}).judgeLease(held, now.Add(time.Hour)), "ok"},
		"short secrets":               {judgeKeys(&config.Config{Keys: map[string]string{"k": "0123456789abcdef"}}), "warning"},
		"dull secrets":                {judgeKeys(&config.Config{Keys: map[string]string{"k": strings.Repeat("a", 40)}}), "warning"},
		"development in the open":     {judgeKeys(&config.Config{Development: true, BindAddresses: []string{"0.0.0.0"}}), "failed"},
	} {
		require.Equal(t, tc.want, tc.check.State, "%s: %+v", name, tc.check)
		require.Equal(t, tc.want == "ok", tc.check.Do == "", name)
	}
	require.Equal(t, "failed", api.Worst([]api.Check{{State: "ok"}, {State: "failed"}, {State: "warning"}}))
	require.Equal(t, "warning", api.Worst([]api.Check{{State: "ok"}, {State: "warning"}, {State: "ok"}}))
}

// TestCommandBackup checks the messages to the operator; rooms/sqlite tests the copy.
func TestCommandBackup(t *testing.T) {
	dir := t.TempDir()
	h := start(t, filepath.Join(dir, "parlor.db"))
	to := filepath.Join(dir, "monday.db")
	status, out, errs := command(t, nil, "backup", to, "--database", filepath.Join(dir, "parlor.db"))
	require.Zero(t, status, errs)
	require.Regexp(t, `^backed up .*parlor\.db to .*monday\.db: [\d.]+ kB, version \d+, events up to 0\n$`, out)
	status, _, errs = command(t, nil, "backup", to, "--database", filepath.Join(dir, "parlor.db"))
	require.Equal(t, 1, status)
	require.Contains(t, errs, "there is a file of that name")
	require.NoError(t, h.stop())
	start(t, to)
	_, _, errs = command(t, nil, "backup", to)
	require.Contains(t, errs, "give --config or --database")
	status, _, _ = command(t, nil, "backup")
	require.Equal(t, 2, status)
	require.Equal(t, "999 B 1.0 kB 2.5 MB", bytesOf(999)+" "+bytesOf(1000)+" "+bytesOf(2_500_000))
}

// TestCommandCheckOfATakenPort: it hides the machine's address no more than it makes the STUN
// servers silent; what fails otherwise is told as it is.
func TestCommandCheckOfATakenPort(t *testing.T) {
	stranger, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	answered := make(chan struct{})
	t.Cleanup(func() {
		require.NoError(t, stranger.Close())
		<-answered
	})
	go func() {
		defer close(answered)
		b := make([]byte, 1500)
		for {
			n, from, err := stranger.ReadFrom(b)
			if err != nil {
				return
			}
			asked, seen := &stun.Message{Raw: b[:n]}, from.(*net.UDPAddr)
			if asked.Decode() != nil {
				continue
			}
			if answer, err := stun.Build(stun.NewTransactionIDSetter(asked.TransactionID), stun.BindingSuccess, &stun.XORMappedAddress{IP: seen.IP, Port: seen.Port}); err == nil {
				_, _ = stranger.WriteTo(answer.Raw, from) // it asks again
			}
		}
	}()
	taken := stranger.LocalAddr().(*net.UDPAddr)
	cfg := config.Default()
	cfg.RTC.UDPPort = config.PortRange{Set: true, Start: taken.Port, End: taken.Port}
	cfg.RTC.STUNServers = []string{taken.String()}
	found := (&inspection{cfg: cfg}).checkMapping(t.Context())
	require.Len(t, found, 1)
	require.Equal(t, api.CheckOK, found[0].State)
	require.Contains(t, found[0].Found, "others see this machine as 127.0.0.1")

	cfg.RTC.STUNServers = []string{"127.0.0.1"} // without a port
	found = (&inspection{cfg: cfg, running: true}).checkMapping(t.Context())
	require.Len(t, found, 1)
	require.Equal(t, api.CheckWarning, found[0].State)
	require.NotContains(t, found[0].Found, "answers")
	require.Contains(t, found[0].Found, "missing port")
}
