package pacer

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/media/downlink/sent"
)

const ms = int64(time.Millisecond)

func ofVideo(stream uint32, size int) Packet {
	return Packet{Stream: stream, Size: size, Kind: sent.Video}
}

func TestBurstsPassWholeWhereThereIsRoom(t *testing.T) {
	var p Pacer[int]
	for i := range 30 {
		require.Equal(t, Send, p.Offer(0, ofVideo(1, 1200), i), "no rate is known")
	}
	p.SetRate(0, 20e6, false)
	for frame := range int64(30) {
		for i := range 30 { // 36 kB key frames
			require.Equal(t, Send, p.Offer(frame*33*ms, ofVideo(1, 1200), i))
		}
	}
	require.Zero(t, p.When(0))
}

// A key frame of 18 kB on a path of 600 kbit/s leaves within some 200 ms, and never
// much faster than the path carries it.
func TestAKeyFrameIsShapedWhereTheEstimateIsNear(t *testing.T) {
	var p Pacer[int]
	p.SetRate(0, 600_000, false)
	passed := 0
	for i := range 15 {
		if p.Offer(0, ofVideo(1, 1200), i) == Send {
			passed += 1200
		}
	}
	require.LessOrEqual(t, passed, 4800)
	now, last := int64(0), -1
	for now = p.When(0); now != 0; now = p.When(now) {
		at := now
		for {
			v, pkt, verdict := p.Next(at)
			if verdict == Nothing {
				break
			}
			require.Equal(t, Send, verdict)
			require.Greater(t, v, last, "in order")
			last = v
			passed += pkt.Size
			require.LessOrEqual(t, float64(passed), 4800+600_000/8*1.3*float64(at)/1e9+1)
		}
		if p.waiting > 0 {
			require.Greater(t, p.When(at), at, "no spinning")
		}
		require.Less(t, at, 250*ms)
	}
	require.Equal(t, 18000, passed)
}

// While a path is in doubt, nothing leaves but sound, even where no rate is known.
func TestWhileSuspendedSoundAlonePasses(t *testing.T) {
	for _, rate := range []float64{0, 20e6} {
		var p Pacer[int]
		p.SetRate(0, rate, false)
		p.Suspend(100 * ms)
		require.Equal(t, Queued, p.Offer(10*ms, ofVideo(1, 1200), 1))
		require.Equal(t, Send, p.Offer(10*ms, Packet{Size: 120, Kind: sent.Audio}, 2))
		require.Equal(t, 100*ms, p.When(10*ms))
		_, _, verdict := p.Next(99 * ms)
		require.Equal(t, Nothing, verdict)
		v, _, verdict := p.Next(100 * ms)
		require.Equal(t, Send, verdict)
		require.Equal(t, 1, v)

		p.Suspend(300 * ms)
		require.Equal(t, Queued, p.Offer(200*ms, ofVideo(1, 1200), 3))
		p.Resume()
		_, _, verdict = p.Next(200 * ms)
		require.Equal(t, Send, verdict, "the doubt is over")
	}
}

// A path that was full may have no room for sound, either, until a packet of video has left it.
// Sound waits for that, and keeps its order.
func TestSoundWaitsWhileThePathIsFull(t *testing.T) {
	for _, rate := range []float64{0, 200_000} {
		var p Pacer[int]
		p.SetRate(0, rate, false)
		p.Mute(40 * ms)
		sound := Packet{Size: 120, Kind: sent.Audio}
		require.Equal(t, Queued, p.Offer(10*ms, sound, 1))
		require.Equal(t, Queued, p.Offer(30*ms, sound, 2))
		require.Equal(t, 40*ms, p.When(30*ms))
		_, _, verdict := p.Next(39 * ms)
		require.Equal(t, Nothing, verdict)
		require.Equal(t, Queued, p.Offer(50*ms, sound, 3), "those before it have not left")
		for want := 1; want <= 3; want++ {
			v, _, verdict := p.Next(50 * ms)
			require.Equal(t, Send, verdict)
			require.Equal(t, want, v)
		}
		require.Zero(t, p.When(50*ms))
		require.Equal(t, Send, p.Offer(50*ms, sound, 4))
	}
}

