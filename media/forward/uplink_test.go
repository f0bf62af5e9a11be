package forward

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"

	"parlor/media/forward/packet"
)

// What a publisher is asked for and sends no more shows in the quality of its connection:
// its uplink is too narrow for it.
func TestAPublisherWithANarrowUplinkIsToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, f := simulcast(t)
		track.cfg.OnQualities = func([]Wanted) {}
		newReceiver(track, vp8Config(), nil)
		judged := func(s *sender) (livekit.ConnectionQuality, float32, bool) { return s.layer.Quality() }
		excellent := func(senders ...*sender) {
			for _, s := range senders {
				quality, _, ok := judged(s)
				require.True(t, ok)
				require.Equal(t, livekit.ConnectionQuality_EXCELLENT, quality)
			}
		}
		run(10*time.Second, q, h, f)
		excellent(q, h, f)

		run(8*time.Second, q, h)
		quality, one, _ := judged(h)
		require.Equal(t, livekit.ConnectionQuality_GOOD, quality, "the highest layer is missing")
		excellent(q)
		_, _, ok := judged(f)
		require.False(t, ok, "another layer tells of it")

		run(8*time.Second, q)
		quality, two, _ := judged(q)
		require.Equal(t, livekit.ConnectionQuality_POOR, quality)
		require.Less(t, two, one, "two layers are missing")

		time.Sleep(8 * time.Second)
		quality, _, ok = judged(q)
		require.True(t, ok)
		require.Equal(t, livekit.ConnectionQuality_POOR, quality, "nothing comes")

		track.SetMuted(true)
		time.Sleep(8 * time.Second)
		_, _, ok = judged(q)
		require.False(t, ok, "nothing has to come")
		track.SetMuted(false)
		time.Sleep(time.Second)
		_, _, ok = judged(q)
		require.False(t, ok, "the camera needs a moment")
		run(10*time.Second, q, h, f)
		excellent(q, h, f)

		track.SetInfo(&livekit.TrackInfo{Source: livekit.TrackSource_SCREEN_SHARE})
		time.Sleep(8 * time.Second)
		_, _, ok = judged(q)
		require.False(t, ok, "a screen may rest")
	})
}

// Layers that nobody wants, or that were never sent, are not missing.
func TestLayersThatNobodyWantsAreNotMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track, q, h, f := simulcast(t)
		track.cfg.OnQualities = func([]Wanted) {}
		r := newReceiver(track, vp8Config(), nil)
		run(5*time.Second, q, h)
		quality, _, ok := h.layer.Quality()
		require.True(t, ok)
		require.Equal(t, livekit.ConnectionQuality_EXCELLENT, quality, "the camera is too small for a third")
		run(5*time.Second, q, h, f)
		r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
		run(6*time.Second, q, h, f)
		run(8*time.Second, q)
		quality, _, ok = q.layer.Quality()
		require.True(t, ok)
		require.Equal(t, livekit.ConnectionQuality_EXCELLENT, quality)
		r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
		run(time.Second, q)
		quality, _, _ = q.layer.Quality()
		require.Equal(t, livekit.ConnectionQuality_EXCELLENT, quality, "they have just been asked for")
		run(8*time.Second, q)
		quality, _, _ = q.layer.Quality()
		require.Equal(t, livekit.ConnectionQuality_POOR, quality)
	})
}

