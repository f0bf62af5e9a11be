package rooms_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms/log"
)

// toggle mutes and unmutes a track as fast as signalling permits, and counts.
func (c *client) toggle(ctx context.Context, sid string, n *atomic.Int64) {
	for ctx.Err() == nil {
		c.Mute(&livekit.MuteTrackRequest{Sid: sid, Muted: n.Add(1)%2 == 1})
		if n.Load()%32 == 0 {
			c.Sync()
		}
		c.Pace(ctx)
	}
}

func TestAClientCannotOutrunTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		var hangs, full atomic.Bool
		h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: func() error {
			if hangs.Load() {
				<-hang
			}
			if full.Load() {
				return errors.New("the disk is full")
			}
			return nil
		}}
		h.open()
		t.Cleanup(h.close)
		ctx, stop := context.WithCancel(t.Context())
		const clients = 2
		counts := make([]atomic.Int64, clients)
		all := func() (n int64) {
			for i := range counts {
				n += counts[i].Load()
			}
			return n
		}
		for i := range clients {
			c := h.join("tea", fmt.Sprint("p", i))
			sid := c.publish(t, "mic", livekit.TrackSource_MICROPHONE)
			go c.toggle(ctx, sid, &counts[i]) // ends with stop, which synctest waits for
		}
		time.Sleep(4 * time.Second)
		require.Less(t, all(), int64(clients*(100+50*5)), "a pace that receivers of events can follow")
		require.Greater(t, all(), int64(clients*50*3))

		hangs.Store(true)
		before := all()
		time.Sleep(5 * time.Second)
		require.Less(t, h.store.Stats().Queue, 100+clients*40, "the queue")
		require.Less(t, all()-before, int64(100+clients*40))
		hangs.Store(false)
		close(hang)
		time.Sleep(3 * time.Second)

		full.Store(true)
		before = all()
		time.Sleep(10 * time.Second)
		require.Less(t, all()-before, int64(100+clients*100), "once a try, each")
		full.Store(false)
		time.Sleep(3 * time.Second)
		stop()
		synctest.Wait()
		h.rowsAreWhatTheRoomIs("tea", "")
		h.checkMutes()
		require.Len(t, h.log(log.TrackMuted, log.TrackUnmuted), int(all()), "all is told")
	})
}

// Every participant is told of each change of a subscription permission, and a client
// that reads too slowly is disconnected. So the publisher has to wait.
func TestPermissionsAreChangedAtAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann := h.join("tea", "ann")
		h.join("tea", "bob")
		ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
		ann.publish(t, "cam", livekit.TrackSource_CAMERA)
		began := time.Now()
		const changes = 1000
		for i := range changes { // as signalling permits
			ann.SetSubscriptionPermission(&livekit.SubscriptionPermission{AllParticipants: i%2 == 0})
			ann.Sync()
			ann.Pace(t.Context())
		}
		require.Greater(t, time.Since(began), 50*time.Second, "each of its tracks counts")
	})
}
