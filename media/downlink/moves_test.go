package downlink

import (
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/srtp/v3"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/netsim"
	"parlor/media/downlink/sent"
	"parlor/media/srtpout"
)

// move has the path lead over another network, or another port of the same, from now on.
// What is under way arrives still.
func (s *subscriber) move(seed uint64, c netsim.Conditions, elsewhere bool) {
	s.down = netsim.NewLink(s.clock, seed+100, c)
	s.up = netsim.NewLink(s.clock, seed+101, netsim.Conditions{Delay: c.Delay})
	s.control.Moved(s.clock.Now(), elsewhere)
	s.divide()
	s.serve()
}

// A subscriber that moves to another network keeps what that carries, whatever its delay
// is, and gets what it carries more.
func TestASubscriberThatMovesKeepsItsPicture(t *testing.T) {
	var tab table
	tab.head()
	for _, seed := range []uint64{1, 7, 11} {
		for _, p := range []struct {
			name                   string
			before, then           float64
			delayBefore, delayThen time.Duration
			share                  float64       // of the oracle, at least, in the second half
			reached                time.Duration // 0 = not asserted
			frozen                 time.Duration
			p95                    time.Duration
		}{
			{"longer", 20e6, 20e6, 20 * time.Millisecond, 120 * time.Millisecond, 0.95, 500 * time.Millisecond, 0, 100 * time.Millisecond},
			{"much longer", 20e6, 20e6, 20 * time.Millisecond, 320 * time.Millisecond, 0.95, 500 * time.Millisecond, 400 * time.Millisecond, 100 * time.Millisecond},
			{"longer and narrow", 1e6, 1e6, 20 * time.Millisecond, 120 * time.Millisecond, 0.95, 500 * time.Millisecond, 0, 100 * time.Millisecond},
			{"shorter", 20e6, 20e6, 120 * time.Millisecond, 20 * time.Millisecond, 0.95, 500 * time.Millisecond, 0, 100 * time.Millisecond},
			{"slower", 3e6, 600e3, 20 * time.Millisecond, 60 * time.Millisecond, 0.8, 0, 500 * time.Millisecond, 120 * time.Millisecond},
			{"much slower", 20e6, 300e3, 20 * time.Millisecond, 60 * time.Millisecond, 0.8, 0, 700 * time.Millisecond, 200 * time.Millisecond},
			{"slower and shorter", 3e6, 600e3, 120 * time.Millisecond, 20 * time.Millisecond, 0.8, 0, 500 * time.Millisecond, 120 * time.Millisecond},
			{"faster", 600e3, 20e6, 20 * time.Millisecond, 40 * time.Millisecond, 0.95, time.Second, 0, 100 * time.Millisecond},
			{"from almost nothing", 100e3, 20e6, 60 * time.Millisecond, 20 * time.Millisecond, 0.95, time.Second, 0, 100 * time.Millisecond},
		} {
			c := plain()
			c.Rate, c.Delay = p.before, p.delayBefore
			s := newPathOf(seed, c, 1)
			s.phase(20*time.Second, c.Rate)
			c.Rate, c.Delay = p.then, p.delayThen
			s.move(seed, c, true)
			m, oracle := s.phase(10*time.Second, c.Rate), s.oracle(c.Rate)
			tab.row(p.name, m, oracle)
			require.GreaterOrEqual(t, m.steady, p.share*oracle, p.name)
			require.LessOrEqual(t, m.frozen, p.frozen, p.name)
			require.LessOrEqual(t, m.p95, p.p95, p.name)
			if p.reached > 0 {
				require.GreaterOrEqual(t, m.reached, time.Duration(0), p.name)
				require.LessOrEqual(t, m.reached, p.reached, p.name)
			}
		}
	}
	t.Log(tab.String())
}

// ICE also restarts where nothing has changed but a port, as after the signalling was lost
// for a moment. A narrow path does not get more then than it carries.
func TestASubscriberThatStaysDisturbsNothing(t *testing.T) {
	var tab table
	tab.head()
	for _, seed := range []uint64{1, 7, 11} {
		for _, rate := range []float64{250e3, 400e3, 700e3} {
			c := plain()
			c.Rate = rate
			s := newPathOf(seed, c, 1)
			before := s.phase(40*time.Second, rate)
			s.move(seed, c, false)
			m := s.phase(10*time.Second, rate)
			tab.row("before", before, s.oracle(rate))
			tab.row("then", m, s.oracle(rate))
			require.LessOrEqual(t, m.frozen, 300*time.Millisecond)
			require.LessOrEqual(t, m.p95, 100*time.Millisecond)
			require.GreaterOrEqual(t, m.steady, 0.9*before.steady)
		}
	}
	t.Log(tab.String())
}

// A path learns by itself that its way has changed. While it has not, the estimate stays.
func TestAPathThatFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(still{})
		to := func(addr, network string) Way {
			return Way{Socket: nowhere{}, Remote: netip.MustParseAddrPort(addr), Network: network}
		}
		keys := srtpout.Keys{Profile: srtp.ProtectionProfileAeadAes128Gcm, Key: make([]byte, 16), Salt: make([]byte, 12)}
		d.Choose(to("192.0.2.1:1", "home"), func() (srtpout.Keys, error) { return keys, nil }, &srtpout.Buffers{}, slog.New(slog.DiscardHandler))
		d.Connected()
		s := &small{path: d, burst: d.NewBurst()}
		d.Add(s, nil, time.Now())
		send := func(times int) {
			for range times {
				for range 3 {
					s.leave(500, sent.Video)
					time.Sleep(20 * time.Millisecond)
				}
				s.report()
				d.Tick(time.Now())
				synctest.Wait()
			}
		}
		send(100)
		before := d.Stats()
		require.Equal(t, "probe", before.Cause)
		require.True(t, d.Follow(to("192.0.2.1:1", "home")))
		require.Equal(t, before.Cause, d.Stats().Cause, "it is the same")
		d.Stop()
		require.True(t, d.Follow(to("192.0.2.1:1", "home")))
		require.Equal(t, before.Cause, d.Stats().Cause, "it is the same again")

		s.leave(500, sent.Video) // its delay, which is the former way's, does not count
		require.True(t, d.Follow(to("192.0.2.1:2", "home")))
		require.Equal(t, "start", d.Stats().Cause)
		s.late = 150 * time.Millisecond
		send(20)
		require.Less(t, d.Stats().Queue, 10*time.Millisecond, "it is longer")
		require.GreaterOrEqual(t, d.Stats().Estimate, before.Estimate/2)

		d.Dropped(1, 1, 200*time.Millisecond) // it gets narrow
		require.Less(t, d.Stats().Estimate, float64(StartBitrate))
		require.True(t, d.Follow(to("192.0.2.1:3", "home")))
		require.Less(t, d.Stats().Estimate, float64(StartBitrate), "the network is the same")
		require.True(t, d.Follow(to("198.51.100.1:1", "mobile")))
		require.GreaterOrEqual(t, d.Stats().Estimate, float64(StartBitrate), "it is another one")
		require.False(t, d.Follow(Way{}), "it leads nowhere")
	})
}

type nowhere struct{}

func (nowhere) WriteToAddrPort(p []byte, _ netip.AddrPort) (int, error) { return len(p), nil }
