package forward

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/feedback"
)

// film is a publisher's encoder behind a path: it has a frame every 33 ms, and takes a while to
// make a keyframe.
type film struct {
	*sender
	rtt, encode time.Duration
	loses       int // how many requests are lost

	due      time.Time // when the keyframe comes that was asked for; zero: none was
	requests []time.Time
}

func newFilm(track *Track, quality livekit.VideoQuality, rtt, encode time.Duration) *film {
	s := &film{sender: newSender(track, 1, vp8Config(), "", quality), rtt: rtt, encode: encode}
	s.layer.SetRTT(rtt)
	return s
}

// run lets it go on; meanwhile is called every millisecond.
func (f *film) run(length time.Duration, meanwhile func()) {
	end := time.Now().Add(length)
	for next := time.Now(); time.Now().Before(end); time.Sleep(time.Millisecond) {
		now := time.Now()
		for range count[*rtcp.PictureLossIndication](f.rtcp.take()) {
			f.requests = append(f.requests, now)
			switch {
			case f.loses > 0:
				f.loses--
			case f.due.IsZero():
				f.due = now.Add(f.rtt + f.encode)
			}
		}
		key := !f.due.IsZero() && !now.Before(f.due)
		if key || !now.Before(next) {
			next = now.Add(33 * time.Millisecond)
			f.layer.WriteRTP(f.makeFrame(key, 0, 1)[0], now)
			if key {
				f.due = time.Time{}
			}
		}
		if meanwhile != nil {
			meanwhile()
		}
	}
}

// A request for a keyframe that is lost is repeated after the round trip to the publisher and
// the time to encode. Until then nothing is asked for that is under way, however many ask.
func TestALostKeyRequestIsRepeatedAfterTheRoundTrip(t *testing.T) {
	for _, quality := range []livekit.VideoQuality{livekit.VideoQuality_LOW, livekit.VideoQuality_HIGH} {
		for _, rtt := range []time.Duration{10 * time.Millisecond, 150 * time.Millisecond, 500 * time.Millisecond, 900 * time.Millisecond} {
			t.Run(fmt.Sprintf("%v, %v", quality, rtt), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
					s := newFilm(track, quality, rtt, 30*time.Millisecond)
					receivers := make([]*receiver, 10)
					for i := range receivers {
						receivers[i] = newReceiver(track, vp8Config(), nil)
					}
					s.run(8*time.Second, nil)
					s.requests = nil
					asking := 0
					ask := func() {
						if asking++; len(s.requests) < 2 && asking%20 == 0 {
							receivers[asking/20%len(receivers)].f.HandleRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: 5000}})
						}
					}
					s.run(rtt+30*time.Millisecond, ask)
					require.Len(t, s.requests, 1, "it is under way")
					s.run(5*time.Second, nil)

					s.requests, s.loses = nil, 1
					s.run(3*time.Second, ask)
					require.Len(t, s.requests, 2, "the second is answered")
					after := s.requests[1].Sub(s.requests[0])
					require.Greater(t, after, rtt+30*time.Millisecond)
					require.Less(t, after, rtt+200*time.Millisecond)
				})
			})
		}
	}
}

// A publisher that takes longer for a keyframe than most is given that time, once that is known.
func TestASlowEncoderIsNotAskedTwice(t *testing.T) {
	for _, encode := range []time.Duration{200 * time.Millisecond, 700 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
			s := newFilm(track, livekit.VideoQuality_HIGH, 20*time.Millisecond, encode)
			r := newReceiver(track, vp8Config(), nil)
			ask := func(times int) {
				for range times {
					r.f.RequestKeyFrame()
					s.run(4*time.Second, nil)
				}
			}
			ask(12)
			s.requests = nil
			ask(5)
			require.Len(t, s.requests, 5, "%v", encode)
			s.encode = 30 * time.Millisecond // it has become faster
			ask(8)
			s.requests, s.loses = nil, 1
			ask(1)
			require.Len(t, s.requests, 2)
			require.Less(t, s.requests[1].Sub(s.requests[0]), 400*time.Millisecond)
		})
	}
}

// A receiver that asked for a keyframe before the one could reach it that others asked for, has
// been served. One that asks later has not.
func TestAReceiverIsServedByTheKeyframeOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newFilm(track, livekit.VideoQuality_HIGH, 20*time.Millisecond, 30*time.Millisecond)
		r, other := newReceiver(track, vp8Config(), nil), newReceiver(track, vp8Config(), nil)
		ask := func(after time.Duration) int {
			s.run(5*time.Second, nil)
			s.requests = nil
			other.f.RequestKeyFrame()
			s.run(51*time.Millisecond, nil)
			s.run(after, nil)
			r.f.HandleRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: 5000}})
			s.run(3*time.Second, nil)
			return len(s.requests)
		}
		require.Equal(t, 1, ask(20*time.Millisecond))
		require.Equal(t, 2, ask(150*time.Millisecond))
		r.f.receipts.mu.Lock()
		r.f.receipts.newest.rtt = 40 * time.Millisecond // as its reports say
		r.f.receipts.mu.Unlock()
		require.Equal(t, 1, ask(20*time.Millisecond))
		require.Equal(t, 2, ask(50*time.Millisecond))
	})
}

