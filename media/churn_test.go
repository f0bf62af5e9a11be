package media

import (
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

var (
	churnFor  = flag.Duration("churn", 3*time.Second, "how long TestChurn goes on, in each mode")
	churnSeed = flag.Uint64("churn.seed", 0, "what TestChurn draws from; 0 = anything")
)

// TestChurn publishes, unpublishes, subscribes, unsubscribes, resumes, joins and leaves
// at random, while offers and answers are under way, with slow clients. At each rest,
// each client must receive the packets of exactly the tracks that it is subscribed to, on
// the track of that SID.
func TestChurn(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		seed := *churnSeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		t.Logf("-churn.seed %d", seed)
		h := &churnHouse{
			t: t, single: single, e: newTestEngine(t, nil), rand: rand.New(rand.NewPCG(seed, 1)),
			tracks: map[string]*churnTrack{},
		}
		t.Cleanup(h.close)
		for range 3 {
			h.enter()
		}
		for end := time.Now().Add(*churnFor); time.Now().Before(end); {
			for range 1 + h.rand.IntN(12) {
				h.step()
				if h.rand.IntN(2) == 0 {
					time.Sleep(time.Duration(h.rand.IntN(30)) * time.Millisecond)
				}
			}
			h.settle()
		}
	})
}

// churnHouse is the room of the test. It belongs to the test's goroutine.
type churnHouse struct {
	t       *testing.T
	single  bool
	e       *Engine
	rand    *rand.Rand
	guests  []*churnGuest
	tracks  map[string]*churnTrack // by SID
	numbers uint32
	names   int
	past    []string // operations since the last rest
}

// churnGuest is one client and its expected tracks.
type churnGuest struct {
	*client
	sid    string
	hasRED bool
	wanted map[string]bool // by SID, of tracks

	mu   sync.Mutex                      // guards the following
	last map[uint32]map[string]time.Time // arrival of a track's last packet, by its number and by the SID under which it arrived
}

// churnTrack is a published track.
type churnTrack struct {
	sid       string
	number    uint32 // written in each of its packets
	owner     *churnGuest
	sender    *webrtc.RTPSender
	published *occurrence // nil until the server knows the track
	stop      chan struct{}
	done      chan struct{}
}

func (h *churnHouse) note(format string, args ...any) {
	h.past = append(h.past, fmt.Sprintf(format, args...))
}

func (h *churnHouse) enter() {
	h.names++
	hasRED := h.rand.IntN(2) == 0
	g := &churnGuest{sid: fmt.Sprint("PA_", h.names), hasRED: hasRED, wanted: map[string]bool{}, last: map[uint32]map[string]time.Time{}}
	g.client = newClient(h.t, h.e, clientConfig{sid: g.sid, single: h.single, codecs: func(m *webrtc.MediaEngine) error {
		if err := m.RegisterDefaultCodecs(); err != nil || !hasRED {
			return err
		}
		return m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: red, PayloadType: 63}, webrtc.RTPCodecTypeAudio)
	}, settings: func(s *webrtc.SettingEngine) {
		s.SetICEUDPMux(nil)
		s.SetNet(newLateNet(h.t, time.Duration(h.rand.IntN(60))*time.Millisecond))
	}})
	g.slow = func() time.Duration { return time.Duration(rand.IntN(20)) * time.Millisecond }
	g.onTrack = g.read
	h.guests = append(h.guests, g)
	h.note("%s enters, RED %v", g.sid, hasRED)
	for _, tr := range h.tracks {
		if h.rand.IntN(3) > 0 {
			h.want(g, tr, true)
		}
	}
	g.begin()
	if h.rand.IntN(2) == 0 {
		g.events.wait(h.t, "connected")
	}
}

// read records the packets of a track.
func (g *churnGuest) read(r *webrtc.TrackRemote) {
	sid := r.ID()
	if sid == "" {
		g.t.Errorf("%s got a track without a name", g.sid)
	}
	drain(r, func(p []byte) {
		var packet rtp.Packet
		if packet.Unmarshal(p) != nil || len(packet.Payload) < 4 {
			return
		}
		number := binary.BigEndian.Uint32(packet.Payload[len(packet.Payload)-4:])
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.last[number] == nil {
			g.last[number] = map[string]time.Time{}
		}
		g.last[number][sid] = time.Now()
	})
}

