package forward

import (
	"encoding/binary"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/netsim"
	record "parlor/media/downlink/sent"
	"parlor/media/forward/modelreceiver"
)

// robot is a publisher that sends three layers, whatever becomes of them, and repeats what it is
// asked for.
type robot struct {
	track   *Track
	clock   *netsim.Clock
	up      *netsim.Link
	layers  []*sender // from the lowest
	sent    []map[uint16][]byte
	obeys   bool
	skips   []bool // of each layer: the numbers of a fifth of its packets have gaps
	without bool   // it sends no lowest layer
	keySize int    // how many times as large as others its keyframes are
	numbers int
	viewer  *receiver
	model   *modelreceiver.Receiver
	start   time.Time
	shown   map[livekit.VideoQuality]time.Duration

	mu     sync.Mutex           // guards the following, and the model
	wanted livekit.VideoQuality // the highest layer that it sends
	told   []livekit.VideoQuality
}

// away is how long a signal to the robot takes.
const away = 20 * time.Millisecond

func newRobot(t *testing.T, obeys bool, c netsim.Conditions) *robot {
	r := &robot{clock: &netsim.Clock{}, obeys: obeys, start: time.Now(), skips: make([]bool, 3), keySize: 4, wanted: livekit.VideoQuality_HIGH, shown: map[livekit.VideoQuality]time.Duration{}}
	r.up = netsim.NewLink(r.clock, 1, c)
	r.track = NewTrack(TrackConfig{SID: "TR_x", Kind: livekit.TrackType_VIDEO, Codec: vp8Config(), OnQualities: func(w []Wanted) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told = append(r.told, w[0].Highest)
		if r.obeys {
			time.AfterFunc(away, func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.wanted = w[0].Highest
			})
		}
	}})
	t.Cleanup(r.track.Close)
	q, h, f := threeLayers(r.track)
	r.layers = []*sender{q, h, f}
	r.sent = []map[uint16][]byte{{}, {}, {}}
	r.model = modelreceiver.New(modelreceiver.Config{
		SSRC: 5000, Codecs: map[uint8]string{96: "video/VP8"}, Now: time.Now,
		AskForKey: func() {
			time.AfterFunc(away, func() {
				r.viewer.f.HandleRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: 5000}})
			})
		},
	})
	r.viewer = newReceiver(r.track, vp8Config(), func(c *ForwarderConfig) {
		c.Output = writes(func(h *rtp.Header, payload []byte) error {
			clone := h.Clone()
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.model.Write(&clone, payload, record.Video)
		})
	})
	return r
}

// sizes of the layers' frames: 100, 300 and 900 kbit/s.
var robotFrames = [3]int{1, 1, 3}
var robotPackets = [3]int{415, 1000, 1000}

// run goes on for a time, and returns how long the picture stood still meanwhile.
func (r *robot) run(d time.Duration) (frozen time.Duration) {
	end, next, seen := time.Now().Add(d), time.Now(), time.Now()
	for time.Now().Before(end) {
		if !time.Now().Before(next) {
			next = next.Add(frame)
			for i, s := range r.layers {
				r.frame(i, s)
			}
			r.shown[r.viewer.f.Stats().Current] += frame
		}
		time.Sleep(3 * time.Millisecond)
		synctest.Wait()
		r.clock.Run(time.Since(r.start))
		r.mu.Lock()
		r.model.Tick()
		r.mu.Unlock()
	}
	still := func(at time.Time) {
		if gap := at.Sub(seen); gap > 200*time.Millisecond {
			frozen += gap
		}
		seen = at
	}
	for _, f := range r.model.Frames() {
		if f.Decoded.After(seen) {
			still(f.Decoded)
		}
	}
	still(time.Now())
	return frozen
}

// frame sends a frame of a layer, and what was asked for.
func (r *robot) frame(i int, s *sender) {
	key := false
	for _, p := range s.rtcp.take() {
		switch p := p.(type) {
		case *rtcp.PictureLossIndication:
			key = true
		case *rtcp.TransportLayerNack:
			for _, pair := range p.Nacks {
				for _, n := range pair.PacketList() {
					if raw := r.sent[i][n]; raw != nil {
						r.send(s, raw)
					}
				}
			}
		}
	}
	r.mu.Lock()
	wanted := r.wanted
	r.mu.Unlock()
	if rank(livekit.VideoQuality(i)) > rank(wanted) || i == 0 && r.without {
		return
	}
	packets := robotFrames[i]
	if key {
		packets *= r.keySize
		s.key++
	}
	s.tl0++
	for n := range packets {
		if r.numbers++; r.skips[i] && r.numbers%5 == 0 {
			s.seq++
		}
		raw := s.packet(n == packets-1, s.vp8Payload(n == 0, key, 0, robotPackets[i]))
		r.sent[i][binary.BigEndian.Uint16(raw[2:])] = raw
		r.send(s, raw)
	}
	s.next()
}

func (r *robot) send(s *sender, raw []byte) {
	r.up.Send(len(raw), func() { s.layer.WriteRTP(raw, time.Now()) })
}

func (r *robot) narrow(rate float64) {
	c := r.up.Conditions()
	c.Rate = rate
	r.up.Set(c)
}

func (r *robot) lose(share float64) {
	c := r.up.Conditions()
	c.Loss = share
	r.up.Set(c)
}

var wideUplink = netsim.Conditions{Rate: 20e6, Queue: 300 * time.Millisecond, Delay: away}

