package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/webrtc/v4"
	"google.golang.org/protobuf/proto"
)

// client is a LiveKit client with two peer connections, complete enough to load a server.
type client struct {
	identity string
	ws       *websocket.Conn
	api      *webrtc.API
	received *atomic.Int64 // RTP packets, if watch is not set
	// watch reads a new track on its own goroutine; nil counts its packets.
	watch func(*webrtc.TrackRemote, *webrtc.RTPReceiver)

	// The reading goroutine owns the following.
	pub, sub  *webrtc.PeerConnection
	pending   map[*webrtc.PeerConnection][]webrtc.ICECandidateInit
	publish   published   // nil for a subscriber
	both      bool        // it publishes and subscribes
	subAPI    *webrtc.API // for the subscriber's connection; nil: the same
	announced int         // tracks that the server has confirmed
	sid       string
	path      *path // network to the server; nil: direct

	// What it was told of its connection, now and at worst since it was asked: places in
	// qualityOrder from its end, 0: nothing.
	quality, worst atomic.Int32

	writeMu sync.Mutex // one message at a time
	ready   chan struct{}
	onReady sync.Once
	ended   sync.WaitGroup
	failed  chan error // the first failure
}

// published is what a client publishes.
type published interface {
	// requests announce its tracks.
	requests() []*livekit.AddTrackRequest
	// addTo adds them to pc and listens for keyframe requests until pc is closed.
	addTo(pc *webrtc.PeerConnection) error
}

// layered is published in layers, of which only those are sent that the server wants, as the Go
// SDK does.
type layered interface {
	want(*livekit.SubscribedQualityUpdate)
}

// token is a token to join room.
func token(s settings, room, identity string) (string, error) {
	yes := true
	return auth.NewAccessToken(s.key, s.secret).SetIdentity(identity).SetValidFor(time.Hour).
		SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: room, CanPublish: &yes, CanSubscribe: &yes}).
		ToJWT()
}

// newAPI makes pion talk over loopback only.
func newAPI(feedback, publisher bool) (*webrtc.API, error) {
	m := &webrtc.MediaEngine{}
	if err := m.RegisterDefaultCodecs(); err != nil {
		return nil, err
	}
	var i interceptor.Registry
	if feedback || publisher {
		if err := webrtc.RegisterDefaultInterceptors(m, &i); err != nil {
			return nil, err
		}
	}
	if publisher { // its packets carry transport-wide sequence numbers, as a browser's do
		if err := webrtc.ConfigureTWCCHeaderExtensionSender(m, &i); err != nil {
			return nil, err
		}
	}
	var e webrtc.SettingEngine
	e.SetIncludeLoopbackCandidate(true)
	e.SetInterfaceFilter(func(name string) bool { return name == "lo" })
	e.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	e.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	return webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(&i),
		webrtc.WithSettingEngine(e)), nil
}

// join connects a client; [client.waitReady] waits for its media.
func join(ctx context.Context, s settings, address, room, identity string, api *webrtc.API,
	publish published, received *atomic.Int64,
) (*client, error) {
	c := &client{received: received, publish: publish}
	return c, c.join(ctx, s, address, room, identity, api)
}

// join connects c, whose fields say what it publishes and over which network.
func (c *client) join(ctx context.Context, s settings, address, room, identity string, api *webrtc.API) error {
	jwt, err := token(s, room, identity)
	if err != nil {
		return fmt.Errorf("make a token: %w", err)
	}
	q := url.Values{
		"access_token": {jwt}, "protocol": {"17"}, "sdk": {"go"}, "version": {"2.0.0"},
		"auto_subscribe": {strconv.FormatBool(c.publish == nil || c.both)},
	}
	ws, _, err := websocket.Dial(ctx, address+"/rtc?"+q.Encode(), nil)
	if err != nil {
		return fmt.Errorf("join %s: %w", identity, err)
	}
	ws.SetReadLimit(4 << 20)
	c.identity, c.ws, c.api = identity, ws, api
	c.pending = map[*webrtc.PeerConnection][]webrtc.ICECandidateInit{}
	c.ready, c.failed = make(chan struct{}), make(chan error, 1)
	if c.subAPI == nil {
		c.subAPI = api
	}
	for pc, api := range map[**webrtc.PeerConnection]*webrtc.API{&c.pub: api, &c.sub: c.subAPI} {
		if *pc, err = api.NewPeerConnection(webrtc.Configuration{}); err != nil {
			_ = ws.CloseNow()
			return err
		}
	}
	if c.watch == nil {
		c.watch = c.onTrack
	}
	c.sub.OnTrack(c.watch)
	c.ended.Go(func() { c.read(ctx) })
	c.ended.Go(func() { c.ping(ctx) })
	return nil
}

