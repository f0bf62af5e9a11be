package forward

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink"
	"parlor/media/downlink/feedback"
)

func of[T rtcp.Packet](packets []rtcp.Packet) (found []T) {
	for _, p := range packets {
		if p, ok := p.(T); ok {
			found = append(found, p)
		}
	}
	return found
}

func TestRetransmitsPlainlyWithoutRTX(t *testing.T) {
	codec := vp8Config()
	codec.RTXPayloadType = 0
	track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
	s := newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, codec, nil)
	s.frame(true, 2)
	got := r.take()
	r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{got[0].SequenceNumber})}})
	again := r.take()
	require.Len(t, again, 1)
	require.Equal(t, got[0].Payload, again[0].Payload)
	require.Equal(t, got[0].Header.SequenceNumber, again[0].Header.SequenceNumber)
}

// A packet of a picture of 800 packets a second is retransmitted while it is a second old, with
// RTX and without.
func TestAPacketOfAFastPictureIsRepeatedForASecond(t *testing.T) {
	for _, rtx := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			codec := vp8Config()
			if !rtx {
				codec.RTXPayloadType = 0
			}
			track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
			s := newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
			r := newReceiver(track, codec, nil)
			var sent []rtp.Packet
			for n := range 60 {
				s.at = time.Now()
				s.frame(n == 0, 16)
				sent = append(sent, r.take()...)
				time.Sleep(20 * time.Millisecond)
			}
			for _, back := range []int{400, 600, 800} {
				number := sent[len(sent)-back].SequenceNumber
				r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{number})}})
				require.Len(t, r.take(), 1, "%d packets back", back)
			}
		})
	}
}

// A retransmission on the same SSRC has the transport-wide number and the time that the packet
// left with, byte for byte, whatever was sent meanwhile and if an earlier repeat was lost too.
// It counts as no new packet: the numbers of the others have no gap.
func TestPlainRetransmissionHasTheNumberOfThePacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		codec := vp8Config()
		codec.RTXPayloadType = 0
		track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
		s := newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, codec, func(c *ForwarderConfig) {
			c.RTXSSRC = 0
			c.Ext = Extensions{TransportCC: 3, AbsSendTime: 4}
		})
		number := func(p rtp.Packet) uint16 { return binary.BigEndian.Uint16(p.GetExtension(3)) }
		var sent []rtp.Packet
		frames := func(n int) {
			for range n {
				s.at = time.Now()
				s.frame(len(sent) == 0, 3)
				sent = append(sent, r.take()...)
				time.Sleep(frame)
			}
		}
		ask := func(p rtp.Packet) []rtp.Packet {
			r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{p.SequenceNumber})}})
			return r.take()
		}
		frames(40)
		for range 2 {
			for _, back := range []int{1, 50, 100} {
				earlier := sent[len(sent)-back]
				want, err := earlier.Marshal()
				require.NoError(t, err)
				for range 2 {
					again := ask(earlier)
					require.Len(t, again, 1)
					got, err := again[0].Marshal()
					require.NoError(t, err)
					require.Equal(t, want, got)
					time.Sleep(200 * time.Millisecond)
				}
			}
			frames(40)
		}
		for i, p := range sent {
			require.Equal(t, number(sent[0])+uint16(i), number(p))
		}
		require.EqualValues(t, 12, r.f.Stats().Retransmitted)
		require.Zero(t, r.f.Stats().Misses)

		earlier := sent[len(sent)-2]
		require.Len(t, ask(earlier), 1)
		r.f.downlink.Feedback((&feedback.Report{Base: number(earlier), Arrivals: []int32{1}}).Append(nil, 1, 2))
		time.Sleep(200 * time.Millisecond)
		require.Empty(t, ask(earlier), "the receiver has told that it came")
	})
}

