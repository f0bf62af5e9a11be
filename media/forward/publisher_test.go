package forward

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"
)

func TestAsksPublisherAgainAndForwardsLate(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	s.frame(true, 2)
	lost := s.makeFrame(false, 0, 3)
	s.layer.WriteRTP(lost[0], s.at)
	s.layer.WriteRTP(lost[2], s.at)
	asked := of[*rtcp.TransportLayerNack](s.rtcp.take())
	require.Len(t, asked, 1)
	require.Equal(t, uint32(1), asked[0].MediaSSRC)
	require.Equal(t, []uint16{s.seq - 2}, asked[0].Nacks[0].PacketList())
	s.frame(false, 1)
	got := r.take()
	require.Len(t, got, 5)
	require.Equal(t, got[2].SequenceNumber+2, got[3].SequenceNumber, "the place of the lost one is kept")
	s.layer.WriteRTP(lost[1], s.at)
	late := r.take()
	require.Len(t, late, 1)
	require.Equal(t, got[2].SequenceNumber+1, late[0].SequenceNumber)
	require.Equal(t, got[2].Timestamp, late[0].Timestamp)
	s.layer.WriteRTP(lost[1], s.at)
	require.Empty(t, r.take(), "a duplicate")
	stats := s.layer.Stats()
	require.Equal(t, uint64(1), stats.Late)
	require.Equal(t, uint64(1), stats.Duplicates)
	require.Zero(t, stats.Lost)
}

// A packet of a fast stream over a long way is asked for again when its repeat is lost too, and
// reaches the subscriber although hundreds of packets have come meanwhile.
func TestAPacketThatIsLostRepeatedlyIsAskedForByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, vp8Config(), nil)
		const apart, roundTrip, lostRepeats = 20 * time.Millisecond, 150 * time.Millisecond, 2
		s.layer.SetRTT(roundTrip)
		type repeat struct {
			at  time.Time
			raw []byte
		}
		var repeats []repeat
		var lost []byte
		var asked int
		var got []rtp.Packet
		for n := range 60 { // 800 packets a second
			s.at = time.Now()
			for i, raw := range s.makeFrame(n == 0, 0, 16) {
				if n == 5 && i == 7 {
					lost = raw
					continue
				}
				s.layer.WriteRTP(raw, time.Now())
			}
			for _, nack := range of[*rtcp.TransportLayerNack](s.rtcp.take()) {
				require.Equal(t, []uint16{binary.BigEndian.Uint16(lost[2:])}, nack.Nacks[0].PacketList())
				if asked++; asked > lostRepeats {
					repeats = append(repeats, repeat{time.Now().Add(roundTrip - apart), lost})
				}
			}
			if len(repeats) > 0 && !time.Now().Before(repeats[0].at) {
				s.layer.WriteRTP(repeats[0].raw, time.Now())
				repeats = repeats[1:]
			}
			got = append(got, r.take()...)
			time.Sleep(apart)
		}
		require.Equal(t, lostRepeats+1, asked)
		require.Len(t, got, 60*16)
		slices.SortFunc(got, func(a, b rtp.Packet) int { return int(int16(a.SequenceNumber - b.SequenceNumber)) })
		requireContiguous(t, got)
		require.Zero(t, s.layer.Stats().Lost)
	})
}

// Many lost packets are asked for in one message that fits into a datagram.
func TestARequestForManyPacketsIsSmall(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	s.frame(true, 1)
	at := s.at
	for range 400 { // in one moment, every second packet
		s.seq++
		s.at = at
		s.frame(false, 1)
	}
	s.rtcp.take()
	s.at = at.Add(200 * time.Millisecond)
	s.frame(false, 1)
	asked := of[*rtcp.TransportLayerNack](s.rtcp.take())
	require.Len(t, asked, 1)
	raw, err := asked[0].Marshal()
	require.NoError(t, err)
	require.Less(t, len(raw), 300)
	var numbers []uint16
	for _, pair := range asked[0].Nacks {
		numbers = append(numbers, pair.PacketList()...)
	}
	require.Len(t, numbers, 400)
}

func TestKeyRequestsAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "q", livekit.VideoQuality_LOW)
		receivers := make([]*receiver, 20)
		for i := range receivers {
			receivers[i] = newReceiver(track, vp8Config(), nil)
		}
		s.at = time.Now()
		s.frame(true, 1)
		requests := 0
		for range 20 { // two seconds
			for i, r := range receivers {
				if i%2 == 0 {
					r.f.HandleRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: 5000}})
				} else {
					r.f.HandleRTCP([]rtcp.Packet{&rtcp.FullIntraRequest{FIR: []rtcp.FIREntry{{SSRC: 5000}}}})
				}
			}
			time.Sleep(100 * time.Millisecond)
			requests += count[*rtcp.PictureLossIndication](s.rtcp.take())
		}
		require.InDelta(t, 4, requests, 1, "one in half a second")
		s.at = time.Now()
		s.frame(true, 1)
		s.rtcp.take()
		time.Sleep(2 * time.Second)
		require.Zero(t, count[*rtcp.PictureLossIndication](s.rtcp.take()), "the key frame came")
	})
}

// TestASubscriberWithoutAPictureWaitsShortly, if it comes just after the keyframe for
// another one, also if the publisher ignores a request that follows another one closely.
// Many such subscribers, or one that comes and goes, get no more keyframes in the long run
// than others, and a receiver that has a picture is served sooner but once.
func TestASubscriberWithoutAPictureWaitsShortly(t *testing.T) {
	for _, quality := range []livekit.VideoQuality{livekit.VideoQuality_LOW, livekit.VideoQuality_HIGH} {
		t.Run(quality.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
				s := newSender(track, 1, vp8Config(), "", quality)
				// The publisher answers each request with a keyframe after 50 ms, and makes a frame in 50 ms.
				pending, requests := 0, 0
				frame := func() {
					time.Sleep(50 * time.Millisecond)
					s.at = time.Now()
					s.frame(pending > 0, 1)
					pending = count[*rtcp.PictureLossIndication](s.rtcp.take())
					requests += pending
				}
				newReceiver(track, vp8Config(), nil)
				for range 4 {
					frame()
				}
				r := newReceiver(track, vp8Config(), nil)
				waited := 0
				for ; len(r.take()) == 0; waited++ {
					require.Less(t, waited, 9, "the picture begins within 450 ms")
					frame()
				}
				for range 40 {
					frame()
				}
				ignoring := newReceiver(track, vp8Config(), nil)
				frame()
				pending = 0
				for waited = 0; len(ignoring.take()) == 0; waited++ {
					require.Less(t, waited, 12, "the picture begins within 600 ms")
					frame()
				}
				for range 40 {
					frame()
				}
				requests = 0
				for range 4 {
					r.f.RequestKeyFrame()
					for range 4 {
						frame()
					}
				}
				require.Equal(t, 2, requests, "who has a picture waits for the interval")

				for range 40 {
					frame()
				}
				requests = 0
				for range 200 { // ten seconds
					newReceiver(track, vp8Config(), nil)
					frame()
				}
				bound := map[livekit.VideoQuality]int{livekit.VideoQuality_LOW: 20, livekit.VideoQuality_HIGH: 10}[quality]
				require.LessOrEqual(t, requests, bound+keyCreditStart+1)
				require.Greater(t, requests, bound/2)
			})
		})
	}
}

func TestRepeatsKeyRequestUntilItIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		newReceiver(track, vp8Config(), nil)
		s.at = time.Now()
		s.frame(false, 1)
		time.Sleep(3050 * time.Millisecond)
		requests := count[*rtcp.PictureLossIndication](s.rtcp.take())
		require.GreaterOrEqual(t, requests, 3)
		require.LessOrEqual(t, requests, 4+keyCreditStart)
	})
}