// A publisher's estimate of the bandwidth grows slowly when it begins again, so its higher
// layers come later than the lowest.
func TestLayersThatBeginAgainHaveTime(t *testing.T) {
	type camera struct {
		*Track
		q, h, f *sender
		r       *receiver
	}
	for name, begin := range map[string]func(c *camera){
		"unmuted": func(c *camera) {
			c.SetMuted(true)
			time.Sleep(time.Minute)
			c.SetMuted(false)
		},
		"asked for again": func(c *camera) {
			c.r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
			run(10*time.Second, c.q)
			c.r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
		},
		"as large as before": func(c *camera) {
			c.q.keyOf(80, 45)
			run(time.Minute, c.q)
			c.q.keyOf(320, 180)
		},
		"announced to be as large as before": func(c *camera) {
			c.SetInfo(&livekit.TrackInfo{Width: 640, Height: 360})
			run(time.Minute, c.q)
			c.SetInfo(&livekit.TrackInfo{Width: 1280, Height: 720})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				track, q, h, f := simulcast(t)
				track.cfg.OnQualities = func([]Wanted) {}
				track.SetInfo(&livekit.TrackInfo{Width: 1280, Height: 720})
				c := &camera{track, q, h, f, newReceiver(track, vp8Config(), nil)}
				q.keyOf(320, 180)
				h.keyOf(640, 360)
				f.keyOf(1280, 720)
				run(10*time.Second, q, h, f)
				begin(c)
				for range 7 {
					run(time.Second, q)
					quality, _, ok := q.layer.Quality()
					require.True(t, ok)
					require.Equal(t, livekit.ConnectionQuality_EXCELLENT, quality)
				}
				run(2*time.Second, q)
				quality, _, _ := q.layer.Quality()
				require.Equal(t, livekit.ConnectionQuality_POOR, quality)
			})
		})
	}
}

// Demand that keeps changing hides no uplink that is dead: the publisher has time for what it
// is newly asked for, and not for what it is asked for all along.
func TestChangingDemandHidesNoDeadUplink(t *testing.T) {
	backup := Codec{MimeType: "video/H264", ClockRate: 90000, PayloadType: 102}
	for name, rise := range map[string]func(track *Track, r *receiver) func(more bool){
		"quality": func(_ *Track, r *receiver) func(bool) {
			return func(more bool) {
				wanted := livekit.VideoQuality_LOW
				if more {
					wanted = livekit.VideoQuality_HIGH
				}
				r.f.SetSettings(Settings{Quality: wanted})
			}
		},
		"codec": func(track *Track, _ *receiver) func(bool) {
			newSender(track, 4, backup, "", livekit.VideoQuality_HIGH)
			other := newReceiver(track, backup, nil)
			return func(more bool) { other.f.SetSettings(Settings{Disabled: !more}) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rises := 0
				last := map[string]livekit.VideoQuality{}
				track := NewTrack(TrackConfig{
					SID: "TR_x", Kind: livekit.TrackType_VIDEO, Codec: vp8Config(),
					OnQualities: func(wanted []Wanted) { // one call at a time
						for _, w := range wanted {
							if old, ok := last[w.Codec]; ok && rank(w.Highest) > rank(old) {
								rises++
							}
							last[w.Codec] = w.Highest
						}
					},
				})
				defer track.Close()
				q, h, f := threeLayers(track)
				r := newReceiver(track, vp8Config(), nil)
				change := rise(track, r)
				run(10*time.Second, q, h, f)
				// Nothing comes any more. What is asked for rises every 8 s, and each time the
				// quality is judged 2 s later.
				rises = 0
				for range 3 {
					change(false)
					time.Sleep(6 * time.Second)
					change(true)
					time.Sleep(2 * time.Second)
					quality, _, ok := q.layer.Quality()
					require.True(t, ok)
					require.Equal(t, livekit.ConnectionQuality_POOR, quality)
				}
				synctest.Wait()
				require.Equal(t, 3, rises)
			})
		})
	}
}

// keyOf sends a VP8 keyframe of a size.
func (s *sender) keyOf(width, height uint16) {
	s.at = time.Now()
	s.key++
	s.tl0++
	b := s.vp8Payload(true, true, 0, 100)
	copy(b[9:], []byte{0x9d, 0x01, 0x2a})
	binary.LittleEndian.PutUint16(b[12:], width)
	binary.LittleEndian.PutUint16(b[14:], height)
	s.layer.WriteRTP(s.packet(true, b), s.at)
	s.next()
}