// Sound has transport-wide numbers while there is a picture on the path that is estimated. A
// packet of sound is repeated as it left, byte for byte, whether it had a number or not.
func TestSoundIsNumberedBesideAPicture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opus := Codec{MimeType: "audio/opus", ClockRate: 48000, Channels: 2, PayloadType: 111}
		track := newTestTrack(t, livekit.TrackType_AUDIO, opus)
		s := newSender(track, 1, opus, "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, opus, func(c *ForwarderConfig) {
			c.RTXSSRC = 0
			c.Ext = Extensions{TransportCC: 3}
		})
		number := func(p rtp.Packet) []byte { return p.GetExtension(3) }
		var sent []rtp.Packet
		sound := func() rtp.Packet {
			s.at = time.Now()
			s.ts += 960
			s.layer.WriteRTP(s.packet(false, []byte{0x78, 1, 2, 3}), s.at)
			time.Sleep(20 * time.Millisecond)
			got := r.take()
			require.Len(t, got, 1)
			sent = append(sent, got...)
			return got[0]
		}
		for range 2 {
			for range 3 {
				require.Empty(t, number(sound()), "nothing is estimated")
			}
			video := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
			camera := newSender(video, 2, vp8Config(), "", livekit.VideoQuality_HIGH)
			v := newReceiver(video, vp8Config(), func(c *ForwarderConfig) {
				c.SSRC, c.RTXSSRC, c.Downlink, c.Ext = 6000, 6001, r.f.downlink, Extensions{TransportCC: 3}
			})
			first := binary.BigEndian.Uint16(number(sound()))
			camera.at = time.Now()
			camera.frame(true, 1)
			require.Equal(t, first+1, binary.BigEndian.Uint16(number(v.take()[0])))
			require.Equal(t, first+2, binary.BigEndian.Uint16(number(sound())), "one order")
			v.f.Close()
		}
		time.Sleep(200 * time.Millisecond)
		for _, earlier := range sent {
			r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{earlier.SequenceNumber})}})
			again := r.take()
			require.Len(t, again, 1)
			want, err := earlier.Marshal()
			require.NoError(t, err)
			got, err := again[0].Marshal()
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	})
}

// A retransmission on the same SSRC is encrypted with the same nonce. It must be the
// same, byte for byte, also after the receiver has the playout delay.
func TestPlainRetransmissionIsTheSameAfterPlayoutDelayArrived(t *testing.T) {
	codec := vp8Config()
	codec.RTXPayloadType = 0
	track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
	s := newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, codec, func(c *ForwarderConfig) {
		c.RTXSSRC = 0
		c.Ext = Extensions{PlayoutDelay: 9}
		c.MinPlayoutDelay = 100
	})
	s.frame(true, 1)
	first := r.take()[0]
	require.NotEmpty(t, first.GetExtension(9))
	r.f.HandleRTCP([]rtcp.Packet{&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{SSRC: 5000, LastSequenceNumber: uint32(first.SequenceNumber)}}}})
	s.frame(false, 1)
	second := r.take()[0]
	require.Empty(t, second.GetExtension(9), "the receiver has it")
	for _, earlier := range []rtp.Packet{first, second} {
		r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{earlier.SequenceNumber})}})
		again := r.take()
		require.Len(t, again, 1)
		want, err := earlier.Marshal()
		require.NoError(t, err)
		got, err := again[0].Marshal()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// The room's playout delay follows the jitter that the receiver has, within the room's
// bounds and not faster than 80 ms a second. It is in the packets until it has arrived. A
// shared screen's jitter says nothing. A repeat has the delay that the packet had.
func TestPlayoutDelayFollowsJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		codec := vp8Config()
		codec.RTXPayloadType = 0
		s := newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, codec, func(c *ForwarderConfig) {
			c.RTXSSRC = 0
			c.Ext = Extensions{PlayoutDelay: 9}
			c.MinPlayoutDelay = 100
		})
		first, number := true, uint16(0)
		told := func() (lowest, highest int) {
			s.at = time.Now()
			s.frame(first, 1)
			first = false
			p := r.take()[0]
			number = p.SequenceNumber
			b := p.GetExtension(9)
			if len(b) == 0 {
				return -1, -1
			}
			return 10 * (int(b[0])<<4 | int(b[1])>>4), 10 * (int(b[1]&0xf)<<8 | int(b[2]))
		}
		report := func(jitter time.Duration) {
			r.f.HandleRTCP([]rtcp.Packet{&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{
				SSRC: 5000, LastSequenceNumber: uint32(number), Jitter: uint32(jitter * 90000 / time.Second),
			}}}})
		}
		expect := func(lowest int, why string) {
			t.Helper()
			got, highest := told()
			require.Equal(t, lowest, got, why)
			if got >= 0 {
				require.Equal(t, 10_000, highest, "where the room has none, as Chromium has it")
			}
		}
		expect(100, "at first")
		expect(100, "nothing is known of its arrival")
		time.Sleep(1050 * time.Millisecond)
		report(5 * time.Millisecond)
		expect(-1, "it has arrived, and the jitter is within it")
		report(15 * time.Millisecond)
		expect(150, "jitter")
		time.Sleep(550 * time.Millisecond)
		report(100 * time.Millisecond)
		expect(190, "no more than 80 ms a second")
		lost := number
		for i := range 20 {
			time.Sleep(1050 * time.Millisecond)
			report(2000 * time.Millisecond)
			told()
			if i == 0 {
				r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{lost})}})
				again := r.take()
				require.Len(t, again, 1)
				require.Equal(t, []byte{0x01, 0x33, 0xe8}, again[0].GetExtension(9), "190 ms, as the packet had it")
			}
		}
		time.Sleep(1050 * time.Millisecond)
		report(0)
		got, _ := told()
		require.Equal(t, 190+19*80, got, "and no less")
		for range 30 {
			time.Sleep(1050 * time.Millisecond)
			report(0)
			if now, _ := told(); now >= 0 {
				got = now
			}
		}
		require.Equal(t, 100, got, "never below the room's")
		track.SetInfo(&livekit.TrackInfo{Source: livekit.TrackSource_SCREEN_SHARE})
		time.Sleep(1050 * time.Millisecond)
		report(100 * time.Millisecond)
		expect(-1, "a shared screen")
	})
}

