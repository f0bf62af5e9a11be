package downlink

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/allocate"
	"parlor/media/downlink/pacer"
	"parlor/media/downlink/sent"
)

// padder is a video stream that wants more than is known to fit, and pads in tiny packets.
type padder struct {
	path  *Path
	bytes atomic.Int64
}

const tiny = 8 // bytes of a packet of padding

func (*padder) SSRC() uint32   { return 1 }
func (*padder) Repair() uint32 { return 2 }
func (*padder) Video() bool    { return true }
func (*padder) Probes() bool   { return true }
func (*padder) Describe(time.Time) allocate.Track {
	t := allocate.Track{ID: 1, Class: allocate.Rest, Most: allocate.Layer{Spatial: 1}, Now: allocate.None, Sizes: [3]int{57_600, 230_400, 921_600}}
	t.Bitrates[0][0], t.FPS[0][0] = 100_000, 30
	t.Bitrates[1][0], t.FPS[1][0] = 1_000_000, 30
	return t
}
func (*padder) Decide(*allocate.Track, *allocate.Decision) {}
func (*padder) Release(int32, pacer.Verdict, time.Time)    {}
func (p *padder) Pad(_ int, at time.Time) bool {
	now, burst := p.path.Since(at), p.path.NewBurst()
	burst.Leave(now, Departing{Size: tiny, Kind: sent.Padding, Wide: true})
	burst.End(now)
	p.bytes.Add(tiny)
	return true
}
func (*padder) Over() {}

// nowhere is a transport on which nothing is written.
type nowhere struct{}

func (nowhere) Flush()                        {}
func (nowhere) WriteRTCP([]rtcp.Packet) error { return nil }

// A probe that needs more packets than leave at once goes on after them, though nothing else
// happens on the path.
func TestAProbeOfManyPacketsGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(nowhere{})
		p := &padder{path: d}
		d.Add(p, nil, time.Now())
		d.Connected()
		time.Sleep(time.Second)
		synctest.Wait()
		require.Greater(t, p.bytes.Load(), int64(2*mostPadding*tiny))
		d.Remove(p, nil)
	})
}