// The uplink of a publisher that sends its layers whatever becomes of them is too narrow for all of
// them: it is asked for those that the uplink carries, and viewers go on seeing. When it is wide
// again, viewers have the highest layer again.
func TestAPublisherIsAskedForWhatItsUplinkCarries(t *testing.T) {
	for _, c := range []struct {
		rate float64
		best livekit.VideoQuality
	}{{200e3, livekit.VideoQuality_LOW}, {600e3, livekit.VideoQuality_MEDIUM}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRobot(t, true, wideUplink)
			require.Less(t, r.run(10*time.Second), 500*time.Millisecond, "the start")
			require.Equal(t, livekit.VideoQuality_HIGH, r.viewer.f.Stats().Current)

			r.narrow(c.rate)
			at := r.run(5 * time.Second)
			clear(r.shown)
			frozen := r.run(40 * time.Second)
			t.Log("frozen", at, frozen, r.shown, r.told)
			require.Less(t, at, 4*time.Second)
			require.Less(t, frozen, 2*time.Second, "attempts to have more cost little")
			require.Greater(t, r.shown[c.best], 30*time.Second)
			require.Zero(t, r.shown[c.best+1], "what is tried is not shown")
			quality, _, ok := r.layers[c.best].layer.Quality()
			require.True(t, ok)
			require.NotEqual(t, livekit.ConnectionQuality_EXCELLENT, quality, "layers are missing")

			r.narrow(20e6)
			require.Zero(t, r.run(60*time.Second))
			require.Equal(t, livekit.VideoQuality_HIGH, r.viewer.f.Stats().Current)
		})
	}
}

// Packets are lost for other reasons, too: then it does not help to ask for less, and viewers keep
// what they have.
func TestAPublisherIsAskedForAllThatAWideUplinkCarries(t *testing.T) {
	for name, change := range map[string]func(*robot){
		"random loss": func(r *robot) { r.lose(0.15) },
		"an outage": func(r *robot) {
			r.lose(1)
			r.run(2 * time.Second)
			r.lose(0)
		},
		// The uplink carries the lower layers: others than it lose packets of the highest.
		"gaps in one layer": func(r *robot) { r.skips[2] = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRobot(t, true, wideUplink)
				r.run(5 * time.Second)
				change(r)
				r.run(20 * time.Second)
				require.Equal(t, []livekit.VideoQuality{livekit.VideoQuality_HIGH}, r.told)
				require.Equal(t, livekit.VideoQuality_HIGH, r.viewer.f.Stats().Current)
			})
		})
	}
}

// The keyframe with which a layer begins makes a queue that ends: the layer is kept.
func TestAPublisherWithLargeKeyframesSendsAllAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRobot(t, true, wideUplink)
		r.keySize = 30 // 90 KB, for which 2.5 Mbit/s take 290 ms
		r.run(5 * time.Second)
		r.narrow(600e3)
		r.run(10 * time.Second)
		require.NotEqual(t, livekit.VideoQuality_HIGH, r.viewer.f.Stats().Current)
		r.narrow(2.5e6)
		r.run(30 * time.Second)
		require.Equal(t, livekit.VideoQuality_HIGH, r.viewer.f.Stats().Current)
		require.Equal(t, livekit.VideoQuality_HIGH, r.told[len(r.told)-1])
	})
}

// Nothing is proved while a camera is muted, and nobody is asked for what no subscriber wants.
func TestNothingIsTriedThatNobodyWantsOrSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRobot(t, true, wideUplink)
		r.run(5 * time.Second)
		r.narrow(600e3)
		r.run(5 * time.Second)
		r.viewer.f.SetSettings(Settings{Quality: livekit.VideoQuality_MEDIUM})
		r.run(10 * time.Second)
		asked := len(r.told)
		r.run(40 * time.Second)
		require.Len(t, r.told, asked)
		require.Equal(t, livekit.VideoQuality_MEDIUM, r.told[asked-1])

		r.viewer.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
		r.track.SetMuted(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.NotContains(t, r.told[asked:], livekit.VideoQuality_HIGH)
	})
}

// A publisher whose timestamps jump, as of another source, has no queue for it.
func TestAPublisherWhoseTimestampsJumpSendsAllAgain(t *testing.T) {
	for _, jump := range []time.Duration{3 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			r := newRobot(t, true, wideUplink)
			r.run(5 * time.Second)
			r.narrow(600e3)
			r.run(6 * time.Second)
			for _, s := range r.layers {
				s.ts -= uint32(90 * jump.Milliseconds())
			}
			r.narrow(20e6)
			r.run(time.Minute)
			require.Equal(t, livekit.VideoQuality_HIGH, r.viewer.f.Stats().Current, jump)
		})
	}
}

// A publisher that sends no lowest layer is never left without a picture.
func TestAPublisherWithoutTheLowestLayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRobot(t, true, wideUplink)
		r.layers[0].layer.Close()
		r.without = true
		r.run(5 * time.Second)
		r.narrow(600e3)
		r.run(5 * time.Second)
		require.Less(t, r.run(30*time.Second), 3*time.Second)
		require.NotContains(t, r.told, livekit.VideoQuality_LOW)
		require.Contains(t, r.told, livekit.VideoQuality_MEDIUM)
	})
}

// A publisher that does not do what it is asked for, or whose numbers have gaps, is asked once, and
// viewers have the highest layer soon again.
func TestAPublisherThatIsAskedInVain(t *testing.T) {
	for name, change := range map[string]func(*robot){
		"disobedient": func(r *robot) { r.obeys = false; r.narrow(600e3) },
		"gaps":        func(r *robot) { r.skips = []bool{true, true, true} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRobot(t, true, wideUplink)
				r.run(5 * time.Second)
				change(r)
				r.run(2 * time.Minute)
				require.Equal(t, []livekit.VideoQuality{livekit.VideoQuality_HIGH, livekit.VideoQuality_LOW, livekit.VideoQuality_HIGH}, r.told)
				require.Equal(t, livekit.VideoQuality_HIGH, r.viewer.f.Stats().Current)
			})
		})
	}
}