func TestForgottenPacketsAreMisses(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	for range videoCache / 4 {
		s.frame(true, 5)
	}
	got := r.take()
	ask := func(numbers ...uint16) []rtp.Packet {
		r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers(numbers)}})
		return r.take()
	}
	last := got[len(got)-1].SequenceNumber
	require.Empty(t, ask(last-400, last+1, last+videoCache), "too old, or never sent")
	require.Len(t, ask(last, last-200), 2, "from the last two seconds")
	require.Equal(t, uint64(3), r.f.Stats().Misses)
}

// A receiver whose network was away for longer than packets are remembered cannot decode
// what comes after. A keyframe is requested when it asks for what is forgotten, unless
// there was one since. What was never sent needs none.
func TestAReceiverThatMissesForgottenPacketsGetsAKeyframe(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	s.frame(true, 5)
	for range videoCache / 4 {
		s.frame(false, 5)
	}
	got := r.take()
	requests := func(numbers ...uint16) int {
		s.rtcp.take()
		s.layer.keys = keyRequests{} // the last request is long ago
		r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers(numbers)}})
		return count[*rtcp.PictureLossIndication](s.rtcp.take())
	}
	last := got[len(got)-1].SequenceNumber
	require.Zero(t, requests(last, last-20), "they are sent again")
	require.Zero(t, requests(last+1, last+videoCache), "they were never sent")
	forgotten := last - videoCache - 40
	require.Equal(t, 1, requests(forgotten, last))
	require.Zero(t, requests(forgotten, forgotten+1), "the keyframe is under way")
	require.Equal(t, uint64(1), r.f.Stats().Rescues)
	s.frame(true, 1)
	require.Zero(t, requests(forgotten), "a keyframe has come since")
}

// What a receiver asked for in time is not what its network kept from it: it goes on
// asking although it was answered.
func TestAReceiverThatAsksForSecondsGetsNoKeyframe(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	ask := func(numbers ...uint16) (requests int) {
		s.rtcp.take()
		s.layer.keys = keyRequests{} // the last request is long ago
		r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers(numbers)}})
		return count[*rtcp.PictureLossIndication](s.rtcp.take())
	}
	s.frame(true, 5)
	s.frame(false, 5)
	got := r.take()
	lost := got[len(got)-1].SequenceNumber
	require.Zero(t, ask(lost))
	for range videoCache / 4 {
		s.frame(false, 5)
	}
	r.take()
	require.Zero(t, ask(lost, lost-1), "it was answered")
	require.Zero(t, r.f.Stats().Rescues)
	require.Equal(t, 1, ask(lost+1), "it was never asked for")
}

// TestAReceiverThatAsksAgainIsAnswered as soon as the first answer should have come: after
// a round trip and not before.
func TestAReceiverThatAsksAgainIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, vp8Config(), nil)
		for range 120 {
			s.at = time.Now()
			s.frame(true, 1)
			s.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: s.ssrc, NTPTime: 9 << 32, RTPTime: s.ts}})
			time.Sleep(20 * time.Millisecond)
			for _, report := range of[*rtcp.SenderReport](r.rtcp.take()) {
				time.Sleep(40 * time.Millisecond) // the rest of the round trip
				r.f.HandleRTCP([]rtcp.Packet{&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{
					SSRC: 5000, LastSenderReport: uint32(report.NTPTime >> 16),
				}}}})
			}
		}
		require.InDelta(t, 50, r.f.Stats().RTT.Milliseconds(), 11)
		packets := r.take()
		nack := &rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{packets[len(packets)-1].SequenceNumber})}
		ask := func() int {
			r.f.HandleRTCP([]rtcp.Packet{nack})
			return len(r.take())
		}
		require.Equal(t, 1, ask())
		time.Sleep(25 * time.Millisecond)
		require.Zero(t, ask(), "the answer is on its way")
		time.Sleep(25 * time.Millisecond)
		require.Equal(t, 1, ask(), "it was lost")
	})
}

