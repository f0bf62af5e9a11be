package media

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
	t.Parallel()
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

// withheld is a STUN server on 127.0.0.1 that says that it has 127.0.0.2, too. It answers the first
// request, which finds out whether it answers, and others when so many ports have asked. It calls
// strangers where its other address is to answer.
func withheld(t *testing.T, ports int, strangers func()) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		<-ended
	})
	go func() {
		defer close(ended)
		b := make([]byte, 1500)
		asking, met := map[string]bool{}, false
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			asked, seen := &stun.Message{Raw: b[:n]}, from.(*net.UDPAddr)
			if asked.Decode() != nil {
				continue
			}
			if asked.Contains(stun.AttrChangeRequest) {
				strangers()
				continue
			}
			if met {
				asking[from.String()] = true
			}
			if met && len(asking) < ports {
				continue
			}
			met = true
			answer, err := stun.Build(stun.NewTransactionIDSetter(asked.TransactionID), stun.BindingSuccess,
				&stun.XORMappedAddress{IP: seen.IP, Port: seen.Port}, &stun.OtherAddress{IP: net.IPv4(127, 0, 0, 2), Port: 3478})
			if err == nil {
				_, _ = conn.WriteTo(answer.Raw, from) // it asks again
			}
		}
	}()
	return conn.LocalAddr().String()
}

// TestPortsAreSeenAtTheSameTime, since each that is closed takes seconds. What the server had no
// time to tell is not known; the rest is.
func TestPortsAreSeenAtTheSameTime(t *testing.T) {
	all, err := SeenFrom(t.Context(), make([]int, 5), []string{withheld(t, 5, func() {})})
	require.NoError(t, err)
	require.Len(t, all, 5)
	for _, s := range all {
		require.Equal(t, s.Port, s.Mapped.Port())
		require.Equal(t, NotReached, s.Strangers)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all, err = SeenFrom(ctx, []int{0}, []string{withheld(t, 1, cancel)})
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, all[0].Port, all[0].Mapped.Port())
	require.Equal(t, ReachUnknown, all[0].Strangers)
}

// TestAPortThatIsTaken is no silence of the server, and hides no other port.
func TestAPortThatIsTaken(t *testing.T) {
	other, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer other.Close()
	taken := other.LocalAddr().(*net.UDPAddr).Port
	server := stunServer(t, true, false)
	all, err := SeenFrom(t.Context(), []int{taken}, []string{server})
	require.ErrorIs(t, err, ErrPort)
	require.False(t, Silent(err))
	require.Empty(t, all)
	all, err = SeenFrom(t.Context(), []int{taken, 0}, []string{server})
	require.ErrorIs(t, err, ErrPort)
	require.Len(t, all, 1)
	require.Equal(t, server, all[0].Server)
}

// hesitant is a STUN server that answers a request if answers says so.
func hesitant(t *testing.T, answers func() bool) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		<-ended
	})
	go func() {
		defer close(ended)
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			asked, seen := &stun.Message{Raw: b[:n]}, from.(*net.UDPAddr)
			if asked.Decode() != nil || !answers() {
				continue
			}
			answer, err := stun.Build(stun.NewTransactionIDSetter(asked.TransactionID), stun.BindingSuccess, &stun.XORMappedAddress{IP: seen.IP, Port: seen.Port})
			if err == nil {
				_, _ = conn.WriteTo(answer.Raw, from) // it asks again
			}
		}
	}()
	return conn.LocalAddr().String()
}

// TestServersAreAskedAtTheSameTime: the first answers when the second has been asked, which is
// silent. What an error says of one server does not hide behind the silence of another.
func TestServersAreAskedAtTheSameTime(t *testing.T) {
	t.Parallel()
	e, err := NewEngine(Config{BindAddresses: []string{"127.0.0.1"}, LoopbackCandidate: true, Log: testLog(t)})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	for name, ask := range map[string]func(servers []string) error{
		"ExternalAddress": func(servers []string) error {
			_, err := ExternalAddress(t.Context(), servers)
			return err
		},
		"Seen": func(servers []string) error {
			_, err := e.Seen(t.Context(), servers)
			return err
		},
		"SeenFrom": func(servers []string) error {
			_, err := SeenFrom(t.Context(), []int{0}, servers)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan struct{})
			var once sync.Once
			silent := hesitant(t, func() bool {
				once.Do(func() { close(heard) })
				return false
			})
			first := hesitant(t, func() bool {
				select {
				case <-heard:
					return true
				default:
					return false
				}
			})
			require.NoError(t, ask([]string{first, silent}))
			err := ask([]string{silent, silent})
			require.True(t, Silent(err), "%v", err)
			require.ErrorContains(t, ask([]string{silent, "no port"}), "missing port")
		})
	}
}

// TestAnswersThatDoNotReachAPort are told from a server's silence.
func TestAnswersThatDoNotReachAPort(t *testing.T) {
	t.Parallel()
	_, err := SeenFrom(t.Context(), []int{0}, []string{withheld(t, 2, func() {})})
	require.ErrorIs(t, err, ErrUnanswered)
	require.False(t, Silent(err))
}

// Of servers that answer at about the same time the first in the list counts, whichever is
// nearest.
func TestTheOrderOfServersCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		take := map[string]time.Duration{"far": 200 * time.Millisecond, "near": time.Millisecond, "farther": time.Second}
		ask := func(ctx context.Context, server string) (string, error) {
			select {
			case <-time.After(take[server]):
				return "by " + server, nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		for want, servers := range map[string][]string{"far": {"far", "near"}, "near": {"farther", "near", "far"}} {
			server, answer, err := firstAnswer(t.Context(), servers, ask)
			require.NoError(t, err)
			require.Equal(t, want, server)
			require.Equal(t, "by "+want, answer)
		}
	})
}
