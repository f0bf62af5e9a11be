package conformance

import (
	"slices"
	"strings"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// updatesOf are the states of a participant in the updates, oldest first.
func (c *signaller) updatesOf(identity string) (states []*livekit.ParticipantInfo) {
	for _, m := range c.messages() {
		for _, p := range m.GetUpdate().GetParticipants() {
			if p.Identity == identity {
				states = append(states, p)
			}
		}
	}
	return states
}

// toldOf waits until the newest state of a participant satisfies such.
func (c *signaller) toldOf(t *testing.T, identity, what string, such func(*livekit.ParticipantInfo) bool) *livekit.ParticipantInfo {
	t.Helper()
	var newest *livekit.ParticipantInfo
	eventually(t, "an update of "+identity+": "+what, func() bool {
		states := c.updatesOf(identity)
		if len(states) == 0 {
			return false
		}
		newest = states[len(states)-1]
		return such(newest)
	})
	return newest
}

// testAddTrack: an announced track gets a SID at once. When it is negotiated, all
// participants are told of it, the publisher too.
func testAddTrack(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		watcher := dialLegacy(t, room, "watcher")
		c := newCaller(t, m, room, "alice")
		c.connect()
		for cid, as := range map[string]struct {
			codec  codec
			source livekit.TrackSource
			kind   livekit.TrackType
			prefix string
		}{
			"cid-mic":    {opus, mic, livekit.TrackType_AUDIO, "TR_A"},
			"cid-camera": {vp8, camera, livekit.TrackType_VIDEO, "TR_V"},
		} {
			sid := c.publishAs(as.codec, as.source, cid)
			require.True(t, strings.HasPrefix(sid, as.prefix), sid)
			published := await(t, c.ws, "the published track", func(m *livekit.SignalResponse) *livekit.TrackInfo {
				if p := m.GetTrackPublished(); p.GetCid() == cid {
					return p.Track
				}
				return nil
			})
			require.Equal(t, cid, published.Name)
			require.Equal(t, as.kind, published.Type)
			require.Equal(t, as.source, published.Source)
			for _, told := range []*signaller{watcher, c.ws} {
				info := told.toldOf(t, "alice", "she publishes "+cid, func(p *livekit.ParticipantInfo) bool {
					return slices.ContainsFunc(p.Tracks, func(i *livekit.TrackInfo) bool { return i.Sid == sid && i.Mid != "" })
				})
				require.True(t, info.IsPublisher)
				at := slices.IndexFunc(info.Tracks, func(i *livekit.TrackInfo) bool { return i.Sid == sid })
				require.Equal(t, strings.ToLower(as.codec.capability.MimeType), strings.ToLower(info.Tracks[at].MimeType))
			}
		}
	})
}

// testVersions: each version of a participant has one state.
func testVersions(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		watcher := dialLegacy(t, room, "watcher")
		alice := m.join(t, room, "alice")
		pub := alice.publishMicrophone(t)
		api := roomService(env.server)
		for _, metadata := range []string{"one", "two", "three"} {
			_, err := api.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{Room: room, Identity: "alice", Metadata: metadata})
			require.NoError(t, err)
		}
		require.NoError(t, alice.LocalParticipant.UnpublishTrack(pub.SID()))
		alice.Disconnect()
		last := watcher.toldOf(t, "alice", "she has left", func(p *livekit.ParticipantInfo) bool {
			return p.State == livekit.ParticipantInfo_DISCONNECTED
		})
		require.Equal(t, livekit.DisconnectReason_CLIENT_INITIATED, last.DisconnectReason)
		states := watcher.updatesOf("alice")
		for n := 1; n < len(states); n++ {
			require.Greater(t, states[n].Version, states[n-1].Version, "state %d of %d", n, len(states))
			require.GreaterOrEqual(t, states[n].State, states[n-1].State)
		}
		var metadata []string
		for _, s := range states {
			metadata = append(metadata, s.Metadata)
		}
		require.Equal(t, []string{"", "one", "two", "three"}, slices.Compact(metadata))
	})
}

