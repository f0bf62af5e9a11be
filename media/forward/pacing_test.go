package forward

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink"
)

// narrow is a subscriber with a video and an audio track over one path.
type narrow struct {
	t            *testing.T
	video, audio *receiver
	camera       *sender
	microphone   *sender
}

func newNarrow(t *testing.T) *narrow {
	d := downlink.New(nil)
	d.Connected()
	onPath := func(ssrc uint32) func(*ForwarderConfig) {
		return func(c *ForwarderConfig) { c.SSRC, c.RTXSSRC, c.Downlink = ssrc, ssrc+1, d }
	}
	camera := NewTrack(TrackConfig{SID: "TR_v", Kind: livekit.TrackType_VIDEO, Codec: vp8Config()})
	voice := NewTrack(TrackConfig{SID: "TR_a", Kind: livekit.TrackType_AUDIO, Codec: opusConfig()})
	t.Cleanup(camera.Close)
	t.Cleanup(voice.Close)
	n := &narrow{
		t: t, camera: newSender(camera, 1, vp8Config(), "", livekit.VideoQuality_HIGH),
		microphone: newSender(voice, 2, opusConfig(), "", 0),
	}
	n.video, n.audio = newReceiver(camera, vp8Config(), onPath(5000)), newReceiver(voice, opusConfig(), onPath(6000))
	return n
}

// frame sends a frame of packets of a kilobyte each.
func (n *narrow) frame(key bool, packets int) {
	if key {
		n.camera.key++
	}
	n.camera.tl0++
	n.camera.at = time.Now()
	for i := range packets {
		n.camera.layer.WriteRTP(n.camera.packet(i == packets-1, n.camera.vp8Payload(i == 0, key, 0, 1000)), n.camera.at)
	}
	n.camera.pic++
	n.camera.ts += 3000
}

func (n *narrow) speak() {
	n.microphone.layer.WriteRTP(n.microphone.packet(false, make([]byte, 80)), time.Now())
	n.microphone.ts += 960
}

// limit makes the subscriber report for a while that its path carries less than is sent.
func (n *narrow) limit(bitrate float32) {
	for range 5 * 30 {
		n.frame(false, 8)
		n.video.f.HandleRTCP([]rtcp.Packet{&rtcp.ReceiverEstimatedMaximumBitrate{Bitrate: bitrate, SSRCs: []uint32{5000}}})
		time.Sleep(frame)
	}
	require.NotZero(n.t, n.video.f.Stats().Bandwidth)
	time.Sleep(time.Second)
	n.frame(true, 1)
	for range 2 * 30 { // from now on it fits
		n.frame(false, 1)
		time.Sleep(frame)
	}
	time.Sleep(time.Second)
	n.video.take()
	n.camera.rtcp.take()
}

// Where there is room, a keyframe is sent at once. On a narrow path it is sent as fast as
// the path carries it, and audio overtakes it.
func TestKeyFramesArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNarrow(t)
		n.frame(true, 20)
		require.Len(t, n.video.take(), 20, "nothing is known to be in the way")

		n.limit(1_200_000)
		n.frame(true, 20) // 20 kB are 140 ms
		n.speak()
		got := n.video.take()
		require.LessOrEqual(t, len(got), 6)
		require.Len(t, n.audio.take(), 1)
		time.Sleep(60 * time.Millisecond)
		got = append(got, n.video.take()...)
		require.Greater(t, len(got), 6)
		require.Less(t, len(got), 20)
		n.frame(false, 2)
		time.Sleep(180 * time.Millisecond)
		got = append(got, n.video.take()...)
		require.Len(t, got, 22)
		requireContiguous(t, got)

		lost := got[5]
		n.video.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{lost.SequenceNumber})}})
		require.Len(t, n.video.take(), 1, "a repeat that has room leaves at once")
	})
}

