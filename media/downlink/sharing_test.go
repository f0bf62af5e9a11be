package downlink

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/media/downlink/allocate"
	"parlor/media/downlink/netsim"
)

// bulk is a TCP flow that always has something to send, with Reno's congestion control
// (RFC 5681).
type bulk struct {
	clock     *netsim.Clock
	down      *netsim.Link
	back      time.Duration // the way of an acknowledgement
	window    float64       // segments
	threshold float64
	inFlight  int
	sent      int // segments so far
	recovered int // losses of segments before that one are of one queue
	delivered int64
}

const segment = 1500 // bytes with headers

func newBulk(clock *netsim.Clock, down *netsim.Link, back time.Duration) *bulk {
	b := &bulk{clock: clock, down: down, back: back, window: 10, threshold: 1e9}
	b.send()
	return b
}

func (b *bulk) send() {
	for float64(b.inFlight) < b.window {
		number := b.sent
		b.sent++
		b.inFlight++
		queue := b.down.QueueDelay()
		if b.down.Send(segment, func() {
			b.delivered += segment
			b.clock.After(b.back, func() { b.acked() })
		}) {
			continue
		}
		// What comes next tells of the gap.
		b.clock.After(queue+b.down.Conditions().Delay+b.back, func() { b.lost(number) })
	}
}

func (b *bulk) acked() {
	b.inFlight--
	if b.window < b.threshold {
		b.window++
	} else {
		b.window += 1 / b.window
	}
	b.send()
}

func (b *bulk) lost(number int) {
	b.inFlight--
	if number >= b.recovered {
		b.recovered = b.sent
		b.threshold = max(b.window/2, 2)
		b.window = b.threshold
	}
	b.send()
}

// Two subscribers on one bottleneck get about the same, in either order of joining.
func TestTwoSubscribersShareAPath(t *testing.T) {
	for _, seed := range []uint64{1, 7, 11} {
		clock, c := &netsim.Clock{}, plain()
		c.Rate = 2e6
		down := netsim.NewLink(clock, seed, c)
		join := func(n uint64) *subscriber {
			up := netsim.NewLink(clock, seed+n, netsim.Conditions{Delay: 20 * time.Millisecond})
			return newSubscriber(clock, down, up, seed+10*n, 2)
		}
		first := join(1)
		clock.Run(20 * time.Second)
		second := join(2)
		clock.Run(50 * time.Second)
		a, b := first.media, second.media
		down.TakeDelays()
		lost := first.voiceLost + second.voiceLost
		clock.Run(110 * time.Second)
		a, b = first.media-a, second.media-b
		t.Logf("%d: %.0f and %.0f kbit/s of %.0f", seed, float64(a*8)/60e3, float64(b*8)/60e3, c.Rate/1e3)
		require.Less(t, max(a, b), 2*min(a, b), "fair")
		require.Greater(t, float64((a+b)*8)/60, 0.75*c.Rate, "and the path is used")
		require.Less(t, first.voiceLost+second.voiceLost-lost, int64(30))
	}
}

// A TCP flow fills any queue. A subscriber beside it neither starves nor starves it.
func TestASubscriberBesideTCP(t *testing.T) {
	for _, seed := range []uint64{1, 7, 11} {
		clock, c := &netsim.Clock{}, plain()
		c.Rate = 2e6
		down := netsim.NewLink(clock, seed, c)
		up := netsim.NewLink(clock, seed+1, netsim.Conditions{Delay: 20 * time.Millisecond})
		s := newSubscriber(clock, down, up, seed+2, 3)
		clock.Run(20 * time.Second)
		flow := newBulk(clock, down, 20*time.Millisecond)
		clock.Run(40 * time.Second)
		media, bulk := s.media, flow.delivered
		clock.Run(160 * time.Second)
		media, bulk = s.media-media, flow.delivered-bulk
		t.Logf("%d: media %.0f, TCP %.0f kbit/s of %.0f", seed, float64(media*8)/120e3, float64(bulk*8)/120e3, c.Rate/1e3)
		require.Less(t, max(media, bulk), 2*min(media, bulk), "fair")
	}
}

// A screen share is text: it is shown whole before cameras beside it get more than their
// least.
func TestAScreenShareBesideCameras(t *testing.T) {
	var tab table
	tab.head()
	for _, rate := range []float64{3e6, 1.5e6, 900e3} {
		c := plain()
		c.Rate = rate
		s := newPath(c, 6)
		s.sources[0].class = allocate.Screen
		m := s.phase(40*time.Second, c.Rate)
		tab.row("screen and 5 cameras", m, s.oracle(c.Rate))
		require.GreaterOrEqual(t, m.steady, 0.9*s.oracle(c.Rate))
		require.LessOrEqual(t, m.p95, 100*time.Millisecond)
		screen := s.sources[0].wants
		for _, v := range s.sources[1:] {
			require.LessOrEqual(t, v.wants.Spatial, screen.Spatial)
			require.GreaterOrEqual(t, v.wants.Spatial, int8(0), "none is paused")
		}
		if rate > 1e6 {
			require.Equal(t, int8(2), screen.Spatial)
		}
		require.LessOrEqual(t, s.sources[0].frozen, 500*time.Millisecond)
	}
	t.Log(tab.String())
}