// A layer that ends with its source is not missing: a smaller camera has fewer layers. A
// layer that the uplink is too narrow for is.
func TestALayerThatEndsWithItsSourceIsNotMissing(t *testing.T) {
	_, one := Score(Path{Missing: 1})
	type camera struct {
		*Track
		q, h, f *sender
		r       *receiver
	}
	full := func(c *camera) {
		c.q.keyOf(320, 180)
		c.h.keyOf(640, 360)
		c.f.keyOf(1280, 720)
		run(10*time.Second, c.q, c.h, c.f)
	}
	half := func(c *camera) {
		c.q.keyOf(160, 90)
		c.h.keyOf(320, 180)
	}
	bye := func(s *sender) { s.layer.HandleRTCP([]rtcp.Packet{&rtcp.Goodbye{Sources: []uint32{s.ssrc}}}) }
	for name, test := range map[string]struct {
		change func(c *camera)
		missed bool
	}{
		"narrow uplink": {func(c *camera) {
			run(time.Second, c.q, c.h)
			c.q.keyOf(320, 180)
			c.h.keyOf(640, 360)
		}, true},
		"narrow uplink after smaller pictures": {func(c *camera) {
			half(c)
			run(5*time.Second, c.q, c.h, c.f)
		}, true},
		"narrow uplink of the larger source": {func(c *camera) {
			half(c)
			run(8*time.Second, c.q, c.h)
			full(c)
		}, true},
		"smaller pictures": {func(c *camera) { half(c) }, false},
		"smaller announced size": {func(c *camera) {
			c.SetInfo(&livekit.TrackInfo{Layers: []*livekit.VideoLayer{
				{Quality: livekit.VideoQuality_LOW, Width: 160, Height: 90},
				{Quality: livekit.VideoQuality_MEDIUM, Width: 320, Height: 180},
				{Quality: livekit.VideoQuality_HIGH, Width: 640, Height: 360},
			}})
		}, false},
		"fewer announced layers": {func(c *camera) {
			run(2*time.Second, c.q, c.h)
			c.SetInfo(&livekit.TrackInfo{Layers: []*livekit.VideoLayer{
				{Quality: livekit.VideoQuality_LOW, Width: 640, Height: 360},
				{Quality: livekit.VideoQuality_MEDIUM, Width: 1280, Height: 720},
			}})
		}, false},
		"end that the publisher tells": {func(c *camera) { bye(c.f) }, false},
		"end for want of demand": {func(c *camera) {
			c.r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
			run(6*time.Second, c.q, c.h, c.f)
			bye(c.f)
			run(time.Second, c.q, c.h)
			c.r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				track, q, h, f := simulcast(t)
				track.cfg.OnQualities = func([]Wanted) {}
				c := &camera{track, q, h, f, newReceiver(track, vp8Config(), nil)}
				full(c)
				test.change(c)
				run(20*time.Second, q, h)
				quality, _, ok := h.layer.Quality()
				require.True(t, ok)
				if test.missed {
					require.Equal(t, livekit.ConnectionQuality_GOOD, quality)
					return
				}
				require.Equal(t, livekit.ConnectionQuality_EXCELLENT, quality)
				// The source has two layers now, and the uplink becomes too narrow for them.
				run(8*time.Second, q)
				quality, score, _ := q.layer.Quality()
				require.Equal(t, livekit.ConnectionQuality_GOOD, quality)
				require.InDelta(t, one, score, 0.01, "one layer is missing")
			})
		})
	}
}

// The sizes of H.264 are in its parameter sets.
func TestALayerOfH264ThatEndsWithItsSourceIsNotMissing(t *testing.T) {
	large := []byte{0x67, 0x42, 0xc0, 0x1f, 0x95, 0xa0, 0x14, 0x01, 0x6e, 0x40} // 1280x720
	for name, size := range map[string]struct {
		sps  []byte
		want livekit.ConnectionQuality
	}{
		"as large": {large, livekit.ConnectionQuality_GOOD},
		"smaller":  {blackH264[0], livekit.ConnectionQuality_EXCELLENT},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				codec := Codec{MimeType: "video/H264", ClockRate: 90000, PayloadType: 102}
				track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
				track.cfg.OnQualities = func([]Wanted) {}
				h := newSender(track, 1, codec, "h", livekit.VideoQuality_MEDIUM)
				f := newSender(track, 2, codec, "f", livekit.VideoQuality_HIGH)
				newReceiver(track, codec, nil)
				send := func(d time.Duration, sps []byte, senders ...*sender) {
					units := [][]byte{sps, blackH264[1], blackH264[2]}
					for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(frame) {
						for _, s := range senders {
							s.at = time.Now()
							for i, unit := range units {
								s.send(s.packet(i == len(units)-1, unit))
							}
							s.next()
						}
						units = [][]byte{{0x41, 1, 2, 3}}
					}
				}
				send(10*time.Second, large, h, f)
				send(10*time.Second, size.sps, h)
				quality, _, ok := h.layer.Quality()
				require.True(t, ok)
				require.Equal(t, size.want, quality)
			})
		})
	}
}

