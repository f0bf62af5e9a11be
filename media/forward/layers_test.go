package forward

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/forward/dd/ddtest"
	"parlor/media/forward/vp8"
)

// run sends frames from each sender for d of the bubble's time. It sends a keyframe when
// one was requested.
func run(d time.Duration, senders ...*sender) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(frame) {
		for _, s := range senders {
			key := count[*rtcp.PictureLossIndication](s.rtcp.take()) > 0
			s.at = time.Now()
			s.frame(key, 2)
		}
	}
	synctest.Wait()
}

func simulcast(t *testing.T) (track *Track, q, h, f *sender) {
	track = newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	q, h, f = threeLayers(track)
	return track, q, h, f
}

// threeLayers adds the layers of a camera to its track.
func threeLayers(track *Track) (q, h, f *sender) {
	track.SetInfo(&livekit.TrackInfo{Layers: []*livekit.VideoLayer{
		{Quality: livekit.VideoQuality_LOW, Width: 320, Height: 180},
		{Quality: livekit.VideoQuality_MEDIUM, Width: 640, Height: 360},
		{Quality: livekit.VideoQuality_HIGH, Width: 1280, Height: 720},
	}})
	q = newSender(track, 1, vp8Config(), "q", livekit.VideoQuality_LOW)
	h = newSender(track, 2, vp8Config(), "h", livekit.VideoQuality_MEDIUM)
	f = newSender(track, 3, vp8Config(), "f", livekit.VideoQuality_HIGH)
	return q, h, f
}

// A layer that the publisher stops is left after a few of its frames are missing.
func TestLeavesALayerThatStopsSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, _ := simulcast(t)
		r := newReceiver(track, vp8Config(), nil)
		run(2*time.Second, q, h)
		require.Equal(t, livekit.VideoQuality_MEDIUM, r.f.Stats().Current)
		run(450*time.Millisecond, q)
		require.Equal(t, livekit.VideoQuality_LOW, r.f.Stats().Current)
		run(200*time.Millisecond, q, h)
		require.Equal(t, livekit.VideoQuality_MEDIUM, r.f.Stats().Current, "it is back")
		run(450*time.Millisecond, q)
		require.Equal(t, livekit.VideoQuality_MEDIUM, r.f.Stats().Current, "it may come back soon again")
		run(700*time.Millisecond, q)
		require.Equal(t, livekit.VideoQuality_LOW, r.f.Stats().Current)
		requireContiguous(t, r.take())
	})
}

// A layer that the publisher says it stops is left at once for the next best one, with
// that one's next keyframe. Late packets do not revive it; it is used again when it is
// sent again.
func TestLeavesALayerThatIsSaidToStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, stop := range map[string]func(l *Layer, ssrc uint32){
			"BYE": func(l *Layer, ssrc uint32) {
				l.HandleRTCP([]rtcp.Packet{&rtcp.Goodbye{Sources: []uint32{99, ssrc}, Reason: "inactive"}})
			},
			"announced": func(l *Layer, _ uint32) { l.Stop() },
		} {
			track, q, h, f := simulcast(t)
			r := newReceiver(track, vp8Config(), nil)
			run(2*time.Second, q, h, f)
			require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current)
			h.rtcp.take()
			f.layer.HandleRTCP([]rtcp.Packet{&rtcp.Goodbye{Sources: []uint32{99}}})
			require.Zero(t, count[*rtcp.PictureLossIndication](h.rtcp.take()), "it is of another stream")
			stop(f.layer, f.ssrc)
			require.Equal(t, 1, count[*rtcp.PictureLossIndication](h.rtcp.take()), "%s: at once", name)
			f.at = time.Now()
			f.frame(false, 2)
			h.at = time.Now()
			h.frame(true, 2)
			require.Equal(t, livekit.VideoQuality_MEDIUM, r.f.Stats().Current, name)
			f.at = time.Now()
			f.frame(false, 2)
			run(500*time.Millisecond, q, h)
			require.Equal(t, livekit.VideoQuality_MEDIUM, r.f.Stats().Current, "%s: it is not back by its stragglers", name)
			run(time.Second, q, h, f)
			require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current, "%s: it is sent again", name)
			stop(f.layer, f.ssrc)
			f.at = time.Now()
			f.frame(true, 2)
			require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current, "%s: a key frame is no straggler", name)
			requireContiguous(t, r.take())
			track.Close()
		}
	})
}

