package media

import (
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/emulator"
)

// estimated is a publisher of one video that sends as much as it wants, and no more than it is
// told by REMB.
type estimated struct {
	c       *client
	ctx     boundTrack
	told    atomic.Uint64 // bits/s; 0 = nothing yet
	reports atomic.Int64
	wants   atomic.Int64 // bits/s
}

// estimatedPublisher is a client that knows no transport-wide feedback.
func estimatedPublisher(t *testing.T, e *Engine, single, sendTimes, knowsREMB bool) (*client, *emulator.Relay) {
	relay, reroute := behindRelay(t, e)
	c := newClient(t, e, clientConfig{
		sid: "PA_a", single: single,
		interceptors: func(m *webrtc.MediaEngine, _ *interceptor.Registry) error {
			if !sendTimes {
				return nil
			}
			return m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uriAbsSendTime}, webrtc.RTPCodecTypeVideo)
		},
	})
	c.reroute = reroute
	c.reword = func(offer string) string {
		return withoutLines(offer, func(line string) bool {
			return strings.Contains(line, uriTransportCC) || !knowsREMB && strings.Contains(line, remb.Type)
		})
	}
	c.join()
	return c, relay
}

func withoutLines(text string, drop func(string) bool) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !drop(line) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func (c *client) publishEstimated(sid string) *estimated {
	c.t.Helper()
	u := &estimated{c: c}
	u.ctx = c.publishRaw(sid, webrtc.RTPCodecTypeVideo, vp8, nil)
	senders := c.pub.GetSenders()
	sender := senders[len(senders)-1]
	done := make(chan struct{}, 2)
	stop := make(chan struct{})
	c.t.Cleanup(func() {
		close(stop)
		c.close() // ends the reading
		<-done
		<-done
	})
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			packets, _, err := sender.ReadRTCP()
			if err != nil {
				return
			}
			for _, p := range packets {
				if r, ok := p.(*rtcp.ReceiverEstimatedMaximumBitrate); ok {
					u.told.Store(uint64(r.Bitrate))
					u.reports.Add(1)
				}
			}
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		u.send(stop)
	}()
	return u
}

func (u *estimated) send(stop chan struct{}) {
	tick := time.NewTicker(33 * time.Millisecond)
	defer tick.Stop()
	number := uint16(math.MaxUint16 - 50)
	for {
		var now time.Time
		select {
		case <-stop:
			return
		case now = <-tick.C:
		}
		rate := u.wants.Load()
		if told := int64(u.told.Load()); told > 0 {
			rate = min(rate, told*97/100)
		}
		stamp := uint32(now.UnixMicro() * 9 / 100)
		for left := rate * 33 / 8000; left > 0; left -= 1100 {
			h := rtp.Header{Version: 2, PayloadType: uint8(u.payloadType()), SSRC: uint32(u.ctx.SSRC()), SequenceNumber: number, Timestamp: stamp, Marker: left <= 1100}
			number++
			if id := u.ctx.extensions.AbsSendTime; id != 0 {
				_ = h.SetExtension(id, must(rtp.NewAbsSendTimeExtension(time.Now()).Marshal()))
			}
			payload := append([]byte{0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00}, make([]byte, max(min(left, 1100)-11, 1))...)
			_, _ = u.ctx.WriteStream().WriteRTP(&h, payload) // fails before the connection is up
		}
	}
}

func (u *estimated) payloadType() webrtc.PayloadType {
	c, _ := pickCodec(forwardCodec(codec(0, vp8.MimeType, 90000, 0, ""), nil), u.ctx.codecs)
	return c.PayloadType
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func (u *estimated) until(why string, right func(told float64) bool) {
	u.c.t.Helper()
	require.Eventually(u.c.t, func() bool { return right(float64(u.told.Load())) }, time.Minute, 20*time.Millisecond, why)
}

// A publisher that takes nothing but REMB is told what its path carries: it finds what there
// is, is told less when the path narrows, and more when it is wide again.
func TestPublishersWithREMBAloneAreTold(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		for _, sendTimes := range []bool{true, false} {
			name := map[bool]string{true: "abs-send-time", false: "timestamps"}[sendTimes]
			t.Run(name, func(t *testing.T) {
				e := newTestEngine(t, nil)
				c, relay := estimatedPublisher(t, e, single, sendTimes, true)
				way := emulator.Conditions{Rate: 20e6, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond}
				relay.SetUp(way)
				relay.SetDown(emulator.Conditions{Delay: 20 * time.Millisecond})
				u := c.publishEstimated("TR_v")
				u.wants.Store(1.2e6)
				require.Equal(t, sendTimes, u.ctx.extensions.AbsSendTime != 0)
				require.Zero(t, u.ctx.extensions.TransportCC)
				u.until("20 Mbit/s", func(told float64) bool { return told > 1.2e6 })

				narrow := way
				narrow.Rate = 500e3
				relay.SetUp(narrow)
				u.until("500 kbit/s", func(told float64) bool { return told < 500e3 })
				c.until("the statistics tell it", func(s *PeerStats) bool { return s.Uplink > 0 && s.Uplink < 600e3 })
				relay.TakeUp()
				before := u.reports.Load()
				require.Eventually(t, func() bool { return u.reports.Load()-before >= 15 }, patience, 20*time.Millisecond)
				require.Less(t, relay.TakeUp().Dropped, 20, "the queue does not stay full")

				relay.SetUp(way)
				u.until("20 Mbit/s again", func(told float64) bool { return told > 1.2e6 })
			})
		}
	})
}

