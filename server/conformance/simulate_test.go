package conformance

import (
	"strings"
	"testing"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

func (c *caller) simulate(s *livekit.SimulateScenario) {
	c.Helper()
	c.ws.request(c.T, &livekit.SignalRequest{Message: &livekit.SignalRequest_Simulate{Simulate: s}})
}

// TestSimulatedSpeaker: a client can ask to be shown as speaking.
func TestSimulatedSpeaker(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		c := newCaller(t, m, room, "alice")
		c.connect()
		c.simulate(&livekit.SimulateScenario{Scenario: &livekit.SimulateScenario_SpeakerUpdate{SpeakerUpdate: 1}})
		for _, active := range []bool{true, false} {
			await(t, c.ws, "herself among the speakers", func(m *livekit.SignalResponse) *livekit.SpeakerInfo {
				for _, s := range m.GetSpeakersChanged().GetSpeakers() {
					if s.Sid == c.ws.joined(t).Participant.Sid && s.Active == active {
						return s
					}
				}
				return nil
			})
		}
		bob := m.join(t, room, "bob")
		bob.Simulate(lksdk.SimulateSpeakerUpdate)
		bob.await(t, "speaking [bob]")
		bob.await(t, "speaking []")
	})
}

// TestSimulatedProtocols: a client that asks for TCP reconnects, and then gets and uses
// only TCP, until it asks for UDP. A protocol that the server lacks is refused.
func TestSimulatedProtocols(t *testing.T) {
	parlorOnly(t)
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		bob := m.join(t, room, "bob")
		bob.publishMicrophone(t)
		come := func(udp bool) *caller {
			t.Helper()
			networks := []webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6}
			if !udp {
				networks = append(networks, webrtc.NetworkTypeTCP4, webrtc.NetworkTypeTCP6)
			}
			c := newCallerAs(t, m, "alice", join(room), networks...)
			c.connect()
			c.hears(t)
			bob.awaitMedia(t, c.publish(), 5)
			var offered string
			for _, m := range c.ws.messages() {
				offered += m.GetTrickle().GetCandidateInit() + m.GetOffer().GetSdp() + m.GetAnswer().GetSdp()
			}
			require.Contains(t, offered, " tcp ")
			require.Equal(t, udp, strings.Contains(offered, " udp "))
			for _, pc := range []*webrtc.PeerConnection{c.pub, c.sub} {
				pair, err := pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
				require.NoError(t, err)
				require.Equal(t, udp, pair.Remote.Protocol == webrtc.ICEProtocolUDP, "%v", pair)
			}
			return c
		}
		ask := func(c *caller, protocol livekit.CandidateProtocol) {
			c.simulate(&livekit.SimulateScenario{Scenario: &livekit.SimulateScenario_SwitchCandidateProtocol{SwitchCandidateProtocol: protocol}})
		}
		c := come(true)
		for _, s := range []*livekit.SimulateScenario{
			{}, {Scenario: &livekit.SimulateScenario_SwitchCandidateProtocol{SwitchCandidateProtocol: livekit.CandidateProtocol_TLS}},
		} {
			before := strings.Count(strings.Join(c.ws.kinds(), " "), "RequestResponse")
			c.simulate(s)
			eventually(t, "a refusal", func() bool {
				return strings.Count(strings.Join(c.ws.kinds(), " "), "RequestResponse") > before
			})
		}
		refused := await(t, c.ws, "a refusal", (*livekit.SignalResponse).GetRequestResponse)
		require.Equal(t, livekit.RequestResponse_UNSUPPORTED_TYPE, refused.Reason)
		require.NotEmpty(t, refused.Message)
		ask(c, livekit.CandidateProtocol_UDP) // it uses UDP already
		c.ws.alive(t)

		ask(c, livekit.CandidateProtocol_TCP)
		require.Equal(t, livekit.LeaveRequest_RECONNECT, c.ws.awaitLeave(t).Action)
		c = come(false)
		ask(c, livekit.CandidateProtocol_UDP)
		require.Equal(t, livekit.LeaveRequest_RECONNECT, c.ws.awaitLeave(t).Action)
		come(true)

		// The SDK asks for TLS, and reconnects by itself.
		bob.Simulate(lksdk.SimulateForceTLS)
		bob.await(t, "reconnected")
	})
}