// A camera of one layer is wanted whatever the size at which it is watched.
func TestACameraOfOneLayerThatIsSilentIsPoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
		track.cfg.OnQualities = func([]Wanted) {}
		f := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, vp8Config(), nil)
		r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
		run(10*time.Second, f)
		quality, _, ok := f.layer.Quality()
		require.True(t, ok)
		require.Equal(t, livekit.ConnectionQuality_EXCELLENT, quality)
		time.Sleep(8 * time.Second)
		quality, _, ok = f.layer.Quality()
		require.True(t, ok)
		require.Equal(t, livekit.ConnectionQuality_POOR, quality)
		r.f.SetSettings(Settings{Disabled: true})
		time.Sleep(10 * time.Second)
		_, _, ok = f.layer.Quality()
		require.False(t, ok, "nobody watches it")
	})
}

// How many temporal layers a stream has is not forgotten with a keyframe, which is of the
// lowest.
func TestTemporalLayersAreKnownAfterAKeyFrame(t *testing.T) {
	var in inspector
	picture := func(key bool, temporal uint8) {
		in.countLayers(&packet.Frame{Key: key, Start: true, End: true, Temporal: temporal}, true)
	}
	picture(true, 0)
	for _, temporal := range []uint8{2, 1, 2, 0} {
		picture(false, temporal)
	}
	picture(true, 0)
	require.EqualValues(t, 2, in.maxTemporal)
	picture(false, 0)
	picture(true, 0)
	require.Zero(t, in.maxTemporal, "it has fewer now")
}

// How many layers a stream has is not forgotten while a keyframe comes, layer by layer.
func TestLayersAreKnownWithinAKeyFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		codec := vp9Config()
		track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
		s := newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
		r := newReceiver(track, codec, nil)
		for i := range 90 {
			s.at = time.Now()
			vp9Picture(s, i == 0)
			time.Sleep(frame)
		}
		before := r.f.describe(time.Now()).Bitrates
		layers := s.layer.spatialLayers()
		require.Greater(t, layers, 1)
		s.at = time.Now() // the first packet of a keyframe
		s.send(s.packet(false, []byte{0x80 | 0x20 | 0x08, 0x80 | byte(s.pic>>8)&0x7f, byte(s.pic), 0, s.tl0, 0xee}))
		s.layer.Flush()
		require.Equal(t, layers, s.layer.spatialLayers())
		require.Equal(t, before, r.f.describe(time.Now()).Bitrates)
	})
}

// A second with a keyframe costs more than a layer does; two in three are what it costs.
func TestAKeyFrameIsNotWhatALayerCosts(t *testing.T) {
	var r rateMeter
	second := func(bytes uint64) float64 {
		r.bytes0 = r.bytes
		r.bytes += bytes
		r.parts[0][0].bytes = bytes
		r.measure(1)
		return r.costs.bitrates[0][0] / 8
	}
	require.EqualValues(t, 1000, second(1000), "the first is all that is known")
	second(1000)
	require.EqualValues(t, 1000, second(1100))
	require.EqualValues(t, 1100, second(6000))
	require.EqualValues(t, 1100, second(1000))
	second(6000)
	require.EqualValues(t, 6000, second(6000))
}

