package downlink

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/media/downlink/allocate"
	"parlor/media/downlink/pacer"
	"parlor/media/downlink/sent"
)

// watched is a video that notes when it was described last.
type watched struct {
	small
	described time.Time // the lock of small guards it
}

func (s *watched) Describe(at time.Time) allocate.Track {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.described = at
	return s.small.Describe(at)
}

func (s *watched) wasDescribed() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.described
}

// Paths that have something to do at about the same time do it at the same instant, soon,
// whenever they were made.
func TestPathsActTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all [3]*watched
		for i := range all {
			time.Sleep(137 * time.Microsecond)
			d := New(still{})
			all[i] = &watched{small: small{path: d, burst: d.NewBurst()}}
			d.Connected()
			d.Add(all[i], nil, time.Now())
		}
		time.Sleep(time.Until(time.Now().Truncate(time.Duration(turn)).Add(time.Duration(turn) + time.Microsecond)))
		began := time.Now()
		for _, s := range all {
			s.path.Dropped(s.SSRC(), 0, time.Second)
			time.Sleep(100 * time.Microsecond)
			synctest.Wait()
			require.True(t, s.wasDescribed().Before(began), "each waits for the next turn")
		}
		time.Sleep(time.Duration(turn))
		synctest.Wait()
		for _, s := range all {
			at := s.wasDescribed()
			require.Equal(t, all[0].wasDescribed(), at)
			require.Greater(t, at.Sub(began), time.Duration(0))
			require.Less(t, at.Sub(began), time.Duration(turn))
		}
	})
}

// logged is a video that notes what it is asked to do.
type logged struct {
	small
	name string
	log  *[]string
}

func (s *logged) note(what string) {
	if entry := s.name + " " + what; len(*s.log) == 0 || (*s.log)[len(*s.log)-1] != entry {
		*s.log = append(*s.log, entry)
	}
}

func (s *logged) Pad(size int, at time.Time) bool {
	s.note("sends")
	return s.small.Pad(size, at)
}

func (s *logged) Over() { s.note("flushes") }

// What the paths of some turns send is flushed when all of them have sent. After Close they
// send nothing.
func TestTurnsFlushAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tasks []func()
		turns := NewTurns(func(task func()) { tasks = append(tasks, task) })
		var log []string
		for _, name := range []string{"one", "two"} {
			d := New(still{})
			d.ActIn(turns)
			s := &logged{small: small{path: d, burst: d.NewBurst()}, name: name, log: &log}
			d.Connected()
			d.Add(s, nil, time.Now())
			d.Tick(time.Now()) // it begins to probe
		}
		time.Sleep(time.Duration(turn))
		synctest.Wait()
		require.Len(t, tasks, 1, "one goroutine is enough")
		require.Empty(t, log)
		tasks[0]()
		require.Len(t, log, 4)
		require.ElementsMatch(t, []string{"one sends", "two sends"}, log[:2])
		require.ElementsMatch(t, []string{"one flushes", "two flushes"}, log[2:])

		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		require.Len(t, tasks, 2, "the probe goes on")
		turns.Close()
		tasks[1]()
		require.Len(t, log, 4)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, tasks, 2)
	})
}

// stream counts what is released of it.
type stream struct {
	small
	sent, dropped int // guarded by small.mu
}

func (s *stream) Release(_ int32, v pacer.Verdict, _ time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v == pacer.Send {
		s.sent++
	} else {
		s.dropped++
	}
}

func (s *stream) Describe(at time.Time) allocate.Track { return s.small.Describe(at) }

// TestPacketsThatKeepComingArePaced: those that come one soon after the other, as of many
// publishers, do not put off those that wait.
func TestPacketsThatKeepComingArePaced(t *testing.T) {
	for _, rate := range []int{1000, 2000, 3000} { // packets per second, as many as the path carries
		synctest.Test(t, func(t *testing.T) {
			d := New(still{})
			s := &stream{small: small{path: d, burst: d.NewBurst()}}
			d.Connected()
			d.Add(s, nil, time.Now())
			d.mu.Lock()
			d.control.pacer.SetRate(d.Since(time.Now()), float64(rate)*1000*8, false)
			d.mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			offer := func() {
				d.Offer(d.Since(time.Now()), pacer.Packet{Stream: 1, Size: 1000, Kind: sent.Video}, s, 0)
			}
			for range rate / 25 { // a burst, so that packets have to wait
				offer()
			}
			for range rate {
				time.Sleep(time.Second / time.Duration(rate))
				offer()
			}
			time.Sleep(time.Second)
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			require.Positive(t, s.sent)
			require.Zero(t, s.dropped)
		})
	}
}
