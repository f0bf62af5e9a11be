package packet

import (
	"bytes"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"
)

func ids() *ExtensionMap {
	m := &ExtensionMap{}
	m.Set(1, ExtAudioLevel)
	m.Set(12, ExtDependencyDescriptor)
	m.Set(0, ExtTransportCC) // not negotiated
	return m
}

func marshal(t testing.TB, p rtp.Packet) []byte {
	b, err := p.Marshal()
	require.NoError(t, err)
	return b
}

func TestParse(t *testing.T) {
	in := rtp.Packet{
		Header: rtp.Header{
			Version: 2, Marker: true, PayloadType: 96, SequenceNumber: 0xabcd, Timestamp: 7, SSRC: 9, CSRC: []uint32{1, 2},
		},
		Payload: []byte("payload"),
	}
	require.NoError(t, in.SetExtension(1, []byte{0x85}))
	require.NoError(t, in.SetExtension(12, []byte("abc")))
	require.NoError(t, in.SetExtension(5, []byte("unknown")))
	for _, profile := range []uint16{rtp.ExtensionProfileOneByte, rtp.ExtensionProfileTwoByte} {
		in.ExtensionProfile = profile
		p, err := NewPool().Parse(marshal(t, in), ids())
		require.NoError(t, err)
		require.Equal(t, []byte("payload"), p.Payload())
		require.Equal(t, uint16(0xabcd), p.Seq)
		require.Equal(t, uint32(7), p.Timestamp)
		require.Equal(t, uint32(9), p.SSRC)
		require.Equal(t, uint8(96), p.PayloadType)
		require.True(t, p.Marker)
		require.Equal(t, []byte{0x85}, p.Extension(ExtAudioLevel))
		require.Equal(t, []byte("abc"), p.Extension(ExtDependencyDescriptor))
		require.Nil(t, p.Extension(ExtTransportCC))
	}
}

func TestParsePadding(t *testing.T) {
	in := rtp.Packet{Header: rtp.Header{Version: 2, Padding: true, PaddingSize: 5}, Payload: []byte("xyz")}
	p, err := NewPool().Parse(marshal(t, in), ids())
	require.NoError(t, err)
	require.Equal(t, []byte("xyz"), p.Payload())
	in.Payload = nil
	raw := marshal(t, in)
	p, err = NewPool().Parse(raw, ids())
	require.NoError(t, err)
	require.Empty(t, p.Payload())
	raw[len(raw)-1] = 200
	_, err = NewPool().Parse(raw, ids())
	require.ErrorIs(t, err, ErrMalformed, "more padding than packet")
}

func TestParseRefuses(t *testing.T) {
	pool := NewPool()
	_, err := pool.Parse(make([]byte, MaxSize+1), ids())
	require.ErrorIs(t, err, ErrTooLarge)
	for name, raw := range map[string][]byte{
		"empty":              {},
		"version 1":          append([]byte{0x40}, make([]byte, 20)...),
		"short":              append([]byte{0x80}, make([]byte, 10)...),
		"CSRCs beyond":       append([]byte{0x8f}, make([]byte, 20)...),
		"extension beyond":   append([]byte{0x90}, append(make([]byte, 11), 0xbe, 0xde, 0, 9, 1, 2, 3, 4)...),
		"no padding to read": append([]byte{0xa0}, make([]byte, 11)...),
	} {
		_, err := pool.Parse(raw, ids())
		require.ErrorIs(t, err, ErrMalformed, name)
	}
}

// Pion parses the same, and all parts are within the packet.
func FuzzParse(f *testing.F) {
	f.Add([]byte{0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0xbe, 0xde, 0, 1, 0x10, 0x85, 0, 0, 'x'})
	f.Add([]byte{0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0x10, 0, 0, 1, 1, 1, 0x85, 0, 'x'})
	f.Fuzz(func(t *testing.T, raw []byte) {
		pool := NewPool()
		p, err := pool.Parse(raw, ids())
		if err != nil {
			return
		}
		defer p.Release()
		var theirs rtp.Packet
		if theirs.Unmarshal(raw) != nil {
			return // pion rejects malformed extensions, which are skipped here
		}
		require.Equal(t, theirs.SequenceNumber, p.Seq)
		require.Equal(t, theirs.Timestamp, p.Timestamp)
		require.Equal(t, theirs.SSRC, p.SSRC)
		require.True(t, bytes.Equal(theirs.Payload, p.Payload()))
	})
}

func TestRing(t *testing.T) {
	pool, r := NewPool(), NewRing(3, time.Hour)
	require.Equal(t, 4, r.Len())
	put := func(ext int64) bool {
		p, err := pool.Parse(marshal(t, rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(ext)}}), ids())
		require.NoError(t, err)
		defer p.Release()
		p.Ext = ext
		return r.Put(p)
	}
	for ext := range int64(5) {
		require.True(t, put(ext+10))
	}
	require.Nil(t, r.Get(10), "overwritten")
	got := r.Get(12)
	require.Equal(t, int64(12), got.Ext)
	require.False(t, put(12), "there already")
	require.False(t, put(10), "its place has a newer one")
	r.Clear()
	require.Nil(t, r.Get(12))
	require.Equal(t, int32(1), got.refs.Load(), "a holder keeps the packet")
	got.Release()
}

func TestARingForgetsWithTime(t *testing.T) {
	pool, r := NewPool(), NewRing(256, 2*time.Second)
	put := func(ext int64, at time.Duration) bool {
		p, err := pool.Parse(marshal(t, rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(ext)}}), ids())
		require.NoError(t, err)
		defer p.Release()
		p.Ext, p.Arrival = ext, int64(at)
		return r.Put(p)
	}
	at := time.Duration(0)
	for ext := range int64(1000) {
		if ext%7 == 3 {
			continue // lost
		}
		at = time.Duration(ext) * 20 * time.Millisecond
		require.True(t, put(ext, at))
		require.LessOrEqual(t, r.Held(), 101)
	}
	require.Nil(t, r.Get(890))
	got := r.Get(901)
	require.NotNil(t, got)
	got.Release()
	require.False(t, put(800, at), "too old")
	require.True(t, put(997, at), "late")
	require.True(t, put(962, at), "late")
	require.True(t, put(50_000, at+time.Second), "after a jump of the numbers")
	require.Equal(t, 1, r.Held())
	r.Clear()
	require.Zero(t, r.Held())
	require.True(t, put(20, at+time.Minute), "after it was cleared")
	require.True(t, put(19, at+time.Minute), "reordered at the beginning")
}