func TestAudioAndRepeatsGoFirst(t *testing.T) {
	var p Pacer[string]
	p.SetRate(0, 300_000, false)
	for p.Offer(0, ofVideo(1, 1200), "video") == Send {
	}
	require.Equal(t, Queued, p.Offer(0, Packet{Size: 200, Kind: sent.Padding}, "padding"))
	require.Equal(t, Queued, p.Offer(0, Packet{Size: 1200, Kind: sent.Repeat}, "repeat"))
	require.Equal(t, Send, p.Offer(0, Packet{Size: 120, Kind: sent.Audio}, "audio"), "audio never waits")
	var got []string
	for at := p.When(0); at != 0; at = p.When(at) {
		if v, _, verdict := p.Next(at); verdict == Send {
			got = append(got, v)
		}
	}
	require.Equal(t, []string{"repeat", "video", "padding"}, got)
}

func TestWhatIsTooOldIsDroppedUpToTheNextKeyFrame(t *testing.T) {
	var p Pacer[int]
	p.SetRate(0, 30_000, false)
	for p.Offer(0, ofVideo(1, 1200), -1) == Send {
	}
	p.Offer(0, ofVideo(1, 1200), 0)
	end := ofVideo(1, 1200)
	end.End = true
	p.Offer(0, end, 1)
	p.Offer(1, ofVideo(1, 1200), 2) // of the next frame, which depends on the one before
	p.Offer(1, ofVideo(2, 1200), 3)
	at := 251 * ms
	asked := map[uint32]int{}
	for {
		_, pkt, verdict := p.Next(at)
		if verdict == Nothing {
			break
		}
		require.NotEqual(t, Send, verdict)
		if verdict == DropAndAsk {
			asked[pkt.Stream]++
		}
	}
	require.Equal(t, map[uint32]int{1: 1, 2: 1}, asked, "once a stream")
	require.Zero(t, p.waiting)
	at += 2000 * ms // the debt is paid
	require.Equal(t, Drop, p.Offer(at, ofVideo(1, 500), 4))
	key := ofVideo(1, 500)
	key.KeyStart = true
	require.Equal(t, Send, p.Offer(at, key, 5))
	require.Equal(t, Send, p.Offer(at, ofVideo(1, 500), 6))
	require.Equal(t, Drop, p.Offer(at, ofVideo(2, 500), 7), "each stream has its own key frame")
	p.Forget(2)
	require.Equal(t, Send, p.Offer(at, ofVideo(2, 500), 8))
}

func TestAFrameOnWhichNothingDependsIsDroppedAlone(t *testing.T) {
	var p Pacer[int]
	p.SetRate(0, 30_000, false)
	for {
		d := ofVideo(1, 1200)
		d.Disposable = true
		if p.Offer(0, d, 0) != Send {
			break
		}
	}
	end := ofVideo(1, 100)
	end.Disposable, end.End = true, true
	p.Offer(0, end, 1)
	p.Offer(200*ms, ofVideo(1, 100), 2)
	for range 2 {
		_, _, verdict := p.Next(251 * ms)
		require.Equal(t, Drop, verdict)
	}
	v, _, verdict := p.Next(251 * ms)
	require.Equal(t, Send, verdict)
	require.Equal(t, 2, v)
	require.Zero(t, p.Counters().Broken)
}

// The end of a frame that is dropped alone may not come. The next frame is not its rest.
func TestTheFrameAfterOneThatDidNotEndIsSent(t *testing.T) {
	for _, next := range []Packet{{Disposable: true, Start: true}, {Start: true}, {}} {
		var p Pacer[int]
		p.SetRate(0, 30_000, false)
		for {
			d := ofVideo(1, 1200)
			d.Disposable = true
			if p.Offer(0, d, 0) != Send {
				break
			}
		}
		d := ofVideo(1, 100)
		d.Disposable = next.Disposable
		d.Start = next.Start
		require.Equal(t, Queued, p.Offer(200*ms, d, 2))
		d.Start, d.End = false, true
		require.Equal(t, Queued, p.Offer(200*ms, d, 3))
		_, _, verdict := p.Next(251 * ms)
		require.Equal(t, Drop, verdict)
		for want := 2; want <= 3; want++ {
			v, _, verdict := p.Next(251 * ms)
			require.Equal(t, Send, verdict)
			require.Equal(t, want, v)
		}
		require.False(t, p.Broken())
	}
}