// TestAnswersGoTwiceOverALossyPath that has room, and once over one that loses nothing.
// Each copy has a number of its own, so that the path's feedback tells them apart.
func TestAnswersGoTwiceOverALossyPath(t *testing.T) {
	for lossy, copies := range map[bool]int{false: 1, true: 2} {
		synctest.Test(t, func(t *testing.T) {
			track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
			s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
			path := connected()
			r := newReceiver(track, vp8Config(), func(c *ForwarderConfig) { c.Downlink, c.Ext.TransportCC = path, 5 })
			number := func(p *rtp.Packet) uint16 { return binary.BigEndian.Uint16(p.GetExtension(5)) }
			began, sent := time.Now(), 0
			var last uint16
			for i := range 20 * 30 {
				s.at = time.Now()
				s.frame(i == 0, 2)
				fb := feedback.Report{Reference: uint32(time.Since(began) / (64 * time.Millisecond))}
				for j, p := range r.take() {
					if j == 0 {
						fb.Base = number(&p)
					}
					last = p.SequenceNumber
					at := time.Since(began) % (64 * time.Millisecond)
					if sent++; lossy && sent%10 == 0 {
						fb.Arrivals = append(fb.Arrivals, feedback.NotReceived)
					} else {
						fb.Arrivals = append(fb.Arrivals, int32(at/(250*time.Microsecond)))
					}
				}
				time.Sleep(frame)
				if len(fb.Arrivals) > 0 {
					path.Feedback(fb.Append(nil, 9, 1))
				}
			}
			// Who names it in vain a hundred times gets no more of it.
			pair := rtcp.NackPair{PacketID: last}
			before := rtcp.NackPair{PacketID: last - 1, LostPackets: 1}
			nacks := slices.Concat(slices.Repeat([]rtcp.NackPair{pair}, 100), []rtcp.NackPair{before, before})
			r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: nacks}})
			numbers := map[uint16]bool{}
			for _, p := range r.take() {
				if binary.BigEndian.Uint16(p.Payload) == last-1 {
					continue
				}
				require.Equal(t, uint32(5001), p.SSRC)
				require.Equal(t, last, binary.BigEndian.Uint16(p.Payload))
				numbers[number(&p)] = true
			}
			require.Len(t, numbers, copies, "lossy: %t", lossy)
		})
	}
}

// Some receivers, as pion's, ask for a packet for seconds although its retransmission has
// come. What they report of the retransmissions tells.
func TestAnAnswerThatCameIsNotGivenAgain(t *testing.T) {
	for _, byStreams := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
			s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
			path := connected()
			r := newReceiver(track, vp8Config(), func(c *ForwarderConfig) {
				c.Downlink, c.StreamFeedback = path, byStreams
				if !byStreams {
					c.Ext.TransportCC = 5
				}
			})
			s.frame(true, 1)
			first := r.take()[0]
			nack := &rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{first.SequenceNumber})}
			ask := func() []*rtp.Packet {
				time.Sleep(100 * time.Millisecond)
				r.f.HandleRTCP([]rtcp.Packet{nack})
				var got []*rtp.Packet
				for _, p := range r.take() {
					got = append(got, &p)
				}
				return got
			}
			report := func(p *rtp.Packet, came bool) {
				if byStreams {
					fb := rtcp.CCFeedbackReport{ReportBlocks: []rtcp.CCFeedbackReportBlock{{
						MediaSSRC: p.SSRC, BeginSequence: p.SequenceNumber, MetricBlocks: []rtcp.CCFeedbackMetricBlock{{Received: came}},
					}}}
					raw, err := fb.Marshal()
					require.NoError(t, err)
					path.Feedback(raw)
					return
				}
				fb := feedback.Report{Base: binary.BigEndian.Uint16(p.GetExtension(5)), Arrivals: []int32{feedback.NotReceived}}
				if came {
					fb.Arrivals[0] = 4
				}
				path.Feedback(fb.Append(nil, 9, 1))
			}
			report(&first, false)
			answers := ask()
			require.Len(t, answers, 1)
			report(answers[0], false)
			answers = ask()
			require.Len(t, answers, 1, "the answer was lost")
			require.Len(t, ask(), 1, "nothing is known of it")
			report(answers[0], true)
			require.Empty(t, ask(), "it has come")
		})
	}
}

func TestAnswersAtMostFourTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, vp8Config(), nil)
		s.frame(true, 1)
		nack := &rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{r.take()[0].SequenceNumber})}
		answers := 0
		for range 60 {
			r.f.HandleRTCP([]rtcp.Packet{nack})
			answers += len(r.take())
			time.Sleep(10 * time.Millisecond)
		}
		require.Equal(t, maxAnswers, answers)
	})
}

func TestRetransmissionKeepsRewrittenNumbers(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	low := newSender(track, 1, vp8Config(), "q", livekit.VideoQuality_LOW)
	high := newSender(track, 2, vp8Config(), "f", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	low.frame(true, 1)
	high.frame(true, 2)
	low.frame(false, 1)
	high.frame(false, 2)
	got := r.take()
	require.Len(t, got, 5)
	for _, p := range got {
		r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{p.SequenceNumber})}})
		again := r.take()
		require.Len(t, again, 1)
		require.Equal(t, p.Payload, again[0].Payload[2:])
		require.Equal(t, p.Timestamp, again[0].Timestamp)
		require.Equal(t, p.Marker, again[0].Marker)
	}
}

// The subscriber's reports have the publisher's clock, so that all tracks of one
// publisher are played in sync, whatever the offsets of their timestamps.
func TestSenderReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, _, f := simulcast(t)
		r := newReceiver(track, vp8Config(), nil)
		// The timestamps of the layers at this moment of the publisher's clock:
		const ntp = uint64(0xe8000000)<<32 | 1<<31
		told := time.Now()
		for _, s := range []*sender{q, f} {
			s.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: s.ssrc, NTPTime: ntp, RTPTime: s.ts}})
		}
		start := map[uint32]uint32{q.ssrc: q.ts, f.ssrc: f.ts}
		for range 3 {
			run(time.Second, q, f)
			r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
			run(time.Second, q, f)
			r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
		}
		run(time.Second, q, f)
		got := r.take()
		requireContiguous(t, got)
		reports := of[*rtcp.SenderReport](r.rtcp.take())
		require.GreaterOrEqual(t, len(reports), 6)
		last := reports[len(reports)-1]
		// The capture time of the newest packet according to the report must agree with
		// the layer's own report.
		newest := got[len(got)-1]
		seconds := float64(int64(last.NTPTime-ntp)) / (1 << 32)
		reported := seconds + float64(int32(newest.Timestamp-last.RTPTime))/90000
		captured := float64(f.ts-3000-start[f.ssrc]) / 90000
		require.InDelta(t, captured, reported, 0.002, "seconds since %v", told)
		require.NotZero(t, last.PacketCount)
		require.NotZero(t, last.OctetCount)
		require.Equal(t, uint32(5000), last.SSRC)
	})
}

// moments notes when outputs get a report and when they are flushed.
type moments struct {
	writes
	log *momentLog
}

type momentLog struct {
	mu      sync.Mutex // guards the following
	entries []moment
}

type moment struct {
	at     time.Time
	report bool
}

func (l *momentLog) add(report bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, moment{time.Now(), report})
}

func (l *momentLog) take() []moment {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries := l.entries
	l.entries = nil
	return entries
}

func (m moments) WriteRTCP([]rtcp.Packet) error {
	m.log.add(true)
	return nil
}

func (m moments) Flush() { m.log.add(false) }

// The reports of one moment are all written before the first one is flushed, so that one
// system call takes them, and each is flushed at that moment.
func TestReportsLeaveTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, _, _ := simulcast(t)
		log := &momentLog{}
		for i := range 40 {
			out := moments{func(*rtp.Header, []byte) error { return nil }, log}
			track.AddForwarder(ForwarderConfig{SSRC: uint32(7000 + i), Codec: vp8Config(), Output: out, Downlink: connected()})
		}
		q.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: q.ssrc, NTPTime: 9 << 32, RTPTime: q.ts}})
		run(time.Second, q)
		log.take()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		reports, flushes := map[time.Time]int{}, map[time.Time]int{}
		for _, m := range log.take() {
			if !m.report {
				flushes[m.at]++
				continue
			}
			require.Zero(t, flushes[m.at], "flushed before the last report")
			reports[m.at]++
		}
		require.Len(t, reports, 20, "ten moments a second")
		for at, n := range reports {
			require.Equal(t, 4, n)
			require.Equal(t, 4, flushes[at])
		}
	})
}