func (h *churnHouse) step() {
	h.hear()
	g := h.guests[h.rand.IntN(len(h.guests))]
	switch n := h.rand.IntN(20); {
	case n < 4:
		h.publish(g)
	case n < 7:
		if tr := h.any(func(tr *churnTrack) bool { return tr.published != nil }); tr != nil {
			h.unpublish(tr)
		}
	case n < 17:
		if tr := h.any(func(tr *churnTrack) bool { return tr.owner != g && tr.published != nil }); tr != nil {
			h.want(g, tr, !g.wanted[tr.sid])
		}
	case n < 18:
		h.note("%s resumes", g.sid)
		g.peer.Resume()
	case n < 19 && len(h.guests) < 5:
		h.enter()
	case len(h.guests) > 2:
		h.leave(g)
	}
}

// any chooses a track at random; nil if there is none.
func (h *churnHouse) any(ok func(*churnTrack) bool) *churnTrack {
	var sids []string
	for _, sid := range slices.Sorted(maps.Keys(h.tracks)) {
		if ok(h.tracks[sid]) {
			sids = append(sids, sid)
		}
	}
	if len(sids) == 0 {
		return nil
	}
	return h.tracks[sids[h.rand.IntN(len(sids))]]
}

func (h *churnHouse) publish(g *churnGuest) {
	if len(h.tracks) >= 10 {
		return
	}
	h.numbers++
	number := binary.BigEndian.AppendUint32(nil, h.numbers)
	codec, payload := opus, append([]byte{0xfc}, number...)
	switch n := h.rand.IntN(3); {
	case n == 0 && g.hasRED:
		codec, payload = red, append([]byte{111, 0xfc}, number...)
	case n > 0:
		codec, payload = vp8, append([]byte{0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00}, number...)
	}
	tr := &churnTrack{
		sid: fmt.Sprint("TR_", h.numbers), number: h.numbers, owner: g, stop: make(chan struct{}), done: make(chan struct{}),
	}
	h.note("%s publishes %s, %s", g.sid, tr.sid, codec.MimeType)
	local, err := webrtc.NewTrackLocalStaticRTP(codec, "cid-"+tr.sid, "stream-"+tr.sid)
	require.NoError(h.t, err)
	g.client.mu.Lock()
	if !h.single && h.rand.IntN(2) == 0 {
		tr.sender, err = g.pub.AddTrack(local)
	} else {
		var transceiver *webrtc.RTPTransceiver
		transceiver, err = g.pub.AddTransceiverFromTrack(local, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
		require.NoError(h.t, err)
		tr.sender = transceiver.Sender()
	}
	g.client.mu.Unlock()
	require.NoError(h.t, err)
	req := &livekit.AddTrackRequest{Cid: local.ID(), Type: livekit.TrackType_AUDIO}
	if local.Kind() == webrtc.RTPCodecTypeVideo {
		req.Type = livekit.TrackType_VIDEO
	}
	req.SimulcastCodecs = []*livekit.SimulcastCodec{{Codec: codec.MimeType, Cid: req.Cid}}
	g.announce(req, &livekit.TrackInfo{Sid: tr.sid, Type: req.Type})
	g.offer(false)
	h.tracks[tr.sid] = tr
	go tr.pump(local, payload) // ends by stopPump
}

func (tr *churnTrack) pump(local *webrtc.TrackLocalStaticRTP, payload []byte) {
	defer close(tr.done)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tr.stop:
			return
		case <-tick.C:
		}
		_ = local.WriteRTP(&rtp.Packet{
			Header:  rtp.Header{Version: 2, Marker: true, SequenceNumber: uint16(i), Timestamp: uint32(i * 900)},
			Payload: payload,
		})
	}
}

func (tr *churnTrack) stopPump() {
	close(tr.stop)
	<-tr.done
}