// A publisher that offers no feedback about its bandwidth gets none, and one that offers
// transport-wide feedback gets that alone.
func TestOnlyWhatIsOfferedIsTold(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		c, _ := estimatedPublisher(t, e, single, true, false)
		u := c.publishEstimated("TR_v")
		u.wants.Store(1e6)
		c.events.wait(t, "published")
		c.until("media flows for a while", func(s *PeerStats) bool {
			return s.Uplink == 0 && len(s.Published) == 1 && len(s.Published[0].Layers) == 1 && s.Published[0].Layers[0].Packets > 200
		})
		require.Zero(t, u.reports.Load())
		require.NotContains(t, c.pub.RemoteDescription().SDP, "goog-remb")
	})
	for _, both := range []bool{true, false} {
		e := newTestEngine(t, nil)
		c := newClient(t, e, clientConfig{sid: "PA_a", interceptors: func(m *webrtc.MediaEngine, r *interceptor.Registry) error {
			if err := m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uriAbsSendTime}, webrtc.RTPCodecTypeVideo); err != nil || !both {
				return err
			}
			return webrtc.ConfigureTWCCHeaderExtensionSender(m, r)
		}})
		if both {
			c.reword = func(offer string) string {
				return strings.ReplaceAll(offer, "a=rtcp-fb:96 goog-remb", "a=rtcp-fb:96 transport-cc\r\na=rtcp-fb:96 goog-remb")
			}
		} else {
			c.reword = func(offer string) string {
				return withoutLines(offer, func(line string) bool { return strings.Contains(line, uriTransportCC) })
			}
		}
		c.join()
		ctx := c.publishRaw("TR_v", webrtc.RTPCodecTypeVideo, vp8, nil)
		answer := c.pub.RemoteDescription().SDP
		require.Equal(t, both, strings.Contains(answer, "transport-cc"))
		require.Equal(t, !both, strings.Contains(answer, "goog-remb"))
		require.Equal(t, !both, ctx.extensions.AbsSendTime != 0)
		require.Equal(t, both, ctx.extensions.TransportCC != 0)
	}
}

// A publisher with one peer connection whose sound has transport-wide numbers is told of its
// pictures by REMB, if it takes nothing else for them.
func TestREMBBesideNumberedSound(t *testing.T) {
	t.Parallel()
	for _, sound := range []bool{false, true} {
		t.Run(map[bool]string{false: "sound without numbers", true: "sound with numbers"}[sound], func(t *testing.T) {
			e := newTestEngine(t, nil)
			relay, reroute := behindRelay(t, e)
			c := newClient(t, e, clientConfig{
				sid: "PA_a", single: true,
				interceptors: func(m *webrtc.MediaEngine, _ *interceptor.Registry) error {
					if sound {
						if err := m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uriTransportCC}, webrtc.RTPCodecTypeAudio); err != nil {
							return err
						}
					}
					return m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uriAbsSendTime}, webrtc.RTPCodecTypeVideo)
				},
			})
			c.reroute = reroute
			c.reword = func(offer string) string {
				var kept strings.Builder
				video := false
				for line := range strings.Lines(offer) {
					if strings.HasPrefix(line, "m=") {
						video = strings.HasPrefix(line, "m=video")
					}
					if !video || !strings.Contains(line, uriTransportCC) {
						kept.WriteString(line)
					}
				}
				return kept.String()
			}
			c.join()
			relay.SetUp(emulator.Conditions{Rate: 20e6, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond})
			relay.SetDown(emulator.Conditions{Delay: 20 * time.Millisecond})
			pump(t, c.publish("TR_a", opus, nil))
			c.published("TR_a")
			u := c.publishEstimated("TR_v")
			u.wants.Store(1.2e6)
			require.Zero(t, u.ctx.extensions.TransportCC)
			require.Contains(t, c.pub.RemoteDescription().SDP, "goog-remb")
			require.Eventually(t, func() bool { return u.reports.Load() > 5 }, patience, 20*time.Millisecond)
		})
	}
}
