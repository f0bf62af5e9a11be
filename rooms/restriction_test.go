package rooms_test

import (
	"testing"
	"testing/synctest"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
)

// journey is a way in which ann's session or client can continue. After it ann is in room
// at, where eve is, and her client is now.
type journey struct {
	name string
	goes func(h *house, ann *client) (at string, now *client)
	// joins: the client joins again, and repeats its wishes as SDKs do.
	joins bool
}

var journeys = []journey{
	{name: "resume", goes: func(h *house, ann *client) (string, *client) {
		ann.SignalLost()
		require.NoError(h.t, h.Resume(h.t.Context(), "tea", "ann", []string{ann.SID()}, func(*rooms.Participant, rooms.Snapshot) {}))
		return "tea", ann
	}},
	{name: "full reconnect", joins: true, goes: func(h *house, ann *client) (string, *client) {
		ann.Disconnected(livekit.DisconnectReason_CONNECTION_TIMEOUT)
		return "tea", h.again("tea", ann)
	}},
	{name: "duplicate identity", joins: true, goes: func(h *house, ann *client) (string, *client) { return "tea", h.again("tea", ann) }},
	{name: "restart", joins: true, goes: func(h *house, ann *client) (string, *client) {
		h.flush("tea")
		h.restart(moderated)
		return "tea", h.again("tea", ann)
	}},
	{name: "failure of the room", joins: true, goes: func(h *house, ann *client) (string, *client) {
		h.flush("tea")
		m := &mine{}
		c, err := h.try("tea", "mine", func(req *rooms.JoinRequest) {
			m.client = req.Outlet.(*client)
			req.Outlet = m
			req.Info.Permission.Hidden = true
		})
		require.NoError(h.t, err)
		m.arm()
		c.UpdateSelf(&livekit.UpdateParticipantMetadata{Name: "panic"})
		synctest.Wait() // the room is unloaded
		require.NotNil(h.t, ann.leave())
		return "tea", h.again("tea", ann)
	}},
	{name: "move", goes: func(h *house, ann *client) (string, *client) {
		require.NoError(h.t, h.Move(h.t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "hall"}))
		return "hall", ann
	}},
	{name: "forward", goes: func(h *house, ann *client) (string, *client) {
		require.NoError(h.t, h.Forward(h.t.Context(), &livekit.ForwardParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "hall"}))
		h.flush("hall")
		return "hall", ann
	}},
}

func moderated(c *rooms.Config) {
	c.Moderation = c.Store.(rooms.Moderation)
	c.EnableRemoteUnmute = true
}

// again joins as ann with her first token.
func (h *house) again(room string, ann *client) *client {
	h.t.Helper()
	return h.join(room, ann.Identity(), func(req *rooms.JoinRequest) { req.IssuedMs = 1; req.Session = ann.SID() })
}

// restriction is a decision about ann. imposed makes the decision. holds reports whether
// it still applies: ann tries to publish a microphone and a camera, and eve observes the
// room.
type restriction struct {
	name    string
	imposed func(h *house, ann *client, mic string)
	holds   func(h *house, at string, now, eve *client, mic, cam *livekit.TrackInfo) bool
}

func permit(f func(*livekit.ParticipantPermission)) func(*house, *client, string) {
	return func(h *house, _ *client, _ string) {
		_, err := h.EditParticipant(h.t.Context(), "tea", "ann", rooms.ParticipantEdit{Permit: f})
		require.NoError(h.t, err)
	}
}