// The publisher says of every layer that it stops, one after the other, and then sends
// them again: the subscriber gets all packets.
func TestALayerThatIsTheLastIsNotLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, f := simulcast(t)
		r := newReceiver(track, vp8Config(), nil)
		run(2*time.Second, q, h, f)
		for _, s := range []*sender{f, h, q} {
			s.layer.Stop()
		}
		time.Sleep(5 * time.Second)
		r.take()
		run(time.Second, q)
		require.Equal(t, livekit.VideoQuality_LOW, r.f.Stats().Current)
		run(time.Second, q, h, f)
		require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current)
		requireContiguous(t, r.take())
	})
}

// A layer with few frames has not stopped: for example that of a camera at 5 frames a
// second with losses, or that of a shared screen on which nothing moves for long, whose
// layers send one after the other.
func TestStaysAtALayerThatSendsFewFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, _ := simulcast(t)
		r := newReceiver(track, vp8Config(), nil)
		run(2*time.Second, q, h)
		send := func(every time.Duration, senders ...*sender) {
			for _, s := range senders {
				key := count[*rtcp.PictureLossIndication](s.rtcp.take()) > 0
				s.at = time.Now()
				s.frame(key, 2)
				require.Equal(t, livekit.VideoQuality_MEDIUM, r.f.Stats().Current)
				time.Sleep(every / time.Duration(len(senders)))
			}
		}
		for i := range 100 {
			if send(200*time.Millisecond, q, h); i%10 == 0 {
				send(200*time.Millisecond, q)
				send(200*time.Millisecond, q)
			}
		}
		for i := range 20 {
			send(time.Duration(i)*700*time.Millisecond, q, h)
		}
		require.EqualValues(t, 1, r.f.Stats().Switches)
	})
}

func TestFollowsLayersThatStopAndReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, f := simulcast(t)
		r := newReceiver(track, vp8Config(), nil)
		run(2*time.Second, q, h, f)
		require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current)
		run(1500*time.Millisecond, q, h)
		require.Equal(t, livekit.VideoQuality_MEDIUM, r.f.Stats().Current, "high stopped")
		run(1500*time.Millisecond, q)
		require.Equal(t, livekit.VideoQuality_LOW, r.f.Stats().Current)
		run(2*time.Second, q, h, f)
		require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current, "high is back")
		requireContiguous(t, r.take())
	})
}

// A shared screen that does not change is sent at about a frame a second; that is not a
// reason to leave its layer.
func TestSilenceOfAllIsNoStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, _, f := simulcast(t)
		r := newReceiver(track, vp8Config(), nil)
		run(2*time.Second, q, f)
		time.Sleep(5 * time.Second)
		run(frame, q, f)
		require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current)
	})
}

// A layer with few frames has not stopped between two of them.
func TestSlowLayerIsNotStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, _, f := simulcast(t)
		r := newReceiver(track, vp8Config(), nil)
		for i := range 40 {
			key := count[*rtcp.PictureLossIndication](f.rtcp.take()) > 0
			if i%2 == 0 || key {
				f.at = time.Now()
				f.frame(i == 0 || key, 1)
			}
			for range 7 {
				q.at = time.Now()
				q.frame(i == 0 || count[*rtcp.PictureLossIndication](q.rtcp.take()) > 0, 1)
				time.Sleep(100 * time.Millisecond)
			}
		}
		require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current)
		require.Equal(t, uint64(1), r.f.Stats().Switches)
	})
}