// A stream that has ended leaves nothing behind: none of its packets that wait is sent, or makes
// the path look as if it had dropped what others need.
func TestAStreamThatHasEndedIsNotBroken(t *testing.T) {
	var p Pacer[int]
	p.SetRate(0, 30_000, false)
	for p.Offer(0, ofVideo(1, 1200), 1) == Send {
	}
	require.Equal(t, Queued, p.Offer(0, ofVideo(1, 1200), 1))
	require.Equal(t, Queued, p.Offer(200*ms, ofVideo(2, 100), 2))
	p.End(1)
	p.Forget(1)
	var dropped int
	for at := int64(251 * ms); ; at += 10 * ms {
		v, _, verdict := p.Next(at)
		if v == 2 {
			require.Equal(t, Send, verdict)
			break
		}
		require.Contains(t, []Verdict{Nothing, Drop}, verdict)
		if verdict == Drop {
			dropped++
		}
	}
	require.Equal(t, 2, dropped)
	require.False(t, p.Broken())
	require.Zero(t, p.Counters().Broken)
}

func TestAKeyFrameReplacesWhatWaitsWhileAQueueIsEmptied(t *testing.T) {
	var p Pacer[int]
	p.SetRate(0, 300_000, true)
	for p.Offer(0, ofVideo(1, 1200), 0) == Send {
	}
	p.Offer(0, ofVideo(1, 1200), 0)
	p.Offer(0, ofVideo(2, 1200), 2)
	key := ofVideo(1, 500)
	key.KeyStart = true
	require.Equal(t, Queued, p.Offer(1, key, 1))
	var got []int
	for at := p.When(1); at != 0; at = p.When(at) {
		switch v, _, verdict := p.Next(at); verdict {
		case Send:
			got = append(got, v)
		case Drop:
			require.Zero(t, v)
		}
	}
	require.Equal(t, []int{2, 1}, got)
}

func TestTheQueueIsBoundedInNumber(t *testing.T) {
	var p Pacer[int]
	p.SetRate(0, 30_000, false)
	asked := 0
	for i := range 3 * mostWaiting {
		if p.Offer(0, ofVideo(1, 100), i) == DropAndAsk {
			asked++
		}
	}
	require.Positive(t, asked)
	require.LessOrEqual(t, p.waiting, mostWaiting)
	require.LessOrEqual(t, len(p.broken), 1)
}

func TestPacerDoesNotAllocate(t *testing.T) {
	var p Pacer[[2]uintptr]
	p.SetRate(0, 1_000_000, false)
	now := int64(0)
	step := func() {
		now += 33 * ms
		for range 5 {
			p.Offer(now, ofVideo(1, 1100), [2]uintptr{})
		}
		for {
			if _, _, verdict := p.Next(now); verdict == Nothing {
				break
			}
		}
	}
	for range 1000 {
		step()
	}
	require.Zero(t, testing.AllocsPerRun(1000, step))
}

// A stream that broke on the path is dropped until its next key frame, for which the first
// packet asks; others are not concerned.
func TestAStreamThatBreaksOnThePath(t *testing.T) {
	var p Pacer[int]
	require.Equal(t, Send, p.Offer(0, ofVideo(1, 1000), 0))
	p.Break(1)
	p.Break(1)
	require.True(t, p.Broken())
	require.Equal(t, DropAndAsk, p.Offer(0, ofVideo(1, 1000), 1))
	require.Equal(t, Drop, p.Offer(0, ofVideo(1, 1000), 2))
	require.Equal(t, Send, p.Offer(0, ofVideo(2, 1000), 3))
	require.Equal(t, Send, p.Offer(0, Packet{Stream: 1, Size: 50, Kind: sent.Repeat}, 4))
	key := ofVideo(1, 1000)
	key.KeyStart = true
	require.Equal(t, Send, p.Offer(0, key, 5))
	require.False(t, p.Broken())

	p.SetRate(0, 100_000, false)
	for i := range 10 {
		p.Offer(0, ofVideo(1, 1000), i)
	}
	p.Break(1)
	_, _, verdict := p.Next(ms)
	require.Equal(t, DropAndAsk, verdict, "what waits comes first")
	require.Equal(t, 1, int(p.counters.Broken)-1, "once more")
	for waiting, _ := p.Waiting(); waiting > 0; waiting, _ = p.Waiting() {
		_, _, verdict = p.Next(ms)
		require.Equal(t, Drop, verdict)
	}
}