func TestFIRWherePLIIsUnknown(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	log := &rtcpLog{}
	l := track.AddLayer(LayerConfig{SSRC: 3, Codec: vp8Config(), WriteRTCP: log.write, FIR: true})
	l.RequestKeyFrame()
	fir := of[*rtcp.FullIntraRequest](log.take())
	require.Len(t, fir, 1)
	require.Equal(t, []rtcp.FIREntry{{SSRC: 3, SequenceNumber: 1}}, fir[0].FIR)
}

func TestReceiverReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		for i := range 45 {
			s.at = time.Now()
			frame := s.makeFrame(i == 0, 0, 4)
			for j, raw := range frame {
				if i > 0 && j == 1 {
					continue // lost
				}
				s.layer.WriteRTP(raw, s.at)
			}
			if i == 15 {
				s.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: 1, NTPTime: 0x0000_1234_5678_0000, RTPTime: 5}})
			}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(200 * time.Millisecond)
		reports := of[*rtcp.ReceiverReport](s.rtcp.take())
		require.Len(t, reports, 1)
		block := reports[0].Reports[0]
		require.Equal(t, uint32(1), block.SSRC)
		require.Equal(t, uint32(44), block.TotalLost)
		require.InDelta(t, 64, block.FractionLost, 2)
		require.Equal(t, s.seq-1, uint16(block.LastSequenceNumber))
		require.Equal(t, uint32(0x12345678), block.LastSenderReport)
		require.InDelta(t, 0.7*65536, block.Delay, 0.1*65536)
	})
}

func TestDynacast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type told struct {
			at   time.Duration
			high livekit.VideoQuality
		}
		var log []told
		start := time.Now()
		track := NewTrack(TrackConfig{
			Kind: livekit.TrackType_VIDEO, Codec: vp8Config(),
			OnQualities: func(codecs []Wanted) {
				require.Len(t, codecs, 1)
				require.Equal(t, "vp8", codecs[0].Codec)
				log = append(log, told{time.Since(start).Truncate(100 * time.Millisecond), codecs[0].Highest})
			},
		})
		defer track.Close()
		newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		time.Sleep(12 * time.Second)
		r := newReceiver(track, vp8Config(), nil)
		time.Sleep(time.Second)
		r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
		time.Sleep(time.Second)
		r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH}) // the subscriber changes its wish
		time.Sleep(7 * time.Second)
		r.f.SetSettings(Settings{Quality: livekit.VideoQuality_MEDIUM})
		time.Sleep(6 * time.Second)
		r.f.Close()
		time.Sleep(6 * time.Second)
		synctest.Wait()
		require.Equal(t, []told{
			{10 * time.Second, livekit.VideoQuality_OFF},
			{12 * time.Second, livekit.VideoQuality_HIGH},
			{26 * time.Second, livekit.VideoQuality_MEDIUM},
			{32 * time.Second, livekit.VideoQuality_OFF},
		}, log)
	})
}

// A codec that is not sent yet is requested like a layer: at once, and not any more once
// it has no subscriber, though it may never have come.
func TestDynacastOfBackupCodec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		start := time.Now()
		track := NewTrack(TrackConfig{
			Kind: livekit.TrackType_VIDEO, Codec: vp8Config(),
			OnQualities: func(codecs []Wanted) {
				line := fmt.Sprintf("%v", time.Since(start).Truncate(time.Second))
				for _, c := range codecs {
					line += fmt.Sprintf(" %s %t", c.Codec, c.Has(livekit.VideoQuality_LOW))
				}
				log = append(log, line)
			},
		})
		defer track.Close()
		newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		newReceiver(track, vp8Config(), nil)
		time.Sleep(time.Second)
		old := newReceiver(track, av1Config(), nil)
		time.Sleep(time.Second)
		old.f.Close()
		time.Sleep(8 * time.Second)
		newReceiver(track, av1Config(), nil)
		synctest.Wait()
		require.Equal(t, []string{"0s vp8 true", "1s vp8 true av1 true", "7s vp8 true av1 false", "10s vp8 true av1 true"}, log)
	})
}