func TestSettingsChooseLayer(t *testing.T) {
	tests := []struct {
		name     string
		settings Settings
		want     livekit.VideoQuality
	}{
		{"low", Settings{Quality: livekit.VideoQuality_LOW}, livekit.VideoQuality_LOW},
		{"medium", Settings{Quality: livekit.VideoQuality_MEDIUM}, livekit.VideoQuality_MEDIUM},
		{"size of low", Settings{Width: 320, Height: 180}, livekit.VideoQuality_LOW},
		{"a little larger", Settings{Width: 330, Height: 190}, livekit.VideoQuality_MEDIUM},
		{"portrait", Settings{Width: 180, Height: 500}, livekit.VideoQuality_LOW},
		{"larger than all", Settings{Width: 4000, Height: 3000}, livekit.VideoQuality_HIGH},
		{"size overrules quality", Settings{Width: 100, Height: 100, Quality: livekit.VideoQuality_HIGH}, livekit.VideoQuality_LOW},
		{"disabled", Settings{Disabled: true, Quality: livekit.VideoQuality_HIGH}, livekit.VideoQuality_OFF},
		{"off", Settings{Quality: livekit.VideoQuality_OFF}, livekit.VideoQuality_OFF},
		{"beyond", Settings{Quality: 77}, livekit.VideoQuality_OFF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				track, q, h, f := simulcast(t)
				r := newReceiver(track, vp8Config(), nil)
				run(2*time.Second, q, h, f)
				r.f.SetSettings(tt.settings)
				run(2*time.Second, q, h, f)
				require.Equal(t, tt.want, r.f.Stats().Current)
				requireContiguous(t, r.take())
				if tt.want == livekit.VideoQuality_OFF {
					run(time.Second, q, h, f)
					require.Empty(t, r.take())
				}
			})
		})
	}
}

func TestAdaptiveStreamBeginsLow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, f := simulcast(t)
		r := newReceiver(track, vp8Config(), func(c *ForwarderConfig) { c.AdaptiveStream = true })
		run(2*time.Second, q, h, f)
		require.Equal(t, livekit.VideoQuality_LOW, r.f.Stats().Current)
		r.f.SetSettings(Settings{Width: 1280, Height: 720})
		run(2*time.Second, q, h, f)
		require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current)
	})
}

func TestVP8NumbersContinueOverSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, f := simulcast(t)
		r := newReceiver(track, vp8Config(), nil)
		for range 4 {
			run(time.Second, q, h, f)
			r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
			run(time.Second, q, h, f)
			r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
		}
		got := r.take()
		require.GreaterOrEqual(t, r.f.Stats().Switches, uint64(8))
		requireContiguous(t, got)
		var before vp8.Descriptor
		for i, p := range got {
			d, ok := vp8.Parse(p.Payload)
			require.True(t, ok)
			if i > 0 && d.Start {
				require.Equal(t, (before.PictureID+1)&0x7fff, d.PictureID)
				require.Equal(t, before.TL0PicIdx+1, d.TL0PicIdx)
				if d.Key {
					require.Equal(t, (before.KeyIdx+1)&0x1f, d.KeyIdx)
				}
			}
			before = d
		}
	})
}

// Frames in the pattern T0 T2 T1 T2, with sync at the first T1 and T2 after T0.
func (s *sender) temporalFrame(i int) {
	tid := []uint8{0, 2, 1, 2}[i%4]
	for _, raw := range s.makeFrame(i == 0, tid, 2) {
		if i%4 == 1 || i%4 == 2 {
			raw[12+5] |= 0x20 // Y
		}
		s.layer.WriteRTP(raw, s.at)
	}
}