// A packet that still waits is not repeated where the repeat would have its SSRC: it has no
// number and no time yet, and the two must be the same. Once it has left, it is.
func TestWhatWaitsIsNotRepeatedInItsOwnStream(t *testing.T) {
	for _, ext := range []Extensions{{TransportCC: 3, AbsSendTime: 4}, {AbsSendTime: 4}} {
		synctest.Test(t, func(t *testing.T) {
			n := newNarrow(t)
			codec := vp8Config()
			codec.RTXPayloadType = 0
			n.video.f.Close()
			n.video = newReceiver(n.camera.layer.track, codec, func(c *ForwarderConfig) {
				c.SSRC, c.RTXSSRC, c.Downlink, c.Ext = 5000, 0, n.audio.f.downlink, ext
			})
			n.frame(true, 20)
			n.video.take()
			n.limit(1_200_000)
			n.frame(true, 20)
			got := n.video.take()
			require.LessOrEqual(t, len(got), 6)
			require.NotEmpty(t, got)
			last := got[len(got)-1].SequenceNumber
			ask := func() {
				var numbers []uint16
				for k := range uint16(3) {
					numbers = append(numbers, last+1+k)
				}
				n.video.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers(numbers)}})
			}
			ask()
			for range 60 {
				time.Sleep(5 * time.Millisecond)
				got = append(got, n.video.take()...)
			}
			require.Len(t, got, 20)
			requireContiguous(t, got)
			ask()
			time.Sleep(100 * time.Millisecond)
			again := n.video.take()
			require.Len(t, again, 3)
			for _, p := range again {
				i := slices.IndexFunc(got, func(g rtp.Packet) bool { return g.SequenceNumber == p.SequenceNumber })
				want, err := got[i].Marshal()
				require.NoError(t, err)
				raw, err := p.Marshal()
				require.NoError(t, err)
				require.Equal(t, want, raw)
			}
		})
	}
}

// If packets wait longer than a quarter of a second, video is dropped up to the next
// keyframe, which is requested once. A large keyframe itself passes.
func TestNothingOldLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNarrow(t)
		n.camera.layer.SetRTT(time.Second) // no answer is missed
		n.frame(true, 1)
		n.limit(1_200_000)
		before := n.video.f.Stats().Overdue
		n.frame(true, 60) // almost half a second's bandwidth
		time.Sleep(600 * time.Millisecond)
		require.Equal(t, 60, len(n.video.take()))
		require.Equal(t, before, n.video.f.Stats().Overdue)
		n.frame(false, 1)
		n.frame(false, 120)
		for range 10 {
			n.frame(false, 1)
			time.Sleep(frame)
		}
		time.Sleep(300 * time.Millisecond)
		got := n.video.take()
		require.Less(t, len(got), 70)
		require.NotEmpty(t, got)
		require.Greater(t, n.video.f.Stats().Overdue, before)
		require.Equal(t, 1, count[*rtcp.PictureLossIndication](n.camera.rtcp.take()))
		n.frame(true, 2)
		n.frame(false, 1)
		time.Sleep(100 * time.Millisecond)
		after := n.video.take()
		require.Len(t, after, 3)
		requireContiguous(t, after)
		n.video.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{got[len(got)-1].SequenceNumber + 1})}})
		require.Empty(t, n.video.take(), "what was dropped is not repeated")
	})
}

// Video that has no lower layer is sent even if the path seems too narrow: the estimate
// may be wrong, and dropping would freeze the video.
func TestWhatCannotBeLeftOutIsNotDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNarrow(t)
		n.frame(true, 8)
		all := 8
		for i := range 6 * 30 {
			n.frame(i%60 == 59, 8) // 1.9 Mbit/s
			all += 8
			if i >= 60 { // once the cost of the video is known
				n.video.f.HandleRTCP([]rtcp.Packet{&rtcp.ReceiverEstimatedMaximumBitrate{Bitrate: 800_000, SSRCs: []uint32{5000}}})
			}
			time.Sleep(frame)
		}
		time.Sleep(time.Second)
		require.NotZero(t, n.video.f.Stats().Bandwidth)
		require.Zero(t, n.video.f.Stats().Overdue)
		got := n.video.take()
		require.Len(t, got, all)
		requireContiguous(t, got)
	})
}

