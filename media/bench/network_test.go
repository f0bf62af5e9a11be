package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/pion/rtp/codecs"
	"github.com/stretchr/testify/require"

	"parlor/media/emulator"
)

// TestFramesOfLayers unpacks frames as a receiver would.
func TestFramesOfLayers(t *testing.T) {
	c, err := newCamera(1)
	require.NoError(t, err)
	c.picture[1], c.tl0[1] = 300, 7
	for _, key := range []bool{true, false} {
		b := c.payload(1, 2, key, !key, true, 200)
		require.Len(t, b, 200)
		var v codecs.VP8Packet
		frame, err := v.Unmarshal(b)
		require.NoError(t, err)
		require.EqualValues(t, 300, v.PictureID)
		require.EqualValues(t, 7, v.TL0PICIDX)
		require.EqualValues(t, 2, v.TID)
		require.Equal(t, !key, v.Y == 1, "layer sync")
		require.EqualValues(t, 1, v.S)
		require.Equal(t, key, frame[0]&1 == 0)
		if key {
			require.Equal(t, 360, heightOf(b))
		} else {
			require.Zero(t, heightOf(b))
		}
		require.Zero(t, heightOf(c.payload(1, 2, key, !key, false, 200)))
	}
}

func TestARelayStandsInTheServersPlace(t *testing.T) {
	p := &path{}
	p.set(clean(), emulator.Conditions{})
	defer func() { require.NoError(t, p.close()) }()
	text, err := p.rerouted("v=0\r\na=candidate:1 1 udp 2130706431 127.0.0.1 50000 typ host\r\n" +
		"a=candidate:2 1 tcp 1 127.0.0.1 50001 typ host tcptype passive\r\n" +
		"a=candidate:3 1 udp 1 192.0.2.1 50000 typ host\r\na=candidate:4 1 udp 1 ::1 50000 typ host\r\na=end-of-candidates\r\n")
	require.NoError(t, err)
	relay, err := p.to(p.server)
	require.NoError(t, err)
	require.Equal(t, "v=0\r\na=candidate:1 1 udp 2130706431 "+strings.Replace(relay.String(), ":", " ", 1)+" typ host\r\na=end-of-candidates\r\n", text)
	_, err = p.rerouted("candidate:1 1 udp 1 127.0.0.1 50002 typ host")
	require.Error(t, err)
	var none *path
	require.Equal(t, "a=candidate:1\r\n", none.hidden("a=candidate:1\r\n"))
	require.Equal(t, "v=0\r\n", p.hidden("v=0\r\na=candidate:1 1 udp 1 127.0.0.1 1 typ host\r\n"))
}

func TestScenariosByName(t *testing.T) {
	for _, args := range [][]string{{"-only", "no such thing"}, {"-nonsense"}} {
		require.Error(t, run(t.Context(), append([]string{networkCommand}, args...), nil, &bytes.Buffer{}), args)
	}
	names := map[string]bool{}
	for i, s := range scenarios(true) {
		require.False(t, names[s.name], s.name)
		names[s.name] = true
		require.Equal(t, s.phases[0].length, scenarios(false)[i].phases[0].length/3)
	}
	require.Greater(t, len(names), 8)
	require.Contains(t, (&result{reached: -1}).String(), "never")
	require.Contains(t, (&result{reached: time.Second, share: 0.5}).String(), "1.0 s")
}