// Sound that comes no more is poor. Silence is not: its packets are only fewer.
func TestSoundThatDiesIsPoor(t *testing.T) {
	for name, sound := range map[string]struct {
		codec  Codec
		packet []byte
	}{
		"opus": {opusConfig(), []byte("opus")},
		"red":  {redConfig(), redOf("a", "b")},
		"pcmu": {pcmuConfig(), []byte("pcmu")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				track := newTestTrack(t, livekit.TrackType_AUDIO, sound.codec)
				track.cfg.OnQualities = func([]Wanted) {}
				s := newSender(track, 1, sound.codec, "", livekit.VideoQuality_HIGH)
				speak := func(d, interval time.Duration) {
					for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(interval) {
						s.at = time.Now()
						s.ts += uint32(interval.Seconds() * float64(sound.codec.ClockRate))
						s.send(s.packet(false, sound.packet))
					}
				}
				judge := func() (livekit.ConnectionQuality, bool) {
					quality, _, ok := s.layer.Quality()
					return quality, ok
				}
				unjudged := func(why string) {
					_, ok := judge()
					require.False(t, ok, why)
				}
				is := func(want livekit.ConnectionQuality) {
					quality, ok := judge()
					require.True(t, ok)
					require.Equal(t, want, quality)
				}
				time.Sleep(20 * time.Second)
				unjudged("it has not begun")
				speak(10*time.Second, 20*time.Millisecond)
				is(livekit.ConnectionQuality_EXCELLENT)
				speak(20*time.Second, 400*time.Millisecond)
				is(livekit.ConnectionQuality_EXCELLENT)
				time.Sleep(7 * time.Second)
				unjudged("clients say after 5 s that a source has paused")
				time.Sleep(time.Second)
				is(livekit.ConnectionQuality_POOR)
				time.Sleep(time.Minute)
				is(livekit.ConnectionQuality_POOR)

				track.SetMuted(true)
				unjudged("a muted microphone has nothing to send")
				time.Sleep(8 * time.Second)
				unjudged("it is muted still")
				track.SetMuted(false)
				time.Sleep(2 * time.Second)
				unjudged("it needs a moment")
				speak(10*time.Second, 20*time.Millisecond)
				is(livekit.ConnectionQuality_EXCELLENT)

				s.layer.HandleRTCP([]rtcp.Packet{&rtcp.Goodbye{Sources: []uint32{s.ssrc}}})
				time.Sleep(8 * time.Second)
				unjudged("the publisher has ended it")
				speak(10*time.Second, 20*time.Millisecond)
				is(livekit.ConnectionQuality_EXCELLENT)

				track.SetInfo(&livekit.TrackInfo{Source: livekit.TrackSource_SCREEN_SHARE_AUDIO})
				time.Sleep(8 * time.Second)
				unjudged("a shared screen may rest")
			})
		})
	}
}

// Sound that is sent only while somebody speaks is not dead in between. A gap in its numbers
// tells that an uplink was dead, and what its publisher announces tells nothing.
func TestSoundThatRestsIsNotDead(t *testing.T) {
	for name, test := range map[string]struct {
		rest func(s *sender)
		poor bool
	}{
		"rest":    {func(*sender) { time.Sleep(4 * time.Second) }, false},
		"lost":    {func(s *sender) { time.Sleep(4 * time.Second); s.seq++ }, true},
		"no rest": {func(*sender) { time.Sleep(2 * time.Second) }, true},
		"late":    {func(s *sender) { s.mutes(true) }, true},
		"unmuted": {func(s *sender) { s.mutes(false) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				track := newTestTrack(t, livekit.TrackType_AUDIO, opusConfig())
				track.cfg.OnQualities = func([]Wanted) {}
				s := newSender(track, 1, opusConfig(), "", livekit.VideoQuality_HIGH)
				speak := func() {
					for range 100 {
						s.at = time.Now()
						s.voice([]byte("sound"))
						time.Sleep(20 * time.Millisecond)
					}
				}
				for range 5 {
					speak()
				}
				test.rest(s)
				speak()
				track.SetMuted(false)
				for range 5 {
					speak()
				}
				time.Sleep(20 * time.Second)
				quality, _, ok := s.layer.Quality()
				require.Equal(t, test.poor, ok)
				if ok {
					require.Equal(t, livekit.ConnectionQuality_POOR, quality)
				}
			})
		})
	}
}

// mutes lets the track be muted while its sender rests; late: the sound is later than what is
// said of it.
func (s *sender) mutes(late bool) {
	s.layer.track.SetMuted(true)
	if late {
		s.at = time.Now().Add(time.Millisecond)
		s.voice([]byte("sound"))
	}
	time.Sleep(20 * time.Second)
	if !late {
		s.layer.track.SetMuted(false)
	}
}

