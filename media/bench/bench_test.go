package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/pion/rtp/codecs"
	"github.com/stretchr/testify/require"

	"os"
)

// TestFloor lets both floors send a short window and counts what arrives.
func TestFloor(t *testing.T) {
	for _, offload := range []bool{false, true} {
		k, err := openSinks(3)
		require.NoError(t, err)
		f, err := newFloor(floorOrder{
			Offload: offload, Destinations: k.addrs, Window: 100 * time.Millisecond, FPS: 100, PerFrame: 7, Len: 1150,
		})
		require.NoError(t, err)
		require.Equal(t, 10*7*3, f.send())
		require.Eventually(t, func() bool { return k.received.Load() == 10*7*3 }, time.Minute, time.Millisecond)
		f.close()
		k.close()
	}
}

func TestFloorCommand(t *testing.T) {
	k, err := openSinks(1)
	require.NoError(t, err)
	defer k.close()
	in := `{"Offload":true,"Destinations":["` + k.addrs[0].String() + `"],"Window":50000000,"FPS":100,"PerFrame":7,"Len":1150}` +
		"\ngo\n"
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{floorCommand}, bytes.NewBufferString(in), &out))
	require.Equal(t, "ready\n{\"Packets\":35}\n", out.String())
	require.Error(t, run(t.Context(), []string{floorCommand}, bytes.NewBufferString("{"), &out))
}

func TestCPUTime(t *testing.T) {
	u0, s0, err := cpuTime(os.Getpid())
	require.NoError(t, err)
	for end := time.Now().Add(150 * time.Millisecond); time.Now().Before(end); {
	}
	u1, s1, err := cpuTime(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, u1+s1, u0+s0)
	_, _, err = cpuTime(-1)
	require.Error(t, err)
}

// TestFramesLookLikeVP8 unpacks frames as a receiver would.
func TestFramesLookLikeVP8(t *testing.T) {
	p, err := newPublication(settings{fps: 25, perFrame: 7, payload: 1150})
	require.NoError(t, err)
	p.picture = 300
	for _, key := range []bool{true, false} {
		for _, first := range []bool{true, false} {
			b := p.body(first, key)
			require.Len(t, b, 1150)
			var v codecs.VP8Packet
			frame, err := v.Unmarshal(b)
			require.NoError(t, err)
			require.EqualValues(t, 300, v.PictureID)
			require.Equal(t, first, v.S == 1)
			require.Len(t, frame, 1146)
			if first {
				require.Equal(t, key, frame[0]&1 == 0)
			}
		}
	}
}

func TestSpread(t *testing.T) {
	m, lo, hi := spread([]sample{
		{packets: 1000, user: 3 * time.Millisecond},
		{packets: 1000, system: time.Millisecond},
		{packets: 1000, user: time.Millisecond, system: time.Millisecond},
	}, sample.perPacket)
	require.Equal(t, []float64{2, 1, 3}, []float64{m, lo, hi})
	require.InDelta(t, 0.25, sample{packets: 100, received: 75}.loss(), 1e-9)
}

func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{{"-subs", "0"}, {"-url", "ws://x"}, {"-payload", "3"}, {"-nonsense"}} {
		require.Error(t, run(t.Context(), args, nil, &bytes.Buffer{}), args)
	}
}
