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

// A subscriber that joins after all connections have settled is told the qualities of the
// participants that it hears.
func TestALateSubscriberIsToldOfQualities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		alice, bob := h.join("r", "alice"), h.join("r", "bob")
		told := func() map[string]bool {
			time.Sleep(6 * time.Second)
			synctest.Wait()
			update := find(bob, (*livekit.SignalResponse).GetConnectionQuality)
			require.NotNil(t, update)
			sids := map[string]bool{}
			for _, info := range update.Updates {
				sids[info.ParticipantSid] = true
			}
			return sids
		}
		require.Equal(t, map[string]bool{bob.SID(): true}, told())
		alice.publish(t, "mic", livekit.TrackSource_MICROPHONE)
		require.Equal(t, map[string]bool{alice.SID(): true, bob.SID(): true}, told())

		before := len(bob.messages)
		require.Equal(t, map[string]bool{alice.SID(): true, bob.SID(): true}, told())
		require.Len(t, bob.messages, before, "and not again")
	})
}

// A change of a connection is told to the participant and to its subscribers, and no
// participant is told of unchanged connections.
func TestQualitiesAreToldToWhomTheyConcern(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		alice, bob := h.join("r", "alice"), h.join("r", "bob")
		eve := h.join("r", "eve", func(j *rooms.JoinRequest) { j.AutoSubscribe = false })
		for i, p := range []*client{alice, bob} {
			p.publish(t, fmt.Sprint("mic", i), livekit.TrackSource_MICROPHONE)
			p.publish(t, fmt.Sprint("cam", i), livekit.TrackSource_CAMERA)
		}
		everybody := []*client{alice, bob, eve}
		// told returns the messages to each of them in the next seconds.
		told := func() (all []map[string]livekit.ConnectionQuality) {
			for _, c := range everybody {
				c.mu.Lock()
				c.messages = nil
				c.mu.Unlock()
			}
			time.Sleep(6 * time.Second)
			synctest.Wait()
			for _, c := range everybody {
				got := map[string]livekit.ConnectionQuality{}
				if update := find(c, (*livekit.SignalResponse).GetConnectionQuality); update != nil {
					for _, info := range update.Updates {
						got[info.ParticipantSid] = info.Quality
					}
				}
				all = append(all, got)
			}
			return all
		}
		type is = map[string]livekit.ConnectionQuality
		const good, poor = livekit.ConnectionQuality_EXCELLENT, livekit.ConnectionQuality_POOR
		a, b, e := alice.SID(), bob.SID(), eve.SID()
		require.Equal(t, []is{{a: good, b: good}, {a: good, b: good}, {e: good}}, told())
		require.Equal(t, []is{{}, {}, {}}, told())
		alice.mu.Lock()
		alice.poor = true
		alice.mu.Unlock()
		require.Equal(t, []is{{a: poor}, {a: poor}, {}}, told())
		require.Equal(t, []is{{}, {}, {}}, told())
	})
}
