package icemux

import (
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v3"
	"github.com/stretchr/testify/require"
)

// TestBindingRequestsOfNobody are answered with the sender's address, some a second; those that
// name a session, or ask for more than an address, are not.
func TestBindingRequestsOfNobody(t *testing.T) {
	r := newRig(t, nil)
	remote := r.remote()
	plain, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewSoftware("check"), stun.Fingerprint)
	require.NoError(t, err)
	elsewhere, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: stun.AttrChangeRequest, Value: []byte{0, 0, 0, 6}})
	require.NoError(t, err)
	for n, m := range []*stun.Message{request(t, "nobody"), elsewhere} {
		send(t, remote, m.Raw)
		require.Eventually(t, func() bool { return r.counters.Unknown.Load() == uint64(n+1) }, time.Minute, time.Millisecond)
	}
	send(t, remote, plain.Raw)
	b := make([]byte, maxPacket)
	require.NoError(t, remote.SetReadDeadline(time.Now().Add(time.Minute)))
	n, err := remote.Read(b)
	require.NoError(t, err)
	answer := &stun.Message{Raw: b[:n]}
	require.NoError(t, answer.Decode())
	require.Equal(t, plain.TransactionID, answer.TransactionID)
	require.Equal(t, stun.BindingSuccess, answer.Type)
	var mapped stun.XORMappedAddress
	require.NoError(t, mapped.GetFrom(answer))
	require.Equal(t, remote.LocalAddr().String(), mapped.String())
	require.LessOrEqual(t, n, 2*len(plain.Raw), "nobody is flooded by way of us")

	p := r.mux.ports[0]
	m, ok := parseSTUN(plain.Raw)
	require.True(t, ok)
	src := netip.MustParseAddrPort(remote.LocalAddr().String())
	at := time.Now().Add(time.Minute)
	before := r.counters.Unknown.Load()
	for range bindingsPerSecond + 3 {
		p.answerBinding(&m, src, at)
	}
	require.EqualValues(t, 3, r.counters.Unknown.Load()-before, "no more of them a second")
	p.answerBinding(&m, src, at.Add(time.Second))
	require.EqualValues(t, 3, r.counters.Unknown.Load()-before)
	require.Less(t, len(p.owners)+len(p.sessions), 1, "whoever asks owns nothing")
}
