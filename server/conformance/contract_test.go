package conformance

import (
	"slices"
	"strings"
	"testing"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// TestMinimumContract checks, item by item, what every LiveKit client relies on: how it
// connects, the messages on the signalling connection, the data channels, the calls of
// backends, and the webhooks. Each item checks the wire; the other tests check that the
// SDKs understand it.
func TestMinimumContract(t *testing.T) {
	for _, item := range []struct {
		name string
		test func(*testing.T)
	}{
		{"WebSocket on rtc and rtc v1", testRoutes},
		{"WebSocket on rtc and rtc v1, refused", testRefusedRequests},
		{"validate", testAcceptedTokens},
		{"CORS", testCORS},
		{"JWT", testRefusedTokens},
		{"JoinResponse", testJoinResponse},
		{"two peer connections", testServerOffers},
		{"one peer connection", testClientOffers},
		{"trickle", testTrickle},
		{"mid_to_track_id and msid", testSections},
		{"add_track and track_published", testAddTrack},
		{"ParticipantUpdate with versions", testVersions},
		{"ping and pong, both forms", testPings},
		{"refresh_token", testRefreshTokens},
		{"mute", testMuteMessages},
		{"subscription", testSubscriptionMessages},
		{"track_setting", testTrackSettings},
		{"subscription permission", testPermissionMessages},
		{"participant permission", testParticipantPermission},
		{"leave", testLeaves},
		{"leave to reconnect", testResumeUnknown},
		{"reconnect and sync_state", testRawResume},
		{"subscribed_quality_update", testSubscribedQuality},
		{"track_subscribed", testTrackSubscribed},
		{"stream_state_update", testStreamState},
		{"speakers_changed", testSpeakersChanged},
		{"connection_quality", testQualityMessages},
		{"DataPackets", testDataChannels},
		{"room_update", testRoomUpdates},
		{"request_response", testRequestResponses},
		{"RoomService in JSON", testTwirpJSON},
		{"RoomService in protobuf, rooms", testRoomServiceRooms},
		{"RoomService in protobuf, participants", testRoomServiceParticipants},
		{"RoomService, what is absent", testRoomServiceAbsent},
		{"RoomService, grants", testRoomServiceGrants},
		{"RoomService, error codes", testRoomServiceErrors},
		{"webhooks", testWebhooks},
		{"webhooks, never connected", testAborted},
	} {
		t.Run(item.name, item.test)
	}
}

func testJoinResponse(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	for n, c := range []*signaller{dialLegacy(t, room, "legacy"), dialSingle(t, room, "single")} {
		j := c.joined(t)
		require.True(t, strings.HasPrefix(j.Room.Sid, "RM_"))
		require.Equal(t, room, j.Room.Name)
		require.Equal(t, uint32(300), j.Room.EmptyTimeout)
		require.Equal(t, uint32(20), j.Room.DepartureTimeout)
		require.NotZero(t, j.Room.CreationTime)
		require.NotZero(t, j.Room.CreationTimeMs)
		require.NotEmpty(t, j.Room.TurnPassword)
		require.NotEmpty(t, j.Room.EnabledCodecs)
		require.True(t, strings.HasPrefix(j.Participant.Sid, "PA_"))
		require.Equal(t, []string{"legacy", "single"}[n], j.Participant.Identity)
		require.Equal(t, livekit.ParticipantInfo_JOINING, j.Participant.State)
		require.NotZero(t, j.Participant.JoinedAt)
		require.NotZero(t, j.Participant.JoinedAtMs)
		require.True(t, j.Participant.Permission.CanPublish)
		require.Equal(t, n == 0, j.SubscriberPrimary, "with one connection there is none of the subscriber's")
		require.True(t, j.FastPublish)
		require.NotEmpty(t, j.SifTrailer)
		require.Equal(t, int32(5), j.PingInterval)
		require.Equal(t, int32(15), j.PingTimeout)
		require.NotNil(t, j.ClientConfiguration)
		require.NotEmpty(t, j.ServerVersion)
		require.Equal(t, livekit.ServerInfo_Standard, j.ServerInfo.Edition)
		require.Equal(t, j.ServerVersion, j.ServerInfo.Version)
		require.GreaterOrEqual(t, j.ServerInfo.Protocol, int32(17))
		require.True(t, strings.HasPrefix(j.ServerInfo.NodeId, "ND_"))
		require.Equal(t, int32(1), j.ServerInfo.AgentProtocol)
		for _, ice := range j.IceServers {
			for _, u := range ice.Urls {
				require.NotContains(t, u, "google", "no public server is handed out unasked")
			}
		}
		var mimes []string
		for _, codec := range j.EnabledPublishCodecs {
			mimes = append(mimes, strings.ToLower(codec.Mime))
		}
		require.Subset(t, mimes, []string{"video/vp8", "video/h264", "video/vp9", "video/av1", "audio/opus", "audio/red"})
		require.True(t, strings.HasPrefix(mimes[0], "video/"), "video first: %v", mimes)
		if n == 0 {
			require.Empty(t, j.OtherParticipants)
			continue
		}
		require.Len(t, j.OtherParticipants, 1)
		require.Equal(t, "legacy", j.OtherParticipants[0].Identity)
	}
	// A participant without permission to subscribe is publisher-primary.
	deaf := dial(t, env.server, "/rtc?"+legacyQuery(),
		token(t, "deaf", &auth.VideoGrant{RoomJoin: true, Room: room, CanSubscribe: ptr(false)}))
	require.False(t, deaf.joined(t).SubscriberPrimary)
	// A participant without permission to publish is not promised fast publishing.
	silent := dial(t, env.server, "/rtc?"+legacyQuery(),
		token(t, "silent", &auth.VideoGrant{RoomJoin: true, Room: room, CanPublish: ptr(false)}))
	require.False(t, silent.joined(t).FastPublish)
}

// testServerOffers: the server makes the offers for the client's subscriptions, at first
// for data channels alone. The client makes the offers for its own tracks, and is
// answered.
func testServerOffers(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	c := newCaller(t, dual, room, "alice")
	offer := await(t, c.ws, "the server's offer", (*livekit.SignalResponse).GetOffer)
	require.Equal(t, "offer", offer.Type)
	require.NotZero(t, offer.Id)
	require.Contains(t, offer.Sdp, "m=application")
	require.NotContains(t, offer.Sdp, "m=audio")
	require.NotContains(t, offer.Sdp, "m=video")
	require.Contains(t, offer.Sdp, "a=setup:actpass")

	c.data.create(t, c.pub)
	c.offer(4711)
	answer := await(t, c.ws, "the answer", (*livekit.SignalResponse).GetAnswer)
	require.Equal(t, "answer", answer.Type)
	require.Equal(t, uint32(4711), answer.Id, "an answer names its offer")
	eventually(t, "both connections are up", func() bool {
		return c.pub.ConnectionState() == webrtc.PeerConnectionStateConnected && c.sub.ConnectionState() == webrtc.PeerConnectionStateConnected
	})

	bob := single.join(t, room, "bob")
	sid := bob.publishMicrophone(t).SID()
	c.hears(t)
	eventually(t, "a section for the track", func() bool { return midOf(c.received(), sid) != "" })
	require.Greater(t, c.received().Id, offer.Id, "offers are counted")
	require.Contains(t, c.received().Sdp, "m=audio")
}

// testClientOffers: with one connection only the client makes offers, possibly with its
// join request. The server asks it to.
func testClientOffers(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	alice := dual.join(t, room, "alice")
	first := alice.publishMicrophone(t).SID()
	eventually(t, "alice's track is announced", func() bool {
		p, err := roomService(env.server).GetParticipant(t.Context(), &livekit.RoomParticipantIdentity{Room: room, Identity: "alice"})
		return err == nil && len(p.Tracks) == 1
	})

	pc, err := webrtc.NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	defer pc.Close()
	_, err = pc.CreateDataChannel("_reliable", nil)
	require.NoError(t, err)
	for range 2 {
		_, err = pc.AddTransceiverFromKind(webrtc.RTPCodecTypeAudio, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly})
		require.NoError(t, err)
	}
	offer, err := pc.CreateOffer(nil)
	require.NoError(t, err)
	request := plainJoin()
	request.PublisherOffer = &livekit.SessionDescription{Type: "offer", Sdp: offer.SDP, Id: 4711}
	c := dial(t, env.server, "/rtc/v1?"+joinQuery(t, request, true), token(t, "bob", join(room)))
	require.False(t, c.joined(t).SubscriberPrimary)
	answer := await(t, c, "the answer", (*livekit.SignalResponse).GetAnswer)
	require.Equal(t, uint32(4711), answer.Id, "an answer names its offer")
	require.Contains(t, answer.Sdp, "m=application")
	require.NotEmpty(t, midOf(answer, first), "what is there is in the first answer: %v", answer.MidToTrackId)

	// If more sections are needed, the server asks for them.
	carol := newCaller(t, single, room, "carol")
	carol.connect()
	ask := await(t, carol.ws, "a requirement", (*livekit.SignalResponse).GetMediaSectionsRequirement)
	require.Equal(t, uint32(1), ask.NumAudios)
	require.Zero(t, ask.NumVideos)
	carol.hears(t)
	video := alice.publishCamera(t).SID()
	eventually(t, "the camera has a section", func() bool { return midOf(carol.received(), video) != "" })
	for _, s := range []*signaller{c, carol.ws} {
		s.alive(t)
		require.NotContains(t, s.kinds(), "Offer")
	}
}

