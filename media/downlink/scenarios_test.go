package downlink

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/media/downlink/allocate"
	"parlor/media/downlink/feedback"
	"parlor/media/downlink/netsim"
	"parlor/media/downlink/pacer"
	"parlor/media/downlink/sent"
)

// table is what the scenarios came to; go test -v prints it.
type table struct{ strings.Builder }

func (t *table) head() {
	fmt.Fprintf(t, "\n%-24s %7s %7s %7s %8s %7s %7s %6s %7s %7s %5s %5s %8s %7s\n",
		"", "kbit/s", "steady", "oracle", "estimate", "median", "p95", "drops", "freezes", "frozen", "fps", "keys", "switches", "reached")
}

func (t *table) row(name string, m measured, oracle float64) {
	fmt.Fprintf(t, "%-24s %7.0f %7.0f %7.0f %8.0f %7s %7s %6d %7d %7s %5.1f %5d %8d %7s\n",
		name, m.media/1e3, m.steady/1e3, oracle/1e3, m.estimate.Bitrate/1e3, m.median.Round(time.Millisecond),
		m.p95.Round(time.Millisecond), m.dropped, m.freezes, m.frozen.Round(10*time.Millisecond), m.fps, m.keys, m.switches, m.reached)
}

func plain() netsim.Conditions {
	return netsim.Conditions{Rate: 3e6, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond}
}

func newPath(c netsim.Conditions, cameras int) *subscriber { return newPathOf(1, c, cameras) }

// newPathOf makes another path, in what happens at random, for each seed.
func newPathOf(seed uint64, c netsim.Conditions, cameras int) *subscriber {
	clock := &netsim.Clock{}
	up := netsim.NewLink(clock, seed+1, netsim.Conditions{Delay: 20 * time.Millisecond})
	return newSubscriber(clock, netsim.NewLink(clock, seed, c), up, seed+2, cameras)
}

func TestTheBitrateFollowsThePath(t *testing.T) {
	for _, seed := range []uint64{1, 7, 11} {
		followsThePath(t, seed, false)
	}
}

// Feedback by streams (RFC 8888) does as well, for a receiver that has nothing better.
func TestTheBitrateFollowsThePathByStreams(t *testing.T) {
	for _, seed := range []uint64{1, 7} {
		followsThePath(t, seed, true)
	}
}

func followsThePath(t *testing.T, seed uint64, byStreams bool) {
	var tab table
	tab.head()
	c := plain()
	c.Rate = 20e6
	s := newPathOf(seed, c, 1)
	if byStreams {
		s.streams = map[uint32]*arrivals{}
	}
	for _, p := range []struct {
		name    string
		rate    float64
		loss    float64
		length  time.Duration
		share   float64       // of the oracle, at least, in the second half
		reached time.Duration // 0 = not asserted
		frozen  time.Duration
	}{
		{"20 M", 20e6, 0, 15 * time.Second, 0.95, time.Second, 0},
		{"600 k", 600e3, 0, 25 * time.Second, 0.93, 0, 500 * time.Millisecond},
		{"3 M", 3e6, 0, 30 * time.Second, 0.95, 5 * time.Second, 300 * time.Millisecond},
		{"3 M, 5 % loss", 3e6, 0.05, 30 * time.Second, 0.95, 0, 500 * time.Millisecond},
		{"250 k", 250e3, 0, 20 * time.Second, 0.9, 0, 500 * time.Millisecond},
		{"20 M again", 20e6, 0, 25 * time.Second, 0.95, 5 * time.Second, 300 * time.Millisecond},
	} {
		c.Rate, c.Loss = p.rate, p.loss
		s.down.Set(c)
		m, oracle := s.phase(p.length, p.rate), s.oracle(p.rate)
		tab.row(p.name, m, oracle)
		require.GreaterOrEqual(t, m.steady, p.share*oracle, p.name)
		require.LessOrEqual(t, m.p95, 100*time.Millisecond, p.name)
		require.LessOrEqual(t, m.frozen, p.frozen, p.name)
		require.Less(t, m.probes, 0.065, p.name) // 0.05 of the estimate, of which media uses less
		if p.reached > 0 {
			require.GreaterOrEqual(t, m.reached, time.Duration(0), p.name)
			require.LessOrEqual(t, m.reached, p.reached, p.name)
		}
	}
	t.Log(tab.String())
}

