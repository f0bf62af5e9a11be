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
			m.look("udp", score, now)
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