var restrictions = []restriction{
	{"may not publish", permit(func(p *livekit.ParticipantPermission) { p.CanPublish = false }),
		func(_ *house, _ string, _, _ *client, mic, cam *livekit.TrackInfo) bool {
			return mic == nil && cam == nil
		}},
	{"may publish a camera", permit(func(p *livekit.ParticipantPermission) { p.CanPublishSources = []livekit.TrackSource{camera} }),
		func(_ *house, _ string, _, eve *client, mic, cam *livekit.TrackInfo) bool {
			return mic == nil && eve.isSubscribed(cam.GetSid())
		}},
	{"may not send data", permit(func(p *livekit.ParticipantPermission) { p.CanPublishData = false }),
		func(_ *house, _ string, _, eve *client, _, _ *livekit.TrackInfo) bool { return len(eve.packets()) == 0 }},
	{"may not subscribe", permit(func(p *livekit.ParticipantPermission) { p.CanSubscribe = false }),
		func(h *house, at string, now, eve *client, _, _ *livekit.TrackInfo) bool {
			sid := eve.publish(h.t, "eves", camera)
			h.flush(at)
			return !now.isSubscribed(sid)
		}},
	{"hidden", permit(func(p *livekit.ParticipantPermission) { p.Hidden = true }),
		func(h *house, at string, _, eve *client, _, _ *livekit.TrackInfo) bool {
			for _, p := range h.join(at, "late").snap.Others {
				if p.Identity == "ann" {
					return false
				}
			}
			seen := find(eve, func(m *livekit.SignalResponse) *livekit.ParticipantInfo {
				for _, p := range m.GetUpdate().GetParticipants() {
					if p.Identity == "ann" {
						return p
					}
				}
				return nil
			})
			return seen == nil || seen.State == livekit.ParticipantInfo_DISCONNECTED
		}},
	{"held", func(h *house, _ *client, _ string) {
		for _, room := range []string{"tea", "hall"} {
			_, err := h.MuteAll(h.t.Context(), room, rooms.Hold{Sources: []livekit.TrackSource{microphone}}, true)
			require.NoError(h.t, err)
		}
	}, func(h *house, at string, now, _ *client, mic, cam *livekit.TrackInfo) bool {
		now.Mute(&livekit.MuteTrackRequest{Sid: mic.GetSid()}) // its client tries
		now.Sync()
		h.flush(at)
		info, err := h.Participant(h.t.Context(), at, "ann")
		require.NoError(h.t, err)
		for _, track := range info.Tracks {
			if track.Muted != (track.Source == microphone) {
				return false
			}
		}
		return mic.Muted && !cam.Muted
	}},
	{"muted", func(h *house, _ *client, mic string) {
		_, err := h.MuteTrack(h.t.Context(), &livekit.MuteRoomTrackRequest{Room: "tea", Identity: "ann", TrackSid: mic, Muted: true})
		require.NoError(h.t, err)
	}, func(_ *house, _ string, _, _ *client, mic, _ *livekit.TrackInfo) bool { return mic.Muted }},
	{"subscription permission", func(_ *house, ann *client, _ string) {
		ann.SetSubscriptionPermission(&livekit.SubscriptionPermission{})
		ann.Sync()
	}, func(_ *house, _ string, _, eve *client, mic, cam *livekit.TrackInfo) bool {
		return !eve.isSubscribed(mic.GetSid()) && !eve.isSubscribed(cam.GetSid())
	}},
}

// TestRestrictionsGoWhereTheSessionGoes: however a session continues, the decisions about
// its participant apply.
func TestRestrictionsGoWhereTheSessionGoes(t *testing.T) {
	for _, j := range journeys {
		for _, r := range restrictions {
			t.Run(j.name+"/"+r.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { travel(t, j, r) })
			})
		}
	}
}

func travel(t *testing.T, j journey, r restriction) {
	h := newHouse(t, moderated)
	h.join("hall", "host")
	ann := h.join("tea", "ann", func(req *rooms.JoinRequest) { req.IssuedMs = 1 })
	mic := ann.publish(t, "mic", microphone)
	r.imposed(h, ann, mic)
	at, now := j.goes(h, ann)
	if j.joins {
		if r.name == "subscription permission" { // the client's own decision
			r.imposed(h, now, mic)
		}
		told := ann.toldMuted(mic)
		now.show("mic", microphone, told != nil && *told)
	}
	eve := h.join(at, "eve")
	now.show("cam", camera, false)
	now.Data(livekit.DataPacket_RELIABLE, mustMarshal(&livekit.DataPacket{Value: &livekit.DataPacket_User{User: &livekit.UserPacket{}}}))
	synctest.Wait()
	info, err := h.Participant(t.Context(), at, "ann")
	require.NoError(t, err)
	of := func(source livekit.TrackSource) *livekit.TrackInfo {
		for _, track := range info.Tracks {
			if track.Source == source {
				return track
			}
		}
		return nil
	}
	require.True(t, r.holds(h, at, now, eve, of(microphone), of(camera)))
}

// show publishes a track if that is permitted.
func (c *client) show(cid string, src livekit.TrackSource, muted bool) {
	typ := livekit.TrackType_VIDEO
	if src == microphone {
		typ = livekit.TrackType_AUDIO
	}
	c.AddTrack(&livekit.AddTrackRequest{Cid: cid, Type: typ, Source: src, Muted: muted})
	c.Sync()
	if track := c.announced(cid); track != nil {
		c.TrackPublished(fakeTrack(track.Sid), rooms.TrackFacts{})
		c.Sync()
	}
}

func mustMarshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// TestABanHoldsOnEveryWay to join or resume, and to come from another room.
func TestABanHoldsOnEveryWay(t *testing.T) {
	h := newHouse(t, moderated)
	ann := h.join("tea", "ann")
	h.join("hall", "ann")
	require.NoError(t, h.Ban(t.Context(), rooms.Ban{RoomName: "tea", Identity: "ann"}))
	require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, ann.leave().GetReason())
	h.refused(rooms.Denied, "tea", "ann", func(req *rooms.JoinRequest) { req.Session = ann.SID() })
	require.ErrorIs(t, h.CanResume(t.Context(), &rooms.JoinRequest{
		Room: "tea", Info: &livekit.ParticipantInfo{Identity: "ann"}, Session: ann.SID(),
	}), rooms.ErrBanned)
	require.ErrorIs(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "hall", Identity: "ann", DestinationRoom: "tea"}), rooms.ErrBanned)
	require.ErrorIs(t, h.Forward(t.Context(), &livekit.ForwardParticipantRequest{Room: "hall", Identity: "ann", DestinationRoom: "tea"}), rooms.ErrBanned)
	h.flush("hall")
	h.restart(moderated)
	h.refused(rooms.Denied, "tea", "ann")
}