// On a narrow path, retransmissions of packets from before a keyframe do not delay other
// packets. Later packets are retransmitted.
func TestRepeatsOfBeforeAKeyFrameAreNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNarrow(t)
		n.frame(true, 2)
		n.limit(1_200_000)
		n.frame(false, 1)
		lost := n.video.take()[0].SequenceNumber
		repeats := func() (repeats int) {
			n.video.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{lost})}})
			time.Sleep(200 * time.Millisecond)
			for _, p := range n.video.take() {
				if p.SSRC == 5001 {
					repeats++
				}
			}
			return repeats
		}
		n.frame(false, 12) // more than is sent at once
		require.Equal(t, 1, repeats())
		n.frame(true, 15)
		require.Zero(t, repeats())
		n.frame(false, 1)
		require.Equal(t, 1, repeats(), "nothing is in the way any more")
	})
}

// If it is permitted, video is paused when not even its lowest layer fits, and resumes
// with a keyframe when it fits. Audio is never paused. The subscriber is told.
func TestWhatDoesNotFitIsPaused(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := newNarrow(t)
			n.video.f.cfg.CanPause = allowed
			play := func() {
				n.video.take()
				n.audio.take()
				n.camera.rtcp.take()
				for range 2 * 30 {
					n.frame(false, 2) // 500 kbit/s
					n.speak()
					time.Sleep(frame)
				}
			}
			n.frame(true, 2)
			play()
			require.Equal(t, []livekit.StreamState{livekit.StreamState_ACTIVE}, n.video.states)
			n.video.f.downlink.Limit(50_000)
			play()
			play()
			require.NotEmpty(t, n.audio.take())
			if !allowed {
				require.NotEmpty(t, n.video.take())
				require.Equal(t, []livekit.StreamState{livekit.StreamState_ACTIVE}, n.video.states)
				return
			}
			require.Empty(t, n.video.take())
			require.Equal(t, []livekit.StreamState{livekit.StreamState_ACTIVE, livekit.StreamState_PAUSED}, n.video.states)
			quality, _, ok := n.video.f.Quality()
			require.True(t, ok)
			require.Equal(t, livekit.ConnectionQuality_POOR, quality)
			n.video.f.RepeatState()
			require.Equal(t, livekit.StreamState_PAUSED, n.video.states[2])

			n.video.f.downlink.Limit(0)
			play()
			require.NotZero(t, count[*rtcp.PictureLossIndication](n.camera.rtcp.take()))
			require.Len(t, n.video.states, 3, "not before a picture comes")
			n.frame(true, 2)
			require.Equal(t, livekit.StreamState_ACTIVE, n.video.states[3])
			require.Len(t, n.video.take(), 2)
			require.Len(t, n.video.states, 4)
		})
	}
}

// Clients learn of a track by its first packet. They also learn of one that is paused
// from the beginning.
func TestPausedFromTheBeginningIsStillSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNarrow(t)
		n.video.f.cfg.CanPause = true
		n.video.f.downlink.Limit(50_000)
		time.Sleep(3 * time.Second)
		n.camera.at = time.Now()
		for range 6 * 30 {
			n.frame(false, 2)
			time.Sleep(frame)
		}
		require.Equal(t, []livekit.StreamState{livekit.StreamState_PAUSED}, n.video.states)
		require.NotEmpty(t, n.video.take(), "a black picture")
		n.video.f.downlink.Limit(0)
		time.Sleep(2 * time.Second)
		n.video.take()
		n.frame(true, 2)
		require.Len(t, n.video.take(), 2)
		require.Equal(t, livekit.StreamState_ACTIVE, n.video.states[1])
	})
}

