package rooms_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// verdicts are the messages to c about its permission for the track, in order.
func (c *client) verdicts(sid string) []bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []bool
	for _, m := range c.messages {
		if u := m.GetSubscriptionPermissionUpdate(); u.GetTrackSid() == sid {
			all = append(all, u.Allowed)
		}
	}
	return all
}

// Only a participant that gains or loses a track is told, and one that asks again.
func TestPermissionsThatDoNotChangeAreNotRepeated(t *testing.T) {
	h := newHouse(t)
	ann, bob, eve := h.join("tea", "ann"), h.join("tea", "bob"), h.join("tea", "eve")
	cam := ann.publish(t, "cam", livekit.TrackSource_CAMERA)
	mic := ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
	only := func(more ...*livekit.TrackPermission) {
		ann.SetSubscriptionPermission(&livekit.SubscriptionPermission{TrackPermissions: append([]*livekit.TrackPermission{
			{ParticipantIdentity: "bob", TrackSids: []string{cam}},
			{ParticipantSid: bob.SID(), TrackSids: []string{mic}},
		}, more...)})
		ann.Sync()
	}
	for i := range 5 { // others are added to the list and removed
		only(&livekit.TrackPermission{ParticipantIdentity: fmt.Sprint("other", i), AllTracks: true})
	}
	require.Equal(t, []bool{true}, bob.verdicts(cam))
	require.Equal(t, []bool{true}, bob.verdicts(mic))
	require.True(t, bob.isSubscribed(mic))
	require.Equal(t, []bool{true, false}, eve.verdicts(cam))
	require.False(t, eve.isSubscribed(cam))

	eve.UpdateSubscription(&livekit.UpdateSubscription{TrackSids: []string{cam}, Subscribe: true})
	eve.Sync()
	require.Equal(t, []bool{true, false, false}, eve.verdicts(cam), "who asks is answered")

	only(&livekit.TrackPermission{ParticipantIdentity: "eve", TrackSids: []string{mic}}, &livekit.TrackPermission{ParticipantIdentity: "eve", TrackSids: []string{cam}})
	require.Equal(t, []bool{true, false, false, true}, eve.verdicts(cam))
	require.Equal(t, []bool{true, false, true}, eve.verdicts(mic))
	require.True(t, eve.isSubscribed(cam))

	fay := h.join("tea", "fay")
	require.Equal(t, []bool{false}, fay.verdicts(cam))
	only()
	require.Equal(t, []bool{false}, fay.verdicts(cam))
	require.False(t, eve.isSubscribed(cam))
}

// TestSubscriptionsAreLimited: a track beyond the limit waits until another one ends.
func TestSubscriptionsAreLimited(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) { c.Limits.SubscribedVideo = 1 })
	ann, bob, eve := h.join("tea", "ann"), h.join("tea", "bob"), h.join("tea", "eve")
	cam := ann.publish(t, "cam", livekit.TrackSource_CAMERA)
	mic := ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
	screen := ann.publish(t, "screen", livekit.TrackSource_SCREEN_SHARE)
	is := func(want ...string) {
		t.Helper()
		bob.Sync()
		for _, sid := range []string{cam, mic, screen} {
			require.Equal(t, slices.Contains(want, sid), bob.isSubscribed(sid), sid)
		}
	}
	is(mic, cam)
	subscribe := func(sid string, on bool) {
		bob.UpdateSubscription(&livekit.UpdateSubscription{TrackSids: []string{sid}, Subscribe: on})
	}
	subscribe(screen, true)
	is(mic, cam)
	subscribe(cam, false)
	is(mic, screen)
	subscribe(cam, true)
	is(mic, screen)
	_, err := h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{Room: "tea", Identity: "ann", Permission: &livekit.ParticipantPermission{
		CanPublish: true, CanSubscribe: true, CanPublishSources: []livekit.TrackSource{livekit.TrackSource_CAMERA, livekit.TrackSource_MICROPHONE},
	}})
	require.NoError(t, err)
	is(mic, cam)

	other := eve.publish(t, "cam", livekit.TrackSource_CAMERA)
	bob.Sync()
	require.False(t, bob.isSubscribed(other))
	ann.Client.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	bob.Sync()
	require.True(t, bob.isSubscribed(other))
}
