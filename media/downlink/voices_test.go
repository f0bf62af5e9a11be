package downlink

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// loud is a voice of a participant.
type loud struct {
	speaker int
	heard   int64
	held    bool
}

func (v *loud) Speaker() any          { return v.speaker }
func (v *loud) Heard(time.Time) int64 { return v.heard }
func (v *loud) Hold(back bool) bool   { v.held = back; return true }

// Whatever comes, goes and speaks up, no more participants are heard than may be, and
// nobody is held back while there is a place.
func TestVoicesAreBounded(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	d := New(nil)
	d.LimitVoices(3)
	var there []*loud
	for range 5000 {
		switch n := rnd.IntN(4); {
		case n == 0 && len(there) < 12:
			v := &loud{speaker: rnd.IntN(8), heard: rnd.Int64N(12_000)}
			there = append(there, v)
			d.voices.add(v)
		case n == 1 && len(there) > 0:
			i := rnd.IntN(len(there))
			d.voices.remove(there[i])
			there = append(there[:i], there[i+1:]...)
		case len(there) > 0:
			v := there[rnd.IntN(len(there))]
			if v.heard = rnd.Int64N(12_000); v.held {
				d.Compete(v, time.Time{})
				if v.held {
					require.Len(t, speaking(there), 3, "there is a place")
				}
			}
		}
		require.LessOrEqual(t, len(speaking(there)), 3)
	}
}

// speaking are the participants that are heard.
func speaking(all []*loud) map[int]bool {
	out := map[int]bool{}
	for _, v := range all {
		if !v.held {
			out[v.speaker] = true
		}
	}
	return out
}