// waitReady waits until a publisher is connected, or until a subscriber has received a
// packet.
func (c *client) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	select {
	case <-c.ready:
		return nil
	case err := <-c.failed:
		return fmt.Errorf("%s: %w", c.identity, err)
	case <-ctx.Done():
		return fmt.Errorf("%s did not get ready: %w (publisher %s, subscriber %s)", c.identity, ctx.Err(),
			c.pub.ConnectionState(), c.sub.ConnectionState())
	}
}

// close leaves and waits for the client's goroutines.
func (c *client) close(ctx context.Context) {
	_ = c.send(ctx, &livekit.SignalRequest{Message: &livekit.SignalRequest_Leave{Leave: &livekit.LeaveRequest{
		Reason: livekit.DisconnectReason_CLIENT_INITIATED,
	}}}) // the socket is closed next, which ends the session too
	_ = c.ws.CloseNow()
	_ = c.pub.Close()
	_ = c.sub.Close()
	c.ended.Wait()
}

func (c *client) fail(err error) {
	select {
	case c.failed <- err:
	default: // the first one is enough
	}
}

func (c *client) send(ctx context.Context, r *livekit.SignalRequest) error {
	b, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	return c.ws.Write(ctx, websocket.MessageBinary, b)
}

func (c *client) ping(ctx context.Context) {
	for {
		select {
		case <-time.After(5 * time.Second):
			now := time.Now().UnixMilli()
			if c.send(ctx, &livekit.SignalRequest{Message: &livekit.SignalRequest_PingReq{
				PingReq: &livekit.Ping{Timestamp: now},
			}}) != nil {
				return // the reader reports the reason
			}
		case <-ctx.Done():
			return
		}
	}
}

