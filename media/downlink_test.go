package media

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/emulator"
)

// behindRelay makes a client know only a relay's address of the server, and hides the
// client's addresses from the server.
func behindRelay(t *testing.T, e *Engine) (*emulator.Relay, func(string) string) {
	t.Helper()
	server := (*e.net.sockets[0].conns.Load())[0].LocalAddr().(*net.UDPAddr).AddrPort()
	r, err := emulator.New(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), server.Port()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r, func(text string) string {
		return strings.ReplaceAll(text, fmt.Sprintf("127.0.0.1 %d ", server.Port()), fmt.Sprintf("127.0.0.1 %d ", r.Addr().Port()))
	}
}

// watcher determines the layer of each received frame.
type watcher struct {
	t      *testing.T
	frames chan byte
}

func (w *watcher) watch(r *webrtc.TrackRemote) {
	drain(r, func(raw []byte) {
		if raw[0]&0x20 != 0 {
			return // only padding
		}
		if i := strings.Index(string(raw), "\x9d\x01\x2a"); i > 0 && i+7 < len(raw) {
			select {
			case w.frames <- raw[i+7]:
			default:
			}
		}
	})
}

// until waits until frames of exactly the wanted layers have come for about a second.
func (w *watcher) until(why string, want ...byte) {
	w.t.Helper()
	deadline := time.After(time.Minute)
	for got := 0; got < 100; {
		select {
		case layer := <-w.frames:
			got++
			if !strings.Contains(string(want), string([]byte{layer})) {
				got = 0
			}
		case <-deadline:
			require.FailNow(w.t, "not within a minute", "layer %v at %s", want, why)
		}
	}
}

// share is the share of a layer among the next frames.
func (w *watcher) share(layer byte, frames int) float64 {
	w.t.Helper()
	of := 0
	deadline := time.After(time.Minute)
	for range frames {
		select {
		case got := <-w.frames:
			if got == layer {
				of++
			}
		case <-deadline:
			require.FailNow(w.t, "frames ceased")
		}
	}
	return float64(of) / float64(frames)
}

// A subscriber's layers fall with its bandwidth, without a lasting queue, and rise with
// it. Losses that do not depend on the bitrate do not lower them.
func TestLayersFollowTheBandwidth(t *testing.T) {
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("single=%v", single), func(t *testing.T) {
			e := newTestEngine(t, nil)
			a := newClient(t, e, clientConfig{sid: "PA_a"})
			a.layerSizes = [3]int{190, 500, 1100} // 150, 400, 880 kbit/s
			a.join()
			a.publishSimulcast("TR_s")
			published := a.published("TR_s")

			relay, reroute := behindRelay(t, e)
			way := func(rate, loss float64) {
				relay.SetDown(emulator.Conditions{Rate: rate, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond, Loss: loss})
			}
			relay.SetUp(emulator.Conditions{Delay: 20 * time.Millisecond})
			way(20e6, 0)
			w := &watcher{t, make(chan byte, 1000)}
			b := newClient(t, e, clientConfig{sid: "PA_b", single: single, interceptors: func(m *webrtc.MediaEngine, r *interceptor.Registry) error {
				return webrtc.ConfigureTWCCSender(m, r)
			}})
			b.reroute, b.onTrack = reroute, w.watch
			b.join()
			b.subscribe("PA_a", published)

			w.until("20 Mbit/s", 2)
			way(600e3, 0)
			w.until("600 kbit/s", 0, 1)
			relay.TakeDown()
			require.Less(t, w.share(2, 300), 0.2, "it is not tried again and again what does not fit")
			require.Less(t, relay.TakeDown().Dropped, 30, "the queue does not overflow")
			way(3e6, 0)
			w.until("3 Mbit/s again", 2)
			way(3e6, 0.05)
			w.share(2, 300)
			require.Greater(t, w.share(2, 300), 0.5, "with losses at random")
			way(600e3, 0)
			w.until("600 kbit/s again", 0, 1)
			way(20e6, 0)
			w.until("20 Mbit/s again", 2)
		})
	}
}

// A layer that its publisher stops, by RTCP BYE or in an offer, is left without waiting
// for a silence. Here no packets at all are sent, so silence would show nothing.
func TestStoppedLayersAreLeftAtOnce(t *testing.T) {
	t.Parallel()
	offer := func(layers string) func(a *client, _ uint32) {
		return func(a *client, _ uint32) {
			a.mu.Lock()
			a.reword = func(text string) string {
				kept := strings.ReplaceAll(text, "a=simulcast:send q;h;f", "a=simulcast:send "+layers)
				if !strings.Contains(layers, "f") {
					kept = strings.ReplaceAll(kept, "a=rid:f send\r\n", "")
				}
				require.NotEqual(t, text, kept)
				return kept
			}
			a.mu.Unlock()
			a.offer(false)
		}
	}
	for name, stop := range map[string]func(a *client, ssrc uint32){
		"BYE": func(a *client, ssrc uint32) {
			require.NoError(t, a.pub.WriteRTCP([]rtcp.Packet{&rtcp.Goodbye{Sources: []uint32{ssrc}}}))
		},
		"paused": offer("q;h;~f"),
		"gone":   offer("q;h"),
	} {
		t.Run(name, func(t *testing.T) {
			e := newTestEngine(t, nil)
			a := newClient(t, e, clientConfig{sid: "PA_a"})
			a.join()
			a.publishSimulcast("TR_s")
			sender := a.pub.GetSenders()[0]
			encodings := sender.GetParameters().Encodings
			require.Len(t, encodings, 3)
			asked := make(chan uint32, 1000)
			go func() { // ends with the connection
				for {
					packets, _, err := sender.ReadSimulcastRTCP("h")
					if err != nil {
						return
					}
					for _, p := range packets {
						if pli, ok := p.(*rtcp.PictureLossIndication); ok {
							asked <- pli.MediaSSRC
						}
					}
				}
			}()
			w := &watcher{t, make(chan byte, 1000)}
			b := newClient(t, e, clientConfig{sid: "PA_b"})
			b.onTrack = w.watch
			b.join()
			b.subscribe("PA_a", a.published("TR_s"))
			w.until("all are sent", 2)
			a.still.Store(true)
			for len(asked) > 0 { // requests from the beginning
				<-asked
			}
			stop(a, uint32(encodings[2].SSRC))
			select {
			case ssrc := <-asked:
				require.EqualValues(t, encodings[1].SSRC, ssrc)
			case <-time.After(patience):
				require.FailNow(t, "no key frame of the next layer is asked for")
			}
			a.still.Store(false)
			w.until("it is sent again", 2)
		})
	}
}