// TestALockHoldsOnEveryWay to join, except for participants that were in the room and are
// lost.
func TestALockHoldsOnEveryWay(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	h.join("tea", "bob")
	h.join("hall", "eve")
	yes := true
	_, err := h.Edit(t.Context(), "tea", rooms.RoomEdit{Locked: &yes})
	require.NoError(t, err)
	h.refused(rooms.Denied, "tea", "new")
	require.Equal(t, rooms.Denied, rooms.ErrorCode(h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "hall", Identity: "eve", DestinationRoom: "tea"})))
	require.Equal(t, rooms.Denied, rooms.ErrorCode(h.Forward(t.Context(), &livekit.ForwardParticipantRequest{Room: "hall", Identity: "eve", DestinationRoom: "tea"})))
	ann.SignalLost()
	require.NoError(t, h.Resume(t.Context(), "tea", "ann", nil, func(*rooms.Participant, rooms.Snapshot) {}))
	ann = h.join("tea", "ann") // a duplicate is not a new participant
	ann.Disconnected(livekit.DisconnectReason_CONNECTION_TIMEOUT)
	h.refused(rooms.Denied, "tea", "ann")
	ann = h.again("tea", ann)
	ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	h.flush("tea")
	h.refused(rooms.Denied, "tea", "ann", func(req *rooms.JoinRequest) { req.Session = ann.SID() })
	h.restart()
	h.refused(rooms.Denied, "tea", "new")
	h.join("tea", "bob")
}

// TestASubscriptionPermissionReachesWhereItIsForwarded: later changes too.
func TestASubscriptionPermissionReachesWhereItIsForwarded(t *testing.T) {
	h := newHouse(t)
	ann, eve := h.join("tea", "ann"), h.join("hall", "eve")
	cam := ann.publish(t, "cam", camera)
	require.NoError(t, h.Forward(t.Context(), &livekit.ForwardParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "hall"}))
	h.flush("hall")
	require.True(t, eve.isSubscribed(cam))
	ann.SetSubscriptionPermission(&livekit.SubscriptionPermission{})
	ann.Sync()
	h.flush("hall")
	require.False(t, eve.isSubscribed(cam))
	ann.SetSubscriptionPermission(&livekit.SubscriptionPermission{TrackPermissions: []*livekit.TrackPermission{{ParticipantIdentity: "eve", AllTracks: true}}})
	ann.Sync()
	h.flush("hall")
	require.True(t, eve.isSubscribed(cam))
}

// TestASourceOfAnotherKind is published, as clients name the sources as they like. It counts
// as what belongs to its kind as well, and leaving out the source does not evade a hold.
func TestASourceOfAnotherKind(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	eve := h.join("tea", "eve", func(r *rooms.JoinRequest) {
		r.Info.Permission.CanPublishSources = []livekit.TrackSource{microphone}
	})
	for source, kind := range map[livekit.TrackSource]livekit.TrackType{
		microphone: livekit.TrackType_VIDEO, livekit.TrackSource_SCREEN_SHARE_AUDIO: livekit.TrackType_VIDEO,
		camera: livekit.TrackType_AUDIO, livekit.TrackSource_SCREEN_SHARE: livekit.TrackType_AUDIO,
	} {
		req := &livekit.AddTrackRequest{Cid: source.String(), Type: kind, Source: source}
		ann.AddTrack(req)
		ann.Sync()
		require.Equal(t, []any{source, kind}, []any{ann.announced(req.Cid).GetSource(), ann.announced(req.Cid).GetType()})
		eve.AddTrack(req)
		eve.Sync()
		require.Nil(t, eve.announced(req.Cid))
		require.Equal(t, livekit.RequestResponse_NOT_ALLOWED, eve.refused().GetReason(), "who may speak alone may not be seen")
	}
	ann.AddTrack(&livekit.AddTrackRequest{Cid: "odd", Type: livekit.TrackType_AUDIO, Source: 17})
	ann.Sync()
	require.Nil(t, ann.announced("odd"))
	require.Equal(t, livekit.RequestResponse_UNSUPPORTED_TYPE, ann.refused().GetReason())
	cam := ann.publish(t, "cam", camera)
	ann.AddTrack(&livekit.AddTrackRequest{Sid: cam, Cid: "more", Type: livekit.TrackType_AUDIO, Source: microphone})
	ann.Sync()
	require.Nil(t, ann.announced("more"))

	_, err := h.MuteAll(t.Context(), "tea", rooms.Hold{Sources: []livekit.TrackSource{microphone}}, true)
	require.NoError(t, err)
	ann.AddTrack(&livekit.AddTrackRequest{Cid: "unnamed", Type: livekit.TrackType_AUDIO})
	ann.Sync()
	track := ann.announced("unnamed")
	ann.TrackPublished(fakeTrack(track.Sid), rooms.TrackFacts{})
	ann.Sync()
	require.True(t, h.muted("ann", track.Sid))
}
