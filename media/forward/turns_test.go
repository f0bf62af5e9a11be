package forward

import (
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"
)

// awaitBlocked returns when a goroutine waits for a lock in a function.
func awaitBlocked(function string) {
	stacks := make([]byte, 1<<20)
	for {
		for g := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			head, calls, _ := strings.Cut(g, "\n")
			if strings.Contains(head, "sync.Mutex.Lock") && strings.Contains(calls, function) {
				return
			}
		}
		runtime.Gosched()
	}
}

// A packet may come while a track goes to rest, between the track's last look at its layers
// and its rest. What is due after it is done all the same, though nothing follows.
func TestAPacketThatComesAsATrackGoesToRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_AUDIO, opusConfig())
		s := newSender(track, 1, opusConfig(), "", 0)
		r := newReceiver(track, opusConfig(), nil)
		speak := func() { s.layer.WriteRTP(s.packet(false, make([]byte, 80)), time.Now()) }
		time.Sleep(tickInterval + tickInterval/2)
		speak()
		require.Len(t, r.take(), 1)
		time.Sleep(time.Duration(restAfter))
		r.f.mu.Lock() // the last question of the look at what is due waits for it
		time.Sleep(tickInterval / 2)
		awaitBlocked("(*Forwarder).isOwed")
		s.layer.fan.Lock()
		written := make(chan struct{})
		go func() {
			defer close(written)
			speak()
		}()
		awaitBlocked("(*Layer).WriteRTP")
		r.f.mu.Unlock()
		track.turning.Lock() // the look is over
		s.rtcp.take()
		track.turning.Unlock()
		s.layer.fan.Unlock()
		<-written
		require.Len(t, r.take(), 1)
		time.Sleep(5 * time.Second)
		require.NotZero(t, count[*rtcp.ReceiverReport](s.rtcp.take()), "the publisher has its report")
	})
}
