package media

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// hall is a room in which each client's data goes to all others.
type hall struct {
	t *testing.T
	e *Engine

	mu   sync.Mutex // guards the following
	in   []*guest
	most int64 // largest number of bytes that waited at one time
}

// guest is a client in a hall.
type guest struct {
	*client
	*events
	hall     *hall
	reliable *webrtc.DataChannel
	got      atomic.Int64 // numbered messages, in order
	small    atomic.Int64 // others
	each     func()       // called before a message is handled; nil: nothing
	loses    atomic.Bool  // messages may be missing
}

// Data implements rooms.PeerEvents.
func (g *guest) Data(kind livekit.DataPacket_Kind, packet []byte) {
	g.hall.mu.Lock()
	defer g.hall.mu.Unlock()
	for _, q := range g.hall.in {
		if q != g {
			q.peer.SendData(g.peer, kind, packet)
		}
	}
	g.hall.most = max(g.hall.most, g.hall.e.Stats().DataWaiting)
}

// mostWaited is the largest number of bytes that waited at one time. The sender of the last
// message may still count when its receivers have it.
func (h *hall) mostWaited() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.most
}

// enter adds a client that calls each before it handles a message.
func (h *hall) enter(sid string, each func()) *guest {
	h.t.Helper()
	g := &guest{hall: h, each: each}
	g.client = newClient(h.t, h.e, clientConfig{
		sid: sid, single: true,
		settings: func(s *webrtc.SettingEngine) { s.SetSCTPMaxReceiveBufferSize(256 << 10) },
		change: func(cfg *PeerConfig) {
			g.events = cfg.Events.(*events)
			cfg.Events = g
		},
	})
	var err error
	g.reliable, err = g.pub.CreateDataChannel(labelReliable, nil)
	require.NoError(h.t, err)
	opened := make(chan struct{})
	g.reliable.OnOpen(func() { close(opened) })
	g.reliable.OnMessage(func(m webrtc.DataChannelMessage) { g.take(m.Data) })
	g.offer(false)
	g.events.wait(h.t, "connected")
	select {
	case <-opened:
	case <-time.After(patience):
		require.FailNow(h.t, "channel did not open")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.in = append(h.in, g)
	return g
}

// leave ends g as a room does.
func (h *hall) leave(g *guest) {
	h.mu.Lock()
	for i, q := range h.in {
		if q == g {
			h.in = append(h.in[:i:i], h.in[i+1:]...)
			break
		}
	}
	h.mu.Unlock()
	g.peer.Close()
}

const floodMessage = 60_000

func (g *guest) take(b []byte) {
	if g.each != nil {
		g.each()
	}
	if len(b) != floodMessage {
		g.small.Add(1)
	} else if n := int64(binary.BigEndian.Uint64(b)); g.loses.Load() {
		if n <= g.got.Swap(n) {
			g.t.Errorf("message %d came late", n)
		}
	} else if n != g.got.Add(1) {
		g.t.Errorf("message %d came as number %d", n, g.got.Load())
	}
}

// flood sends n numbered messages, as fast as SCTP takes them.
func (g *guest) flood(n int) {
	for i := range n {
		b := make([]byte, floodMessage)
		binary.BigEndian.PutUint64(b, uint64(i+1))
		if err := g.reliable.Send(b); err != nil {
			g.t.Errorf("send: %v", err)
		}
	}
}

func (g *guest) gets(n int64) {
	g.t.Helper()
	require.Eventually(g.t, func() bool { return g.got.Load() == n }, 4*patience, time.Millisecond, "of the messages")
}

// enterDead adds a client that takes no data until the test ends.
func (h *hall) enterDead(sid string) *guest {
	h.t.Helper()
	end := make(chan struct{})
	g := h.enter(sid, func() { <-end })
	h.t.Cleanup(func() { close(end) }) // before the close of the client, which waits for it
	return g
}

const (
	floodCount = 100       // far more than may be under way
	floodBound = 256 << 10 // bytes of one sender
)

// A sender that is faster than a receiver which takes nothing waits for it, and no other
// client does. The waiting data stays within the bound.
func TestFloodedReceiverMakesItsSenderWait(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, func(c *Config) { c.DataStall, c.MaxFlowWaiting = time.Hour, floodBound })
	h := &hall{t: t, e: e}
	a, b, other := h.enter("PA_a", nil), h.enter("PA_b", nil), h.enter("PA_c", nil)
	dead := h.enterDead("PA_d")
	a.flood(floodCount)
	require.Eventually(t, func() bool { return e.Stats().DataHeldUp > 0 }, patience, time.Millisecond)
	for range 10 {
		require.NoError(t, other.reliable.Send([]byte("small")))
	}
	require.Eventually(t, func() bool { return b.small.Load() == 10 && a.small.Load() == 10 }, patience, time.Millisecond)
	require.LessOrEqual(t, dead.peer.data.out[labelReliable].dc.BufferedAmount(), uint64(maxReliableSent+floodMessage))
	require.Less(t, b.got.Load(), int64(floodCount))

	h.leave(dead)
	b.gets(floodCount)
	other.gets(floodCount)
	require.LessOrEqual(t, h.mostWaited(), int64(floodBound+2*rooms.MaxDataPacket), "bytes waiting")
	require.Zero(t, e.Stats().NeedsReconnect)
	require.Eventually(t, func() bool { return e.Stats().DataWaiting == 0 }, patience, time.Millisecond)
}