// What is asked for again of before a key frame leaves where there is room, but holds up
// neither the key frame nor what follows it.
func TestRepeatsOfBeforeAKeyFrameHoldNothingUp(t *testing.T) {
	var p Pacer[int]
	repeat := Packet{Stream: 1, Size: 1200, Kind: sent.Repeat}
	needless := repeat
	needless.Needless = true
	require.Equal(t, Send, p.Offer(ms, needless, 0), "no rate is known")
	p.SetRate(ms, 300_000, false)
	n := 0
	for ; p.Offer(ms, repeat, n) == Send; n++ {
	}
	require.Equal(t, Queued, p.Offer(ms, Packet{Stream: 2, Size: 1200, Kind: sent.Repeat}, 100), "of another stream")
	key := ofVideo(1, 1200)
	key.KeyStart = true
	require.Equal(t, Queued, p.Offer(ms, key, 101))
	require.Equal(t, Drop, p.Offer(ms, needless, 102))
	require.Equal(t, Queued, p.Offer(ms, repeat, 103), "of the key frame itself")
	var left []int
	for now := p.When(ms); now != 0; now = p.When(now) {
		for {
			v, _, verdict := p.Next(now)
			if verdict == Nothing {
				break
			}
			if verdict == Send {
				left = append(left, v)
			}
		}
	}
	require.Equal(t, []int{100, 103, 101}, left)
}

// A keyframe that a narrow path takes long for passes whole, with what is behind it, once it
// has begun to leave. Nothing else waits so long.
func TestALargeKeyFramePasses(t *testing.T) {
	var p Pacer[int]
	p.SetRate(0, 1e6, false)
	now := int64(0)
	n := 0
	offer := func(pkt Packet) {
		n++
		if verdict := p.Offer(now, pkt, n); verdict != Send {
			require.Equal(t, Queued, verdict)
		}
	}
	run := func(until int64) (dropped int, last int) {
		for ; now < until; now += ms {
			for {
				v, _, verdict := p.Next(now)
				if verdict == Nothing {
					break
				}
				if verdict != Send {
					dropped++
				}
				last = v
			}
		}
		return dropped, last
	}
	for i := range 60 {
		offer(Packet{Stream: 1, Size: 1200, Kind: sent.Video, KeyStart: i == 0, End: i == 59})
	}
	for range 3 { // of other frames, behind it
		offer(Packet{Stream: 1, Size: 1200, Kind: sent.Video, End: true})
		offer(Packet{Stream: 2, Size: 1200, Kind: sent.Video, End: true})
	}
	dropped, last := run(1000 * ms)
	require.Zero(t, dropped)
	require.Equal(t, n, last)
	require.False(t, p.Broken())
	offer(ofVideo(1, 1200))
	run(now + 100*ms)

	for range 60 { // without a keyframe
		offer(ofVideo(1, 1200))
	}
	dropped, _ = run(now + 1000*ms)
	require.NotZero(t, dropped)
	require.True(t, p.Broken())

	// One that the path does not take in time is given up.
	p = Pacer[int]{}
	p.SetRate(now, 100e3, false)
	for i := range 60 {
		offer(Packet{Stream: 1, Size: 1200, Kind: sent.Video, KeyStart: i == 0, End: i == 59})
	}
	began := now
	dropped, _ = run(now + 3000*ms)
	require.NotZero(t, dropped)
	require.True(t, p.Broken())
	packets, _ := p.Waiting()
	require.Zero(t, packets, "after %d ms", (now-began)/ms)
}

// While a queue drains, a keyframe that takes too long is dropped once, and the next one passes:
// otherwise each would be dropped, for as long as the next one makes a queue.
func TestTheNextKeyFramePassesThoughAQueueDrains(t *testing.T) {
	var p Pacer[int]
	p.SetRate(0, 1e6, true)
	now := int64(0)
	key := func() (dropped int) {
		for i := range 60 {
			p.Offer(now, Packet{Stream: 1, Size: 1200, Kind: sent.Video, KeyStart: i == 0, End: i == 59}, i)
		}
		for until := now + 900*ms; now < until; now += ms {
			for {
				_, _, verdict := p.Next(now)
				if verdict == Nothing {
					break
				}
				if verdict != Send {
					dropped++
				}
			}
		}
		return dropped
	}
	require.NotZero(t, key())
	require.True(t, p.Broken())
	require.Zero(t, key())
	require.False(t, p.Broken())
	now += 10_000 * ms
	require.NotZero(t, key(), "it is another one")
}
