package rooms_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/datatrack"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// takesData joins as a client that gets data tracks without asking for them.
func takesData(req *rooms.JoinRequest) { req.AutoData = true }

// publishData publishes a data track, and returns its SID.
func (c *client) publishData(t *testing.T, name string, handle uint32) string {
	t.Helper()
	c.PublishDataTrack(&livekit.PublishDataTrackRequest{PubHandle: handle, Name: name})
	c.settle()
	resp := find(c, func(m *livekit.SignalResponse) *livekit.PublishDataTrackResponse {
		if p := m.GetPublishDataTrackResponse(); p.GetInfo().GetName() == name {
			return p
		}
		return nil
	})
	require.NotNil(t, resp, "the answer to publishing %s", name)
	require.Equal(t, handle, resp.Info.PubHandle)
	require.True(t, strings.HasPrefix(resp.Info.Sid, "DTR_"), resp.Info.Sid)
	return resp.Info.Sid
}

// settle returns when the room has done what it was asked, and told of it.
func (c *client) settle() {
	c.Sync()
	c.Sync() // what is told at the end of a round is told before the next
}

// person is a participant as the API shows it.
func (h *house) person(room, identity string) *livekit.ParticipantInfo {
	h.t.Helper()
	info, err := h.Participant(h.t.Context(), room, identity)
	require.NoError(h.t, err)
	return info
}

// frame is a packet of a data track.
func frame(handle uint16, payload string) []byte {
	p := datatrack.Packet{Header: datatrack.Header{IsStartOfFrame: true, IsFinalOfFrame: true, Handle: handle}, Payload: []byte(payload)}
	b, err := p.Marshal()
	if err != nil {
		panic(err)
	}
	return b
}

// frames are the payloads that c has got since the last call, each with the SID of the track
// that its handle stands for.
func (c *client) frames() []string {
	handles := c.handles()
	c.mu.Lock()
	defer c.mu.Unlock()
	got := []string{}
	for _, raw := range c.tracks {
		var p datatrack.Packet
		if err := p.Unmarshal([]byte(raw)); err != nil {
			panic(err)
		}
		got = append(got, handles[uint32(p.Handle)].GetTrackSid()+" "+string(p.Payload))
	}
	c.tracks = nil
	return got
}

// handles are those that c was told of last.
func (c *client) handles() map[uint32]*livekit.DataTrackSubscriberHandles_PublishedDataTrack {
	c.mu.Lock()
	defer c.mu.Unlock()
	var last *livekit.DataTrackSubscriberHandles
	for _, m := range c.messages {
		if h := m.GetDataTrackSubscriberHandles(); h != nil {
			last = h
		}
	}
	return last.GetSubHandles()
}

// refusedData is why c's client was refused last; nil if it was not.
func (c *client) refusedData() *livekit.RequestResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	var last *livekit.RequestResponse
	for _, m := range c.messages {
		if r := m.GetRequestResponse(); r.GetPublishDataTrack() != nil || r.GetUnpublishDataTrack() != nil {
			last = r
		}
	}
	return last
}

// sees is what c was told last of a participant.
func (c *client) sees(identity string) *livekit.ParticipantInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	var last *livekit.ParticipantInfo
	for _, m := range c.messages {
		for _, p := range m.GetUpdate().GetParticipants() {
			if p.Identity == identity {
				last = p
			}
		}
	}
	return last
}

