package media

import (
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	pionturn "github.com/pion/turn/v5"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// TestMain fails if goroutines outlive the tests. Every test closes its engine.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	fuzzing := flag.Lookup("test.fuzz").Value.String() != "" // fuzzing has its own goroutines
	deadline := time.Now().Add(10 * time.Second)
	for code == 0 && !fuzzing && runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "%d goroutines were left:\n%s\n", runtime.NumGoroutine()-before, buf[:runtime.Stack(buf, true)])
			code = 1
		}
		time.Sleep(10 * time.Millisecond)
	}
	os.Exit(code)
}

// Engine.Close ends peers that their owners did not close.
func TestEngineCloseEndsPeers(t *testing.T) {
	e, err := NewEngine(Config{BindAddresses: []string{"127.0.0.1"}, LoopbackCandidate: true, Log: testLog(t)})
	require.NoError(t, err)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	pump(t, a.publish("TR_1", opus, nil))
	p := a.published("TR_1")
	b := newClient(t, e, clientConfig{sid: "PA_b", single: true})
	b.subscribe("PA_a", p)
	b.join()
	b.receives("PA_a", "TR_1")
	require.Equal(t, 2, e.Stats().Peers)
	require.NoError(t, e.Close())
	require.Zero(t, e.Stats().Peers)
	_, err = e.NewPeer(PeerConfig{SID: "PA_c", Signals: unheard{}, Events: a.events})
	require.ErrorIs(t, err, ErrClosed)
	// A closed peer accepts all calls and does nothing.
	a.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte("late"))
	a.peer.Unsubscribe("TR_1")
	a.peer.Close()
}

func TestICERestart(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		pump(t, a.publish("TR_1", opus, nil))
		p := a.published("TR_1")
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.join()
		b.subscribe("PA_a", p)
		r := b.receives("PA_a", "TR_1")

		// The publisher restarts ICE by its own offer, the subscriber as its mode
		// requires.
		a.offer(true)
		down := b.sub
		if single {
			b.offer(true)
			down = b.pub
		}
		before := ufrag(t, down.CurrentRemoteDescription())
		b.peer.Resume()
		require.Eventually(t, func() bool { return ufrag(t, down.CurrentRemoteDescription()) != before }, patience, time.Millisecond)
		buf := make([]byte, 1500)
		for range 100 { // packets for more than a second during the restart
			_, _, err := r.Read(buf)
			require.NoError(t, err)
		}
		require.Eventually(t, func() bool {
			return a.pub.ICEConnectionState() == webrtc.ICEConnectionStateConnected &&
				down.ICEConnectionState() == webrtc.ICEConnectionStateConnected
		}, patience, time.Millisecond)
	})
}

// Packets of a track that come after the offer that ends it belong to no track: the
// client does not take them for another one.
func TestMediaLaterThanSignalling(t *testing.T) {
	t.Parallel()
	for _, codec := range []webrtc.RTPCodecCapability{opus, vp8} {
		t.Run(codec.MimeType, func(t *testing.T) {
			e := newTestEngine(t, nil)
			a := newClient(t, e, clientConfig{sid: "PA_a"})
			a.join()
			pump(t, a.publish("TR_1", codec, nil))
			p := a.published("TR_1")
			b := newClient(t, e, clientConfig{sid: "PA_b", settings: func(s *webrtc.SettingEngine) {
				s.SetNet(newLateNet(t, 200*time.Millisecond))
			}})
			b.join()
			for range 2 { // the second time in the section that the first left
				b.subscribe("PA_a", p)
				b.receives("PA_a", "TR_1")
				n := b.offered()
				b.peer.Unsubscribe("TR_1")
				require.Eventually(t, func() bool { return b.offered() > n }, patience, time.Millisecond)
				select {
				case r := <-b.tracks:
					require.FailNow(t, "a track that nobody publishes", "%q of %q", r.ID(), r.StreamID())
				case <-time.After(600 * time.Millisecond):
				}
			}
			require.Len(t, b.sub.GetTransceivers(), 1)
		})
	}
}

func (c *client) offered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.offers)
}