// When a path narrows, its queue is seen before it has filled: few packets are lost, so
// that the picture stops no longer than a keyframe takes, and the layers that do not fit
// are not held on to.
func TestAPathThatNarrowsDropsLittle(t *testing.T) {
	var tab table
	tab.head()
	for _, seed := range []uint64{1002, 1011, 1023} {
		for _, p := range []struct {
			name         string
			before, then float64
			dropped      int
			p95          time.Duration
		}{
			{"3 M to 250 k", 3e6, 250e3, 10, 100 * time.Millisecond},
			{"20 M to 400 k", 20e6, 400e3, 3, 110 * time.Millisecond},
		} {
			c := plain()
			c.Rate = p.before
			s := newPathOf(seed, c, 1)
			s.phase(15*time.Second, c.Rate)
			c.Rate = p.then
			s.down.Set(c)
			m := s.phase(15*time.Second, c.Rate)
			tab.row(p.name, m, s.oracle(c.Rate))
			require.LessOrEqual(t, m.frozen, 500*time.Millisecond, p.name)
			require.LessOrEqual(t, m.dropped, p.dropped, p.name)
			require.LessOrEqual(t, m.p95, p.p95, p.name)
		}
	}
	t.Log(tab.String())
}

// The first report that comes without packets which it should tell of is the sign that the path
// has become narrow: what was sent until the next one would overflow the queue, and take sound
// with it. The report may come at any time after the path has narrowed.
func TestSoundSurvivesAPathThatNarrows(t *testing.T) {
	for _, every := range []time.Duration{60 * time.Millisecond, 100 * time.Millisecond} {
		const seeds = 20
		lost, dropped, frozen := 0.0, 0, time.Duration(0)
		for seed := range uint64(seeds) {
			c := plain()
			s := newPathOf(seed, c, 1)
			s.reports, s.wavering = every, true
			s.phase(15*time.Second, c.Rate)
			s.clock.Run(time.Duration(s.clock.Now()) + time.Duration(seed)*every/seeds)
			c.Rate = 250e3
			s.down.Set(c)
			m := s.phase(20*time.Second, c.Rate)
			lost += m.voiceLost
			dropped += m.dropped
			require.LessOrEqual(t, m.p95, 100*time.Millisecond, "reports each %s, seed %d", every, seed)
			require.LessOrEqual(t, m.frozen, 500*time.Millisecond, "reports each %s, seed %d", every, seed)
			frozen += m.frozen
		}
		t.Logf("reports each %s: %.3f %% of the sound, %.1f packets, frozen %s", every, 100*lost/seeds, float64(dropped)/seeds, frozen/seeds)
		require.LessOrEqual(t, lost/seeds, 0.0013, "reports each %s", every)
		require.LessOrEqual(t, dropped/seeds, 6, "reports each %s", every)
	}
}

// The cost of layers is measured each second and wavers. Where all that is wanted fits, it may
// for a second be a little more than the path has shown. That does not mean that the path is too
// narrow: a queue on it is drained as any other.
func TestALittleMoreThanWasShownIsNotTooMuch(t *testing.T) {
	c := NewControl[int](true)
	now := int64(time.Hour)
	tracks := []allocate.Track{{Most: allocate.Layer{Spatial: 0, Temporal: 0}, Now: allocate.Layer{}}}
	for _, tt := range []struct {
		cost float64
		much bool
	}{{0.9, false}, {1.03, false}, {1.2, true}} {
		tracks[0].Bitrates[0][0] = tt.cost * StartBitrate
		c.Divide(now, tracks, new(allocate.Allocator))
		require.Equal(t, !tt.much, c.holds(), "%.2f of the estimate", tt.cost)
	}
}