// TestDataTracksReachTheirSubscribers, those that want all and those that ask, under the
// handles that they were told, late joiners too, and nobody once they end.
func TestDataTracksReachTheirSubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann, bob, eve := h.join("tea", "ann"), h.join("tea", "bob", takesData), h.join("tea", "eve")
		geo, heat := ann.publishData(t, "geo", 7), ann.publishData(t, "heat", 9)
		require.Equal(t, "ann", bob.handles()[1].GetPublisherIdentity())
		require.Equal(t, ann.SID(), bob.handles()[1].GetPublisherSid())
		require.Len(t, bob.handles(), 2)
		require.Empty(t, eve.handles(), "it has not asked")
		require.Len(t, bob.sees("ann").DataTracks, 2)
		require.True(t, bob.sees("ann").IsPublisher)
		synctest.Wait() // it is written
		require.EqualValues(t, 1, h.one("tea").NumPublishers)

		ann.DataTrack(frame(7, "here"))
		ann.DataTrack(frame(9, "20"))
		require.Equal(t, []string{geo + " here", heat + " 20"}, bob.frames())
		require.Empty(t, eve.frames())
		require.Empty(t, ann.frames())

		eve.UpdateDataSubscription(&livekit.UpdateDataSubscription{Updates: []*livekit.UpdateDataSubscription_Update{{TrackSid: heat, Subscribe: true}}})
		bob.UpdateDataSubscription(&livekit.UpdateDataSubscription{Updates: []*livekit.UpdateDataSubscription_Update{
			{TrackSid: geo, Subscribe: true}, {TrackSid: geo},
		}})
		dan := h.join("tea", "dan", takesData)
		bob.settle()
		require.Len(t, bob.handles(), 1)
		require.Len(t, dan.handles(), 2)
		ann.DataTrack(frame(7, "there"))
		ann.DataTrack(frame(9, "21"))
		require.Equal(t, []string{heat + " 21"}, eve.frames())
		require.Equal(t, []string{heat + " 21"}, bob.frames())
		require.Equal(t, []string{geo + " there", heat + " 21"}, dan.frames())

		before := bob.handles()
		bob.UpdateDataSubscription(&livekit.UpdateDataSubscription{Updates: []*livekit.UpdateDataSubscription_Update{{TrackSid: geo, Subscribe: true}}})
		bob.settle()
		for handle := range bob.handles() {
			require.True(t, handle > 2 || before[handle] != nil, "a handle that stood for a track a moment ago stands for another")
		}

		ann.UnpublishDataTrack(&livekit.UnpublishDataTrackRequest{PubHandle: 9})
		ann.settle()
		require.Equal(t, heat, find(ann, (*livekit.SignalResponse).GetUnpublishDataTrackResponse).GetInfo().GetSid())
		require.Len(t, bob.handles(), 1)
		require.Empty(t, eve.handles())
		require.Len(t, bob.sees("ann").DataTracks, 1)
		ann.DataTrack(frame(9, "22"))
		require.Empty(t, eve.frames())
		require.EqualValues(t, 1, h.Stats().DataTrackUnknown)

		ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		bob.settle()
		require.Empty(t, bob.handles())
		require.Empty(t, bob.sees("ann").DataTracks)
		synctest.Wait()
		require.Zero(t, h.one("tea").NumPublishers)
		h.join("tea", "ann").publishData(t, "geo", 7)
		require.Len(t, bob.handles(), 1)
		require.NotContains(t, bob.handles(), uint32(1))
	})
}

// TestDataTracksGoByPermissions: of the publisher, of the subscriber, and of the publisher's
// word on who may have what.
func TestDataTracksGoByPermissions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann, bob := h.join("tea", "ann"), h.join("tea", "bob", takesData)
		geo := ann.publishData(t, "geo", 7)
		permit := func(identity string, edit func(*livekit.ParticipantPermission)) {
			_, err := h.EditParticipant(t.Context(), "tea", identity, rooms.ParticipantEdit{Permit: edit})
			require.NoError(t, err)
		}
		allowed := func() bool {
			bob.mu.Lock()
			defer bob.mu.Unlock()
			var last *livekit.SubscriptionPermissionUpdate
			for _, m := range bob.messages {
				if u := m.GetSubscriptionPermissionUpdate(); u.GetTrackSid() == geo {
					last = u
				}
			}
			return last.GetAllowed()
		}
		reaches := func(want bool) {
			t.Helper()
			ann.DataTrack(frame(7, "x"))
			bob.settle()
			got := bob.frames()
			require.Equal(t, want, len(got) == 1, got)
			require.Equal(t, want, len(bob.handles()) == 1)
			require.Equal(t, want, allowed())
		}
		reaches(true)
		permit("bob", func(p *livekit.ParticipantPermission) { p.CanSubscribe = false })
		reaches(false)
		permit("bob", func(p *livekit.ParticipantPermission) { p.CanSubscribe = true })
		reaches(true)
		ann.SetSubscriptionPermission(&livekit.SubscriptionPermission{})
		ann.settle()
		reaches(false)
		ann.SetSubscriptionPermission(&livekit.SubscriptionPermission{TrackPermissions: []*livekit.TrackPermission{
			{ParticipantIdentity: "bob", TrackSids: []string{geo}},
		}})
		ann.settle()
		reaches(true)

		permit("ann", func(p *livekit.ParticipantPermission) { p.CanPublishData = false })
		ann.DataTrack(frame(7, "x"))
		require.Empty(t, bob.frames())
		bob.settle()
		require.Empty(t, bob.handles())
		require.Equal(t, geo, find(ann, (*livekit.SignalResponse).GetUnpublishDataTrackResponse).GetInfo().GetSid())
		ann.PublishDataTrack(&livekit.PublishDataTrackRequest{PubHandle: 7, Name: "geo"})
		ann.settle()
		require.Equal(t, livekit.RequestResponse_NOT_ALLOWED, ann.refusedData().GetReason())
	})
}