// A stream without a rid is identified by its SSRC. The server leaves it as soon as an offer
// has another SSRC in its place: the first frame of the new stream is forwarded, though no
// silence of the old one was seen.
func TestAStreamIsLeftWithItsSSRC(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	ctx := a.publishRaw("TR_v", webrtc.RTPCodecTypeVideo, vp8, nil)
	earlier := uint32(ctx.SSRC())
	later := earlier + 1
	key := func(i int, mark byte, ssrc uint32) {
		_, err := ctx.WriteStream().WriteRTP(&rtp.Header{
			Version: 2, Marker: true, PayloadType: uint8(ctx.codecs[0].PayloadType), SequenceNumber: uint16(i), Timestamp: uint32(i * 900), SSRC: ssrc,
		}, []byte{0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00, mark})
		require.NoError(t, err)
	}
	w := &watcher{t, make(chan byte, 1000)}
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.onTrack = w.watch
	b.join()
	b.subscribe("PA_a", a.published("TR_v"))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for sent := 0; len(w.frames) == 0; sent++ {
		require.Less(t, sent, 6000, "nothing is forwarded")
		key(sent, 1, earlier)
		<-tick.C
	}
	for len(w.frames) > 0 {
		<-w.frames
	}
	a.mu.Lock()
	a.reword = func(text string) string {
		changed := strings.ReplaceAll(text, fmt.Sprint("a=ssrc:", earlier), fmt.Sprint("a=ssrc:", later))
		require.NotEqual(t, text, changed)
		return changed
	}
	a.mu.Unlock()
	answers := a.answered()
	a.offer(false)
	require.Eventually(t, func() bool { return a.answered() > answers }, patience, time.Millisecond)
	key(0, 2, later)
	require.Eventually(t, func() bool { return len(w.frames) > 0 && <-w.frames == 2 }, patience, time.Millisecond, "the first frame of the new stream")
}

// states are the last stream states that the client was told, by track, and the number of
// messages.
func (c *client) toldStates() (last map[string]livekit.StreamState, told int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last = map[string]livekit.StreamState{}
	for _, s := range c.states {
		last[s.TrackSid] = s.State
	}
	return last, len(c.states)
}

func pausedOf(states map[string]livekit.StreamState) (n int) {
	for _, s := range states {
		if s == livekit.StreamState_PAUSED {
			n++
		}
	}
	return n
}

// Of nine videos, some are paused if not all fit. The subscriber is told, and told again
// when its signalling is resumed. They continue when there is bandwidth.
func TestVideosArePausedWhereTheyDoNotFit(t *testing.T) {
	const videos = 9
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	relay, reroute := behindRelay(t, e)
	way := func(rate float64) {
		relay.SetDown(emulator.Conditions{Rate: rate, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond})
	}
	relay.SetUp(emulator.Conditions{Delay: 20 * time.Millisecond})
	way(50e6)
	b := newClient(t, e, clientConfig{
		sid: "PA_b", change: func(c *PeerConfig) { c.AllowPause = true },
		interceptors: func(m *webrtc.MediaEngine, r *interceptor.Registry) error { return webrtc.ConfigureTWCCSender(m, r) },
	})
	b.reroute, b.onTrack = reroute, func(r *webrtc.TrackRemote) { drain(r, func([]byte) {}) }
	b.join()
	frame := append([]byte{0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00}, make([]byte, 240)...)
	for i := range videos {
		sid := fmt.Sprintf("TR_%d", i)
		pumpPayload(t, a.publish(sid, vp8, nil), frame) // 200 kbit/s
		b.subscribe("PA_a", a.published(sid))
	}
	until := func(why string, right func(states map[string]livekit.StreamState) bool) {
		t.Helper()
		require.Eventually(t, func() bool {
			states, _ := b.toldStates()
			return len(states) == videos && right(states)
		}, time.Minute, 50*time.Millisecond, why)
	}
	until("all are shown", func(s map[string]livekit.StreamState) bool { return pausedOf(s) == 0 })
	way(700e3)
	until("some are paused", func(s map[string]livekit.StreamState) bool { return pausedOf(s) >= 3 && pausedOf(s) < videos })
	_, before := b.toldStates()
	b.peer.Resume()
	require.Eventually(t, func() bool {
		_, told := b.toldStates()
		return told >= before+videos
	}, time.Minute, 10*time.Millisecond, "they are told again")
	way(50e6)
	until("all are back", func(s map[string]livekit.StreamState) bool { return pausedOf(s) == 0 })
}
