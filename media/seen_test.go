package media

import (
	"net"
	"testing"

	"github.com/pion/stun/v3"
	"github.com/stretchr/testify/require"
)

// stunServer is a STUN server on 127.0.0.1 that says that it has 127.0.0.2, too, unless single,
// and answers from there on request, unless mute.
func stunServer(t *testing.T, single, mute bool) string {
	t.Helper()
	first, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	second, err := net.ListenPacket("udp4", "127.0.0.2:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	t.Cleanup(func() {
		require.NoError(t, first.Close())
		require.NoError(t, second.Close())
		<-ended
	})
	go func() {
		defer close(ended)
		b := make([]byte, 1500)
		for {
			n, from, err := first.ReadFrom(b)
			if err != nil {
				return
			}
			asked, seen, other := &stun.Message{Raw: b[:n]}, from.(*net.UDPAddr), second.LocalAddr().(*net.UDPAddr)
			if asked.Decode() != nil {
				continue
			}
			with := []stun.Setter{stun.NewTransactionIDSetter(asked.TransactionID), stun.BindingSuccess, &stun.XORMappedAddress{IP: seen.IP, Port: seen.Port}}
			if !single {
				with = append(with, &stun.OtherAddress{IP: other.IP, Port: other.Port})
			}
			answer, err := stun.Build(with...)
			if err != nil {
				continue
			}
			switch {
			case !asked.Contains(stun.AttrChangeRequest):
				_, _ = first.WriteTo(answer.Raw, from) // it asks again
			case !mute:
				_, _ = second.WriteTo(answer.Raw, from)
			}
		}
	}()
	return first.LocalAddr().String()
}

// TestHowASTUNServerSeesMedia: it sees the sockets of media themselves, while the server runs
// and before; one with two addresses tells whether packets of strangers arrive.
func TestHowASTUNServerSeesMedia(t *testing.T) {
	e, err := NewEngine(Config{BindAddresses: []string{"127.0.0.1"}, LoopbackCandidate: true, Log: testLog(t)})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	udp, _ := e.Addrs()
	for name, c := range map[string]struct {
		server string
		want   Reach
	}{
		"one address":                {stunServer(t, true, false), ReachUnknown},
		"two":                        {stunServer(t, false, false), Reached},
		"two, and the other is held": {stunServer(t, false, true), NotReached},
	} {
		t.Run(name, func(t *testing.T) {
			all, err := e.Seen(t.Context(), []string{c.server})
			require.NoError(t, err)
			require.Len(t, all, 1)
			require.Equal(t, udp[0].String(), all[0].Mapped.String())
			require.Equal(t, c.want, all[0].Strangers)
			require.Equal(t, c.server, all[0].Server)
			all, err = SeenFrom(t.Context(), []int{0}, []string{c.server})
			require.NoError(t, err)
			require.Equal(t, all[0].Port, all[0].Mapped.Port())
			require.Equal(t, c.want, all[0].Strangers)
		})
	}
	_, err = e.Seen(t.Context(), []string{udp[0].String()})
	require.ErrorContains(t, err, "does not see itself")
	_, err = e.Seen(t.Context(), nil)
	require.ErrorContains(t, err, "no STUN servers are configured")
}
