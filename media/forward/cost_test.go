package forward

import (
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"
)

// fanOut is a track with n forwarders whose outputs do nothing, and frames to send.
type fanOut struct {
	track  *Track
	layer  *Layer
	frame  [][]byte
	at     time.Time
	number uint16
	count  int
}

func newFanOut(tb testing.TB, codec Codec, kind livekit.TrackType, forwarders, packets, size int, change func(*ForwarderConfig)) *fanOut {
	f := &fanOut{track: NewTrack(TrackConfig{Kind: kind, Codec: codec, Log: quiet()})}
	f.track.timer.Stop() // only the cost of packets is measured
	tb.Cleanup(f.track.Close)
	f.layer = f.track.AddLayer(LayerConfig{
		SSRC: 1, Codec: codec, Quality: livekit.VideoQuality_HIGH,
		WriteRTCP: func([]rtcp.Packet) error { return nil },
		Ext:       Extensions{AudioLevel: 1, AbsCaptureTime: 4},
	})
	for i := range forwarders {
		cfg := ForwarderConfig{
			SSRC: 5000 + uint32(i), Codec: codec,
			Output: writes(func(*rtp.Header, []byte) error { f.count++; return nil }),
			Ext:    Extensions{AbsCaptureTime: 1, AbsSendTime: 2}, Downlink: connected(),
		}
		if change != nil {
			change(&cfg)
		}
		f.track.AddForwarder(cfg)
	}
	s := &sender{ssrc: 1, pt: codec.PayloadType, pic: 1}
	for i := range packets {
		payload := s.vp8Payload(i == 0, true, 0, size)
		if kind == livekit.TrackType_AUDIO {
			payload = make([]byte, size)
		}
		p := rtp.Packet{Header: rtp.Header{Version: 2, Marker: i == packets-1, PayloadType: s.pt, SSRC: 1}, Payload: payload}
		require.NoError(tb, p.SetExtension(1, []byte{0x80 | 20}))
		require.NoError(tb, p.SetExtension(4, make([]byte, 8)))
		raw, err := p.Marshal()
		require.NoError(tb, err)
		f.frame = append(f.frame, raw)
	}
	f.at = f.track.epoch.Add(time.Second)
	return f
}

// send sends the frame again with the next sequence numbers.
func (f *fanOut) send() {
	f.at = f.at.Add(frame)
	ts := uint32(f.number) * 1000
	for _, raw := range f.frame {
		raw[2], raw[3] = byte(f.number>>8), byte(f.number)
		raw[4], raw[5], raw[6], raw[7] = byte(ts>>24), byte(ts>>16), byte(ts>>8), byte(ts)
		f.number++
		f.layer.WriteRTP(raw, f.at)
	}
}

func TestPathDoesNotAllocate(t *testing.T) {
	if underRace {
		return // sync.Pool forgets at random under the race detector; the test command runs this without it
	}
	tests := []struct {
		name   string
		codec  Codec
		kind   livekit.TrackType
		size   int
		change func(*ForwarderConfig)
	}{
		{"video", vp8Config(), livekit.TrackType_VIDEO, 1100, nil},
		{"audio", opusConfig(), livekit.TrackType_AUDIO, 100, nil},
		{"transport-wide numbers", vp8Config(), livekit.TrackType_VIDEO, 1100, func(c *ForwarderConfig) { c.Ext.TransportCC = 7 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFanOut(t, tt.codec, tt.kind, 10, 5, tt.size, tt.change)
			for range 300 { // fill the ring and the pool
				f.send()
			}
			f.count = 0
			allocs := testing.AllocsPerRun(500, f.send)
			require.Equal(t, 501*5*10, f.count, "everything was forwarded")
			// The garbage collector may empty the pool meanwhile.
			require.Less(t, allocs, 0.5)
		})
	}
}

func TestRewritingDoesNotAllocate(t *testing.T) {
	if underRace {
		return // sync.Pool forgets at random under the race detector; the test command runs this without it
	}
	f := newFanOut(t, vp8Config(), livekit.TrackType_VIDEO, 4, 3, 1100, nil)
	f.send()
	for _, fw := range *f.track.forwarders.Load() {
		fw.numbers.Drop(fw.numbers.Last()+1, 0) // a frame was left out: picture ids differ from here on
	}
	f.number++
	for range 300 {
		f.send()
	}
	require.Less(t, testing.AllocsPerRun(200, f.send), 0.5)
	rewritten := false
	for _, fw := range *f.track.forwarders.Load() {
		rewritten = rewritten || len(fw.scratch) > 0
	}
	require.True(t, rewritten)
}