// TestDataTracksThatAreRefused, each with its reason.
func TestDataTracksThatAreRefused(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) { c.Limits.MaxCustomEncoding = 32 })
	ann := h.join("tea", "ann")
	ann.publishData(t, "geo", 7)
	custom := func(name string) *livekit.DataTrackFrameEncoding {
		return &livekit.DataTrackFrameEncoding{Value: &livekit.DataTrackFrameEncoding_Custom{Custom: name}}
	}
	schema := func(name, encoding string) *livekit.DataTrackSchemaId {
		return &livekit.DataTrackSchemaId{Name: name, Encoding: &livekit.DataTrackSchemaEncoding{
			Value: &livekit.DataTrackSchemaEncoding_Custom{Custom: encoding},
		}}
	}
	for _, c := range []struct {
		why livekit.RequestResponse_Reason
		req *livekit.PublishDataTrackRequest
	}{
		{livekit.RequestResponse_INVALID_HANDLE, &livekit.PublishDataTrackRequest{Name: "x"}},
		{livekit.RequestResponse_INVALID_HANDLE, &livekit.PublishDataTrackRequest{PubHandle: 65536, Name: "x"}},
		{livekit.RequestResponse_INVALID_NAME, &livekit.PublishDataTrackRequest{PubHandle: 8}},
		{livekit.RequestResponse_INVALID_NAME, &livekit.PublishDataTrackRequest{PubHandle: 8, Name: strings.Repeat("x", 257)}},
		{livekit.RequestResponse_DUPLICATE_HANDLE, &livekit.PublishDataTrackRequest{PubHandle: 7, Name: "x"}},
		{livekit.RequestResponse_DUPLICATE_NAME, &livekit.PublishDataTrackRequest{PubHandle: 8, Name: "geo"}},
		{livekit.RequestResponse_INVALID_REQUEST, &livekit.PublishDataTrackRequest{PubHandle: 8, Name: "x", FrameEncoding: custom("")}},
		{livekit.RequestResponse_INVALID_REQUEST, &livekit.PublishDataTrackRequest{PubHandle: 8, Name: "x", FrameEncoding: custom(strings.Repeat("x", 33))}},
		{livekit.RequestResponse_INVALID_REQUEST, &livekit.PublishDataTrackRequest{PubHandle: 8, Name: "x", Schema: schema("s", strings.Repeat("x", 33))}},
		{livekit.RequestResponse_INVALID_REQUEST, &livekit.PublishDataTrackRequest{PubHandle: 8, Name: "x", Schema: schema(strings.Repeat("x", 257), "e")}},
	} {
		ann.PublishDataTrack(c.req)
		ann.settle()
		require.Equal(t, c.why, ann.refusedData().GetReason(), "%v", c.req)
		require.NotEmpty(t, ann.refusedData().GetMessage())
	}
	ann.UnpublishDataTrack(&livekit.UnpublishDataTrackRequest{PubHandle: 65536 + 7})
	ann.settle()
	require.Equal(t, livekit.RequestResponse_NOT_FOUND, ann.refusedData().GetReason())
	require.Len(t, h.person("tea", "ann").DataTracks, 1)

	ann.PublishDataTrack(&livekit.PublishDataTrackRequest{
		PubHandle: 8, Name: "typed", Encryption: livekit.Encryption_GCM, FrameEncoding: custom("own"), Schema: schema("s", "e"),
	})
	ann.settle()
	typed := h.person("tea", "ann").DataTracks[1]
	require.Equal(t, livekit.Encryption_GCM, typed.Encryption)
	require.Equal(t, "own", typed.FrameEncoding.GetCustom())
	require.Equal(t, "e", typed.Schema.GetEncoding().GetCustom())

	for _, raw := range []string{"", "frame", string(frame(7, ""))[:11], "\x1c" + string(frame(7, "")[1:]) + "\xff\xff\x01\xff"} {
		ann.DataTrack([]byte(raw))
	}
	require.EqualValues(t, 4, h.Stats().DataTrackMalformed)

	off := newHouse(t, func(c *rooms.Config) { c.NoDataTracks = true }).join("tea", "ann")
	off.PublishDataTrack(&livekit.PublishDataTrackRequest{PubHandle: 7, Name: "geo"})
	off.settle()
	require.Equal(t, livekit.RequestResponse_NOT_ALLOWED, off.refusedData().GetReason())
}

