package media

import (
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/media/forward"
)

type judged struct {
	rating livekit.ConnectionQuality
	score  float32
	ok     bool
}

func (j *judged) Quality() (livekit.ConnectionQuality, float32, bool) { return j.rating, j.score, j.ok }

func (*judged) Account() forward.Account { return forward.Account{} }

func TestQualityIsThatOfTheWorstStream(t *testing.T) {
	m := newQualityMeter()
	good := &judged{livekit.ConnectionQuality_EXCELLENT, 4.9, true}
	bad := &judged{livekit.ConnectionQuality_POOR, 1.5, true}
	unknown := &judged{livekit.ConnectionQuality_LOST, 0, false}
	rating, score := m.judge()
	require.Equal(t, livekit.ConnectionQuality_EXCELLENT, rating)
	require.EqualValues(t, maxScore, score)
	for _, s := range []stream{good, bad, unknown} {
		m.add(s)
	}
	rating, score = m.judge()
	require.Equal(t, livekit.ConnectionQuality_POOR, rating)
	require.EqualValues(t, 1.5, score)
	m.remove(bad)
	rating, _ = m.judge()
	require.Equal(t, livekit.ConnectionQuality_EXCELLENT, rating)
	m.setLost(true)
	rating, _ = m.judge()
	require.Equal(t, livekit.ConnectionQuality_LOST, rating)
}