// A path that carries next to nothing for a moment, as a radio link does, must not leave an
// estimate of next to nothing that nothing was measured for, and at which nothing is paced.
func TestAGapInThePathIsNoMeasurement(t *testing.T) {
	for _, gap := range []float64{20e3, 60e3, 100e3} {
		for seed := range uint64(20) {
			c := plain()
			s := newPathOf(seed, c, 1)
			s.reports = 100 * time.Millisecond
			s.phase(10*time.Second, c.Rate)
			s.clock.Run(time.Duration(s.clock.Now()) + time.Duration(seed)*5*time.Millisecond)
			rate := c.Rate
			c.Rate = gap
			s.down.Set(c)
			for range 100 {
				s.clock.Run(time.Duration(s.clock.Now()) + 10*time.Millisecond)
				if state := s.control.State(); state.Bitrate < 100e3 {
					require.True(t, state.Limited, "%.0f, seed %d: %+v", gap, seed, state)
				}
			}
			c.Rate = rate
			s.down.Set(c)
			m := s.phase(10*time.Second, rate)
			require.GreaterOrEqual(t, m.reached, time.Duration(0), "%.0f, seed %d", gap, seed)
		}
	}
}

// Where there is room, no jitter makes a packet wait because its report seems late.
func TestNothingWaitsWhereThereIsRoom(t *testing.T) {
	for _, jitter := range []time.Duration{0, 10 * time.Millisecond, 30 * time.Millisecond} {
		for _, rate := range []float64{3e6, 20e6} {
			c := plain()
			c.Rate, c.Jitter = rate, jitter
			s := newPath(c, 1)
			s.up.Set(netsim.Conditions{Delay: 20 * time.Millisecond, Jitter: jitter})
			s.phase(30*time.Second, c.Rate)
			require.Less(t, s.control.Pacing().Queued, uint64(60), "%.0f, jitter %s", rate, jitter)
		}
	}
}

// Where everything fits, the estimate lies little above what is sent, because no more is
// ever shown. The bandwidth is divided once a second then, and not with each report: there
// is nothing to decide.
func TestNothingIsDecidedWhereEverythingFits(t *testing.T) {
	c := plain()
	c.Rate = 20e6
	s := newPath(c, 1)
	s.streams = map[uint32]*arrivals{}
	s.phase(10*time.Second, c.Rate)
	before := s.divisions
	m := s.phase(20*time.Second, c.Rate)
	require.Less(t, m.estimate.Bitrate, s.oracle(c.Rate)/0.7, "the estimate lies little above what is sent")
	require.LessOrEqual(t, s.divisions-before, 25)
}

func TestLossDelayAndJitterCostLittle(t *testing.T) {
	var tab table
	tab.head()
	for _, tt := range []struct {
		name    string
		change  func(*netsim.Conditions)
		cameras int
		share   float64 // of the oracle, at least
	}{
		{"1 % loss", func(c *netsim.Conditions) { c.Loss = 0.01 }, 1, 0.95},
		{"5 % loss", func(c *netsim.Conditions) { c.Loss = 0.05 }, 1, 0.95},
		{"10 % loss", func(c *netsim.Conditions) { c.Loss = 0.1 }, 1, 0.95},
		{"bursts of loss", func(c *netsim.Conditions) { c.Burst, c.BurstLength = 0.005, 6 }, 1, 0.85},
		{"200 ms round trip", func(c *netsim.Conditions) { c.Delay = 180 * time.Millisecond }, 1, 0.95},
		{"30 ms jitter, reordered", func(c *netsim.Conditions) { c.Jitter, c.Reorder = 30*time.Millisecond, true }, 1, 0.9},
		{"30 ms jitter, in order", func(c *netsim.Conditions) { c.Jitter = 30 * time.Millisecond }, 1, 0.9},
		{"9 cameras, 2 M", func(c *netsim.Conditions) { c.Rate = 2e6 }, 9, 0.9},
		{"9 cameras, 20 M", func(c *netsim.Conditions) { c.Rate = 20e6 }, 9, 0.95},
		{"100 k", func(c *netsim.Conditions) { c.Rate = 100e3 }, 1, 0.95},
	} {
		c := plain()
		tt.change(&c)
		s := newPath(c, tt.cameras)
		m, oracle := s.phase(60*time.Second, c.Rate), s.oracle(c.Rate)
		tab.row(tt.name, m, oracle)
		require.GreaterOrEqual(t, m.steady, tt.share*oracle, tt.name)
		require.LessOrEqual(t, m.p95, 100*time.Millisecond, tt.name)
	}
	t.Log(tab.String())
}

