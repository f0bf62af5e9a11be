package forward

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
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
		require.Equal(t, livekit.ConnectionQuality_GOOD, quality)
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
		require.Equal(t, livekit.ConnectionQuality_GOOD, quality)
	})
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