// Sound in a codec that the publisher is not asked for any more does not die.
func TestSoundInACodecThatNobodyWantsIsNotMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		track := NewTrack(TrackConfig{
			Kind: livekit.TrackType_AUDIO, Codec: pcmuConfig(), RegressBelow: 100, OnQualities: func([]Wanted) {},
		})
		defer track.Close()
		first := newSender(track, 1, pcmuConfig(), "", livekit.VideoQuality_HIGH)
		newReceiver(track, pcmuConfig(), func(c *ForwarderConfig) { c.Backup = opusConfig() })
		speak := func(d time.Duration, senders ...*sender) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				for _, s := range senders {
					s.at = time.Now()
					s.voice([]byte("sound"))
				}
			}
		}
		speak(5*time.Second, first)
		backup := newSender(track, 2, opusConfig(), "", livekit.VideoQuality_HIGH)
		speak(15*time.Second, first, backup)
		speak(8*time.Second, backup)
		_, _, ok := first.layer.Quality()
		require.False(t, ok)
		quality, _, ok := backup.layer.Quality()
		require.True(t, ok)
		require.Equal(t, livekit.ConnectionQuality_EXCELLENT, quality)
	})
}

// Spatial layers of one stream are judged like layers of simulcast.
func TestSpatialLayersThatTheUplinkDropsAreMissing(t *testing.T) {
	_, one := Score(Path{Missing: 1})
	for name, codec := range map[string]Codec{"vp9": vp9Config(), "av1": av1Config()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
				track.cfg.OnQualities = func([]Wanted) {}
				var s *sender
				var picture func(key bool, layers int)
				change := func(*ForwarderConfig) {}
				if name == "vp9" {
					s = newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
					picture = func(key bool, layers int) { vp9PictureOf(s, key, layers) }
				} else {
					d := newDescribed(track)
					s, picture, change = d.sender, d.pictureOf, withDD
				}
				r := newReceiver(track, codec, change)
				send := func(d time.Duration, layers int) {
					for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(frame) {
						key := count[*rtcp.PictureLossIndication](s.rtcp.take()) > 0
						s.at = time.Now()
						picture(key, layers)
					}
				}
				key := func(layers int) {
					s.at = time.Now()
					picture(true, layers)
					time.Sleep(frame)
				}
				is := func(want livekit.ConnectionQuality, why string) {
					t.Helper()
					quality, score, ok := s.layer.Quality()
					require.True(t, ok)
					require.Equal(t, want, quality, why)
					if want == livekit.ConnectionQuality_GOOD {
						require.InDelta(t, one, score, 0.01, "one layer is missing")
					}
				}
				key(1)
				send(8*time.Second, 1)
				is(livekit.ConnectionQuality_EXCELLENT, "there was one layer always")
				key(2)
				send(10*time.Second, 2)
				is(livekit.ConnectionQuality_EXCELLENT, "both come")
				send(8*time.Second, 1)
				is(livekit.ConnectionQuality_GOOD, "the uplink carries one")
				key(1)
				send(30*time.Second, 1)
				is(livekit.ConnectionQuality_GOOD, "a later keyframe does not change that")
				r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})
				send(6*time.Second, 1)
				is(livekit.ConnectionQuality_EXCELLENT, "nobody asks for the other")
				r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
				send(time.Second, 1)
				is(livekit.ConnectionQuality_EXCELLENT, "it has just been asked for")
				send(8*time.Second, 1)
				is(livekit.ConnectionQuality_GOOD, "it does not come")
				key(2)
				send(8*time.Second, 2)
				is(livekit.ConnectionQuality_EXCELLENT, "both come again")
				key(2)
				send(8*time.Second, 1)
				is(livekit.ConnectionQuality_GOOD, "a keyframe had both")
				key(2)
				send(8*time.Second, 2)

				track.SetInfo(&livekit.TrackInfo{Width: 1280, Height: 720})
				send(8*time.Second, 2)
				track.SetInfo(&livekit.TrackInfo{Width: 640, Height: 360})
				send(8*time.Second, 1)
				is(livekit.ConnectionQuality_EXCELLENT, "the camera became smaller")
				track.SetInfo(&livekit.TrackInfo{Width: 1280, Height: 720})
				send(7*time.Second, 1)
				is(livekit.ConnectionQuality_EXCELLENT, "it has just become as large again")
				send(2*time.Second, 1)
				is(livekit.ConnectionQuality_GOOD, "its second layer does not come")
				key(2)
				send(8*time.Second, 2)

				time.Sleep(time.Second)
				key(1)
				send(30*time.Second, 1)
				is(livekit.ConnectionQuality_EXCELLENT, "another camera has one layer")
				time.Sleep(8 * time.Second)
				is(livekit.ConnectionQuality_POOR, "nothing comes")
			})
		})
	}
}

