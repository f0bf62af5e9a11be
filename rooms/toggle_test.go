package rooms_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// crowd publishes so many tracks into a room.
func (h *house) crowd(room string, tracks int) (sids []string) {
	const each = 50
	for i := range tracks / each {
		p := h.join(room, fmt.Sprint("speaker", i), func(r *rooms.JoinRequest) { r.AutoSubscribe = false })
		for j := range each {
			sids = append(sids, p.publish(h.t, fmt.Sprint("cam", j), livekit.TrackSource_CAMERA))
		}
	}
	return sids
}

// subscribes sends a request for subscriptions as signalling permits.
func (c *client) subscribes(t *testing.T, sids []string, on bool) {
	c.UpdateSubscription(&livekit.UpdateSubscription{TrackSids: sids, Subscribe: on})
	c.Sync()
	c.Pace(t.Context())
}

// Each subscription that begins or ends is work for the peer and a message to the client.
func TestSubscriptionsAreToggledAtAPace(t *testing.T) {
	for name, ask := range map[string]func(c *client, sids []string, on bool){
		"subscription": func(c *client, sids []string, on bool) {
			c.UpdateSubscription(&livekit.UpdateSubscription{TrackSids: sids, Subscribe: on})
		},
		"of participants": func(c *client, sids []string, on bool) {
			c.UpdateSubscription(&livekit.UpdateSubscription{ParticipantTracks: []*livekit.ParticipantTracks{{TrackSids: sids}}, Subscribe: on})
		},
		"state": func(c *client, sids []string, on bool) {
			if on {
				c.SyncState(&livekit.SyncState{Subscription: &livekit.UpdateSubscription{TrackSids: sids, Subscribe: true}})
			} else {
				c.UpdateSubscription(&livekit.UpdateSubscription{TrackSids: sids})
			}
		},
		"repeated": func(c *client, sids []string, _ bool) {
			for range 10 {
				sids = append(sids, sids[:200]...)
			}
			c.UpdateSubscription(&livekit.UpdateSubscription{TrackSids: sids, Subscribe: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				sids := h.crowd("tea", 200)
				bob := h.join("tea", "bob")
				began := time.Now()
				for i := range 100 {
					ask(bob, sids, i%2 == 1)
					bob.Sync()
					bob.Pace(t.Context())
				}
				require.Greater(t, time.Since(began), 15*time.Second)
			})
		})
	}
}

func TestDataSubscriptionsAreToggledAtAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann, bob := h.join("tea", "ann"), h.join("tea", "bob", takesData)
		var sids []string
		for i := range 50 {
			ann.PublishDataTrack(&livekit.PublishDataTrackRequest{PubHandle: uint32(i + 1), Name: fmt.Sprint(i)})
			ann.Sync()
			sids = append(sids, find(ann, (*livekit.SignalResponse).GetPublishDataTrackResponse).GetInfo().GetSid())
		}
		began := time.Now()
		for i := range 200 {
			var updates []*livekit.UpdateDataSubscription_Update
			for _, sid := range sids {
				updates = append(updates, &livekit.UpdateDataSubscription_Update{TrackSid: sid, Subscribe: i%2 == 1})
			}
			bob.UpdateDataSubscription(&livekit.UpdateDataSubscription{Updates: updates})
			bob.Sync()
			bob.Pace(t.Context())
		}
		require.Greater(t, time.Since(began), 8*time.Second)
	})
}