func (h *churnHouse) unpublish(tr *churnTrack) {
	h.note("%s unpublishes %s", tr.owner.sid, tr.sid)
	tr.stopPump()
	tr.owner.client.mu.Lock()
	require.NoError(h.t, tr.owner.pub.RemoveTrack(tr.sender))
	tr.owner.client.mu.Unlock()
	tr.owner.offer(false)
	h.forget(tr)
}

// forget does for the other clients what a room does when a track ends.
func (h *churnHouse) forget(tr *churnTrack) {
	delete(h.tracks, tr.sid)
	for _, g := range h.guests {
		if g.wanted[tr.sid] {
			delete(g.wanted, tr.sid)
			g.peer.Unsubscribe(tr.sid)
		}
	}
}

func (h *churnHouse) want(g *churnGuest, tr *churnTrack, on bool) {
	if tr.published == nil || tr.owner == g {
		return
	}
	h.note("%s wants %s: %v", g.sid, tr.sid, on)
	if on {
		g.wanted[tr.sid] = true
		g.subscribe(tr.owner.sid, *tr.published)
		return
	}
	delete(g.wanted, tr.sid)
	g.peer.Unsubscribe(tr.sid)
}

func (h *churnHouse) leave(g *churnGuest) {
	h.note("%s leaves", g.sid)
	h.guests = slices.DeleteFunc(h.guests, func(o *churnGuest) bool { return o == g })
	for _, tr := range h.tracks {
		if tr.owner == g {
			tr.stopPump()
			h.forget(tr)
		}
	}
	g.close()
}

// hear handles the events that the peers report to their room.
func (h *churnHouse) hear() {
	for _, g := range h.guests {
		for {
			var o occurrence
			select {
			case o = <-g.events.ch:
			default:
			}
			if o.what == "" {
				break
			}
			switch tr := h.tracks[o.sid]; {
			case o.what == "failed" || o.what == "reconnect" || o.what == "disconnected":
				h.fail(fmt.Sprintf("%s: %+v", g.sid, o))
			case o.what == "published" && tr != nil:
				tr.published = &o
			}
		}
	}
}

// settle waits until each client receives exactly its tracks.
func (h *churnHouse) settle() {
	wrong := "nothing was looked at"
	for deadline := time.Now().Add(4 * patience); wrong != ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.fail(wrong)
		}
		h.hear()
		wrong = ""
		for _, tr := range h.tracks {
			if tr.published == nil {
				wrong = fmt.Sprintf("%s is not published", tr.sid)
			}
		}
		for _, g := range h.guests {
			if w := h.judge(g); w != "" {
				wrong = w
			}
		}
	}
	h.past = nil
}

// judge describes which tracks g receives wrongly or lacks; "" if all is right.
func (h *churnHouse) judge(g *churnGuest) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	const lately = 100 * time.Millisecond
	for sid := range g.wanted {
		if at := g.last[h.tracks[sid].number][sid]; time.Since(at) > lately {
			return fmt.Sprintf("%s does not get %s", g.sid, sid)
		}
	}
	for number, under := range g.last {
		for sid, at := range under {
			own := fmt.Sprint("TR_", number)
			if time.Since(at) < lately && (sid != own || !g.wanted[sid]) {
				return fmt.Sprintf("%s gets %s under the name of %s, wanted %v", g.sid, own, sid, g.wanted)
			}
		}
	}
	return ""
}

func (h *churnHouse) fail(why string) {
	h.t.Helper()
	for _, g := range h.guests {
		g.client.mu.Lock()
		if h.t.Logf("%s: %v", g.sid, g.midToTrack); g.sub != nil && g.sub.RemoteDescription() != nil {
			h.t.Logf("offer:\n%s\nanswer:\n%s", g.sub.RemoteDescription().SDP, g.sub.LocalDescription().SDP)
		}
		g.client.mu.Unlock()
	}
	for _, line := range h.past {
		h.t.Log(line)
	}
	require.FailNow(h.t, why)
}

func (h *churnHouse) close() {
	for _, tr := range h.tracks {
		tr.stopPump()
	}
}
