package allocate

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// camera is 720p simulcast of three layers of three temporal layers each.
func camera(id uint32) Track {
	t := Track{ID: id, Class: Rest, CanPause: true, Most: Layer{2, 2}, Now: None, Sizes: [3]int{320 * 180, 640 * 360, 1280 * 720}}
	for s, full := range []float64{150_000, 400_000, 800_000} {
		for u, part := range []float64{0.4, 0.6, 1} {
			t.Bitrates[s][u] = full * part
			t.FPS[s][u] = []float64{7.5, 15, 30}[u]
		}
	}
	return t
}

func voice(id uint32) Track {
	t := Track{ID: id, Audio: true, Most: Layer{}}
	t.Bitrates[0][0] = 40_000
	return t
}

func layersAt(t *testing.T, budget float64, tracks ...Track) ([]Decision, Summary) {
	t.Helper()
	var a Allocator
	d, s := a.Divide(tracks, budget, 0)
	return append([]Decision(nil), d...), s
}

func TestABudgetDecidesTheLayer(t *testing.T) {
	tests := []struct {
		budget float64
		layer  Layer
		reason Reason
	}{
		{0, Layer{2, 2}, Wanted}, // no bound
		{2_000_000, Layer{2, 2}, Wanted},
		{800_000, Layer{2, 1}, Bandwidth},
		{560_000, Layer{2, 1}, Bandwidth}, // size before more than 15 frames a second
		{480_000, Layer{1, 2}, Bandwidth},
		{310_000, Layer{1, 1}, Bandwidth},
		{250_000, Layer{0, 2}, Bandwidth},
		{150_000, Layer{0, 1}, Bandwidth}, // motion before size below
		{110_000, Layer{0, 0}, Bandwidth},
		{90_000, None, Paused},
	}
	for _, tt := range tests {
		d, s := layersAt(t, tt.budget, voice(1), camera(2))
		require.Equal(t, tt.layer, d[1].Layer, "%.0f", tt.budget)
		require.Equal(t, tt.reason, d[1].Reason, "%.0f", tt.budget)
		require.Equal(t, 840_000.0, s.Goal)
		require.Equal(t, 40_000.0, d[0].Bitrate, "audio always")
		if tt.reason == Wanted {
			require.Zero(t, s.Need)
		} else {
			require.Greater(t, s.Need, tt.budget, "%.0f", tt.budget)
		}
	}
}

func TestTheNeedIsWhatLetsTheNextStepFit(t *testing.T) {
	_, s := layersAt(t, 250_000, voice(1), camera(2))
	d, _ := layersAt(t, s.Need+1, voice(1), camera(2))
	require.Equal(t, Layer{1, 1}, d[1].Layer)
}

func TestClientsThatCannotPauseGetTheLowest(t *testing.T) {
	c := camera(1)
	c.CanPause = false
	d, _ := layersAt(t, 10_000, c)
	require.Equal(t, Layer{0, 0}, d[0].Layer)
}

func TestAPausedTrackComesBackWithAMargin(t *testing.T) {
	paused, shown := camera(1), camera(1)
	shown.Now = Layer{0, 0}
	for budget, want := range map[float64][2]bool{ // whether the paused one comes back, and the shown one stays
		56_000: {false, false}, 58_000: {false, true}, 62_000: {false, true}, 64_000: {false, true}, 66_000: {true, true},
	} {
		p, s := layersAt(t, budget, paused)
		require.Equal(t, want[0], p[0].Layer != None, "%.0f", budget)
		if !want[0] {
			require.Equal(t, 1, s.Paused)
			d, _ := layersAt(t, s.Need+1, paused)
			require.NotEqual(t, None, d[0].Layer, "what is needed is what lets it come back")
		}
		p, _ = layersAt(t, budget, shown)
		require.Equal(t, want[1], p[0].Layer != None, "%.0f", budget)
	}
}

