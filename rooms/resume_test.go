package rooms_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// resume makes the client of an identity resume, and returns its snapshot.
func (h *house) resume(room, identity string) (snap rooms.Snapshot) {
	h.t.Helper()
	require.NoError(h.t, h.Resume(h.t.Context(), room, identity, nil, func(_ *rooms.Participant, now rooms.Snapshot) { snap = now }))
	return snap
}

// A mute of a participant's track by others is repeated to a resuming client, until the
// client has stated its own mute state.
func TestAResumeRepeatsMutesByOthers(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) { c.EnableRemoteUnmute = true })
	ann := h.join("tea", "ann")
	mic, cam := ann.publish(t, "mic", microphone), ann.publish(t, "cam", camera)
	muted := func(room string) map[string]bool {
		t.Helper()
		all := map[string]bool{}
		for _, m := range h.resume(room, "ann").Mutes {
			all[m.Sid] = m.Muted
		}
		return all
	}
	mute := func(sid string, muted bool) {
		t.Helper()
		_, err := h.MuteTrack(t.Context(), &livekit.MuteRoomTrackRequest{Room: "tea", Identity: "ann", TrackSid: sid, Muted: muted})
		require.NoError(t, err)
	}
	require.Empty(t, muted("tea"))
	mute(mic, true)
	require.Equal(t, map[string]bool{mic: true}, muted("tea"))
	require.Equal(t, map[string]bool{mic: true}, muted("tea"))
	mute(mic, false)
	require.Equal(t, map[string]bool{mic: false}, muted("tea"))
	mute(mic, true)
	ann.Mute(&livekit.MuteTrackRequest{Sid: mic, Muted: true})
	ann.Sync()
	require.Empty(t, muted("tea"), "the client has heard of it")
	ann.Mute(&livekit.MuteTrackRequest{Sid: cam, Muted: true})
	ann.Sync()
	require.Empty(t, muted("tea"), "it knows its own")

	ann.Mute(&livekit.MuteTrackRequest{Sid: mic})
	mute(mic, true)
	require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "coffee"}))
	require.Equal(t, map[string]bool{mic: true}, muted("coffee"))
}

// A resuming client is told again which tracks it may not have, which participants speak,
// and the connection qualities.
func TestAResumeRepeatsWhatNoSnapshotHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
		cam, mic := ann.publish(t, "cam", camera), ann.publish(t, "mic", microphone)
		resumed := func() {
			time.Sleep(6 * time.Second) // all has been sent
			synctest.Wait()
			bob.mu.Lock()
			bob.messages = nil
			bob.mu.Unlock()
			h.resume("tea", "bob")
			synctest.Wait()
		}
		speaks := func() map[string]bool {
			all := map[string]bool{}
			for _, s := range find(bob, (*livekit.SignalResponse).GetSpeakersChanged).GetSpeakers() {
				all[s.Sid] = s.Active
			}
			return all
		}
		permit := func(sids ...string) {
			ann.SetSubscriptionPermission(&livekit.SubscriptionPermission{TrackPermissions: []*livekit.TrackPermission{
				{ParticipantIdentity: "bob", TrackSids: sids},
			}})
			ann.Sync()
		}
		ann.SimulateSpeaker(8 * time.Second)
		permit(mic)
		resumed()
		require.Equal(t, []bool{false}, bob.verdicts(cam))
		require.Empty(t, bob.verdicts(mic))
		require.Equal(t, map[string]bool{ann.SID(): true, bob.SID(): false}, speaks())
		require.Len(t, find(bob, (*livekit.SignalResponse).GetConnectionQuality).GetUpdates(), 2)

		permit(mic, cam)
		resumed()
		require.Equal(t, []bool{true}, bob.verdicts(cam), "it was told otherwise before")
		require.Equal(t, map[string]bool{ann.SID(): false, bob.SID(): false}, speaks())
	})
}

// A late failure of a subscription that has been made again ends that one too, so that
// the room and the media agree.
func TestAFailedSubscriptionEnds(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	cam := ann.publish(t, "cam", camera)
	require.True(t, bob.isSubscribed(cam))
	bob.SubscriptionFailed(cam, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED)
	bob.Sync()
	require.False(t, bob.isSubscribed(cam))
	bob.UpdateSubscription(&livekit.UpdateSubscription{TrackSids: []string{cam}, Subscribe: true})
	bob.Sync()
	require.True(t, bob.isSubscribed(cam))
}

// The server's RPC to a participant that leaves, in any way, fails at once.
func TestAnRPCFailsWithItsParticipant(t *testing.T) {
	for name, leaves := range map[string]func(*house, *client) error{
		"leave": func(_ *house, ann *client) error {
			ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
			return nil
		},
		"move": func(h *house, _ *client) error {
			return h.Move(h.t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "coffee"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				ann := h.join("tea", "ann")
				h.join("tea", "bob") // the room stays
				failed := make(chan error, 1)
				go func() {
					_, err := h.PerformRPC(t.Context(), &livekit.PerformRpcRequest{Room: "tea", DestinationIdentity: "ann", Method: "m"})
					failed <- err
				}()
				synctest.Wait()
				require.Len(t, ann.packets(), 1)
				require.NoError(t, leaves(h, ann))
				require.ErrorIs(t, <-failed, rooms.ErrNoParticipant)
			})
		})
	}
}