func (c *client) read(ctx context.Context) {
	for {
		_, b, err := c.ws.Read(ctx)
		if err != nil {
			c.fail(fmt.Errorf("signalling: %w", err))
			return
		}
		var r livekit.SignalResponse
		if err := proto.Unmarshal(b, &r); err != nil {
			c.fail(fmt.Errorf("signalling: %w", err))
			return
		}
		if err := c.handle(ctx, &r); err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *client) handle(ctx context.Context, r *livekit.SignalResponse) error {
	switch m := r.Message.(type) {
	case *livekit.SignalResponse_Join:
		c.sid = m.Join.GetParticipant().GetSid()
		if c.publish == nil {
			return nil
		}
		for _, request := range c.publish.requests() {
			err := c.send(ctx, &livekit.SignalRequest{Message: &livekit.SignalRequest_AddTrack{AddTrack: request}})
			if err != nil {
				return err
			}
		}
	case *livekit.SignalResponse_TrackPublished:
		if c.announced++; c.announced == len(c.publish.requests()) {
			return c.offer(ctx)
		}
	case *livekit.SignalResponse_Answer:
		return c.setRemote(c.pub, webrtc.SDPTypeAnswer, m.Answer.GetSdp())
	case *livekit.SignalResponse_Offer:
		return c.answer(ctx, m.Offer)
	case *livekit.SignalResponse_Trickle:
		return c.trickled(m.Trickle)
	case *livekit.SignalResponse_ConnectionQuality:
		for _, u := range m.ConnectionQuality.GetUpdates() {
			if u.GetParticipantSid() == c.sid {
				c.tellQuality(u.GetQuality())
			}
		}
	case *livekit.SignalResponse_SubscribedQualityUpdate:
		if layers, ok := c.publish.(layered); ok {
			layers.want(m.SubscribedQualityUpdate)
		}
	case *livekit.SignalResponse_Leave:
		return fmt.Errorf("told to leave: %v %v", m.Leave.GetReason(), m.Leave.GetAction())
	}
	return nil
}

// The order of qualities, the worst first.
var qualityOrder = []livekit.ConnectionQuality{
	livekit.ConnectionQuality_LOST, livekit.ConnectionQuality_POOR, livekit.ConnectionQuality_GOOD, livekit.ConnectionQuality_EXCELLENT,
}

// tellQuality follows what the client is told of its connection.
func (c *client) tellQuality(q livekit.ConnectionQuality) {
	place := int32(slices.Index(qualityOrder, q) - len(qualityOrder))
	c.quality.Store(place)
	for {
		worst := c.worst.Load()
		if place >= worst || c.worst.CompareAndSwap(worst, place) {
			return
		}
	}
}

// toldWorst is the worst that the client was told of its connection since the last call, or
// what holds since before that.
func (c *client) toldWorst() string {
	place := c.worst.Swap(c.quality.Load())
	if place == 0 {
		return "-"
	}
	return strings.ToLower(qualityOrder[int(place)+len(qualityOrder)].String())
}

func (c *client) offer(ctx context.Context) error {
	c.pub.OnConnectionStateChange(func(st webrtc.PeerConnectionState) {
		if st == webrtc.PeerConnectionStateConnected {
			c.onReady.Do(func() { close(c.ready) })
		}
	})
	if err := c.publish.addTo(c.pub); err != nil {
		return fmt.Errorf("add the track: %w", err)
	}
	d, err := c.pub.CreateOffer(nil)
	if err != nil {
		return fmt.Errorf("offer: %w", err)
	}
	if d, err = gathered(c.pub, d); err != nil {
		return fmt.Errorf("offer: %w", err)
	}
	return c.send(ctx, &livekit.SignalRequest{Message: &livekit.SignalRequest_Offer{
		Offer: &livekit.SessionDescription{Type: "offer", Sdp: c.path.hidden(d.SDP), Id: 1},
	}})
}

func (c *client) answer(ctx context.Context, o *livekit.SessionDescription) error {
	if err := c.setRemote(c.sub, webrtc.SDPTypeOffer, o.GetSdp()); err != nil {
		return err
	}
	d, err := c.sub.CreateAnswer(nil)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if d, err = gathered(c.sub, d); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return c.send(ctx, &livekit.SignalRequest{Message: &livekit.SignalRequest_Answer{
		Answer: &livekit.SessionDescription{Type: "answer", Sdp: c.path.hidden(d.SDP), Id: o.GetId()},
	}})
}

// gathered sets the local description and waits for its candidates, which are only those
// of the loopback interface.
func gathered(pc *webrtc.PeerConnection, d webrtc.SessionDescription) (webrtc.SessionDescription, error) {
	done := webrtc.GatheringCompletePromise(pc)
	if err := pc.SetLocalDescription(d); err != nil {
		return d, err
	}
	<-done
	return *pc.LocalDescription(), nil
}

func (c *client) setRemote(pc *webrtc.PeerConnection, t webrtc.SDPType, sdp string) error {
	sdp, err := c.path.rerouted(sdp)
	if err != nil {
		return err
	}
	if err := pc.SetRemoteDescription(webrtc.SessionDescription{Type: t, SDP: sdp}); err != nil {
		return fmt.Errorf("server's %s: %w", t, err)
	}
	for _, i := range c.pending[pc] {
		if err := pc.AddICECandidate(i); err != nil {
			return fmt.Errorf("server's candidate: %w", err)
		}
	}
	delete(c.pending, pc)
	return nil
}

func (c *client) trickled(t *livekit.TrickleRequest) error {
	if t.GetCandidateInit() == "" {
		return nil
	}
	var i webrtc.ICECandidateInit
	if err := json.Unmarshal([]byte(t.GetCandidateInit()), &i); err != nil {
		return fmt.Errorf("server's candidate: %w", err)
	}
	var err error
	if i.Candidate, err = c.path.rerouted(i.Candidate); err != nil || i.Candidate == "" {
		return err
	}
	pc := c.pub
	if t.GetTarget() == livekit.SignalTarget_SUBSCRIBER {
		pc = c.sub
	}
	if pc.RemoteDescription() == nil {
		c.pending[pc] = append(c.pending[pc], i)
		return nil
	}
	if err := pc.AddICECandidate(i); err != nil {
		return fmt.Errorf("server's candidate: %w", err)
	}
	return nil
}

// onTrack counts a track's packets until it ends.
func (c *client) onTrack(t *webrtc.TrackRemote, r *webrtc.RTPReceiver) {
	c.ended.Go(func() {
		buf := make([]byte, 2048)
		for {
			if _, _, err := r.Read(buf); err != nil { // RTCP must be read for the interceptors
				return
			}
		}
	})
	buf := make([]byte, 2048)
	for {
		n, _, err := t.Read(buf)
		if err != nil {
			return
		}
		if n <= rtpHeader {
			continue
		}
		c.received.Add(1)
		c.onReady.Do(func() { close(c.ready) })
	}
}

// joinAll joins a publisher and its subscribers, and waits until all have media.
func joinAll(ctx context.Context, s settings, address string, p *publication, received *atomic.Int64) ([]*client, error) {
	room := fmt.Sprintf("bench-%d", time.Now().UnixNano())
	pubAPI, err := newAPI(s.feedback, true)
	if err != nil {
		return nil, err
	}
	subAPI, err := newAPI(s.feedback, false)
	if err != nil {
		return nil, err
	}
	var all []*client
	pub, err := join(ctx, s, address, room, "publisher", pubAPI, p, received)
	if err != nil {
		return nil, err
	}
	all = append(all, pub)
	if err := pub.waitReady(ctx); err != nil {
		return all, err
	}
	for i := range s.subscribers {
		c, err := join(ctx, s, address, room, fmt.Sprintf("subscriber-%d", i), subAPI, nil, received)
		if err != nil {
			return all, err
		}
		all = append(all, c)
	}
	errs := make([]error, 0, len(all))
	for _, c := range all[1:] {
		errs = append(errs, c.waitReady(ctx))
	}
	return all, errors.Join(errs...)
}