// Where there is room nothing is paused, not even before that is known. Where not even
// the lowest layers fit, some are, and stay so; they come back with the room.
// Losses of a path that has room are told from those of one that is full: what is sent
// again goes twice over the first, and would fill the second even more.
func TestALossyPathIsToldFromAFullOne(t *testing.T) {
	for _, c := range []struct {
		name       string
		rate, loss float64
		lossy      bool
	}{{"without loss", 20e6, 0, false}, {"lossy", 20e6, 0.1, true}, {"full", 250e3, 0, false}} {
		conditions := plain()
		conditions.Rate, conditions.Loss = c.rate, c.loss
		s := newPath(conditions, 1)
		s.phase(5*time.Second, c.rate)
		lossy := 0
		for range 100 {
			s.phase(100*time.Millisecond, c.rate)
			if s.control.Lossy() {
				lossy++
			}
		}
		if c.lossy {
			require.Greater(t, lossy, 90, c.name)
		} else {
			require.Zero(t, lossy, c.name)
		}
	}
}

// A path that begins to lose packets at random is told soon, although it is taken for a
// narrower one at first: what is sent again because of losses is not taken for their cause.
func TestAPathThatBeginsToLoseIsToldSoon(t *testing.T) {
	for _, every := range []time.Duration{60 * time.Millisecond, 100 * time.Millisecond} {
		for seed := range uint64(5) {
			c := plain()
			s := newPathOf(seed, c, 1)
			s.reports = every
			s.phase(10*time.Second, c.Rate)
			c.Loss = 0.1
			s.down.Set(c)
			lossy := 0
			for range 80 {
				s.phase(100*time.Millisecond, c.Rate)
				if s.control.Lossy() {
					lossy++
				}
			}
			require.Greater(t, lossy, 55, "reports each %s, seed %d", every, seed)
		}
	}
}

// Probes for a layer that does not fit make a queue, each time. What they measured is the
// bandwidth: neither that queue nor how little is sent beside it is held against the path. So
// the layers that fit stay, and no probe makes a long queue.
func TestProbesThatFailDisturbNothing(t *testing.T) {
	var tab table
	tab.head()
	runs, kept := 0, 0
	for _, rate := range []float64{250e3, 300e3, 400e3, 700e3} {
		for _, every := range []time.Duration{60 * time.Millisecond, 100 * time.Millisecond} {
			for seed := range uint64(4) {
				c := plain()
				c.Rate = rate
				s := newPathOf(seed, c, 1)
				s.reports = every
				s.phase(10*time.Second, rate)
				before, oracle := s.control.Probed(), s.oracle(rate)
				m := s.phase(30*time.Second, rate)
				tab.row(fmt.Sprintf("%.0f k, %s", rate/1e3, every), m, oracle)
				require.NotEqual(t, before, s.control.Probed(), "%.0f, %s, seed %d", rate, every, seed)
				require.GreaterOrEqual(t, m.steady, 0.9*oracle, "%.0f, %s, seed %d", rate, every, seed)
				if runs++; m.reached == 100*time.Millisecond {
					kept++
				}
				require.LessOrEqual(t, m.p95, 75*time.Millisecond, "%.0f, %s, seed %d", rate, every, seed)
				require.Zero(t, m.frozen, "%.0f, %s, seed %d", rate, every, seed)
			}
		}
	}
	require.GreaterOrEqual(t, kept, runs*9/10, "of %d runs kept the best layers throughout", runs)
	t.Log(tab.String())
}

