package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestKindsByName(t *testing.T) {
	for _, args := range [][]string{{"-only", "no such kind"}, {"-against", "ws://127.0.0.1:1"}, {"-rounds", "0"}, {"-nonsense"}} {
		require.Error(t, run(t.Context(), append([]string{loadsCommand}, args...), nil, &bytes.Buffer{}), args)
	}
	names := map[string]bool{}
	for _, k := range kinds() {
		require.False(t, names[k.name], k.name)
		names[k.name] = true
		require.Positive(t, k.clients())
		require.Equal(t, k.viewers > 0, k.floor.FPS > 0, "only a fan-out has a floor")
	}
}

func TestFiguresOfALoad(t *testing.T) {
	require.Zero(t, percentile(nil, 99))
	require.Equal(t, 95*time.Second, percentile([]time.Duration{95 * time.Second, time.Second, 2 * time.Second}, 95))
	mb, err := resident(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, mb, 1.0)
	_, err = resident(-1)
	require.Error(t, err)

	payload := make([]byte, 100)
	before := time.Now()
	stamp(payload)
	require.Equal(t, make([]byte, 100-stampSize), payload[:100-stampSize])
	stamped := int64(binary.BigEndian.Uint64(payload[100-stampSize:]))
	require.GreaterOrEqual(t, stamped, before.UnixNano())
	require.LessOrEqual(t, stamped, time.Now().UnixNano())

	o := outcome{sample: sample{packets: 1000, received: 900, user: time.Millisecond, system: time.Millisecond}, seconds: 2}
	var out bytes.Buffer
	printOutcome(&out, "meeting", "parlor", []outcome{o}, 0)
	require.Equal(t, "meeting parlor 450 2.00 - 50% 10.00% 0.0 0 0.0 0", strings.Join(strings.Fields(out.String()), " "))
	out.Reset()
	printOutcome(&out, "meeting", "parlor", []outcome{o}, 0.5)
	require.Contains(t, out.String(), "4.00")
}