func TestTemporalLayersOfVP8(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	picture := s.pic - 1
	tids := func() (ids []uint8) {
		got := r.take()
		requireContiguous(t, got)
		for _, p := range got {
			if d, _ := vp8.Parse(p.Payload); d.Start {
				ids = append(ids, d.TID)
				picture++
				require.Equal(t, picture, d.PictureID, "picture ids count on over what is left out")
			}
		}
		return ids
	}
	i := 0
	frames := func(n int) {
		for range n {
			s.temporalFrame(i)
			i++
		}
	}
	frames(4)
	require.Equal(t, []uint8{0, 2, 1, 2}, tids())
	r.f.mu.Lock()
	r.f.selector.want(anyLayer, 0)
	r.f.mu.Unlock()
	frames(8)
	require.Equal(t, []uint8{0, 0}, tids())
	r.f.mu.Lock()
	r.f.selector.want(anyLayer, anyLayer)
	r.f.mu.Unlock()
	frames(8)
	require.Equal(t, []uint8{0, 1, 0, 2, 1, 2}, tids(), "layer by layer, each at its sync frame")
}

// Some encoders mark no frame as a layer sync. The frames that were left out come back
// with a keyframe, which is requested only if no layer sync comes.
func TestTemporalLayersWithoutLayerSyncs(t *testing.T) {
	for _, marked := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
			s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
			r := newReceiver(track, vp8Config(), nil)
			i := 0
			seconds := func(n int) {
				for range 32 * n {
					s.at = time.Now()
					switch key := count[*rtcp.PictureLossIndication](s.rtcp.take()) > 0; {
					case i == 0 || marked && !key:
						s.temporalFrame(i)
					case key:
						s.frame(true, 2)
					default:
						for _, raw := range s.makeFrame(false, []uint8{0, 2, 1, 2}[i%4], 2) {
							s.layer.WriteRTP(raw, s.at)
						}
					}
					i++
					time.Sleep(time.Second / 32)
				}
			}
			seconds(2)
			r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH, FPS: 15})
			seconds(2)
			r.take()
			seconds(1)
			require.Len(t, r.take(), 2*16)
			r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
			before := s.key
			seconds(5)
			r.take()
			seconds(1)
			require.Len(t, r.take(), 2*32)
			if marked {
				require.Equal(t, before, s.key)
			} else {
				require.Equal(t, before+1, s.key)
			}
		})
	}
}

func TestFrameRateChoosesTemporalLayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, vp8Config(), nil)
		second := func(i int) {
			for j := range 32 {
				s.at = time.Now()
				s.temporalFrame(i*32 + j)
				time.Sleep(time.Second / 32)
			}
		}
		second(0)
		second(1)
		r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH, FPS: 15})
		second(2)
		r.take()
		second(3)
		require.Len(t, r.take(), 2*16)
	})
}

func av1Config() Codec {
	return Codec{MimeType: "video/AV1", ClockRate: 90000, PayloadType: 35}
}

// described sends pictures in L2T2_KEY.
type described struct {
	*sender
	structure *ddtest.Structure
	n         uint16 // frame number
	i         int    // picture since the keyframe
}

func newDescribed(track *Track) *described {
	return &described{
		sender:    newSender(track, 1, av1Config(), "", livekit.VideoQuality_HIGH),
		structure: ddtest.L2T2Key(),
	}
}

func (d *described) picture(key bool) { d.pictureOf(key, 2) }

// pictureOf sends a picture with so many of the spatial layers.
func (d *described) pictureOf(key bool, layers int) {
	if key {
		d.i = 0
	}
	templates := [2]int{2, 5}
	switch {
	case d.i == 0:
		templates = [2]int{0, 3}
	case d.i%2 == 0:
		templates = [2]int{1, 4}
	}
	for spatial, template := range templates[:layers] {
		for part := range 2 {
			raw := d.structure.Encode(ddtest.Frame{
				Start: part == 0, End: part == 1, Template: template, Number: d.n,
				Structure: d.i == 0 && spatial == 0 && part == 0, Active: -1,
			})
			p := rtp.Packet{Header: rtp.Header{
				Version: 2, Marker: spatial == layers-1 && part == 1, PayloadType: d.pt, SequenceNumber: d.seq, Timestamp: d.ts, SSRC: d.ssrc,
			}, Payload: []byte{0x10, 0x32, byte(spatial), byte(d.i % 2)}}
			p.Extension, p.ExtensionProfile = true, rtp.ExtensionProfileTwoByte
			if err := p.SetExtension(12, raw); err != nil {
				panic(err)
			}
			b, err := p.Marshal()
			if err != nil {
				panic(err)
			}
			d.seq++
			d.send(b)
		}
		d.n++
	}
	d.i++
	d.next()
}

