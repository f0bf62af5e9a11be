package downlink

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/allocate"
	"parlor/media/downlink/feedback"
	"parlor/media/downlink/pacer"
	"parlor/media/downlink/sent"
)

// still is a transport on which nothing else happens.
type still struct{}

func (still) Flush()                          {}
func (still) WriteRTCP(_ []rtcp.Packet) error { return nil }

// small is a video of which the subscriber has a small picture and wants a large one. Its
// packets arrive 10 ms after they leave, or more by late.
type small struct {
	path  *Path
	burst Burst
	late  time.Duration

	mu     sync.Mutex // guards the following
	came   []int64    // when the unreported packets arrived
	base   uint16     // number of the first of them
	padded int        // bytes
}

func (s *small) SSRC() uint32                                       { return 1 }
func (s *small) Repair() uint32                                     { return 2 }
func (s *small) Video() bool                                        { return true }
func (s *small) Probes() bool                                       { return true }
func (s *small) Decide(*allocate.Track, *allocate.Decision)         {}
func (s *small) Release(ticket int32, v pacer.Verdict, _ time.Time) {}
func (s *small) Over()                                              {}
func (s *small) Begin(time.Time)                                    {}

func (s *small) Describe(time.Time) allocate.Track {
	t := allocate.Track{ID: 1, Class: allocate.Rest, Most: allocate.Layer{Spatial: 1}, Now: allocate.Layer{}}
	t.Bitrates[0][0], t.Bitrates[1][0] = 200_000, 2_500_000
	t.Sizes[0], t.Sizes[1] = 320*180, 1280*720
	t.FPS[0][0], t.FPS[1][0] = 30, 30
	return t
}

// sentForProbes is the number of bytes.
func (s *small) sentForProbes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.padded
}

func (s *small) leave(size int, kind sent.Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.path.Since(time.Now())
	number, _ := s.burst.Leave(now, Departing{Size: size, Kind: kind, Wide: true, SSRC: 1})
	s.burst.End(now)
	if kind == sent.Padding {
		s.padded += size
	}
	if len(s.came) == 0 {
		s.base = number
	}
	s.came = append(s.came, now+int64(10*time.Millisecond+s.late))
}

func (s *small) Pad(size int, _ time.Time) bool {
	s.leave(size, sent.Padding)
	return true
}

// report is the receiver's report on what has left since the last one.
func (s *small) report() {
	s.mu.Lock()
	reference := s.came[0] / int64(64*time.Millisecond)
	r := feedback.Report{Base: s.base, Reference: uint32(reference & (1<<24 - 1))}
	for _, at := range s.came {
		r.Arrivals = append(r.Arrivals, int32((at-reference*int64(64*time.Millisecond))/250_000))
	}
	s.came = s.came[:0]
	s.mu.Unlock()
	s.path.Feedback(r.Append(nil, 9, 1))
}

// A probe is sent by the path's own timer: nothing else may happen on the path meanwhile.
func TestAProbeNeedsNoOtherPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(still{})
		d.Connected()
		s := &small{path: d, burst: d.NewBurst()}
		d.Add(s, nil, time.Now())
		for range 100 {
			for range 3 {
				s.leave(500, sent.Video)
				time.Sleep(20 * time.Millisecond)
			}
			before := s.sentForProbes()
			s.report()
			d.Tick(time.Now())
			if synctest.Wait(); s.sentForProbes() > before {
				break
			}
		}
		began := s.sentForProbes()
		require.NotZero(t, began, "a probe has begun")
		time.Sleep(time.Second)
		require.Greater(t, s.sentForProbes(), 2*began, "the rest of it")
	})
}