func ufrag(t *testing.T, d *webrtc.SessionDescription) string {
	t.Helper()
	_, after, ok := strings.Cut(d.SDP, "a=ice-ufrag:")
	require.True(t, ok)
	return strings.Fields(after)[0]
}

// An offer that was lost with its WebSocket is repeated when the client resumes, and ICE
// restarts after it.
func TestResumeWithAnOfferUnanswered(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	pump(t, a.publish("TR_1", opus, nil))
	p := a.published("TR_1")
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.join()
	b.mu.Lock()
	b.mute = true
	n := len(b.offers)
	b.mu.Unlock()
	b.subscribe("PA_a", p)
	require.Eventually(t, func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.offers) == n+1 }, patience, time.Millisecond)
	b.mu.Lock()
	b.mute = false
	b.mu.Unlock()
	b.peer.Resume()
	b.receives("PA_a", "TR_1")
	require.Eventually(t, func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.offers) == n+3 }, patience, time.Millisecond)
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Equal(t, b.offers[n].ID, b.offers[n+1].ID)
	require.Equal(t, b.offers[n].ID+1, b.offers[n+2].ID)
}

// A client that does not number its answers answers the same offer twice. The second
// answer is not taken for that to the next offer, which restarts ICE.
func TestAnAnswerTwice(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	pump(t, a.publish("TR_1", opus, nil))
	p := a.published("TR_1")
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.join()
	b.mu.Lock()
	b.mute, b.repeats = true, true
	n := len(b.offers)
	b.mu.Unlock()
	b.subscribe("PA_a", p)
	require.Eventually(t, func() bool { return b.offered() == n+1 }, patience, time.Millisecond)
	b.mu.Lock()
	b.mute = false
	before := ufrag(t, b.sub.LocalDescription())
	b.mu.Unlock()
	b.peer.Resume()
	b.receives("PA_a", "TR_1")
	require.Eventually(t, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.offers) == n+3 && ufrag(t, b.sub.LocalDescription()) != before
	}, patience, time.Millisecond)
	b.renegotiate() // both sides have the agreed state
	require.Eventually(t, func() bool {
		return b.offered() == n+4 && b.sub.ICEConnectionState() == webrtc.ICEConnectionStateConnected &&
			b.peer.sub.pc.ICEConnectionState() == webrtc.ICEConnectionStateConnected
	}, patience, time.Millisecond)
	require.Equal(t, ufrag(t, b.sub.LocalDescription()), ufrag(t, b.peer.sub.pc.CurrentRemoteDescription()))
}

func TestUnansweredOfferNeedsReconnect(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.NegotiationTimeout = 500 * time.Millisecond })
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	a.mu.Lock()
	a.mute = true
	a.mu.Unlock()
	a.renegotiate()
	a.events.wait(t, "reconnect")
	require.EqualValues(t, 1, e.Stats().NeedsReconnect)
}

func TestNeverConnectedIsAJoinFailure(t *testing.T) {
	e := newTestEngine(t, func(c *Config) {
		c.JoinTimeout, c.NegotiationTimeout = 50*time.Millisecond, 10*time.Millisecond
	})
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	require.Equal(t, livekit.DisconnectReason_JOIN_FAILURE, a.events.wait(t, "disconnected").why)
	b := newClient(t, e, clientConfig{sid: "PA_b"}) // a client that sends no answer
	b.mu.Lock()
	b.mute = true
	b.mu.Unlock()
	b.peer.Start()
	require.Equal(t, livekit.DisconnectReason_JOIN_FAILURE, b.events.wait(t, "disconnected").why)
}

// A client that vanishes is asked to resume, and then disconnected.
func TestVanishedClient(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, func(c *Config) {
			c.ICEDisconnected, c.ICEFailed, c.Keepalive = 200*time.Millisecond, 200*time.Millisecond, 50*time.Millisecond
			c.ReconnectGrace = 100 * time.Millisecond
		})
		var silent sync.Once
		gone := make(chan struct{})
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single, settings: func(s *webrtc.SettingEngine) {
			s.SetICEUDPMux(nil)
			s.SetICETimeouts(time.Hour, time.Hour, 50*time.Millisecond)
			s.SetNet(mutableNet(t, gone))
		}})
		a.join()
		silent.Do(func() { close(gone) })
		require.Equal(t, livekit.DisconnectReason_CONNECTION_TIMEOUT, a.events.wait(t, "disconnected").why)
		rating, _ := a.peer.Quality()
		require.Equal(t, livekit.ConnectionQuality_LOST, rating)
		a.mu.Lock()
		defer a.mu.Unlock()
		require.NotZero(t, a.resumes)
	})
}