// A receiver that takes nothing while a sender waits for it must reconnect. The others
// get all data and stay connected.
func TestDeadReceiverHoldsNobodyUpForEver(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.DataStall, c.MaxFlowWaiting = 5*time.Second, floodBound })
	h := &hall{t: t, e: e}
	a, b, c := h.enter("PA_a", nil), h.enter("PA_b", nil), h.enter("PA_c", nil)
	dead := h.enterDead("PA_d")
	a.flood(floodCount)
	require.Contains(t, dead.events.wait(t, "reconnect").label, "reliable")
	b.gets(floodCount)
	c.gets(floodCount)
	require.EqualValues(t, 1, e.Stats().SlowReliable)
	require.EqualValues(t, 1, e.Stats().NeedsReconnect)
	require.Eventually(t, func() bool { return e.Stats().DataWaiting == 0 }, patience, time.Millisecond)
}

// With a threshold a receiver that takes less loses data, stays connected, and gets what comes
// once it takes more. The others get all.
func TestReceiverBelowTheThresholdLosesData(t *testing.T) {
	e := newTestEngine(t, func(c *Config) {
		// A receiver that is only starved of the processor must not count as slow.
		c.DataStall, c.MaxFlowWaiting, c.SlowThreshold = 3*time.Second, floodBound, 1000
	})
	h := &hall{t: t, e: e}
	a, b := h.enter("PA_a", nil), h.enter("PA_b", nil)
	wake := make(chan struct{})
	begin := sync.OnceFunc(func() { close(wake) })
	slow := h.enter("PA_c", func() { <-wake })
	slow.loses.Store(true)
	t.Cleanup(begin) // before the close of the client, which waits for it
	const sent = 24  // more than SCTP and the server keep
	a.flood(sent)
	b.gets(sent)
	s := e.Stats()
	require.NotZero(t, s.ReliableSlow)
	require.Zero(t, s.SlowReliable)
	require.Zero(t, s.NeedsReconnect)
	require.LessOrEqual(t, s.DataWaiting, int64(floodBound+2*rooms.MaxDataPacket))

	begin()
	require.NoError(t, a.reliable.Send([]byte("small")))
	require.Eventually(t, func() bool { return slow.small.Load() == 1 }, patience, time.Millisecond)
	require.Eventually(t, func() bool { return e.Stats().DataWaiting == 0 }, patience, time.Millisecond)
	require.Less(t, int(s.ReliableSlow), sent)
}

// A receiver above the threshold loses nothing, however slow it is beside the sender.
func TestReceiverAboveTheThresholdGetsEverything(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, func(c *Config) { c.MaxFlowWaiting, c.SlowThreshold = floodBound, 1000 })
	h := &hall{t: t, e: e}
	a := h.enter("PA_a", nil)
	slow := h.enter("PA_b", func() { time.Sleep(5 * time.Millisecond) })
	a.flood(floodCount)
	slow.gets(floodCount)
	require.Zero(t, e.Stats().ReliableSlow)
}