// layersOf lists the spatial and temporal layers of the frames in packets.
func layersOf(t *testing.T, packets []rtp.Packet) (layers []string) {
	requireContiguous(t, packets)
	for i := 0; i < len(packets); i += 2 {
		p := packets[i].Payload
		layers = append(layers, string([]byte{'S', '0' + p[2], 'T', '0' + p[3]}))
	}
	return layers
}

func withDD(c *ForwarderConfig) { c.Ext.DependencyDescriptor = 3 }

func TestSpatialLayersOfAV1(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, av1Config())
	s := newDescribed(track)
	r := newReceiver(track, av1Config(), withDD)
	s.picture(true)
	s.picture(false)
	s.picture(false)
	got := r.take()
	require.Equal(t, []string{"S0T0", "S1T0", "S1T1", "S1T0"}, layersOf(t, got), "lower layers are needed at key frames only")

	s.picture(true)
	r.take()
	r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
	s.picture(false)
	require.Equal(t, []string{"S1T1"}, layersOf(t, r.take()), "no switch at a discardable frame")
	s.picture(false)
	got = r.take()
	require.Equal(t, []string{"S0T0"}, layersOf(t, got), "its chain reaches back to the key frame, which was forwarded")
	require.True(t, got[1].Marker, "the picture ends here for this receiver")
	s.picture(false)
	require.Equal(t, []string{"S0T1"}, layersOf(t, r.take()))

	s.rtcp.take()
	r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
	require.Equal(t, 1, count[*rtcp.PictureLossIndication](s.rtcp.take()), "the way up needs a key frame")
	s.picture(false)
	require.Equal(t, []string{"S0T0"}, layersOf(t, r.take()))
	s.picture(true)
	require.Equal(t, []string{"S0T0", "S1T0"}, layersOf(t, r.take()))
}

// If the chain is broken, a switch down waits for a keyframe and requests it.
func TestBrokenChainNeedsKeyFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, av1Config())
		s := newDescribed(track)
		r := newReceiver(track, av1Config(), withDD)
		for i := range 4 {
			s.picture(i == 0)
		}
		r.take()
		r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
		s.picture(false)
		require.Equal(t, []string{"S1T0"}, layersOf(t, r.take()), "the S0 frame before it was left out")
		s.rtcp.take()
		time.Sleep(1500 * time.Millisecond)
		require.Positive(t, count[*rtcp.PictureLossIndication](s.rtcp.take()))
		s.at = time.Now()
		s.picture(true)
		require.Equal(t, []string{"S0T0"}, layersOf(t, r.take()))
	})
}

func TestTellsActiveTargets(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, av1Config())
	s := newDescribed(track)
	r := newReceiver(track, av1Config(), withDD)
	r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
	s.picture(true)
	got := r.take()
	require.Len(t, got, 2)
	want := s.structure.Encode(ddtest.Frame{Start: true, Template: 0, Structure: true, Active: 0b0011})
	require.Equal(t, want, got[0].GetExtension(3)[:len(want)], "zeros may follow")
	require.Equal(t, s.structure.Encode(ddtest.Frame{End: true, Template: 0, Active: -1}), got[1].GetExtension(3))
}

// vp9Picture sends a picture of two spatial layers, in T0.
func vp9Picture(s *sender, key bool) { vp9PictureOf(s, key, 2) }