func TestAScreenShareComesFirstAndSizeBeforeMotion(t *testing.T) {
	share := camera(1)
	share.Class = Screen
	d, _ := layersAt(t, 560_000, camera(2), share)
	require.Equal(t, Layer{2, 0}, d[1].Layer)
	require.NotEqual(t, None, d[0].Layer, "the other has its lowest first")
}

func TestSpeakersComeBeforeTheRest(t *testing.T) {
	speaker := camera(9)
	speaker.Class = Speaker
	tracks := []Track{camera(1), camera(2), speaker}
	d, _ := layersAt(t, 1_000_000, tracks...)
	require.Equal(t, Layer{2, 2}, d[2].Layer)
	tracks[0].Priority = 5
	d, _ = layersAt(t, 145_000, tracks...)
	require.NotEqual(t, None, d[2].Layer)
	require.NotEqual(t, None, d[0].Layer)
	require.Equal(t, None, d[1].Layer, "the one of least priority pauses")
}

// Within a class, the lower number has all its steps first, but for the lowest ones.
func TestThePriorityDecidesWithinAClass(t *testing.T) {
	for _, tt := range []struct {
		priorities [3]uint32
		first      [3]int // tracks, in the order of what they get
	}{
		{[3]uint32{0, 2, 1}, [3]int{2, 1, 0}},
		{[3]uint32{1, 1<<32 - 1, 0}, [3]int{0, 1, 2}},
		{[3]uint32{1<<32 - 1, 1<<31 + 1, 1}, [3]int{2, 1, 0}},
	} {
		tracks := []Track{camera(1), camera(2), camera(3)}
		for i := range tracks {
			tracks[i].Priority = tt.priorities[i]
		}
		d, _ := layersAt(t, 1_200_000, tracks...)
		require.Equal(t, Layer{2, 2}, d[tt.first[0]].Layer, "%v", tt.priorities)
		require.Equal(t, Layer{1, 1}, d[tt.first[1]].Layer, "%v", tt.priorities)
		require.Equal(t, Layer{0, 1}, d[tt.first[2]].Layer, "%v", tt.priorities)
		d, _ = layersAt(t, 140_000, tracks...)
		require.Equal(t, None, d[tt.first[2]].Layer, "%v", tt.priorities)
	}
}

func TestTheSameIsSharedFairly(t *testing.T) {
	var tracks []Track
	for i := range uint32(9) {
		tracks = append(tracks, camera(i))
	}
	for _, budget := range []float64{600_000, 1e6, 2e6, 3e6, 5e6} {
		d, s := layersAt(t, budget, tracks...)
		require.LessOrEqual(t, s.Bitrate, budget)
		low, high := value(&tracks[0], d[0].Layer), value(&tracks[0], d[0].Layer)
		for i := range d {
			require.NotEqual(t, None, d[i].Layer)
			v := value(&tracks[i], d[i].Layer)
			low, high = min(low, v), max(high, v)
		}
		require.LessOrEqual(t, high-low, 3.0, "no more than a step apart")
	}
}

func TestABudgetThatWaversChangesNothing(t *testing.T) {
	var a Allocator
	tracks := []Track{voice(1), camera(2)}
	changes := 0
	for i := range 100 {
		budget := 560_000 * (1 + 0.03*float64(i%3-1))
		d, _ := a.Divide(tracks, budget, 0)
		if d[1].Layer != tracks[1].Now {
			changes++
		}
		tracks[1].Now = d[1].Layer
	}
	require.LessOrEqual(t, changes, 2)
}

func TestAQueueIsEmptiedByTemporalLayers(t *testing.T) {
	var a Allocator
	now := camera(2)
	now.Now = Layer{2, 2}
	d, s := a.Divide([]Track{voice(1), now}, 1e6, 500_000)
	require.Equal(t, Layer{2, 0}, d[1].Layer)
	require.Equal(t, Bandwidth, d[1].Reason)
	require.Equal(t, 840_000.0, s.Bitrate)
	require.Zero(t, s.Need, "nothing is held back for long")
	d, _ = a.Divide([]Track{voice(1), now}, 1e6, 1e6)
	require.Equal(t, Layer{2, 2}, d[1].Layer)
}