// A client that closes its connections without a message is disconnected sooner.
func TestClientClosesItsConnections(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, func(c *Config) { c.ReconnectGrace = 100 * time.Millisecond })
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		a.channel("_reliable")
		for _, pc := range []*webrtc.PeerConnection{a.pub, a.sub} {
			if pc != nil {
				require.NoError(t, pc.GracefulClose())
			}
		}
		require.Equal(t, livekit.DisconnectReason_CONNECTION_TIMEOUT, a.events.wait(t, "disconnected").why)
	})
}

func TestICEOverTCP(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.TCPPort = TCPEphemeral })
	a := newClient(t, e, clientConfig{sid: "PA_a", settings: func(s *webrtc.SettingEngine) {
		s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeTCP4})
	}})
	a.join()
	a.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte("over TCP"))
	require.Equal(t, "over TCP", string(a.message().data))
}

// Several UDP ports, and addresses that are not advertised.
func TestNetworkConfiguration(t *testing.T) {
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.LocalAddr().(*net.UDPAddr).Port
	require.NoError(t, l.Close())
	e := newTestEngine(t, func(c *Config) {
		c.BindAddresses = nil
		c.UDPPort = [2]int{port, port}
		c.IncludeIPs = []string{"127.0.0.0/8"}
	})
	for _, a := range e.net.sockets[0].mux.GetListenAddresses() {
		require.True(t, a.(*net.UDPAddr).IP.IsLoopback(), "%v", a)
	}
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()

	for _, bad := range []Config{
		{UDPPort: [2]int{2, 1}},
		{IncludeIPs: []string{"nonsense"}},
		{EnabledCodecs: []string{"video/none"}},
		{BindAddresses: []string{"203.0.113.1"}},
		{BindAddresses: []string{"127.0.0.1", "203.0.113.1"}},
		{BindAddresses: []string{"localhost"}},
		{IncludeInterfaces: []string{"none"}},
	} {
		_, err := NewEngine(bad)
		require.Error(t, err, "%+v", bad)
	}
}

func TestAdvertisedAddress(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.NodeIPs = []string{"203.0.113.7"} })
	sent := make(chan Candidate, 100)
	p, err := e.NewPeer(PeerConfig{SID: "PA_a", SubscriberPrimary: true, Protocol: 17, Events: &events{ch: make(chan occurrence, 10)},
		Signals: unheard{func(c Candidate) { sent <- c }}})
	require.NoError(t, err)
	p.Start()
	select {
	case tr := <-sent:
		require.Contains(t, tr.Candidate, "203.0.113.7")
		require.True(t, tr.Final, "the last candidate says so")
		require.Equal(t, Subscribing, tr.Connection)
	case <-time.After(patience):
		require.FailNow(t, "no candidate")
	}
}

func TestICEServers(t *testing.T) {
	e := newTestEngine(t, nil)
	require.Empty(t, e.iceServers("PA_a"), "none but those configured")
	e = newTestEngine(t, func(c *Config) {
		c.STUNServers = []string{"stun.example:3478"}
		c.ICEServers = []ICEServer{
			{URLs: []string{"turn:fixed.example:3478?transport=udp"}, Username: "u", Credential: "c"},
			{URLs: []string{"turn:shared.example:3478?transport=udp"}, Secret: "between the two", TTL: time.Hour},
		}
	})
	before := time.Now()
	servers := e.iceServers("PA_a")
	require.Len(t, servers, 3)
	require.Equal(t, []string{"stun:stun.example:3478"}, servers[0].Urls)
	require.Equal(t, "u", servers[1].Username)
	require.Equal(t, "c", servers[1].Credential)

	// A TURN server takes what it can check by itself with the secret.
	expiry, sid, _ := strings.Cut(servers[2].Username, ":")
	seconds, err := strconv.ParseInt(expiry, 10, 64)
	require.NoError(t, err)
	require.Equal(t, "PA_a", sid)
	require.WithinDuration(t, before.Add(time.Hour), time.Unix(seconds, 0), time.Minute)
	_, key, ok := pionturn.LongTermTURNRESTAuthHandler("between the two", nil)(&pionturn.RequestAttributes{
		Username: servers[2].Username, Realm: "any", SrcAddr: &net.UDPAddr{},
	})
	require.True(t, ok)
	require.Equal(t, pionturn.GenerateAuthKey(servers[2].Username, "any", servers[2].Credential), key)
	require.NotEqual(t, servers[2].Credential, e.iceServers("PA_b")[2].Credential)
}