func vp9PictureOf(s *sender, key bool, layers int) {
	for spatial := range byte(layers) {
		for part := range 2 {
			b := []byte{0x80 | 0x20, 0x80 | byte(s.pic>>8)&0x7f, byte(s.pic), spatial << 1, s.tl0, 0xee}
			if part == 0 {
				b[0] |= 0x08
			} else {
				b[0] |= 0x04
			}
			if !key {
				b[0] |= 0x40
			}
			s.send(s.packet(int(spatial) == layers-1 && part == 1, b))
		}
	}
	s.next()
}

func vp9Config() Codec { return Codec{MimeType: "video/VP9", ClockRate: 90000, PayloadType: 98} }

// A frame of a layer that was left out at the frame's place comes late, when the layer is
// forwarded: it depends on frames that were left out, so it is left out too. A late frame
// of a layer that was forwarded at the frame's place is forwarded, though the layer is
// left out now.
func TestLateFramesAreJudgedByTheirPlace(t *testing.T) {
	for codec, begin := range map[Codec]func(*Track) (*sender, func(key bool)){
		av1Config(): func(track *Track) (*sender, func(key bool)) {
			s := newDescribed(track)
			return s.sender, s.picture
		},
		vp9Config(): func(track *Track) (*sender, func(key bool)) {
			s := newSender(track, 1, vp9Config(), "", livekit.VideoQuality_HIGH)
			return s, func(key bool) { vp9Picture(s, key) }
		},
	} {
		for _, up := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s up %t", codec.MimeType, up), func(t *testing.T) {
				before, after := livekit.VideoQuality_HIGH, livekit.VideoQuality_LOW
				if up {
					before, after = after, before
				}
				track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
				s, picture := begin(track)
				r := newReceiver(track, codec, nil)
				r.f.SetSettings(Settings{Quality: before})
				picture(true)
				s.late = map[uint16]bool{s.seq + 2: true, s.seq + 3: true} // the higher layer
				picture(false)
				s.layer.Flush()
				r.f.SetSettings(Settings{Quality: after})
				picture(true)
				r.take()
				s.catchUp()
				got := r.take()
				require.Len(t, got, 2)
				for _, p := range got {
					require.Equal(t, up, len(p.Payload) == 0, "up: nothing but padding, so that no gap is waited for")
				}
			})
		}
	}
}

func TestSpatialLayersOfVP9(t *testing.T) {
	codec := vp9Config()
	track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
	s := newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, codec, nil)
	vp9Picture(s, false)
	require.Empty(t, r.take())
	vp9Picture(s, true)
	require.Len(t, r.take(), 4)
	r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
	vp9Picture(s, false)
	got := r.take()
	require.Len(t, got, 2)
	require.True(t, got[1].Marker)
	s.rtcp.take()
	r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
	vp9Picture(s, false)
	got = append(got, r.take()...)
	require.Len(t, got, 4)
	vp9Picture(s, true)
	got = append(got, r.take()...)
	require.Len(t, got, 8)
	requireContiguous(t, got)
}

func TestKeyFramesOfH264(t *testing.T) {
	codec := Codec{MimeType: "video/H264", ClockRate: 90000, PayloadType: 102}
	slice, sps, idr := []byte{0x41, 1, 2}, []byte{0x67, 1, 2}, []byte{0x7c, 0x85, 1}
	sei, idrNext := []byte{0x06, 1}, []byte{0x7c, 0x05, 1}
	tests := []struct {
		name   string
		before [][]byte // frames of one packet
		key    [][]byte // packets of the next frame
		from   int      // first packet of key that is forwarded
	}{
		{"SPS and IDR", [][]byte{slice}, [][]byte{sps, idr, idrNext}, 0},
		{"SEI before", [][]byte{slice}, [][]byte{sei, sps, idr, idrNext}, 1},
		{"IDR without SPS", [][]byte{slice}, [][]byte{idr, idrNext}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
			s := newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
			r := newReceiver(track, codec, nil)
			for _, p := range tt.before {
				s.layer.WriteRTP(s.packet(true, p), s.at)
				s.next()
			}
			require.Empty(t, r.take())
			for i, p := range tt.key {
				s.layer.WriteRTP(s.packet(i == len(tt.key)-1, p), s.at)
			}
			got := r.take()
			require.Len(t, got, len(tt.key)-tt.from)
			require.Equal(t, tt.key[tt.from], got[0].Payload)
			require.Equal(t, uint64(1), s.layer.Stats().KeyFrames)
		})
	}
}

