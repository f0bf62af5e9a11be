package media

import (
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/media/forward"
	"parlor/rooms"
)

// counted is a stream with the statistics that its test sets.
type counted struct {
	judged
	account forward.Account
}

func (c *counted) Account() forward.Account { return c.account }

// The worst minute is found wherever it begins. If the session is shorter, it is the
// whole session.
func TestTheWorstMinuteOfASession(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	m, down := newSummaryMeter(), &counted{}
	down.account.Quality = livekit.VideoQuality_HIGH
	m.begin(now)
	m.streams[down] = forward.Traffic{}
	pass := func(seconds int, score float64, lost uint64) {
		for range seconds / 2 {
			now = now.Add(2 * time.Second)
			down.account.Traffic.Packets += 100
			down.account.Traffic.Bytes += 100_000
			down.account.Traffic.Lost += lost
			m.look("udp", score, 1e6, now)
		}
	}
	pass(10, 5, 0)
	require.EqualValues(t, 10_000, m.total.Worst.ToMs-m.total.Worst.FromMs)
	require.InDelta(t, 5, m.total.Worst.Score, 1e-9)
	pass(90, 5, 0)
	began := now
	pass(60, 2, 10)
	pass(90, 5, 0)
	w := m.total.Worst
	require.Equal(t, began.UnixMilli(), w.FromMs)
	require.EqualValues(t, 60_000, w.ToMs-w.FromMs)
	require.InDelta(t, 2, w.Score, 1e-9)
	require.InDelta(t, 0.1, w.DownLoss, 1e-9)
	require.InDelta(t, 400_000, w.DownBitrate, 1)
	require.EqualValues(t, 250_000, m.total.ConnectedMs)
	require.InDelta(t, 300.0/12_500, m.total.Down.Loss(), 1e-9)
}

// A call is summed up in both directions, with the counts of ended subscriptions, and
// with the time of each forwarded quality.
func TestACallIsSummedUp(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		a.publishSimulcast("TR_s")
		camera := a.published("TR_s")
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		watch := &watcher{t: t, frames: make(chan byte, 1)}
		b.onTrack = watch.watch
		b.join()
		b.subscribe("PA_a", camera)
		sum := func(p *Peer, why string, right func(s *rooms.MediaSummary) bool) (last rooms.MediaSummary) {
			require.Eventually(t, func() bool {
				if s := p.Summary(); s != nil {
					last = *s
				}
				return right(&last)
			}, time.Minute, 20*time.Millisecond, why)
			return last
		}
		up := sum(a.peer, "what a sends", func(s *rooms.MediaSummary) bool { return s.Up.Bytes > 0 && s.Up.KeyRequests > 0 })
		require.Zero(t, up.Down.Bytes)
		require.Positive(t, up.Up.Bitrate())
		down := sum(b.peer, "what b gets", func(s *rooms.MediaSummary) bool { return s.Down.Bytes > 0 && s.LayerMs[3] > 0 })
		require.Zero(t, down.Up.Bytes)
		require.Zero(t, down.TCPMs)
		require.LessOrEqual(t, down.Worst.Score, float64(maxScore))
		require.Positive(t, down.Worst.DownBitrate)

		b.peer.SetTrackSettings([]string{"TR_s"}, rooms.TrackSettings{Quality: livekit.VideoQuality_LOW})
		sum(b.peer, "the time of another layer", func(s *rooms.MediaSummary) bool { return s.LayerMs[1] > 0 })
		stats, err := b.peer.Stats(t.Context())
		require.NoError(t, err)
		had := stats.Subscriptions[0].Forwarded.Bytes
		b.peer.Unsubscribe("TR_s")
		b.until("it has ended", func(s *PeerStats) bool { return len(s.Subscriptions) == 0 })
		before := b.peer.Summary().ConnectedMs
		last := sum(b.peer, "what an ended subscription had", func(s *rooms.MediaSummary) bool { return s.ConnectedMs > before })
		require.GreaterOrEqual(t, last.Down.Bytes, had)

		b.peer.BeginSummary()
		require.Nil(t, b.peer.Summary())
		next := sum(b.peer, "another session's", func(s *rooms.MediaSummary) bool { return s.ConnectedMs > 0 })
		require.Less(t, next.ConnectedMs, before)
		require.Zero(t, next.Down.Bytes)
	})
}

// A quarter of an hour is kept, in samples of ten seconds; a sample has the rates and
// losses of its own seconds alone.
func TestHowTheLastMinutesWent(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	up, down := &counted{}, &counted{}
	up.account.Inbound = true
	p := &Peer{summary: newSummaryMeter()}
	m := p.summary
	m.begin(now)
	m.streams[up], m.streams[down] = forward.Traffic{}, forward.Traffic{}
	pass := func(seconds int, bytes, lost uint64, rtt time.Duration, estimate float64) {
		for range seconds / 2 {
			now = now.Add(2 * time.Second)
			up.account.Traffic.Packets += 100 - lost
			up.account.Traffic.Lost += lost
			up.account.Traffic.Bytes += bytes / 2
			down.account.Traffic.Packets += 100
			down.account.Traffic.Bytes += bytes
			down.account.Traffic.Lost += lost
			down.account.RTT = rtt
			m.look("udp", 5, estimate, now)
		}
	}
	pass(8, 1000, 0, 0, 0)
	require.Empty(t, p.Samples(), "ten seconds are not over")
	pass(2, 1000, 0, 0, 0)
	require.Equal(t, []Sample{{ToMs: now.UnixMilli(), Up: 2000, Down: 4000}}, p.Samples())
	pass(10, 10_000, 10, 30*time.Millisecond, 1e6)
	all := p.Samples()
	require.Len(t, all, 2)
	require.Equal(t, Sample{
		ToMs: now.UnixMilli(), Up: 20_000, Down: 40_000, Estimate: 1e6, UpLoss: 0.1, DownLoss: 0.1, RTTMs: 30,
	}, all[1])
	pass(10*MostSamples, 1000, 0, 0, 0)
	all = p.Samples()
	require.Len(t, all, MostSamples)
	require.Equal(t, now.UnixMilli(), all[MostSamples-1].ToMs)
	for i := range all[1:] {
		require.Less(t, all[i].ToMs, all[i+1].ToMs)
	}
}