// Malformed messages do no harm. A malformed description is answered at once: the client
// must reconnect.
func TestGarbage(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.peer.HandleAnswer(Description{SDP: "unasked"})
		a.join()
		for _, text := range []string{
			"", "v=0", "garbage", strings.Repeat("x", maxDescription+1),
			"v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n",
			"v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-ufrag:a\r\na=ice-pwd:b\r\na=fingerprint:sha-256 AA\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n",
			"v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-ufrag:a\r\na=ice-pwd:b\r\na=fingerprint:sha-256 AA\r\nm=whatever 9 UDP 1\r\na=mid:0\r\n",
		} {
			a.peer.HandleOffer(Description{SDP: text})
			a.peer.HandleAnswer(Description{SDP: text})
		}
		a.peer.HandleOffer(Description{})
		a.peer.HandleAnswer(Description{})
		for _, text := range []string{"", "x", "{}", "candidate:1", "candidate:1 1 udp 1 nowhere.local 1 typ host"} {
			for _, on := range []Connection{Publishing, Subscribing, -1} {
				c := Candidate{Connection: on}
				c.Candidate = text
				a.peer.HandleCandidate(c)
			}
		}
		a.peer.HandleCandidate(Candidate{})
		a.peer.SetTrackSettings([]string{"unknown"}, rooms.TrackSettings{})
		a.peer.Unsubscribe("unknown")
		a.peer.RemoveTrack("unknown")
		a.peer.UpdateTrack(&livekit.TrackInfo{Sid: "unknown", Muted: true})
		a.peer.UpdateTrack(nil)
		// After all of it the client still works.
		a.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte("well"))
		require.Equal(t, "well", string(a.message().data))
		a.publish("TR_1", opus, nil)
		a.published("TR_1")
		require.GreaterOrEqual(t, e.Stats().BadDescriptions, uint64(6))
		require.NotZero(t, e.Stats().BadCandidates)
		require.EqualValues(t, 1, e.Stats().NeedsReconnect)
		require.NotEmpty(t, a.events.wait(t, "reconnect").label)
	})
}

// Concurrent calls of all methods, for the race detector.
func TestConcurrentUse(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	pump(t, a.publish("TR_1", opus, nil))
	p := a.published("TR_1")
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.join()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 25 {
				b.subscribe("PA_a", p)
				b.peer.SendData(nil, livekit.DataPacket_Kind(i%2), []byte("x"))
				b.peer.SendDataTrack([]byte("x"))
				b.peer.Quality()
				b.peer.SetPublisherAllowed(i%2 == 0, true)
				b.peer.SetTrackSettings([]string{"TR_1"}, rooms.TrackSettings{Disabled: i%2 == 0})
				a.setMuted("TR_1", i%2 == 0)
				b.peer.Unsubscribe("TR_1")
				b.peer.LastMessageSeq()
				e.Stats()
			}
		})
	}
	wg.Wait()
	a.setMuted("TR_1", false)
	b.subscribe("PA_a", p)
	b.peer.SetTrackSettings([]string{"TR_1"}, rooms.TrackSettings{})
	for {
		r := b.track() // of subscriptions that have ended meanwhile
		if r.SetReadDeadline(time.Now().Add(time.Second)) == nil {
			if _, _, err := r.Read(make([]byte, 1500)); err == nil {
				return
			}
		}
	}
}
