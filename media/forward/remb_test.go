package forward

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/netsim"
)

// uplink is a publisher in virtual time that sends what it wants, and no more than it is told
// by REMB.
type uplink struct {
	clock    netsim.Clock
	up, down *netsim.Link
	remb     *REMB
	wants    float64 // bits/s
	told     float64 // bits/s; 0 = nothing yet
	reports  []report
	absolute bool // it sends abs-send-time
	layers   int
	deaf     bool // it does not go by what it is told
	rand     *rand.Rand
	frames   int
	base     uint32
}

type report struct {
	at      time.Duration
	bitrate float64
	ssrcs   []uint32
}

var uplinkEpoch = time.Unix(1000, 0)

func newUplink(absolute bool, layers int, conditions netsim.Conditions) *uplink {
	u := &uplink{absolute: absolute, layers: layers, rand: rand.New(rand.NewPCG(7, 7)), base: 4294900000}
	u.up = netsim.NewLink(&u.clock, 1, conditions)
	u.down = netsim.NewLink(&u.clock, 2, netsim.Conditions{Delay: 20 * time.Millisecond})
	u.remb = NewREMB(func(packets []rtcp.Packet) error {
		p := packets[0].(*rtcp.ReceiverEstimatedMaximumBitrate)
		u.reports = append(u.reports, report{time.Duration(u.clock.Now()), float64(p.Bitrate), p.SSRCs})
		u.down.Send(60, func() { u.told = float64(p.Bitrate) })
		return nil
	})
	u.clock.Every(33_333*time.Microsecond, u.frame)
	return u
}

// frame sends a frame of each layer at once. Each third second has a key frame, which a pacer
// spreads.
func (u *uplink) frame() bool {
	rate := u.wants
	if !u.deaf {
		// Senders that know nothing begin with 300 kbit/s.
		if most := max(u.told, 300e3); u.told == 0 || u.told < rate {
			rate = min(rate, most*0.97)
		}
	}
	key := u.frames%90 == 0
	u.frames++
	parts := []float64{1, 3, 8}[:u.layers]
	whole := 0.0
	for _, p := range parts {
		whole += p
	}
	wait := time.Duration(0)
	for i, part := range parts {
		size := rate / 8 / 30 * part / whole * (0.85 + 0.3*u.rand.Float64())
		if key {
			size *= 3
		}
		stamp := u.base + uint32(u.frames*3000)
		for left := int(size); left > 0; left -= 1100 {
			n := min(left, 1100) + 40
			u.clock.After(wait, func() { u.packet(uint32(100+i), stamp, n) })
			if key { // paced at 2.5 times the bitrate, as libwebrtc does
				wait += time.Duration(float64(n*8) / (2.5 * rate) * float64(time.Second))
			}
		}
	}
	return true
}

func (u *uplink) packet(ssrc, stamp uint32, size int) {
	p := Received{SSRC: ssrc, Timestamp: stamp, ClockRate: 90000, Size: size, Media: true}
	if u.absolute {
		var v [4]byte
		// It wraps soon.
		binary.BigEndian.PutUint32(v[:], uint32((u.clock.Now()/1000*(1<<18)/1_000_000+15_000_000)&0xffffff))
		p.SendTime = v[1:]
	}
	u.up.Send(size+28, func() { u.remb.Record(p, uplinkEpoch.Add(time.Duration(u.clock.Now()))) })
}

// between are the estimates that were sent in that time.
func (u *uplink) between(from, to time.Duration) (out []float64) {
	for _, r := range u.reports {
		if r.at >= from && r.at < to {
			out = append(out, r.bitrate)
		}
	}
	return out
}

func bothClocks(t *testing.T, f func(t *testing.T, absolute bool, layers int)) {
	for _, absolute := range []bool{true, false} {
		for _, layers := range []int{1, 3} {
			t.Run(fmt.Sprintf("send times %v, layers %d", absolute, layers), func(t *testing.T) { f(t, absolute, layers) })
		}
	}
}

func mean(values []float64) (sum float64) {
	for _, v := range values {
		sum += v / float64(len(values))
	}
	return sum
}

// A publisher's bitrate follows its path: it finds what there is, falls with it without a
// lasting queue, and rises with it.
func TestREMBFollowsThePath(t *testing.T) {
	bothClocks(t, func(t *testing.T, absolute bool, layers int) {
		wide := netsim.Conditions{Rate: 20e6, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond}
		u := newUplink(absolute, layers, wide)
		u.wants = 2.5e6
		u.clock.Run(15 * time.Second)
		require.Greater(t, slices.Min(u.between(10*time.Second, 15*time.Second)), u.wants, "it finds what there is")
		for i, r := range u.reports[1:] {
			gap := r.at - u.reports[i].at
			require.True(t, gap >= 200*time.Millisecond || r.bitrate < 0.97*u.reports[i].bitrate, "%v at %v", gap, r.at)
			require.Less(t, gap, 300*time.Millisecond)
			require.Len(t, r.ssrcs, layers)
		}

		narrow := wide
		narrow.Rate = 600e3
		u.up.Set(narrow)
		u.clock.Run(18 * time.Second)
		u.up.TakeDelays()
		require.Less(t, slices.Max(u.between(16500*time.Millisecond, 18*time.Second)), 650e3, "it falls at once")
		u.clock.Run(45 * time.Second)
		delays := u.up.TakeDelays()
		slices.Sort(delays)
		t.Log("mean", mean(u.between(20*time.Second, 45*time.Second)), "most", slices.Max(u.between(20*time.Second, 45*time.Second)), "p50", delays[len(delays)/2], "p95", delays[len(delays)*95/100])
		require.Less(t, delays[len(delays)*95/100], 200*time.Millisecond, "no queue lasts")
		require.Greater(t, mean(u.between(20*time.Second, 45*time.Second)), 0.75*600e3)
		require.Less(t, slices.Max(u.between(20*time.Second, 45*time.Second)), 1.2*600e3)

		u.up.Set(wide)
		u.clock.Run(75 * time.Second)
		back := slices.IndexFunc(u.reports, func(r report) bool { return r.at > 45*time.Second && r.bitrate > u.wants })
		require.Positive(t, back)
		t.Log("back after", u.reports[back].at-45*time.Second)
		require.Less(t, u.reports[back].at, 65*time.Second, "it comes back")
		require.Greater(t, slices.Min(u.between(70*time.Second, 75*time.Second)), u.wants)
	})
}