// A receiver that is slower than the sender gets all data in order, even when the server
// holds as much as it may.
func TestSlowReceiverGetsEverything(t *testing.T) {
	t.Parallel()
	for _, most := range []int64{0, 1} {
		t.Run(fmt.Sprintf("most=%d", most), func(t *testing.T) {
			e := newTestEngine(t, func(c *Config) { c.MaxDataWaiting, c.MaxFlowWaiting = most, floodBound })
			h := &hall{t: t, e: e}
			a, b := h.enter("PA_a", nil), h.enter("PA_b", nil)
			slow := h.enter("PA_c", func() { time.Sleep(5 * time.Millisecond) })
			a.flood(floodCount)
			slow.gets(floodCount)
			b.gets(floodCount)
			s := e.Stats()
			require.NotZero(t, s.DataHeldUp)
			require.Zero(t, s.NeedsReconnect)
			require.Zero(t, s.ReliableDropped)
			if most > 0 {
				require.LessOrEqual(t, h.mostWaited(), 2*int64(floodMessage+messageOverhead), "bytes waiting")
			}
		})
	}
}

// After a sender has sent its data, it may leave: slower receivers still get all of it.
func TestWhatASlowReceiverWaitsForSurvivesItsSender(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, nil)
	h := &hall{t: t, e: e}
	a, b := h.enter("PA_a", nil), h.enter("PA_b", nil)
	wait := make(chan struct{})
	begin := sync.OnceFunc(func() { close(wait) })
	slow := h.enter("PA_c", func() { <-wait })
	t.Cleanup(begin) // before the close of the client, which waits for it
	a.flood(floodCount)
	b.gets(floodCount)
	h.leave(a)
	begin()
	slow.gets(floodCount)
	s := e.Stats()
	require.Zero(t, s.DataHeldUp, "6 MB are no flood")
	require.Zero(t, s.NeedsReconnect)
	require.Zero(t, s.ReliableDropped)
}

// SCTP's overhead for a message is far more than its bytes, so messages are counted too.
// They continue when few bytes are under way.
func TestTinyMessagesAreBoundedToo(t *testing.T) {
	t.Parallel()
	const n = 4 * maxMessagesSent
	e := newTestEngine(t, nil)
	h := &hall{t: t, e: e}
	a, b := h.enter("PA_a", nil), h.enter("PA_b", nil)
	for i := range n {
		require.NoError(t, a.reliable.Send(make([]byte, i%2)))
	}
	out, most := b.peer.data.out[labelReliable], 0
	require.Eventually(t, func() bool {
		out.mu.Lock()
		defer out.mu.Unlock()
		most = max(most, len(out.under))
		return b.small.Load() == n
	}, patience, time.Millisecond)
	require.LessOrEqual(t, most, maxMessagesSent)
	require.Zero(t, e.Stats().ReliableDropped)
	require.Zero(t, e.Stats().NeedsReconnect)
}

// A client with many channels does not exceed its bound.
func TestManyChannelsAreOneSender(t *testing.T) {
	t.Parallel()
	e := newTestEngine(t, func(c *Config) { c.DataStall, c.MaxFlowWaiting = time.Hour, floodBound })
	h := &hall{t: t, e: e}
	a, b := h.enter("PA_a", nil), h.enter("PA_b", nil)
	dead := h.enterDead("PA_d")
	const channels, each = 30, 6
	for range channels {
		dc, err := a.pub.CreateDataChannel(labelReliable, nil)
		require.NoError(t, err)
		dc.OnOpen(func() {
			for range each {
				_ = dc.Send(make([]byte, 10_000)) // the test may be over
			}
		})
	}
	require.Eventually(t, func() bool { return e.Stats().DataHeldUp > 0 }, patience, time.Millisecond)
	h.leave(dead)
	require.Eventually(t, func() bool { return b.small.Load() == each*channels }, 4*patience, time.Millisecond)
	require.LessOrEqual(t, h.mostWaited(), int64(floodBound+2*rooms.MaxDataPacket), "bytes waiting")
}

// Many senders together do not fill a receiver's queue: each waits once much waits there.
func TestSendersWaitWhereMuchWaits(t *testing.T) {
	var total atomic.Int64
	f, o := newDataFlow(&total), &outChannel{}
	is := func() bool { over, _ := f.over(maxFlowWaiting, maxDataWaiting); return over }
	payload := []byte("one")
	f.hold(o, payload)
	require.False(t, is())
	o.bytes.Store(crowdedQueue + 1)
	require.True(t, is(), "of others")
	f.release(o, payload)
	require.False(t, is(), "nothing of this sender waits there")
}

var _ rooms.PeerEvents = (*guest)(nil)