// A layer whose pictures were captured before the last one of the former layer follows it
// in steps of one tick until they are later. Whichever packets of a frame come late then,
// all packets of a frame have one timestamp, and a later frame has a later one.
func TestLatePacketsHaveTheTimestampOfTheirFrame(t *testing.T) {
	for held := range 8 {
		for _, behindTheNext := range []bool{false, true} {
			if held == 7 && behindTheNext {
				continue // there is no tick between the frames beside it
			}
			track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
			low := newSender(track, 1, vp8Config(), "q", livekit.VideoQuality_LOW)
			high := newSender(track, 2, vp8Config(), "f", livekit.VideoQuality_HIGH)
			r := newReceiver(track, vp8Config(), nil)
			for _, s := range []*sender{low, high} {
				s.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: s.ssrc, NTPTime: 9 << 32, RTPTime: s.ts}})
			}
			low.frame(true, 1)
			for range 5 {
				low.frame(false, 1)
			}
			high.at, high.ts = low.at, high.ts+9000 // 66 ms before the last frame of low
			r.take()
			high.frame(true, 3)
			high.late = map[uint16]bool{}
			for i := range uint16(3) {
				high.late[high.seq+i] = held&(1<<i) != 0
			}
			for _, raw := range high.makeFrame(false, 0, 3) {
				high.send(raw)
			}
			slices.Reverse(high.held)
			if !behindTheNext {
				high.catchUp()
			}
			high.frame(false, 3)
			high.catchUp()
			high.frame(false, 3)

			got := r.take()
			require.Len(t, got, 12, "late: %03b", held)
			slices.SortFunc(got, func(a, b rtp.Packet) int { return int(int16(a.SequenceNumber - b.SequenceNumber)) })
			requireContiguous(t, got)
			for i, p := range got {
				require.Equal(t, got[i-i%3].Timestamp, p.Timestamp, "late: %03b, packet %d", held, i)
				if i >= 3 {
					require.Positive(t, int32(p.Timestamp-got[i-3].Timestamp), "late: %03b, packet %d", held, i)
				}
			}
		}
	}
}

// If the publisher's reports allow it, a layer whose packets take longer is aligned by
// its capture times, and not by its arrivals.
func TestSwitchFollowsCaptureTime(t *testing.T) {
	for name, reported := range map[string]bool{"with reports": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
			low := newSender(track, 1, vp8Config(), "q", livekit.VideoQuality_LOW)
			high := newSender(track, 2, vp8Config(), "f", livekit.VideoQuality_HIGH)
			r := newReceiver(track, vp8Config(), nil)
			if reported {
				low.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: 1, NTPTime: 9 << 32, RTPTime: low.ts}})
				high.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: 2, NTPTime: 9<<32 + 1<<31, RTPTime: high.ts + 45000}})
			}
			high.at = high.at.Add(100 * time.Millisecond)
			low.frame(true, 1)
			high.ts += 3000 // its first frame is not sent
			for range 3 {
				low.frame(false, 1)
			}
			high.ts += 3 * 3000
			high.at = high.at.Add(4 * frame)
			high.frame(true, 1)
			got := r.take()
			require.Len(t, got, 5)
			want := 3000.
			if !reported {
				want += 9000
			}
			require.InDelta(t, want, got[4].Timestamp-got[3].Timestamp, 10)
		})
	}
}

// A report of what arrived does not wait for packets that are being written: it comes on the
// goroutine that reads for all clients.
func TestReportsWaitForNoWriter(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	writing, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r := newReceiver(track, vp8Config(), func(c *ForwarderConfig) {
		c.Output = writes(func(*rtp.Header, []byte) error {
			once.Do(func() {
				close(writing)
				<-goOn
			})
			return nil
		})
	})
	var sending sync.WaitGroup
	sending.Go(func() { s.frame(true, 3) })
	<-writing
	r.f.HandleRTCP([]rtcp.Packet{
		&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{SSRC: 5000, FractionLost: 64}}},
		&rtcp.ReceiverEstimatedMaximumBitrate{Bitrate: 1e6, SSRCs: []uint32{5000}},
	})
	close(goOn)
	sending.Wait()
	require.Equal(t, 0.25, r.f.Stats().FractionLost)
}

func TestRoundTripFromReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, vp8Config(), nil)
		s.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: 1, NTPTime: 77 << 32, RTPTime: s.ts}})
		run(1200*time.Millisecond, s)
		packets := r.rtcp.take()
		reports := of[*rtcp.SenderReport](packets)
		require.NotEmpty(t, reports)
		require.Equal(t, "parlor", of[*rtcp.SourceDescription](packets)[0].Chunks[0].Items[0].Text)
		sent := time.Now() // accurate enough: reports are sent on ticks of 100 ms
		time.Sleep(80 * time.Millisecond)
		r.f.HandleRTCP([]rtcp.Packet{&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{
			SSRC: 5000, FractionLost: 64, TotalLost: 9, Jitter: 900,
			LastSenderReport: uint32(reports[len(reports)-1].NTPTime >> 16), Delay: 65536 / 20,
		}}}})
		stats := r.f.Stats()
		require.InDelta(t, time.Since(sent)-50*time.Millisecond, stats.RTT, float64(250*time.Millisecond))
		require.Equal(t, 0.25, stats.FractionLost)
		require.Equal(t, 10*time.Millisecond, stats.Jitter)
	})
}

// A publisher that sends long after it has captured has reports that are always ahead of its
// packets. They are the only ones it has.
func TestReportsThatAreAlwaysAheadAreTakenInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, vp8Config(), nil)
		ahead := func() {
			s.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: 1, NTPTime: uint64(time.Now().Unix()) << 32, RTPTime: s.ts + 3*90000}})
			run(time.Second, s)
		}
		ahead()
		require.Empty(t, of[*rtcp.SenderReport](r.rtcp.take()), "it may be of another source")
		for range mostStrange + 1 {
			ahead()
		}
		require.NotEmpty(t, of[*rtcp.SenderReport](r.rtcp.take()))
	})
}

func TestTimestampsFarApartAreNotNear(t *testing.T) {
	f := &Forwarder{rate: 90000}
	require.True(t, f.near(5, 5+90000))
	require.True(t, f.near(5+90000, 5))
	require.False(t, f.near(5, 5+91000))
	require.False(t, f.near(5, 5+1<<31), "as far apart as can be")
}

func TestMute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, vp8Config(), nil)
		run(time.Second, s)
		before := r.take()
		track.SetMuted(true)
		run(time.Second, s)
		require.Empty(t, r.take())
		s.rtcp.take()
		track.SetMuted(false)
		require.Equal(t, 1, count[*rtcp.PictureLossIndication](s.rtcp.packets), "the receiver needs a key frame")
		s.at = time.Now()
		s.frame(false, 2)
		require.Empty(t, r.take())
		run(time.Second, s)
		all := append(before, r.take()...)
		require.Greater(t, len(all), len(before)+40)
		requireContiguous(t, all)
		gap := all[len(before)].Timestamp - all[len(before)-1].Timestamp
		require.InDelta(t, 96000, gap, 6000, "time went on")
	})
}

func TestExtensions(t *testing.T) {
	codec := vp8Config()
	track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
	s := newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
	l := track.AddLayer(LayerConfig{SSRC: 9, Codec: codec, Quality: livekit.VideoQuality_HIGH, Ext: Extensions{
		AbsCaptureTime: 4, VideoOrientation: 5, PlayoutDelay: 6, TransportCC: 7, MID: 8,
	}})
	r := newReceiver(track, codec, func(c *ForwarderConfig) {
		c.Ext = Extensions{AbsCaptureTime: 1, VideoOrientation: 2, AbsSendTime: 3, TransportCC: 12}
		c.MinPlayoutDelay = 100
	})
	delayed := newReceiver(track, codec, func(c *ForwarderConfig) {
		c.Ext = Extensions{PlayoutDelay: 9}
		c.MinPlayoutDelay, c.MaxPlayoutDelay = 100, 2000
	})
	p := rtp.Packet{
		Header:  rtp.Header{Version: 2, Marker: true, PayloadType: 96, SSRC: 9},
		Payload: s.vp8Payload(true, true, 0, 50),
	}
	capture := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	for id, value := range map[uint8][]byte{4: capture, 5: {1}, 6: {0, 0, 0}, 7: {0, 1}, 8: {'0'}} {
		require.NoError(t, p.SetExtension(id, value))
	}
	raw, err := p.Marshal()
	require.NoError(t, err)
	before := time.Now()
	l.WriteRTP(raw, before)
	got := r.take()
	require.Len(t, got, 1)
	require.ElementsMatch(t, []uint8{1, 2, 3, 12}, got[0].GetExtensionIDs())
	require.Equal(t, capture, got[0].GetExtension(1))
	require.Equal(t, []byte{1}, got[0].GetExtension(2))
	var sent rtp.AbsSendTimeExtension
	require.NoError(t, sent.Unmarshal(got[0].GetExtension(3)))
	require.WithinDuration(t, before, sent.Estimate(before.Add(time.Second)), 100*time.Millisecond)
	require.Equal(t, []byte{0, 1}, got[0].GetExtension(12))

	got = delayed.take()
	require.Equal(t, []byte{0x00, 0xa0, 0xc8}, got[0].GetExtension(9), "10 and 200 times 10 ms")
	delayed.f.HandleRTCP([]rtcp.Packet{&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{SSRC: 5000, LastSequenceNumber: uint32(got[0].SequenceNumber)}}}})
	s2 := &sender{layer: l, ssrc: 9, pt: 96, seq: 1, ts: 3000, at: time.Now()}
	s2.frame(false, 1)
	require.Empty(t, delayed.take()[0].GetExtensionIDs(), "the receiver has it")
}