// testMuteMessages: a participant reports its mute, and all participants are told, itself
// included. A moderator's mute is also sent to the publisher as a message of its own.
func testMuteMessages(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		watcher := dialLegacy(t, room, "watcher")
		c := newCaller(t, m, room, "alice")
		c.connect()
		sid := c.publish()
		muted := func(want bool) {
			t.Helper()
			for _, told := range []*signaller{watcher, c.ws} {
				told.toldOf(t, "alice", "muted or not", func(p *livekit.ParticipantInfo) bool {
					return len(p.Tracks) == 1 && p.Tracks[0].Muted == want
				})
			}
		}
		muted(false)
		for _, want := range []bool{true, false} {
			c.ws.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_Mute{
				Mute: &livekit.MuteTrackRequest{Sid: sid, Muted: want}}})
			muted(want)
		}
		require.NotContains(t, c.ws.kinds(), "Mute", "its own wish is not said back")
		_, err := roomService(env.server).MutePublishedTrack(t.Context(), &livekit.MuteRoomTrackRequest{
			Room: room, Identity: "alice", TrackSid: sid, Muted: true})
		require.NoError(t, err)
		order := await(t, c.ws, "a mute", (*livekit.SignalResponse).GetMute)
		require.Equal(t, sid, order.Sid)
		require.True(t, order.Muted)
		muted(true)
	})
}

// subscribing is a caller that receives a camera, and no other track.
func subscribing(t *testing.T, m mode) (alice *peer, sid string, c *caller) {
	t.Helper()
	room := roomName(t)
	alice = m.join(t, room, "alice")
	sid = alice.publishCamera(t).SID()
	c = newCaller(t, m, room, "bob")
	c.connect()
	c.hears(t)
	return alice, sid, c
}

func testSubscriptionMessages(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		alice, sid, c := subscribing(t, m)
		subscribe := func(u *livekit.UpdateSubscription) {
			c.ws.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_Subscription{Subscription: u}})
		}
		sids := &livekit.UpdateSubscription{TrackSids: []string{sid}}
		perParticipant := &livekit.UpdateSubscription{ParticipantTracks: []*livekit.ParticipantTracks{{
			ParticipantSid: alice.LocalParticipant.SID(), TrackSids: []string{sid}}}}
		for _, u := range []*livekit.UpdateSubscription{sids, perParticipant} {
			u.Subscribe = false
			subscribe(u)
			c.hearsNothing(t)
			u.Subscribe = true
			subscribe(u)
			c.hears(t)
			eventually(t, "a section for the track", func() bool { return midOf(c.received(), sid) != "" })
		}
	})
}

func testTrackSettings(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		_, sid, c := subscribing(t, m)
		for _, disabled := range []bool{true, false} {
			c.ws.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_TrackSetting{
				TrackSetting: &livekit.UpdateTrackSettings{TrackSids: []string{sid}, Disabled: disabled, Quality: livekit.VideoQuality_HIGH}}})
			if disabled {
				c.hearsNothing(t)
			} else {
				c.hears(t)
			}
			require.NotEmpty(t, midOf(c.received(), sid), "disabled is not unsubscribed")
		}
	})
}

// testPermissionMessages: a publisher decides which participants may have its tracks, and
// those are told.
func testPermissionMessages(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		alice, sid, c := subscribing(t, m)
		allowed := func(want ...bool) {
			t.Helper()
			eventually(t, "what is allowed is told", func() bool {
				var told []bool
				for _, m := range c.ws.messages() {
					if u := m.GetSubscriptionPermissionUpdate(); u != nil {
						require.Equal(t, sid, u.TrackSid)
						require.Equal(t, alice.LocalParticipant.SID(), u.ParticipantSid)
						told = append(told, u.Allowed)
					}
				}
				return slices.Equal(want, slices.Compact(told))
			})
		}
		allowed(true)
		alice.LocalParticipant.SetSubscriptionPermission(&livekit.SubscriptionPermission{})
		allowed(true, false)
		c.hearsNothing(t)
		alice.LocalParticipant.SetSubscriptionPermission(&livekit.SubscriptionPermission{AllParticipants: true})
		allowed(true, false, true)
		c.hears(t)
	})
}

// testParticipantPermission: a permission that a moderator removes is missing in the
// participant's state, and ends what it permitted.
func testParticipantPermission(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		watcher := dialLegacy(t, room, "watcher")
		c := newCaller(t, m, room, "alice")
		c.connect()
		sid := c.publish()
		watcher.toldOf(t, "alice", "she publishes", func(p *livekit.ParticipantInfo) bool { return len(p.Tracks) == 1 })
		_, err := roomService(env.server).UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
			Room: room, Identity: "alice", Permission: &livekit.ParticipantPermission{CanSubscribe: true}})
		require.NoError(t, err)
		gone := await(t, c.ws, "the end of her track", (*livekit.SignalResponse).GetTrackUnpublished)
		require.Equal(t, sid, gone.TrackSid)
		for _, told := range []*signaller{watcher, c.ws} {
			told.toldOf(t, "alice", "she may not publish", func(p *livekit.ParticipantInfo) bool {
				return len(p.Tracks) == 0 && p.Permission.CanSubscribe && !p.Permission.CanPublish && !p.Permission.CanPublishData
			})
		}
	})
}