// A client is told of all its handles with each change, so a change takes longer the more it has. Who
// takes as many as a participant publishes, one by one, does not wait.
func TestHandlesOfDataTracksAreToldAtAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		var sids []string
		for i := range 16 {
			ann := h.join("tea", fmt.Sprint("ann", i))
			for j := range 64 {
				ann.PublishDataTrack(&livekit.PublishDataTrackRequest{PubHandle: uint32(j + 1), Name: fmt.Sprint(j)})
				ann.Sync()
				sids = append(sids, find(ann, (*livekit.SignalResponse).GetPublishDataTrackResponse).GetInfo().GetSid())
			}
		}
		subscribe := func(c *client, sid string, on bool) {
			c.UpdateDataSubscription(&livekit.UpdateDataSubscription{Updates: []*livekit.UpdateDataSubscription_Update{{TrackSid: sid, Subscribe: on}}})
			c.Sync()
			c.Pace(t.Context())
		}
		bob := h.join("tea", "bob")
		began := time.Now()
		for i := range 10 {
			for _, sid := range sids[:64] {
				subscribe(bob, sid, i%2 == 0)
			}
		}
		require.Zero(t, time.Since(began), "all of one participant")
		eve := h.join("tea", "eve", takesData)
		began = time.Now()
		for i := range 300 {
			subscribe(eve, sids[0], i%2 == 1)
		}
		require.Greater(t, time.Since(began), 2*time.Second)
	})
}

// Nobody waits who takes all tracks of a large room, or turns the pages of a grid.
func TestHonestSubscriptionsAreNotPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		sids := h.crowd("tea", 1000)
		bob := h.join("tea", "bob", func(r *rooms.JoinRequest) { r.AutoSubscribe = false })
		began := time.Now()
		bob.subscribes(t, sids, true)
		require.Zero(t, time.Since(began), "all at once")

		eve := h.join("tea", "eve", func(r *rooms.JoinRequest) { r.AutoSubscribe = false })
		began = time.Now()
		for _, sid := range sids {
			eve.subscribes(t, []string{sid}, true)
		}
		require.Zero(t, time.Since(began), "each by itself")

		dan := h.join("tea", "dan", func(r *rooms.JoinRequest) { r.AutoSubscribe = false })
		began = time.Now()
		const page = 50
		for i := range 100 { // back and forth, several a second
			from, to := i%2*page, (i+1)%2*page
			for j := range page {
				dan.subscribes(t, sids[from+j:from+j+1], false)
				dan.subscribes(t, sids[to+j:to+j+1], true)
			}
			time.Sleep(200 * time.Millisecond)
		}
		require.Equal(t, 20*time.Second, time.Since(began), "page by page")
	})
}

// What a client has said of tracks that have ended takes no place of what it says of those to come.
func TestDeclinedTracksAreForgottenWhenTheyEnd(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	for range 1001 { // more than may be said ahead
		sid := ann.publish(t, "cam", livekit.TrackSource_CAMERA)
		bob.UpdateSubscription(&livekit.UpdateSubscription{TrackSids: []string{sid}})
		bob.Sync()
		ann.TrackUnpublished(sid)
	}
	ann.AddTrack(&livekit.AddTrackRequest{Cid: "screen", Type: livekit.TrackType_VIDEO, Source: livekit.TrackSource_SCREEN_SHARE})
	ann.Sync()
	sid := find(ann, (*livekit.SignalResponse).GetTrackPublished).GetTrack().GetSid()
	bob.UpdateSubscription(&livekit.UpdateSubscription{TrackSids: []string{sid}})
	bob.Sync()
	ann.TrackPublished(fakeTrack(sid), rooms.TrackFacts{})
	ann.Sync()
	require.False(t, bob.isSubscribed(sid))
}

// A request that ends one subscription and declines those that wait for its place begins none of them.
func TestOneRequestIsCarriedOutBeforeOthersTakeThePlaces(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) { c.Limits.SubscribedVideo = 1 })
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	sids := []string{ann.publish(t, "first", livekit.TrackSource_CAMERA)}
	bob.Sync()
	for i := range 20 {
		sids = append(sids, ann.publish(t, fmt.Sprint("cam", i), livekit.TrackSource_CAMERA))
	}
	bob.UpdateSubscription(&livekit.UpdateSubscription{TrackSids: sids})
	bob.Sync()
	require.Equal(t, []bool{true}, bob.verdicts(sids[0]))
	for _, sid := range sids[1:] {
		require.Empty(t, bob.verdicts(sid))
	}
}
