package program

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
)

// connect answers the server's offers until media is connected and some time
// has passed, or the server closes or dies.
func connect(ctx context.Context, conn *websocket.Conn) {
	pc, err := newPeerConnection()
	if err != nil {
		return // the machine is out of sockets; the tally shows who connected
	}
	defer pc.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		if s == webrtc.PeerConnectionStateConnected {
			time.AfterFunc(50*time.Millisecond+rand.N(300*time.Millisecond), cancel)
		}
	})
	// Reading ends with the connection, since a cancelled read closes it: so a client
	// with media is cut off, and comes to leave by its transports.
	for {
		m, err := receive(ctx, conn)
		if err != nil {
			return
		}
		if negotiate(ctx, conn, pc, m) != nil {
			return
		}
	}
}

func newPeerConnection() (*webrtc.PeerConnection, error) {
	settings := webrtc.SettingEngine{}
	settings.SetIncludeLoopbackCandidate(true)
	return webrtc.NewAPI(webrtc.WithSettingEngine(settings)).NewPeerConnection(webrtc.Configuration{})
}

// negotiate does for pc, which subscribes, what a message of the server asks.
func negotiate(ctx context.Context, conn *websocket.Conn, pc *webrtc.PeerConnection, m *livekit.SignalResponse) error {
	switch {
	case m.GetOffer() != nil:
		return answer(ctx, conn, pc, m.GetOffer())
	case m.GetTrickle().GetTarget() == livekit.SignalTarget_SUBSCRIBER && m.GetTrickle() != nil:
		var c webrtc.ICECandidateInit
		if err := json.Unmarshal([]byte(m.GetTrickle().CandidateInit), &c); err != nil {
			return err
		}
		return pc.AddICECandidate(c)
	}
	return nil
}

func answer(ctx context.Context, conn *websocket.Conn, pc *webrtc.PeerConnection, offer *livekit.SessionDescription) error {
	if err := pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: offer.Sdp}); err != nil {
		return err
	}
	gathered := webrtc.GatheringCompletePromise(pc)
	a, err := pc.CreateAnswer(nil)
	if err != nil {
		return err
	}
	if err := pc.SetLocalDescription(a); err != nil {
		return err
	}
	select {
	case <-gathered:
	case <-ctx.Done():
		return ctx.Err()
	}
	return send(ctx, conn, &livekit.SignalRequest{Message: &livekit.SignalRequest_Answer{
		Answer: &livekit.SessionDescription{Type: "answer", Sdp: pc.LocalDescription().SDP, Id: offer.Id},
	}})
}