// The first probes of a path tell what it carries, and make the first queue on it. What
// arrived before them is no measure.
func TestTheFirstProbesDisturbNothing(t *testing.T) {
	runs, kept := 0, 0
	for seed := range uint64(40) {
		c := plain()
		c.Rate = 1e6
		s := newPathOf(seed, c, 1)
		m := s.phase(10*time.Second, c.Rate)
		if runs++; m.reached >= 0 && m.reached <= time.Second {
			kept++
		}
	}
	require.GreaterOrEqual(t, kept, runs*9/10, "of %d runs had the best layers from the first second on", runs)
}

// On a path that just carries sound and the lowest picture, the picture may be paused for
// a moment and comes back: what a probe measures is believed although it makes a queue.
func TestAPictureComesBackOnAVeryNarrowPath(t *testing.T) {
	for _, rate := range []float64{130e3, 150e3, 170e3} {
		for seed := range uint64(5) {
			c := plain()
			c.Rate = rate
			s := newPathOf(seed, c, 1)
			s.phase(10*time.Second, rate)
			m := s.phase(50*time.Second, rate)
			require.Greater(t, m.fps, 5.0, "%.0f, seed %d", rate, seed)
			require.Less(t, m.voiceLost, 0.01, "%.0f, seed %d", rate, seed)
		}
	}
}

// A layer that takes most of a very narrow path stays: the path is idle in between, which is
// not its bandwidth.
func TestALayerThatTakesMostOfANarrowPathStays(t *testing.T) {
	for _, every := range []time.Duration{60 * time.Millisecond, 100 * time.Millisecond} {
		const seeds = 10
		var frozen time.Duration
		share := 0.0
		for seed := range uint64(seeds) {
			c := plain()
			c.Rate = 150e3
			s := newPathOf(seed, c, 1)
			s.reports = every
			s.phase(10*time.Second, c.Rate)
			m := s.phase(50*time.Second, c.Rate)
			frozen += m.frozen
			share += m.steady / s.oracle(c.Rate)
		}
		require.Less(t, frozen/seeds, 5*time.Second, "reports each %s", every)
		require.Greater(t, share/seeds, 0.86, "reports each %s", every)
	}
}

func TestWhatDoesNotFitIsPaused(t *testing.T) {
	var tab table
	tab.head()
	c := plain()
	c.Rate = 20e6
	s := newPath(c, 9)
	for _, p := range []struct {
		name   string
		rate   float64
		length time.Duration
		most   int // pauses
		paused bool
	}{
		{"9 cameras, 20 M", 20e6, 15 * time.Second, 0, false},
		{"300 k, at once", 300e3, 15 * time.Second, 30, true},
		{"300 k, then", 300e3, 60 * time.Second, 20, true},
		{"20 M again", 20e6, 15 * time.Second, 10, false},
		{"400 k", 400e3, 30 * time.Second, 30, true},
		{"2 M", 2e6, 15 * time.Second, 10, false},
	} {
		c.Rate = p.rate
		s.down.Set(c)
		m := s.phase(p.length, p.rate)
		tab.row(fmt.Sprintf("%s: %d", p.name, m.pauses), m, s.oracle(p.rate))
		require.LessOrEqual(t, m.pauses, p.most, p.name)
		require.Equal(t, p.paused, s.control.Summary().Paused > 0, p.name)
		if p.paused {
			require.LessOrEqual(t, s.control.Summary().Bitrate, 1.06*p.rate, p.name)
			require.Less(t, m.voiceLost, 0.05, p.name)
		}
	}
	t.Log(tab.String())
}

func TestTheSameRunIsTheSameTwice(t *testing.T) {
	c := plain()
	c.Rate, c.Loss, c.Jitter, c.Reorder = 600e3, 0.02, 10*time.Millisecond, true
	require.Equal(t, newPath(c, 2).phase(10*time.Second, c.Rate), newPath(c, 2).phase(10*time.Second, c.Rate))
}

