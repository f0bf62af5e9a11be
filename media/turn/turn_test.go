package turn

import (
	"encoding/binary"
	"testing"

	"github.com/pion/stun/v3"
	"github.com/stretchr/testify/require"
)

// TestFor: on a port that media and TURN share, each packet has one reader.
func TestFor(t *testing.T) {
	build := func(setters ...stun.Setter) []byte {
		m, err := stun.Build(append([]stun.Setter{stun.TransactionID}, setters...)...)
		require.NoError(t, err)
		return m.Raw
	}
	mine := map[string][]byte{
		"allocate":        build(stun.NewType(stun.MethodAllocate, stun.ClassRequest)),
		"refresh, signed": build(stun.NewType(stun.MethodRefresh, stun.ClassRequest), stun.NewUsername("a"), stun.NewShortTermIntegrity("b")),
		"send":            build(stun.NewType(stun.MethodSend, stun.ClassIndication)),
		"channel data":    {0x40, 0x01, 0, 4, 1, 2, 3, 4},
		"last channel":    {0x4f, 0xff, 0, 0},
		"plain STUN":      build(stun.BindingRequest, stun.NewSoftware("a client")),
	}
	for name, p := range mine {
		require.True(t, For(p), name)
	}
	long := build(stun.BindingRequest, stun.NewSoftware("x"))
	binary.BigEndian.PutUint16(long[22:], 60000) // an attribute that is longer than the message
	media := map[string][]byte{
		"ICE's request":    build(stun.BindingRequest, stun.NewSoftware("a client"), stun.NewUsername("a:b")),
		"ICE's response":   build(stun.BindingSuccess),
		"ICE's indication": build(stun.NewType(stun.MethodBinding, stun.ClassIndication)),
		"an error":         build(stun.BindingError),
		"DTLS":             {22, 254, 253, 0, 0, 0, 0},
		"RTP":              {0x80, 96, 0, 0, 0, 0, 0, 0},
		"nothing":          {},
		"little":           {0, 1},
	}
	for name, p := range media {
		require.False(t, For(p), name)
	}
	For(long) // any reader may have it, but none reads past its end
}

func FuzzFor(f *testing.F) {
	f.Add([]byte{0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 1, 'a', 0, 0, 0})
	f.Fuzz(func(_ *testing.T, p []byte) { For(p) })
}