// A picture whose parameter sets were lost cannot be the beginning, because it cannot be
// decoded. It is forwarded once they have come again; otherwise the forwarder waits for
// the next keyframe.
func TestKeyFramesOfH264WithoutTheirParameterSets(t *testing.T) {
	codec := Codec{MimeType: "video/H264", ClockRate: 90000, PayloadType: 102}
	slice, sps, idr := []byte{0x41, 1, 2}, []byte{0x67, 1, 2}, []byte{0x65, 0x85, 1}
	track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
	s := newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, codec, nil)
	s.layer.WriteRTP(s.packet(true, slice), s.at)
	s.next()
	lost := s.packet(false, sps)
	s.layer.WriteRTP(s.packet(true, idr), s.at)
	s.next()
	s.layer.WriteRTP(s.packet(true, slice), s.at)
	require.Empty(t, r.take())
	require.Equal(t, 1, count[*rtcp.PictureLossIndication](s.rtcp.take()))
	s.layer.WriteRTP(lost, s.at)
	got := r.take()
	require.Len(t, got, 3)
	requireContiguous(t, got)
	require.Equal(t, sps, got[0].Payload)
	require.Equal(t, idr, got[1].Payload)
}

func TestBackupCodec(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, av1Config())
	first := newDescribed(track)
	backup := newSender(track, 7, vp8Config(), "", livekit.VideoQuality_HIGH)
	modern := newReceiver(track, av1Config(), nil)
	old := newReceiver(track, vp8Config(), nil)
	first.picture(true)
	backup.frame(true, 1)
	require.Len(t, modern.take(), 4)
	require.Len(t, old.take(), 1)
}

// If the policy is regression, the backup codec replaces the first one for subscribers
// that can receive both, in the same stream. The first codec is not requested any more.
func TestRegression(t *testing.T) {
	for _, c := range []struct {
		name    string
		below   int
		regress bool
	}{{"never", 0, false}, {"too many", 2, false}, {"few", 3, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told := map[string]bool{}
				track := NewTrack(TrackConfig{
					Kind: livekit.TrackType_VIDEO, Codec: av1Config(), RegressBelow: c.below,
					OnQualities: func(codecs []Wanted) {
						for _, codec := range codecs {
							told[codec.Codec] = codec.Has(livekit.VideoQuality_LOW)
						}
					},
				})
				defer track.Close()
				first := newDescribed(track)
				first.at = time.Now()
				first.picture(true)
				withRTX := av1Config()
				withRTX.RTXPayloadType = 36
				modern := newReceiver(track, withRTX, func(c *ForwarderConfig) { c.Backup = vp8Config() })
				stubborn := newReceiver(track, av1Config(), nil)
				first.at = first.at.Add(frame)
				first.picture(true)
				got := modern.take()
				require.Len(t, got, 4)
				lost := got[1]

				time.Sleep(frame)
				backup := newSender(track, 7, vp8Config(), "", livekit.VideoQuality_HIGH)
				first.at = time.Now()
				first.picture(false)
				got = append(got, modern.take()...)
				require.Len(t, got, 6, "the first is forwarded until a key frame of the other comes")
				backup.at = time.Now()
				backup.frame(true, 2)
				time.Sleep(frame)
				first.at = time.Now()
				first.picture(false)
				got = append(got, modern.take()...)
				requireContiguous(t, got)
				want := []uint8{35, 35} // of L2T2_KEY only the upper spatial layer
				if c.regress {
					want = []uint8{96, 96}
				}
				var types []uint8
				for _, p := range got[6:] {
					types = append(types, p.PayloadType)
				}
				require.Equal(t, want, types)
				require.Len(t, stubborn.take(), 8, "who cannot, stays")

				modern.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{lost.SequenceNumber})}})
				again := modern.take()
				require.Len(t, again, 1)
				require.Equal(t, uint8(36), again[0].PayloadType, "what was lost before is repeated in its own format")

				stubborn.f.Close()
				time.Sleep(6 * time.Second)
				synctest.Wait()
				require.Equal(t, map[string]bool{"av1": !c.regress, "vp8": c.regress}, told)

				backup.layer.Close()
				first.at = time.Now()
				first.picture(true)
				require.Len(t, modern.take(), 4, "without the backup, the first again")
			})
		})
	}
}

func TestCongestionStepsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, f := simulcast(t)
		r := newReceiver(track, vp8Config(), nil)
		big := func(s *sender, n int) {
			key := count[*rtcp.PictureLossIndication](s.rtcp.take()) > 0
			s.at = time.Now()
			s.frame(key, n)
		}
		second := func(estimate float32) {
			for range 30 {
				big(q, 2)
				big(h, 10)
				big(f, 40)
				time.Sleep(frame)
			}
			r.f.HandleRTCP([]rtcp.Packet{&rtcp.ReceiverEstimatedMaximumBitrate{Bitrate: estimate}})
		}
		for range 4 {
			second(3e6)
		}
		require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current)
		for range 5 {
			second(3e5)
		}
		require.Equal(t, livekit.VideoQuality_MEDIUM, r.f.Stats().Current)
		require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Wanted)
		require.InDelta(t, 0.95*3e5, r.f.Stats().Bandwidth, 1)
		for range 30 {
			second(3e6)
		}
		require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current)
		requireContiguous(t, r.take())
	})
}

// A limit of the path applies, whatever the client reports, until it is removed.
func TestLimitStepsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, f := simulcast(t)
		down := connected()
		r := newReceiver(track, vp8Config(), func(c *ForwarderConfig) { c.Downlink = down })
		seconds := func(n int) livekit.VideoQuality {
			for range n * 30 {
				for s, packets := range map[*sender]int{q: 2, h: 10, f: 40} {
					key := count[*rtcp.PictureLossIndication](s.rtcp.take()) > 0
					s.at = time.Now()
					s.frame(key, packets)
				}
				time.Sleep(frame)
			}
			return r.f.Stats().Current
		}
		require.Equal(t, livekit.VideoQuality_HIGH, seconds(4))
		down.Limit(300_000)
		require.Equal(t, livekit.VideoQuality_MEDIUM, seconds(4))
		require.EqualValues(t, 300_000, down.Bandwidth())
		down.Limit(1)
		require.Equal(t, livekit.VideoQuality_LOW, seconds(4), "the lowest goes on")
		down.Limit(0)
		require.Equal(t, livekit.VideoQuality_HIGH, seconds(4))
		requireContiguous(t, r.take())
	})
}

// The reason why a subscriber gets less than it wants is reported.
func TestShortfalls(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	r := newReceiver(track, vp8Config(), nil)
	short := func(want Shortfall) {
		t.Helper()
		require.Equal(t, want, r.f.Stats().Shortfall)
	}
	short(NotSent)
	low := newSender(track, 1, vp8Config(), "q", livekit.VideoQuality_LOW)
	low.frame(false, 1)
	short(KeyFrame)
	low.frame(true, 1)
	short("")
	high := newSender(track, 2, vp8Config(), "f", livekit.VideoQuality_HIGH)
	short(NotSent)
	high.frame(false, 1)
	short(KeyFrame)
	high.frame(true, 1)
	short("")
	high.layer.Close()
	low.frame(true, 1)
	short("")
	require.EqualValues(t, 3, r.f.Stats().Frames)
}