// TestDataTracksAreBounded: how many a participant publishes, and how many it is subscribed
// to.
func TestDataTracksAreBounded(t *testing.T) {
	h := newHouse(t)
	bob := h.join("tea", "bob", takesData)
	for i := range 17 {
		ann := h.join("tea", fmt.Sprint("ann", i))
		for n := range 65 {
			ann.PublishDataTrack(&livekit.PublishDataTrackRequest{PubHandle: uint32(n + 1), Name: fmt.Sprint(n)})
		}
		ann.settle()
		require.Equal(t, livekit.RequestResponse_LIMIT_EXCEEDED, ann.refusedData().GetReason())
		require.Len(t, h.person("tea", fmt.Sprint("ann", i)).DataTracks, 64)
	}
	bob.settle()
	require.Len(t, bob.handles(), 1024)
	require.NotNil(t, find(bob, (*livekit.SignalResponse).GetSubscriptionResponse), "it is told of what it does not get")
}

// TestDataTracksGoAlong when their publisher is moved, and are shown where it is forwarded
// to.
func TestDataTracksGoAlong(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann", takesData)
	bob, eve, kim := h.join("tea", "bob", takesData), h.join("coffee", "eve", takesData), h.join("milk", "kim", takesData)
	bob.publishData(t, "bob's", 1)
	geo, milk := ann.publishData(t, "geo", 7), kim.publishData(t, "kim's", 1)
	require.Len(t, ann.handles(), 1)
	require.NoError(t, h.Forward(t.Context(), &livekit.ForwardParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "coffee"}))
	eve.settle()
	eve.settle()
	require.Eventually(t, func() bool { return len(eve.handles()) == 1 }, time.Minute, time.Millisecond)
	ann.DataTrack(frame(7, "here"))
	require.Equal(t, []string{geo + " here"}, bob.frames())
	require.Equal(t, []string{geo + " here"}, eve.frames())
	heat := ann.publishData(t, "heat", 8)
	require.Eventually(t, func() bool { return len(eve.handles()) == 2 }, time.Minute, time.Millisecond)
	ann.DataTrack(frame(8, "20"))
	require.Equal(t, []string{heat + " 20"}, eve.frames())
	bob.frames()
	ann.UnpublishDataTrack(&livekit.UnpublishDataTrackRequest{PubHandle: 8})
	require.Eventually(t, func() bool { return len(eve.handles()) == 1 }, time.Minute, time.Millisecond)

	require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "milk"}))
	moved := h.person("milk", "ann")
	require.Len(t, moved.DataTracks, 1)
	require.True(t, moved.IsPublisher)
	require.Eventually(t, func() bool { return len(kim.handles()) == 1 && len(bob.handles())+len(eve.handles()) == 0 }, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool { return ann.handles()[2].GetTrackSid() == milk && len(ann.handles()) == 1 }, time.Minute, time.Millisecond)
	ann.DataTrack(frame(7, "there"))
	kim.DataTrack(frame(1, "hello"))
	require.Equal(t, []string{geo + " there"}, kim.frames())
	require.Equal(t, []string{milk + " hello"}, ann.frames())
	require.Empty(t, bob.frames())
	require.Empty(t, eve.frames())
}

