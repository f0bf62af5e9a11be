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

// connect answers the server's offers until media is connected and some time has passed,
// or until the server closes or dies.
func connect(ctx context.Context, conn *websocket.Conn) {
	pc, err := newPeerConnection()
	if err != nil {
		return // the machine has no more sockets; the tally shows how many connected
	}
	defer pc.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		if s == webrtc.PeerConnectionStateConnected {
			time.AfterFunc(50*time.Millisecond+rand.N(300*time.Millisecond), cancel)
		}
	})
	// Cancelling a read closes the connection. So the loop ends with the connection: the
	// client is cut off, and leaves by its transports.
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

// negotiate handles a message of the server for pc, which subscribes.
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
