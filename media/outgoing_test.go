package media

import (
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/srtpout"
)

// sender is the encryption of our own on the way to a client, nil if its media
// leaves by way of pion.
func (c *client) sender() *srtpout.Sender {
	out := c.peer.down().out.Load()
	if out == nil {
		return nil
	}
	return out.sender
}

// TestOutgoing has media reach clients on every way that it can leave: encrypted
// here, as it should be, and by way of pion where the client has the last word on
// the DTLS roles, or ICE is over TCP.
func TestOutgoing(t *testing.T) {
	for _, tc := range []struct {
		name   string
		single bool
		client func(*webrtc.SettingEngine)
		ours   bool
	}{
		{"two connections", false, nil, true},
		{"one connection", true, nil, true},
		{"we are DTLS client", false, func(s *webrtc.SettingEngine) {
			_ = s.SetAnsweringDTLSRole(webrtc.DTLSRoleServer)
		}, false},
		{"over TCP", true, func(s *webrtc.SettingEngine) {
			s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeTCP4})
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newTestEngine(t, func(c *Config) { c.TCPPort = TCPEphemeral })
			a := newClient(t, e, clientConfig{sid: "PA_a"})
			a.join()
			pump(t, a.publish("TR_v", vp8, nil))
			p := a.published("TR_v")
			b := newClient(t, e, clientConfig{sid: "PA_b", single: tc.single, settings: tc.client})
			b.join()
			b.subscribe("PA_a", p)
			b.receives("PA_a", "TR_v")
			require.Equal(t, tc.ours, b.sender() != nil)
		})
	}
}

// TestOutgoingFollowsICE restarts ICE: what is sent goes where the new pair ends.
func TestOutgoingFollowsICE(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	pump(t, a.publish("TR_v", vp8, nil))
	p := a.published("TR_v")
	b := newClient(t, e, clientConfig{sid: "PA_b", single: true})
	b.join()
	b.subscribe("PA_a", p)
	r := b.receives("PA_a", "TR_v")
	before := b.sender().Remote()
	require.True(t, before.IsValid())

	b.offer(true)
	require.Eventually(t, func() bool {
		to := b.sender().Remote()
		return to.IsValid() && to != before
	}, patience, time.Millisecond)
	buf := make([]byte, 1500)
	for range 20 {
		_, _, err := r.Read(buf)
		require.NoError(t, err)
	}
}
