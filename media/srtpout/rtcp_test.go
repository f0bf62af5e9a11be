package srtpout

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/pion/rtcp"
	"github.com/pion/srtp/v3"
	"github.com/stretchr/testify/require"
)

// A receiver takes a Sender's RTCP after pion's of the same keys, and no index twice.
func TestRTCPFollowsPions(t *testing.T) {
	t.Parallel()
	for _, p := range profiles {
		k, w := randomKeys(t, p), &wire{}
		pions, err := srtp.CreateContext(k.Key, k.Salt, p)
		require.NoError(t, err)
		receiver, err := srtp.CreateContext(k.Key, k.Salt, p, srtp.SRTCPReplayProtection(64))
		require.NoError(t, err)
		s := newSender(t, w, k)
		of := func(ssrc uint32) []byte {
			raw, err := rtcp.Marshal([]rtcp.Packet{
				&rtcp.ReceiverReport{SSRC: ssrc}, &rtcp.PictureLossIndication{SenderSSRC: ssrc, MediaSSRC: 7},
			})
			require.NoError(t, err)
			return raw
		}
		seen := map[[2]uint32]bool{}
		takes := func(sealed, plain []byte) {
			t.Helper()
			got, err := receiver.DecryptRTCP(nil, sealed, nil)
			require.NoError(t, err)
			require.Equal(t, plain, got)
			at := len(sealed) - 4
			if p == srtp.ProtectionProfileAes128CmHmacSha1_80 {
				at -= 10 // the tag is at the end
			}
			index := [2]uint32{binary.BigEndian.Uint32(sealed[4:]), binary.BigEndian.Uint32(sealed[at:])}
			require.False(t, seen[index], index)
			seen[index] = true
		}
		for range 3 {
			sealed, err := pions.EncryptRTCP(nil, of(1), nil)
			require.NoError(t, err)
			takes(sealed, of(1))
		}
		for i := range 6 {
			plain := of(uint32(1 + i%2))
			require.NoError(t, s.WriteRTCP(plain))
			takes(w.packets[i], plain)
			require.Equal(t, somewhere, w.to[i])
		}
		require.ErrorIs(t, s.WriteRTCP(of(1)[:4]), errShortRTCP)
		s.SetPath(nil, netip.AddrPort{})
		require.ErrorIs(t, s.WriteRTCP(of(1)), ErrNoRemote)
	}
}