func TestPaddingLeavesNoGap(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	s.frame(true, 2)
	for range 3 {
		s.layer.WriteRTP(s.packet(false, nil), s.at)
	}
	s.frame(false, 2)
	got := r.take()
	require.Len(t, got, 4)
	requireContiguous(t, got)
}

// The padding in place of a late packet that is left out may be lost too. It is sent
// again: as a retransmission, or unchanged.
func TestPaddingForLatePacketsIsSentAgain(t *testing.T) {
	for _, rtx := range []bool{true, false} {
		codec := vp9Config()
		if rtx {
			codec.RTXPayloadType = 99
		}
		track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
		s := newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, codec, nil)
		r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
		vp9Picture(s, true)
		s.late = map[uint16]bool{s.seq + 2: true}
		vp9Picture(s, false)
		vp9Picture(s, false)
		r.take()
		s.catchUp()
		lost := r.take()
		require.Len(t, lost, 1)
		require.Empty(t, lost[0].Payload)
		r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{lost[0].SequenceNumber})}})
		got := r.take()
		require.Len(t, got, 1)
		if !rtx {
			require.Equal(t, lost, got)
			continue
		}
		require.EqualValues(t, 5001, got[0].SSRC)
		require.EqualValues(t, 99, got[0].PayloadType)
		require.Equal(t, lost[0].Timestamp, got[0].Timestamp)
		require.Equal(t, binary.BigEndian.AppendUint16(nil, lost[0].SequenceNumber), got[0].Payload)
	}
}

func TestClosedTakesNothing(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	s.frame(true, 1)
	require.Len(t, r.take(), 1)
	r.f.Close()
	s.frame(true, 1)
	r.f.HandleRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: 5000}})
	require.Empty(t, r.take())
	track.Close()
	track.Close()
	s.frame(true, 1)
	late := newReceiver(track, vp8Config(), nil)
	s2 := newSender(track, 2, vp8Config(), "", livekit.VideoQuality_HIGH)
	s2.frame(true, 1)
	late.f.SetSettings(Settings{})
	require.Empty(t, late.take())
}

// If the timestamps of a source jump, the forwarded ones continue by the clock.
func TestTimestampsOfJumpingSource(t *testing.T) {
	for name, jump := range map[string]uint32{"forward": 90000 * 3600, "back": 1<<32 - 90000*3600} {
		t.Run(name, func(t *testing.T) {
			track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
			s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
			r := newReceiver(track, vp8Config(), nil)
			s.frame(true, 2)
			s.frame(false, 2)
			s.ts += jump
			s.frame(false, 2)
			s.frame(false, 2)
			got := r.take()
			require.Len(t, got, 8)
			for i := 2; i < len(got); i += 2 {
				require.Equal(t, got[i].Timestamp, got[i+1].Timestamp)
				require.InDelta(t, 3000, got[i].Timestamp-got[i-2].Timestamp, 1)
			}
		})
	}
}

// Feedback that claims more packets than it has is dropped and counted.
func TestMalformedFeedbackIsCounted(t *testing.T) {
	var malformed atomic.Uint64
	d := downlink.New(nil)
	d.CountMalformed(&malformed)
	d.Connected()
	whole := []byte{
		0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, // header, sender SSRC, media SSRC
		0, 1, 0, 1, // from number 1, one packet
		0, 0, 1, 0, // reference time, feedback count
		0x20, 0x01, 4, 0, // a run of one small delta, the delta, padding
	}
	d.Feedback(whole)
	require.Zero(t, malformed.Load())
	many := append([]byte(nil), whole...)
	many[14], many[15] = 0xff, 0xff // packets that are not in the feedback
	d.Feedback(many)
	d.Feedback(whole[:11])
	d.Feedback(nil)
	require.EqualValues(t, 3, malformed.Load())
}