// A subscription that ends releases its waiting packets.
func TestEndedSubscriptionLeavesNothingWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNarrow(t)
		n.frame(true, 1)
		n.limit(1_200_000)
		n.frame(true, 40)
		n.video.take()
		n.video.f.Close()
		time.Sleep(time.Second)
		require.Empty(t, n.video.take())
		require.Zero(t, n.video.f.downlink.Stats().Waiting)
	})
}

// If the path itself, such as a TCP connection, drops packets, the video ends there: it
// is neither sent nor retransmitted until the next keyframe, which is requested. Audio
// continues.
func TestWhatThePathDropsEndsThePicture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNarrow(t)
		n.frame(true, 8)
		for range 60 {
			n.frame(false, 8)
			n.speak()
			time.Sleep(frame)
		}
		got := n.video.take()
		requireContiguous(t, got)
		n.audio.take()
		n.camera.rtcp.take()
		d := n.video.f.downlink
		lost := got[len(got)-3].SequenceNumber
		require.False(t, d.Linked(6000), "sound")
		require.False(t, d.Linked(5001), "repeats")
		require.True(t, d.Linked(5000))
		d.Dropped(6000, 7, 250*time.Millisecond)
		n.frame(false, 2)
		n.speak()
		require.Len(t, n.audio.take(), 1)
		require.Len(t, n.video.take(), 2, "it is no part of the picture")
		time.Sleep(time.Millisecond)
		require.NotZero(t, n.video.f.Stats().Bandwidth, "the path has shown that it is narrow")

		d.Dropped(5000, lost, 250*time.Millisecond)
		for range 3 {
			n.frame(false, 2)
			n.speak()
			time.Sleep(frame)
		}
		require.Empty(t, n.video.take())
		require.Len(t, n.audio.take(), 3)
		require.Equal(t, 1, count[*rtcp.PictureLossIndication](n.camera.rtcp.take()))
		n.video.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{lost, lost + 1, lost + 2})}})
		require.Empty(t, n.video.take(), "what was dropped is not repeated")

		n.frame(true, 2)
		n.frame(false, 1)
		time.Sleep(200 * time.Millisecond)
		after := n.video.take()
		require.Len(t, after, 3)
		requireContiguous(t, after)
	})
}

// A frame that no other needs is dropped alone when it has waited for too long: no keyframe is
// asked for, and what comes after it is sent. A receiver that is not told so has to get one.
func TestAFrameThatNobodyNeedsIsDroppedAlone(t *testing.T) {
	for _, c := range []struct {
		name string
		told bool
	}{{"TL0PICIDX", true}, {"no TL0PICIDX", false}, {"of the base layer", false}} {
		synctest.Test(t, func(t *testing.T) {
			n := newNarrow(t)
			n.camera.layer.SetRTT(time.Second) // no answer is missed
			n.frame(true, 1)
			n.limit(1_200_000)
			before := n.video.f.Stats().Overdue
			n.camera.at = time.Now()
			const packets = 90 // more than half a second
			tid := uint8(2)
			if c.name == "of the base layer" {
				tid = 0
				n.camera.tl0++
			}
			for i := range packets {
				payload := n.camera.vp8Payload(i == 0, false, tid, 1000)
				payload[0] |= 0x20
				if c.name == "no TL0PICIDX" {
					payload[1] &^= 0x40
					copy(payload[4:], payload[5:])
				}
				n.camera.layer.WriteRTP(n.camera.packet(i == packets-1, payload), n.camera.at)
			}
			n.camera.pic++
			n.camera.ts += 3000
			time.Sleep(300 * time.Millisecond)
			n.video.take()
			require.Greater(t, n.video.f.Stats().Overdue, before)
			n.frame(false, 1)
			time.Sleep(100 * time.Millisecond)
			asked := count[*rtcp.PictureLossIndication](n.camera.rtcp.take())
			if c.told {
				require.Zero(t, asked)
				require.Len(t, n.video.take(), 1, "the picture goes on")
			} else {
				require.Equal(t, 1, asked)
				require.Empty(t, n.video.take())
			}
		})
	}
}