// TestStreamsOfEveryKindDoNotAllocate forwards pictures of several layers, in streams of
// their own and in one, and sound with redundancy.
func TestStreamsOfEveryKindDoNotAllocate(t *testing.T) {
	if underRace {
		return // sync.Pool forgets at random under the race detector; the test command runs this without it
	}
	video, audio := livekit.TrackType_VIDEO, livekit.TrackType_AUDIO
	high, low := livekit.VideoQuality_HIGH, livekit.VideoQuality_LOW
	vp9 := func(track *Track) ([]*sender, func(bool)) {
		s := newSender(track, 1, vp9Config(), "", high)
		return []*sender{s}, func(key bool) { vp9Picture(s, key) }
	}
	red := func(track *Track) ([]*sender, func(bool)) {
		s := newSender(track, 1, redConfig(), "", high)
		return []*sender{s}, func(bool) { s.send(s.packet(false, redOf("the packet before", "this packet"))); s.next() }
	}
	tests := []struct {
		name     string
		kind     livekit.TrackType
		codec    Codec // of the publisher
		to       Codec // of the subscribers
		quality  livekit.VideoQuality
		begin    func(*Track) ([]*sender, func(key bool))
		expected int // packets of a picture that each subscriber gets
	}{
		{"simulcast", video, vp8Config(), vp8Config(), high, func(track *Track) ([]*sender, func(bool)) {
			s := []*sender{newSender(track, 1, vp8Config(), "q", low), newSender(track, 2, vp8Config(), "f", high)}
			return s, func(key bool) {
				for _, one := range s {
					for _, raw := range one.makeFrame(key, 0, 3) {
						one.send(raw)
					}
				}
			}
		}, 3},
		{"AV1 SVC, of whose layers the higher needs no other", video, av1Config(), av1Config(), high, func(track *Track) ([]*sender, func(bool)) {
			d := newDescribed(track)
			return []*sender{d.sender}, d.picture
		}, 2},
		{"VP9 SVC", video, vp9Config(), vp9Config(), high, vp9, 4},
		{"VP9 SVC, the lower layer", video, vp9Config(), vp9Config(), low, vp9, 2},
		{"RED", audio, redConfig(), redConfig(), high, red, 1},
		{"RED to Opus", audio, redConfig(), opusConfig(), high, red, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const receivers, before, runs = 5, 300, 200
			track := newTestTrack(t, tt.kind, tt.codec)
			track.timer.Stop() // only the cost of packets is measured
			senders, picture := tt.begin(track)
			count := 0
			for i := range receivers {
				r := track.AddForwarder(ForwarderConfig{
					SSRC: 5000 + uint32(i), Codec: tt.to, Downlink: connected(), Ext: Extensions{AbsSendTime: 2, DependencyDescriptor: 3},
					Output: writes(func(*rtp.Header, []byte) error { count++; return nil }),
				})
				r.SetSettings(Settings{Quality: tt.quality})
			}
			// The pictures are made before, and all held back until their turn.
			var pictures [before + 1 + runs][][][]byte
			for i := range pictures {
				for _, s := range senders {
					s.late = map[uint16]bool{}
					for n := range uint16(8) {
						s.late[s.seq+n] = true
					}
				}
				picture(i == 0)
				for _, s := range senders {
					pictures[i], s.held = append(pictures[i], s.held), nil
				}
			}
			at, next := track.epoch.Add(time.Second), 0
			send := func() {
				at = at.Add(frame)
				for i, s := range senders {
					for _, raw := range pictures[next][i] {
						s.layer.WriteRTP(raw, at)
					}
				}
				next++
			}
			for range before {
				send()
			}
			count = 0
			allocs := testing.AllocsPerRun(runs, send)
			require.Equal(t, (runs+1)*receivers*tt.expected, count, "everything was forwarded")
			// The garbage collector may empty the pool meanwhile.
			require.Less(t, allocs, 0.5)
		})
	}
}