// A receiver that asked for a keyframe before the one could reach it that others asked for, gets
// another if its reports show that it lost that one: it need not ask again. One that received it,
// or had it repeated, costs the publisher none.
func TestAReceiverThatLostTheKeyframeOnItsWayGetsAnother(t *testing.T) {
	for name, of := range map[string]struct {
		reports, loses, nacks bool
		silent                bool // it could report, but does not
		requests              int
	}{
		"it came":             {reports: true, requests: 1},
		"it was lost":         {reports: true, loses: true, requests: 2},
		"it is repeated":      {reports: true, loses: true, nacks: true, requests: 1},
		"nothing is reported": {loses: true, requests: 1},
		"it is silent":        {reports: true, silent: true, requests: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
				s := newFilm(track, livekit.VideoQuality_HIGH, 20*time.Millisecond, 30*time.Millisecond)
				r, other := newReceiver(track, vp8Config(), func(c *ForwarderConfig) {
					if of.reports {
						c.Ext.TransportCC = 5
					}
				}), newReceiver(track, vp8Config(), nil)
				var key *rtp.Packet // that it gets or loses
				asked := false
				report := func() {
					for _, p := range r.take() {
						fb := feedback.Report{Arrivals: []int32{4}}
						if p.Payload[6]&1 == 0 && p.SSRC == 5000 {
							if key = &p; of.loses {
								fb.Arrivals[0] = feedback.NotReceived
							}
						}
						if of.reports && !of.silent {
							fb.Base = binary.BigEndian.Uint16(p.GetExtension(5))
							r.f.downlink.Feedback(fb.Append(nil, 9, 1))
						}
					}
					if key == nil || asked {
						return
					}
					asked = true
					r.f.HandleRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: 5000}})
					if of.nacks {
						r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{key.SequenceNumber})}})
					}
				}
				s.run(5*time.Second, nil)
				r.take()
				s.requests = nil
				other.f.RequestKeyFrame()
				s.run(3*time.Second, report)
				require.True(t, asked)
				require.Len(t, s.requests, of.requests)
				if of.requests > 1 {
					require.Less(t, s.requests[1].Sub(s.requests[0]), 400*time.Millisecond)
				}
			})
		})
	}
}

// The clock by which a receiver reports is the receiver's to tell, and may go ahead by hours with each
// report: that ends nothing.
func TestAReceiverWhoseClockRunsAway(t *testing.T) {
	for name, report := range map[string]func(made, base uint32) []byte{
		"transport-wide": func(made, base uint32) []byte {
			return (&feedback.Report{Base: uint16(base), Reference: made * 0x7fffff & 0xffffff, Arrivals: []int32{4}}).Append(nil, 9, 1)
		},
		"by streams": func(made, base uint32) []byte {
			return rfc8888(made*0x7fffffff, 5000, uint16(base))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
				s := newFilm(track, livekit.VideoQuality_HIGH, 20*time.Millisecond, 30*time.Millisecond)
				r := newReceiver(track, vp8Config(), func(c *ForwarderConfig) {
					if name == "transport-wide" {
						c.Ext.TransportCC = 5
					} else {
						c.StreamFeedback = true
					}
				})
				s.run(time.Second, nil)
				sent := r.take()
				require.NotEmpty(t, sent)
				for made := range uint32(300_000) {
					p := sent[int(made)%len(sent)]
					base := uint32(p.SequenceNumber)
					if e := p.GetExtension(5); len(e) == 2 {
						base = uint32(binary.BigEndian.Uint16(e))
					}
					if made%10_000 != 0 {
						base += 1 << 15 // of a packet that was not sent
					}
					r.f.downlink.Feedback(report(made, base))
					if made%10_000 == 0 {
						s.run(100*time.Millisecond, nil)
						sent = r.take()
					}
				}
			})
		})
	}
}

// rfc8888 is a report that one packet of a stream arrived 1/1024 s before a time.
func rfc8888(made, ssrc uint32, sequence uint16) []byte {
	b := []byte{0x8b, 205, 0, 5}
	b = binary.BigEndian.AppendUint32(b, 9)
	b = binary.BigEndian.AppendUint32(b, ssrc)
	b = binary.BigEndian.AppendUint16(b, sequence)
	b = binary.BigEndian.AppendUint16(b, 1)
	b = append(b, 0x80, 1, 0, 0)
	return binary.BigEndian.AppendUint32(b, made)
}

// A publisher that never answers is not flooded.
func TestAPublisherWithoutKeyframesIsAskedOnceInAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newFilm(track, livekit.VideoQuality_HIGH, time.Millisecond, 0)
		newReceiver(track, vp8Config(), nil)
		s.loses = 1000
		s.run(20*time.Second, nil)
		require.InDelta(t, 22, len(s.requests), 2)
	})
}

// A request that is repeated has the number of the first, by which the publisher knows it for
// the same.
func TestARepeatedFIRHasItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		log := &rtcpLog{}
		l := track.AddLayer(LayerConfig{SSRC: 1, Codec: vp8Config(), WriteRTCP: log.write, FIR: true})
		s := &sender{layer: l, ssrc: 1, pt: 96, rtcp: log, at: time.Now()}
		newReceiver(track, vp8Config(), nil)
		numbers := func() (list []uint8) {
			s.at = time.Now()
			s.frame(false, 1)
			time.Sleep(800 * time.Millisecond)
			s.at = time.Now()
			s.frame(true, 1)
			for _, fir := range of[*rtcp.FullIntraRequest](log.take()) {
				list = append(list, fir.FIR[0].SequenceNumber)
			}
			time.Sleep(3 * time.Second)
			require.Greater(t, len(list), 1)
			return slices.Compact(list)
		}
		require.Equal(t, []uint8{1}, numbers())
		l.RequestKeyFrame()
		require.Equal(t, []uint8{2}, numbers())
	})
}