func TestWhatThePublisherDoesNotSendIsSaid(t *testing.T) {
	c := camera(1)
	c.Bitrates[2] = [Temporals]float64{}
	none := camera(2)
	none.Bitrates = [Spatials][Temporals]float64{}
	off := camera(3)
	off.Most = None
	higher := camera(4)
	higher.Bitrates[0], higher.Most = [Temporals]float64{}, Layer{0, 2}
	d, _ := layersAt(t, 0, c, none, off, higher)
	require.Equal(t, Decision{Layer: Layer{1, 2}, Wanted: Layer{1, 2}, Bitrate: 400_000, Reason: Absent}, d[0])
	require.Equal(t, Absent, d[1].Reason)
	require.Equal(t, Unwanted, d[2].Reason)
	require.Equal(t, Decision{Layer: Layer{1, 2}, Wanted: Layer{1, 2}, Bitrate: 400_000, Reason: Absent}, d[3], "the lowest there is")
	d, s := layersAt(t, 300_000, higher)
	require.Equal(t, Decision{Layer: Layer{1, 1}, Wanted: Layer{1, 2}, Bitrate: 240_000, Reason: Bandwidth}, d[0], "fewer frames of it")
	require.Equal(t, 400_000.0, s.Goal)
}

func TestDivideDoesNotAllocate(t *testing.T) {
	var a Allocator
	tracks := make([]Track, 0, 20)
	for i := range uint32(20) {
		tracks = append(tracks, camera(i))
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { a.Divide(tracks, 3e6, 0) }))
}

func BenchmarkDivide(b *testing.B) {
	var a Allocator
	tracks := make([]Track, 0, 20)
	for i := range uint32(20) {
		tracks = append(tracks, camera(i))
	}
	for b.Loop() {
		a.Divide(tracks, 3e6, 0)
	}
}

// A spatial layer that is to stay does so with fewer frames, while those fit, and is not
// left for a higher one.
func TestASteadyLayerChangesItsFramesAlone(t *testing.T) {
	c := camera(1)
	c.Now, c.Steady = Layer{1, 2}, true
	for _, tt := range []struct {
		budget float64
		layer  Layer
	}{
		{2_000_000, Layer{1, 2}}, {400_000, Layer{1, 2}}, {300_000, Layer{1, 1}}, {200_000, Layer{1, 0}},
		{155_000, Layer{1, 0}}, {140_000, Layer{0, 1}}, {66_000, Layer{0, 0}}, {40_000, None},
	} {
		d, s := layersAt(t, tt.budget, c)
		require.Equal(t, tt.layer, d[0].Layer, "%.0f", tt.budget)
		require.Equal(t, Layer{2, 2}, d[0].Wanted)
		require.Equal(t, 800_000.0, s.Goal)
		require.Greater(t, s.Need, s.Bitrate, "more would be better")
	}
	c.Steady = false
	d, _ := layersAt(t, 200_000, c)
	require.Equal(t, Layer{0, 2}, d[0].Layer)

	c.Steady, c.CanPause = true, false
	d, _ = layersAt(t, 100_000, c, camera(2))
	require.Zero(t, d[0].Layer.Spatial, "it does not keep what does not fit")
}

// A layer that is forwarded may exceed the budget a little, so that layers do not flap. A
// lower one to which the path forces must fit: it begins with a keyframe.
func TestALayerThatBeginsWithAKeyframeFits(t *testing.T) {
	c := camera(1)
	c.Now = Layer{1, 1}
	d, _ := layersAt(t, 232_000, c)
	require.Equal(t, Layer{1, 1}, d[0].Layer, "240 kbit/s, and it is there")
	c.Now = Layer{2, 2}
	d, _ = layersAt(t, 232_000, c)
	require.Equal(t, Layer{0, 2}, d[0].Layer)
	d, _ = layersAt(t, 240_000, c)
	require.Equal(t, Layer{1, 1}, d[0].Layer, "it fits exactly")
}
