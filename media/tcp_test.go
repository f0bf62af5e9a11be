package media

import (
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/stun/v3"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

func overTCP(s *webrtc.SettingEngine) {
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeTCP4})
}

// tcpAddr is where the engine accepts ICE-TCP connections.
func tcpAddr(t *testing.T, e *Engine) *net.TCPAddr {
	t.Helper()
	_, tcp := e.Addrs()
	require.Len(t, tcp, 1)
	return net.TCPAddrFromAddrPort(tcp[0])
}

// dialFrom connects from an address of loopback's.
func dialFrom(t *testing.T, from string, to *net.TCPAddr) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(from)}, to)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func echoes(c *client, text string) {
	c.t.Helper()
	c.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte(text))
	require.Equal(c.t, text, string(c.message().data))
}

// While an attacker opens connection after connection and is silent on them, clients that
// join over TCP come in, and clients that are in stay, from that address too; the server holds
// few of the others.
func TestJoiningOverTCPAmongStrangers(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.TCPPort = TCPEphemeral })
	before := newClient(t, e, clientConfig{sid: "PA_b", settings: overTCP})
	before.join()
	to := tcpAddr(t, e)
	for range 600 {
		dialFrom(t, "127.0.0.1", to)
	}
	stop := make(chan struct{})
	var attack sync.WaitGroup
	attack.Go(func() {
		var held []net.Conn
		defer func() {
			for _, c := range held {
				_ = c.Close()
			}
		}()
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if c, err := net.DialTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, to); err == nil {
				held = append(held, c)
			}
		}
	})
	defer func() { close(stop); attack.Wait() }()
	for _, single := range []bool{true, false} {
		c := newClient(t, e, clientConfig{sid: "PA_c", single: single, settings: overTCP})
		c.join()
		echoes(c, "over TCP")
	}
	echoes(before, "still there")
	require.LessOrEqual(t, e.Stats().TCPStrangers, int64(64))
	require.LessOrEqual(t, e.Stats().TCPConns, int64(100))
	require.GreaterOrEqual(t, e.Stats().TCPRefused, uint64(500))
}

// An attacker that has seen a participant's ufrag, which goes over the network in the clear, can
// connect and name it. That silences nobody and shows nothing.
func TestAStrangerWhoKnowsTheUfragOverTCP(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.TCPPort = TCPEphemeral })
	victim := newClient(t, e, clientConfig{sid: "PA_v", single: true, settings: overTCP})
	to := tcpAddr(t, e)
	victim.join()
	up := victim.channel("_reliable")
	echoes(victim, "before")
	server := ufrag(t, victim.pub.RemoteDescription())
	request := func() []byte {
		m, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername(server+":"+ufrag(t, victim.pub.LocalDescription())),
			stun.NewShortTermIntegrity("a password that it does not know"), stun.Fingerprint)
		require.NoError(t, err)
		return append(binary.BigEndian.AppendUint16(nil, uint16(len(m.Raw))), m.Raw...)
	}
	for i := range 20 {
		c := dialFrom(t, "127.0.0.2", to)
		_, err := c.Write(request())
		require.NoError(t, err)
		switch i % 4 {
		case 0: // a packet that is longer than any agent reads
			_, err := c.Write([]byte{0xff, 0xff})
			require.NoError(t, err)
		case 1: // a reset
			require.NoError(t, c.SetLinger(0))
			require.NoError(t, c.Close())
		case 2: // what looks like the victim's media
			_, err := c.Write(append([]byte{0, 100, 0x80, 96}, make([]byte, 98)...))
			require.NoError(t, err)
		}
		echoes(victim, "meanwhile")
		require.NoError(t, up.Send([]byte("and back")))
		require.Equal(t, "and back", string(victim.events.wait(t, "data").data))
	}
	require.Zero(t, e.Stats().NeedsReconnect)
}