// steady is a Control on a path with room, with feedback after each 20 packets.
func steady() func() {
	s := NewControl[[2]uintptr](true)
	s.Divide(1, nil, new(allocate.Allocator))
	fb := feedback.Report{Arrivals: make([]int32, 20)}
	now := int64(time.Second)
	p := pacer.Packet{Stream: 1, Size: 1100, Kind: sent.Video}
	return func() {
		for i := range fb.Arrivals {
			now += int64(20 * time.Millisecond)
			if s.Offer(now, p, [2]uintptr{}) != pacer.Send {
				panic("there is room")
			}
			n := s.Leave(now, p.Size, p.Kind)
			if i == 0 {
				fb.Base, fb.Reference = n, uint32(now/int64(64*time.Millisecond))&0xffffff
			}
			fb.Arrivals[i] = int32((now - int64(fb.Reference)*int64(64*time.Millisecond)) / int64(250*time.Microsecond))
		}
		s.Feedback(now, &fb)
	}
}

func TestControlDoesNotAllocate(t *testing.T) {
	step := steady()
	for range 100 {
		step()
	}
	require.Zero(t, testing.AllocsPerRun(500, step))
}

// BenchmarkControl is the cost of 20 packets that pass, with their feedback.
func BenchmarkControl(b *testing.B) {
	step := steady()
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
}

// A path that drops what it held for too long, as a TCP connection does, is taken for
// narrow at once, whatever else is told of it.
func TestAPathThatHoldsPacketsUp(t *testing.T) {
	for _, wide := range []bool{false, true} {
		c := NewControl[int](wide)
		now := int64(time.Hour)
		for i := range 200 { // 1 Mbit/s
			now += int64(10 * time.Millisecond)
			c.Leave(now, 1250, sent.Video)
			if i%50 == 0 {
				c.Divide(now, nil, new(allocate.Allocator))
			}
		}
		require.False(t, c.State().Limited)
		c.Overdue(now, 7, 250*time.Millisecond, true)
		s := c.State()
		require.True(t, s.Limited)
		require.Less(t, s.Bitrate, 0.8e6)
		require.Greater(t, s.Bitrate, 0.2e6)
		require.True(t, c.Paces())
		require.Equal(t, pacer.DropAndAsk, c.Offer(now, pacer.Packet{Stream: 7, Size: 1000, Kind: sent.Video}, 0))
		require.Equal(t, pacer.Send, c.Offer(now, pacer.Packet{Stream: 8, Size: 1000, Kind: sent.Video}, 0))
		c.Overdue(now, 7, 250*time.Millisecond, true)
		require.Equal(t, s.Bitrate, c.State().Bitrate, "once for one queue")
	}
}

// Of a receiver that tells of packets in both ways, transport-wide feedback alone counts,
// until it comes no more.
func TestTransportWideFeedbackIsPreferred(t *testing.T) {
	c := NewControl[int](true)
	now := int64(time.Hour)
	report := func(number uint16, streams bool) float64 {
		now += int64(50 * time.Millisecond)
		if streams {
			c.StreamFeedback(now, &feedback.StreamReport{
				Timestamp: uint32(now / int64(time.Second) << 16), Streams: []feedback.Stream{{SSRC: 7, Begin: number, To: 1}}, Arrivals: []int32{0},
			})
		} else {
			c.Feedback(now, &feedback.Report{Base: number, Arrivals: []int32{0}})
		}
		return float64(c.record.InFlight())
	}
	send := func() uint16 {
		n := c.Leave(now, 1000, sent.Video)
		c.Named(7, n)
		return n
	}
	require.Zero(t, report(send(), true), "it is all there is")
	require.Zero(t, report(send(), false))
	n := send()
	require.NotZero(t, report(n, true))
	require.Zero(t, report(n, false))
	now += numberedFor
	require.Zero(t, report(send(), true), "it is all there is again")
	c.Forget(7)
	require.NotZero(t, report(send()-1, true))
}