// testTrickle: candidates come one by one, as JSON, for their connection. The last is
// marked as such.
func testTrickle(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		c := newCaller(t, m, roomName(t), "alice")
		c.connect()
		target := livekit.SignalTarget_SUBSCRIBER
		if c.single {
			target = livekit.SignalTarget_PUBLISHER
		}
		await(t, c.ws, "the last candidate", func(m *livekit.SignalResponse) *livekit.TrickleRequest {
			if c := m.GetTrickle(); c.GetFinal() && c.Target == target {
				return c
			}
			return nil
		})
		var udp, tcp bool
		for _, m := range c.ws.messages() {
			if trickle := m.GetTrickle(); trickle != nil && trickle.Target == target {
				require.Contains(t, trickle.CandidateInit, `"candidate"`)
				require.Contains(t, trickle.CandidateInit, `"sdpMid"`)
				require.Contains(t, trickle.CandidateInit, " typ host")
				udp = udp || strings.Contains(trickle.CandidateInit, " udp ")
				tcp = tcp || strings.Contains(trickle.CandidateInit, "tcptype passive")
			}
		}
		require.True(t, udp, "a candidate over UDP")
		require.True(t, tcp, "a candidate over TCP")
		if c.single {
			require.False(t, slices.ContainsFunc(c.ws.messages(), func(m *livekit.SignalResponse) bool {
				return m.GetTrickle().GetTarget() == livekit.SignalTarget_SUBSCRIBER
			}), "there is no subscriber's connection")
		}
	})
}