// What a publisher is told does not sink while it sends little, also where packets come
// unevenly.
func TestREMBDoesNotSinkWithWhatIsSent(t *testing.T) {
	bothClocks(t, func(t *testing.T, absolute bool, layers int) {
		u := newUplink(absolute, layers, netsim.Conditions{Rate: 20e6, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond})
		u.wants = 2e6
		u.clock.Run(15 * time.Second)
		require.Greater(t, u.told, u.wants)
		u.wants = 100e3
		u.clock.Run(75 * time.Second)
		require.Greater(t, slices.Min(u.between(15*time.Second, 75*time.Second)), 2e6)
	})
}

// A path that becomes longer is not taken for one that is full for long.
func TestREMBOverALongerPath(t *testing.T) {
	bothClocks(t, func(t *testing.T, absolute bool, layers int) {
		way := netsim.Conditions{Rate: 20e6, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond}
		u := newUplink(absolute, layers, way)
		u.wants = 2e6
		u.clock.Run(15 * time.Second)
		way.Delay = 150 * time.Millisecond
		u.up.Set(way)
		u.clock.Run(45 * time.Second)
		require.Greater(t, slices.Min(u.between(40*time.Second, 45*time.Second)), u.wants)
	})
}

// A publisher that sends more than a start bitrate from the beginning is not told to send
// less, unless its path is narrow.
func TestREMBDoesNotHoldBackAQuickStart(t *testing.T) {
	bothClocks(t, func(t *testing.T, absolute bool, layers int) {
		u := newUplink(absolute, layers, netsim.Conditions{Rate: 20e6, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond})
		u.wants, u.deaf = 2e6, true
		u.clock.Run(10 * time.Second)
		require.Greater(t, slices.Min(u.between(0, 10*time.Second)), 1.7e6)

		u = newUplink(absolute, layers, netsim.Conditions{Rate: 500e3, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond})
		u.wants, u.deaf = 2e6, true
		u.clock.Run(20 * time.Second)
		require.Less(t, slices.Max(u.between(3*time.Second, 20*time.Second)), 500e3*1.1, "also if it does not listen")
	})
}

// A client that names ever more streams, times that jump and packets of any kind makes no
// state grow, and nothing fails.
func TestREMBOfAHostilePublisher(t *testing.T) {
	told := 0
	r := NewREMB(func(packets []rtcp.Packet) error {
		raw, err := rtcp.Marshal(packets)
		require.NoError(t, err)
		require.LessOrEqual(t, len(raw), 20+4*mostREMBStreams)
		told++
		return nil
	})
	rnd := rand.New(rand.NewPCG(1, 2))
	at := uplinkEpoch
	for range 200_000 {
		at = at.Add(time.Duration(rnd.Int64N(int64(2 * time.Millisecond))))
		switch rnd.IntN(1000) {
		case 0:
			at = at.Add(time.Duration(rnd.Int64N(int64(100 * time.Hour))))
		case 1:
			at = at.Add(-time.Second)
		}
		p := Received{SSRC: rnd.Uint32(), Timestamp: rnd.Uint32(), ClockRate: rnd.Uint32N(3) * 90000, Size: rnd.IntN(1600), Media: rnd.IntN(2) == 0}
		if rnd.IntN(3) == 0 {
			p.SendTime = []byte{byte(rnd.Uint32()), byte(rnd.Uint32()), byte(rnd.Uint32())}[:rnd.IntN(4)]
		}
		r.Record(p, at)
	}
	require.LessOrEqual(t, len(r.streams), mostREMBStreams)
	require.Positive(t, told)
	r.Close()
	told = 0
	r.Record(Received{SSRC: 1, Size: 100, Media: true}, at.Add(time.Second))
	require.Zero(t, told)
}

// The clock of a sender is read past its wraps, also after a pause.
func TestSenderClock(t *testing.T) {
	for bits, rate := range map[int]int64{24: 1 << 18, 32: 90000} {
		c := senderClock{bits: bits, rate: rate}
		mask := uint32(uint64(1)<<bits - 1)
		for _, at := range []time.Duration{0, 10 * time.Millisecond, time.Second, 20 * time.Second, 63 * time.Second, 65 * time.Second, 30 * time.Minute, 30*time.Minute - 5*time.Millisecond, 31 * time.Minute} {
			ticks := uint32(at.Nanoseconds()/1000*rate/1_000_000 + 16_000_000)
			require.InDelta(t, at, c.read(ticks&mask, int64(time.Second+at+3*time.Millisecond)), float64(20*time.Microsecond), "%v", at)
		}
	}
}