// A keyframe that was asked for costs what another frame costs, also if some come in a row: they
// come because subscribers change their layers. Those that come by themselves, or that somebody
// asks for again and again, are a part of what the layer costs.
func TestKeyFramesThatWereAskedForAreNotWhatALayerCosts(t *testing.T) {
	cost := func(frames int, key, asks func(n int) bool) float64 {
		var r rateMeter
		asked := -int64(time.Minute)
		for n := range frames {
			at := int64(n) * int64(time.Second) / 30
			p := &packet.Packet{Timestamp: uint32(n) * 3000, Size: 100, Arrival: at, Frame: packet.Frame{Start: true}}
			if asks(n) {
				asked = at
			}
			parts := 1
			if key(n) {
				p.Frame.Key, parts = true, 12
			}
			for range parts {
				r.add(p, asked)
				p = &packet.Packet{Timestamp: p.Timestamp, Size: 100, Arrival: at}
			}
			if n%30 == 29 {
				r.measure(1)
				r.bytes0 = r.bytes
			}
		}
		return r.costs.bitrates[0][0] / 8
	}
	never := func(int) bool { return false }
	each := func(n int) bool { return n%30 == 15 }
	before := func(n int) bool { return n%30 == 13 }
	require.EqualValues(t, 3000, cost(90, never, never))
	require.InDelta(t, 3000, cost(90, each, before), 400)
	require.EqualValues(t, 4100, cost(90, each, never))
	require.EqualValues(t, 4100, cost(600, each, never))
	require.Greater(t, cost(600, each, before), 3900.0, "again and again")
	require.Greater(t, cost(90, func(n int) bool { return n%3 == 0 }, before), 12000.0, "one request excuses one keyframe")
}

// Packets that come late, when a camera of fewer spatial layers has taken over, are of the
// former one.
func TestLatePacketsKeepNoSpatialLayers(t *testing.T) {
	for name, codec := range map[string]Codec{"vp9": vp9Config(), "av1": av1Config()} {
		for when, late := range map[string]struct {
			packet uint16 // after the last but one picture of the former camera
			within bool
		}{
			"after the keyframe":    {3, false},
			"within the keyframe":   {3, true},
			"start of the keyframe": {4, false},
		} {
			t.Run(name+" "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
					track.cfg.OnQualities = func([]Wanted) {}
					var s *sender
					var picture func(key bool, layers int)
					change := func(*ForwarderConfig) {}
					if name == "vp9" {
						s = newSender(track, 1, codec, "", livekit.VideoQuality_HIGH)
						picture = func(key bool, layers int) { vp9PictureOf(s, key, layers) }
					} else {
						d := newDescribed(track)
						s, picture, change = d.sender, d.pictureOf, withDD
					}
					newReceiver(track, codec, change)
					send := func(n int, key bool, layers int) {
						for range n {
							s.at = time.Now()
							picture(key, layers)
							time.Sleep(frame)
						}
					}
					send(1, true, 2)
					send(300, false, 2)
					s.late = map[uint16]bool{s.seq + late.packet: true}
					send(1, false, 2)
					send(1, true, 1) // another camera
					if !late.within {
						send(1, false, 1)
					}
					s.catchUp()
					s.late = nil
					send(600, false, 1)
					quality, _, ok := s.layer.Quality()
					require.True(t, ok)
					require.Equal(t, livekit.ConnectionQuality_EXCELLENT, quality)
				})
			})
		}
	}
}