// midOf is the mid of the section in which a track is sent; "" if there is none.
func midOf(d *livekit.SessionDescription, sid string) string {
	for mid, track := range d.GetMidToTrackId() {
		if track == sid {
			return mid
		}
	}
	return ""
}

// testSections: the section, and the msid in it, identify an arriving track.
func testSections(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice := m.join(t, room, "alice")
		tracks := []string{alice.publishMicrophone(t).SID(), alice.publishCamera(t).SID()}
		c := newCaller(t, m, room, "bob")
		c.connect()
		for n, kind := range []string{"audio", "video"} {
			sid := tracks[n]
			eventually(t, "a section for "+sid, func() bool { return midOf(c.received(), sid) != "" })
			d := c.received()
			sections := strings.Split(d.Sdp, "\r\nm=")
			at := slices.IndexFunc(sections, func(s string) bool {
				return strings.HasPrefix(s, kind) && slices.Contains(strings.Split(s, "\r\n"), "a=mid:"+midOf(d, sid))
			})
			require.GreaterOrEqual(t, at, 0, d.Sdp)
			require.Contains(t, sections[at], "a=msid:"+alice.LocalParticipant.SID()+"|"+sid+" "+sid)
			require.Contains(t, sections[at], "a=ssrc:")
		}
		c.hears(t)
	})
}

// testRefreshTokens: a fresh token comes right after the join, and again when its content
// has changed. It is valid for another join.
func testRefreshTokens(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		c := newCallerAs(t, m, "alice", &auth.VideoGrant{RoomJoin: true, Room: room, CanUpdateOwnMetadata: ptr(true)})
		c.ws.joined(t)
		fresh := func(metadata string, canPublish bool) {
			t.Helper()
			jwt := *await(t, c.ws, "a fresh token", func(m *livekit.SignalResponse) *string {
				jwt := m.GetRefreshToken()
				verifier, err := auth.ParseAPIToken(jwt)
				if jwt == "" || err != nil {
					return nil
				}
				_, grants, err := verifier.Verify(apiSecret)
				if err != nil || grants.Metadata != metadata || grants.Video.GetCanPublish() != canPublish {
					return nil
				}
				return &jwt
			})
			status, _, err := fetch(t.Context(), env.server.http()+"/rtc/validate?access_token="+jwt)
			require.NoError(t, err)
			require.Equal(t, 200, status, "the fresh token is good for another join")
		}
		fresh("", true)
		c.ws.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_UpdateMetadata{
			UpdateMetadata: &livekit.UpdateParticipantMetadata{Metadata: "by herself"}}})
		fresh("by herself", true)
		_, err := roomService(env.server).UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
			Room: room, Identity: "alice", Permission: &livekit.ParticipantPermission{CanSubscribe: true, CanUpdateMetadata: true}})
		require.NoError(t, err)
		fresh("by herself", false)
	})
}
