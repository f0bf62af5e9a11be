package media

import (
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// settled returns when the loop has done what was posted before.
func (c *client) settled(f func()) {
	done := make(chan struct{})
	c.peer.post(func() { f(); close(done) })
	<-done
}

// A client that is subscribed to a track and not, again and again, while an offer waits for its answer,
// takes no section for each time. In the end the track comes.
func TestToggledSubscriptionsTakeNoSections(t *testing.T) {
	t.Parallel()
	for _, browser := range []string{"Firefox", "Safari"} {
		t.Run(browser, func(t *testing.T) {
			e := newTestEngine(t, nil)
			a := newClient(t, e, clientConfig{sid: "PA_a"})
			a.join()
			pump(t, a.publish("TR_a", opus, nil))
			p := a.published("TR_a")
			b := newClient(t, e, clientConfig{sid: "PA_b", change: func(c *PeerConfig) { c.Client = &livekit.ClientInfo{Browser: browser} }})
			b.join()
			b.mu.Lock()
			b.mute = true
			b.mu.Unlock()
			b.subscribe("PA_a", p)
			b.settled(func() {})
			for range 100 {
				b.peer.Unsubscribe("TR_a")
				b.settled(func() {})
				b.subscribe("PA_a", p)
				b.settled(func() {})
			}
			sections := 0
			b.settled(func() { sections = len(b.peer.sub.pc.GetTransceivers()) })
			require.LessOrEqual(t, sections, 2)
			b.mu.Lock()
			b.mute = false
			b.mu.Unlock()
			b.peer.Resume()
			b.receives("PA_a", "TR_a")
		})
	}
}

// What the room asks for while the loop is busy waits once for each track, and the last word counts.
func TestWishesWaitOnceForEachTrack(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	pump(t, a.publish("TR_a", opus, nil))
	pump(t, a.publish("TR_b", opus, nil))
	one, two := a.published("TR_a"), a.published("TR_b")
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.join()
	b.subscribe("PA_a", two)
	b.receives("PA_a", "TR_b")
	busy, held := make(chan struct{}), make(chan struct{})
	b.peer.post(func() { close(busy); <-held })
	<-busy
	before := b.peer.queue.Len()
	for range 1000 {
		b.subscribe("PA_a", one)
		b.peer.Unsubscribe("TR_b")
		b.peer.Unsubscribe("TR_a")
		b.subscribe("PA_a", two)
	}
	waiting := b.peer.queue.Len() - before
	close(held)
	require.Less(t, waiting, 100)
	b.receives("PA_a", "TR_b") // anew, because it ended meanwhile
	var has, waits bool
	b.settled(func() { has, waits = b.peer.subs["TR_a"] != nil, len(b.peer.wishes) > 0 })
	require.False(t, has || waits)
}

// Sections that cannot be used again end with the transport.
func TestSectionsForSubscriptionsAreBounded(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	pump(t, a.publish("TR_a", opus, nil))
	p := a.published("TR_a")
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.join()
	var err error
	b.settled(func() {
		for i := 0; i < mostSections && err == nil; i++ {
			_, err = b.peer.sub.pc.AddTransceiverFromKind(webrtc.RTPCodecTypeVideo, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly})
		}
	})
	require.NoError(t, err)
	b.subscribe("PA_a", p)
	b.events.wait(t, "reconnect")
	sections := 0
	b.settled(func() { sections = len(b.peer.sub.pc.GetTransceivers()) })
	require.Equal(t, mostSections, sections)
}