func TestLayerFollowsNewSource(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	s.frame(true, 2)
	s.frame(false, 2)
	s.ssrc, s.seq, s.ts, s.pic = 77, 40000, 1<<31, 9
	s.frame(false, 2) // of the new source, without a keyframe
	s.frame(true, 2)
	s.frame(false, 2)
	got := r.take()
	require.Len(t, got, 8)
	requireContiguous(t, got)
	require.InDelta(t, 6000, got[4].Timestamp-got[3].Timestamp, 1)
	require.Equal(t, uint64(1), s.layer.Stats().Restarts)
}

func TestForeignPayloadTypeIsDropped(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	s.pt = 97
	s.frame(true, 2)
	require.Empty(t, r.take())
	require.Equal(t, uint64(2), s.layer.Stats().Foreign)
}

// A frame whose packets come in a train is forwarded as a whole; one whose packets are
// paced does not wait for its end.
func TestPacedFramesAreNotHeldBack(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	frames := func(gap time.Duration) (first int) {
		for range 10 {
			r.take()
			for i, raw := range s.makeFrame(true, 0, 8) {
				s.layer.WriteRTP(raw, s.at)
				s.at = s.at.Add(gap)
				if i == 0 {
					first = len(r.take())
				}
			}
		}
		return first
	}
	require.Zero(t, frames(100*time.Microsecond))
	require.Equal(t, 1, frames(4*time.Millisecond))
	require.Zero(t, frames(100*time.Microsecond))
	for _, raw := range s.makeFrame(true, 0, 8)[:7] {
		s.layer.WriteRTP(raw, s.at)
	}
	r.take()
	s.layer.Flush()
	require.Len(t, r.take(), 7, "the reader has nothing more")
}

// If the end of a frame does not come, the tick forwards the rest.
func TestTickReleasesHeldPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, vp8Config(), nil)
		s.at = time.Now()
		for _, raw := range s.makeFrame(true, 0, 3)[:2] {
			s.layer.WriteRTP(raw, time.Now())
		}
		require.Empty(t, r.take())
		time.Sleep(250 * time.Millisecond)
		require.Len(t, r.take(), 2)
	})
}

func TestScore(t *testing.T) {
	tests := []struct {
		name string
		path Path
		want livekit.ConnectionQuality
	}{
		{"nothing wrong", Path{}, livekit.ConnectionQuality_EXCELLENT},
		{"a percent of loss", Path{Loss: 0.01, RTT: 60 * time.Millisecond, Jitter: 5 * time.Millisecond}, livekit.ConnectionQuality_EXCELLENT},
		{"far away", Path{RTT: 300 * time.Millisecond}, livekit.ConnectionQuality_EXCELLENT},
		{"some loss", Path{Loss: 0.05}, livekit.ConnectionQuality_GOOD},
		{"the same for audio", Path{Loss: 0.04, Audio: true}, livekit.ConnectionQuality_EXCELLENT},
		{"a layer below", Path{Missing: 1}, livekit.ConnectionQuality_GOOD},
		{"two below", Path{Missing: 2}, livekit.ConnectionQuality_POOR},
		{"two below and jitter", Path{Missing: 2, Jitter: 5 * time.Millisecond}, livekit.ConnectionQuality_POOR},
		{"one below and jitter", Path{Missing: 1, Jitter: 5 * time.Millisecond}, livekit.ConnectionQuality_GOOD},
		{"two below and loss", Path{Missing: 2, Loss: 0.05}, livekit.ConnectionQuality_POOR},
		{"much loss", Path{Loss: 0.3}, livekit.ConnectionQuality_POOR},
		{"moon", Path{RTT: 3 * time.Second}, livekit.ConnectionQuality_POOR},
		{"nonsense", Path{Loss: 7, Missing: -1}, livekit.ConnectionQuality_POOR},
	}
	last := float32(6)
	for _, tt := range tests {
		quality, score := Score(tt.path)
		require.Equal(t, tt.want, quality, tt.name)
		require.GreaterOrEqual(t, score, float32(0))
		require.LessOrEqual(t, score, float32(5))
		last = min(last, score)
	}
	require.Zero(t, last)
}

func TestQualityOfStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, vp8Config(), nil)
		_, _, ok := s.layer.Quality()
		require.False(t, ok)
		_, _, ok = r.f.Quality()
		require.False(t, ok)
		lossy := func(seconds int, every int) {
			for i := range seconds * 30 {
				s.at = time.Now()
				for j, raw := range s.makeFrame(i == 0, 0, 4) {
					if every == 0 || (i*4+j)%every != 1 {
						s.layer.WriteRTP(raw, s.at)
					}
				}
				time.Sleep(frame)
			}
		}
		lossy(8, 0)
		quality, _, ok := s.layer.Quality()
		require.True(t, ok)
		require.Equal(t, livekit.ConnectionQuality_EXCELLENT, quality)
		lossy(8, 10)
		quality, _, _ = s.layer.Quality()
		require.Equal(t, livekit.ConnectionQuality_GOOD, quality)
		lossy(8, 0)
		quality, _, _ = s.layer.Quality()
		require.Equal(t, livekit.ConnectionQuality_EXCELLENT, quality, "the past is forgiven")
		for range 10 {
			r.f.HandleRTCP([]rtcp.Packet{&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{SSRC: 5000, FractionLost: 128}}}})
		}
		quality, _, ok = r.f.Quality()
		require.True(t, ok)
		require.Equal(t, livekit.ConnectionQuality_POOR, quality)
	})
}

// A track without events has no running timer, and its periodic work resumes with the
// next event.
func TestATrackRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := NewTrack(TrackConfig{SID: "TR_x", Kind: livekit.TrackType_VIDEO, Codec: vp8Config()})
		defer track.Close()
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, vp8Config(), nil)
		play := func() {
			for range 60 {
				s.at = time.Now()
				s.frame(s.seq == uint16(s.ssrc*1000), 2)
				time.Sleep(frame)
			}
			synctest.Wait()
			require.NotZero(t, r.f.Stats().Bitrate)
			require.NotEmpty(t, s.rtcp.take(), "reports")
		}
		play()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.False(t, track.awake.Load())
		require.Zero(t, r.f.Stats().Bitrate, "which was measured before it rests")
		s.rtcp.take()
		before, _ := s.layer.costs()
		for range 10 {
			s.at = time.Now()
			s.frame(false, 2)
			time.Sleep(frame)
		}
		after, _ := s.layer.costs()
		require.Equal(t, before, after, "what it costs is not made of the time in which it rested")
		play()
		track.SetMuted(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.False(t, track.awake.Load())
		late := newReceiver(track, vp8Config(), nil)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Len(t, late.take(), madeFrames)
	})
}

// A track that ends while it has subscribers leaves no state in their downlinks.
func TestASubscriptionToATrackThatEnds(t *testing.T) {
	d := connected()
	for range 2000 {
		track := NewTrack(TrackConfig{SID: "TR_x", Kind: livekit.TrackType_VIDEO, Codec: vp8Config()})
		var ending sync.WaitGroup
		ending.Go(func() {
			for len(*track.forwarders.Load()) == 0 {
				runtime.Gosched()
			}
			track.Close()
		})
		newReceiver(track, vp8Config(), func(c *ForwarderConfig) { c.Downlink = d })
		ending.Wait()
		require.False(t, d.Linked(5000), "the downlink still knows its stream")
	}
}
