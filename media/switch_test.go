package media

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// While ICE restarts, and leads from UDP to TCP, back, and from one port to another, a
// picture goes on: each frame can be decoded, and no key frame is asked for.
func TestAPictureGoesOnWhileThePathChanges(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, func(c *Config) { c.TCPPort = TCPEphemeral })
		a := newClient(t, e, clientConfig{sid: "PA_a"})
		a.join()
		a.perform("TR_v", vp8, ivfFrames(t, "testdata/picture.ivf"), time.Second/15, 30*time.Millisecond)

		v := &viewer{}
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single, settings: func(s *webrtc.SettingEngine) {
			s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeTCP4})
		}, interceptors: func(m *webrtc.MediaEngine, r *interceptor.Registry) error { return webrtc.ConfigureNack(m, r) }})
		var hidden atomic.Pointer[string] // the protocol whose candidates the client does not know
		hide := func(protocol string) { hidden.Store(&protocol) }
		b.onTrack = v.watch
		b.reroute = func(text string) string {
			var out strings.Builder
			for line := range strings.Lines(text) {
				if f := strings.Fields(line); len(f) > 5 && strings.Contains(f[0], "candidate:") && strings.EqualFold(f[2], *hidden.Load()) {
					line = strings.Replace(line, " "+f[5]+" ", " 9 ", 1) // where nobody is
				}
				out.WriteString(line)
			}
			return out.String()
		}
		hide("tcp")
		b.join()
		b.subscribe("PA_a", a.published("TR_v"))
		shown := func(why string) {
			t.Helper()
			frames, _ := v.seen()
			require.Eventually(t, func() bool { now, _ := v.seen(); return now >= frames+30 }, 2*patience, 10*time.Millisecond, why)
		}
		shown("at first")
		requests := func() (n uint64) {
			s, err := b.peer.Stats(t.Context())
			require.NoError(t, err)
			return s.Subscriptions[0].Forwarded.KeyRequests
		}
		before := requests()
		began, changes := time.Now(), []string{"tcp", "udp", "udp", "tcp"}
		for _, to := range changes {
			down := b.sub
			if single {
				down = b.pub
			}
			last := ufrag(t, down.CurrentRemoteDescription())
			hide(map[string]string{"tcp": "udp", "udp": "tcp"}[to])
			if single {
				b.offer(true)
			} else {
				b.peer.Resume()
			}
			require.Eventually(t, func() bool { return ufrag(t, down.CurrentRemoteDescription()) != last }, patience, time.Millisecond)
			b.until("it goes over "+to, func(s *PeerStats) bool { return s.Down == to })
			shown(to)
		}
		require.Equal(t, before, requests(), "no key frame was needed")
		v.mu.Lock()
		defer v.mu.Unlock()
		overtaken := 0
		for i, f := range v.model.Frames() {
			if !f.Decoded.IsZero() || time.Since(f.Complete) < time.Second { // it may wait for one before it
				continue
			}
			// It may have come by the slower path behind a key frame that took the faster
			// one, while the path changed.
			require.Contains(t, f.Why, "is not newer", "frame %d", i)
			require.True(t, f.Complete.After(began), "frame %d: nothing has changed yet", i)
			overtaken++
		}
		require.LessOrEqual(t, overtaken, 15*len(changes), "a second for each change")
		for {
			select {
			case o := <-b.events.ch:
				require.NotEqual(t, "reconnect", o.what, o.label)
				continue
			default:
			}
			break
		}
	})
}