// testSubscribedQuality: a publisher of video is told which qualities have subscribers:
// soon if there are more, and after a while if there are fewer.
func testSubscribedQuality(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		bob := m.join(t, room, "bob")
		c := newCaller(t, m, room, "alice")
		c.connect()
		sid := c.publishAs(vp8, camera, "cid-camera")
		enabled := func(quality livekit.VideoQuality, want bool) {
			t.Helper()
			eventually(t, "the newest update has that of "+quality.String(), func() bool {
				all := c.ws.messages()
				for n := len(all) - 1; n >= 0; n-- {
					u := all[n].GetSubscribedQualityUpdate()
					if u == nil {
						continue
					}
					require.Equal(t, sid, u.TrackSid)
					for _, codec := range u.SubscribedCodecs {
						require.Equal(t, "vp8", codec.Codec)
						for _, q := range codec.Qualities {
							if q.Quality == quality {
								return q.Enabled == want
							}
						}
					}
					return false
				}
				return false
			})
		}
		enabled(livekit.VideoQuality_HIGH, true)
		bob.awaitMedia(t, sid, 5)
		bob.remote(t, "alice", camera).SetEnabled(false)
		enabled(livekit.VideoQuality_HIGH, false)
		bob.remote(t, "alice", camera).SetEnabled(true)
		enabled(livekit.VideoQuality_HIGH, true)
	})
}

// testTrackSubscribed: the publisher is told once that its track has a subscriber.
func testTrackSubscribed(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		c := newCaller(t, m, room, "alice")
		c.connect()
		sid := c.publish()
		watcher := dialLegacy(t, room, "watcher") // without a connection it has no tracks
		watcher.joined(t)
		c.ws.alive(t)
		require.NotContains(t, c.ws.kinds(), "TrackSubscribed")
		m.join(t, room, "bob").awaitMedia(t, sid, 5)
		m.join(t, room, "carol").awaitMedia(t, sid, 5)
		told := await(t, c.ws, "that somebody has the track", (*livekit.SignalResponse).GetTrackSubscribed)
		require.Equal(t, sid, told.TrackSid)
		c.ws.alive(t)
		require.Equal(t, 1, strings.Count(strings.Join(c.ws.kinds(), " "), "TrackSubscribed"))
	})
}

func testStreamState(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		alice, sid, c := subscribing(t, m)
		state := await(t, c.ws, "the state of the stream", (*livekit.SignalResponse).GetStreamStateUpdate)
		require.Len(t, state.StreamStates, 1)
		require.Equal(t, sid, state.StreamStates[0].TrackSid)
		require.Equal(t, alice.LocalParticipant.SID(), state.StreamStates[0].ParticipantSid)
		require.Equal(t, livekit.StreamState_ACTIVE, state.StreamStates[0].State)
	})
}

// testSpeakersChanged: subscribers of a speaker are told when it begins and stops
// speaking, and so is the speaker.
func testSpeakersChanged(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice := m.join(t, room, "alice")
		c := newCaller(t, m, room, "bob")
		c.connect()
		source := newSource(t, opus)
		alice.publish(t, source, mic)
		speaking := func(want bool) *livekit.SpeakerInfo {
			t.Helper()
			return await(t, c.ws, "a speaker", func(m *livekit.SignalResponse) *livekit.SpeakerInfo {
				for _, s := range m.GetSpeakersChanged().GetSpeakers() {
					if s.Sid == alice.LocalParticipant.SID() && s.Active == want {
						return s
					}
				}
				return nil
			})
		}
		level := speaking(true).Level
		require.Positive(t, level)
		require.Zero(t, level*8-float32(int(level*8)), "in steps of an eighth")
		alice.await(t, "speaking [alice]")
		source.stop()
		require.Zero(t, speaking(false).Level)
	})
}

// testQualityMessages: each participant is told the quality of its own connection, and
// those of the participants that it is subscribed to.
func testQualityMessages(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		alice, _, c := subscribing(t, m)
		own := c.ws.joined(t).Participant.Sid
		for _, sid := range []string{own, alice.LocalParticipant.SID()} {
			await(t, c.ws, "the quality of "+sid, func(m *livekit.SignalResponse) *livekit.ConnectionQualityInfo {
				for _, info := range m.GetConnectionQuality().GetUpdates() {
					if info.ParticipantSid == sid && info.Quality == livekit.ConnectionQuality_EXCELLENT {
						return info
					}
				}
				return nil
			})
		}
	})
}
