package media

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	"github.com/pion/transport/v5/vnet"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// peerOn makes a peer connection with settings on a network in virtual time.
func peerOn(t *testing.T, router *vnet.Router, address string, settings webrtc.SettingEngine) *webrtc.PeerConnection {
	t.Helper()
	network, err := vnet.NewNet(&vnet.NetConfig{StaticIPs: []string{address}})
	require.NoError(t, err)
	require.NoError(t, router.AddNet(network))
	settings.SetNet(network)
	settings.DisableCloseByDTLS(true)
	settings.SetICETimeouts(time.Minute, time.Minute, time.Second) // ICE has tests of its own
	settings.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	settings.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(settings)).NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	return pc
}

// After an outage, what has waited for the network is sent within seconds: the time until the
// next attempt does not grow with the outage.
func TestDataGoesOnSoonAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		router, err := vnet.NewRouter(&vnet.RouterConfig{CIDR: "1.2.3.0/24", LoggerFactory: logging.NewDefaultLoggerFactory()})
		require.NoError(t, err)
		var out atomic.Bool
		router.AddChunkFilter(func(vnet.Chunk) bool { return !out.Load() })
		var ours webrtc.SettingEngine
		dataSettings(&ours)
		server := peerOn(t, router, "1.2.3.4", ours)
		client := peerOn(t, router, "1.2.3.5", webrtc.SettingEngine{})
		require.NoError(t, router.Start())
		defer func() {
			require.NoError(t, server.Close())
			synctest.Wait() // one after the other: an association that ends twice at a time waits under a lock
			require.NoError(t, client.Close())
			require.NoError(t, router.Stop())
		}()

		opened, came := make(chan struct{}), make(chan string, 10)
		client.OnDataChannel(func(dc *webrtc.DataChannel) {
			dc.OnMessage(func(m webrtc.DataChannelMessage) { came <- string(m.Data) })
		})
		dc, err := server.CreateDataChannel("_reliable", nil)
		require.NoError(t, err)
		dc.OnOpen(func() { close(opened) })
		connect(t, server, client)
		<-opened
		require.NoError(t, dc.Send([]byte("before")))
		require.Equal(t, "before", <-came)

		out.Store(true)
		require.NoError(t, dc.Send([]byte("during")))
		time.Sleep(20 * time.Second)
		out.Store(false)
		back := time.Now()
		require.Equal(t, "during", <-came)
		require.LessOrEqual(t, time.Since(back), mostSilence)
	})
}

// connect connects two peer connections; each description has all candidates.
func connect(t *testing.T, offerer, answerer *webrtc.PeerConnection) {
	t.Helper()
	offer, err := offerer.CreateOffer(nil)
	require.NoError(t, err)
	gathered := webrtc.GatheringCompletePromise(offerer)
	require.NoError(t, offerer.SetLocalDescription(offer))
	<-gathered
	require.NoError(t, answerer.SetRemoteDescription(*offerer.LocalDescription()))
	answer, err := answerer.CreateAnswer(nil)
	require.NoError(t, err)
	gathered = webrtc.GatheringCompletePromise(answerer)
	require.NoError(t, answerer.SetLocalDescription(answer))
	<-gathered
	require.NoError(t, offerer.SetRemoteDescription(*answerer.LocalDescription()))
}