// TestDataTracksAfterAResume: the client hears again of its handles, one that publishes what
// the room does not know starts again, and what it was subscribed to holds.
func TestDataTracksAfterAResume(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	geo := ann.publishData(t, "geo", 7)
	bob.SyncState(&livekit.SyncState{DataSubscription: &livekit.UpdateDataSubscription{
		Updates: []*livekit.UpdateDataSubscription_Update{{TrackSid: geo, Subscribe: true}},
	}})
	bob.settle()
	require.Len(t, bob.handles(), 1)
	bob.mu.Lock()
	bob.messages = nil
	bob.mu.Unlock()
	require.NoError(t, h.Resume(t.Context(), "tea", "bob", nil, func(*rooms.Participant, rooms.Snapshot) {}))
	bob.settle()
	require.Len(t, bob.handles(), 1)
	known := &livekit.PublishDataTrackResponse{Info: &livekit.DataTrackInfo{Sid: geo, PubHandle: 7}}
	ann.SyncState(&livekit.SyncState{PublishDataTracks: []*livekit.PublishDataTrackResponse{known}})
	ann.settle()
	require.Nil(t, ann.leave())
	ann.DataTrack(frame(7, "here"))
	require.Equal(t, []string{geo + " here"}, bob.frames())
	ann.SyncState(&livekit.SyncState{PublishDataTracks: []*livekit.PublishDataTrackResponse{{Info: &livekit.DataTrackInfo{Sid: "DTR_x"}}}})
	bob.settle()
	require.Equal(t, livekit.LeaveRequest_RECONNECT, ann.leave().GetAction())
}

// TestDataTracksEndWithARestart: the session goes on without them, and counts are exact.
func TestDataTracksEndWithARestart(t *testing.T) {
	h := newHouse(t)
	h.join("tea", "ann").publishData(t, "geo", 7)
	h.restart()
	require.EqualValues(t, 1, h.one("tea").NumPublishers)
	ann := h.join("tea", "ann")
	require.Empty(t, ann.snap.Self.DataTracks)
	ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
	ann.publishData(t, "geo", 7)
	ann.UnpublishDataTrack(&livekit.UnpublishDataTrackRequest{PubHandle: 7})
	ann.settle()
	h.restart()
	require.EqualValues(t, 1, h.one("tea").NumPublishers, "the microphone")
}

// TestDataTracksWhileSubscribersComeAndGo: packets go on while rooms change who gets them.
func TestDataTracksWhileSubscribersComeAndGo(t *testing.T) {
	h := newHouse(t)
	ann, stays := h.join("tea", "ann"), h.join("tea", "stays", takesData)
	geo := ann.publishData(t, "geo", 7)
	h.join("coffee", "eve", takesData)
	require.NoError(t, h.Forward(t.Context(), &livekit.ForwardParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "coffee"}))
	var over atomic.Bool
	var sender sync.WaitGroup
	sent := 0
	sender.Go(func() {
		for ; !over.Load(); sent++ {
			ann.DataTrack(frame(7, "x"))
		}
	})
	for i := range 10 {
		for _, room := range []string{"tea", "coffee"} {
			c := h.join(room, fmt.Sprint("guest", i), takesData)
			require.Eventually(t, func() bool { return len(c.frames()) > 0 }, time.Minute, time.Millisecond)
			c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		}
	}
	over.Store(true)
	sender.Wait()
	got := stays.frames()
	require.Len(t, got, sent)
	require.Equal(t, geo+" x", got[len(got)-1])
}
