package agents

import (
	"context"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// An answer that has come by the time at which the connection of the worker ends is taken, if
// the worker gave it on its next connection. Which of the two is noticed first is chance, so
// each case is tried often.
func TestAnAnswerAsTheConnectionEnds(t *testing.T) {
	ended, cut := context.WithCancel(context.Background())
	cut()
	h := &Handler{metrics: newMetrics(prometheus.NewRegistry()), life: context.Background()}
	for name, c := range map[string]struct {
		there           bool // the one that answers
		yes, terminates bool
		want            error
	}{
		"on the next one":        {there: true, yes: true},
		"on this one":            {yes: true, want: errGone},
		"on this one, to end it": {terminates: true},
		"no":                     {there: true, want: errRefused},
	} {
		t.Run(name, func(t *testing.T) {
			for range 50 {
				p := newPool(h, rooms.AgentKind{})
				old := &worker{h: h, pool: p, done: ended, cut: cut, queue: make(chan *livekit.ServerMessage, 1)}
				from := old
				if c.there {
					from = &worker{h: h, pool: p, done: context.Background()}
				}
				o := &offer{to: old, answers: make(chan answer, 1)}
				o.answers <- answer{from, &livekit.AvailabilityResponse{JobId: "AJ_a", Available: c.yes, Terminate: c.terminates}}
				res, err := old.answerTo(context.Background(), o, "AJ_a")
				require.Equal(t, c.want, err)
				if err == nil {
					require.Equal(t, from, res.from)
				}
			}
		})
	}
}
