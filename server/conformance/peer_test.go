package conformance

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// mode is one of the SDK's two ways to connect.
type mode struct {
	name    string
	options []lksdk.ConnectOption
}

var (
	dual   = mode{name: "dual"}
	single = mode{name: "single", options: []lksdk.ConnectOption{lksdk.WithSinglePeerConnection()}}
)

// inBothModes runs a test with two peer connections and with one.
func inBothModes(t *testing.T, f func(t *testing.T, m mode)) {
	t.Parallel()
	for _, m := range []mode{dual, single} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			f(t, m)
		})
	}
}

// peer is an SDK client that records its events.
type peer struct {
	*lksdk.Room

	mu     sync.Mutex // guards the following
	log    []string
	in     map[string]*inbound   // the newest, by track SID
	tracks []*webrtc.TrackRemote // all that are read
	left   bool                  // nothing more is read
	data   []datum

	wg sync.WaitGroup // one reader per subscribed track
}

// datum is a received data packet.
type datum struct{ from, topic, payload string }

// join connects an ordinary participant to the shared server.
func (m mode) join(t *testing.T, room, identity string, options ...lksdk.ConnectOption) *peer {
	t.Helper()
	return m.joinAs(t, identity, join(room), options...)
}

// joinAs connects to the shared server with a grant.
func (m mode) joinAs(t *testing.T, identity string, grant *auth.VideoGrant, options ...lksdk.ConnectOption) *peer {
	t.Helper()
	return m.joinAt(t, env.server.ws(), token(t, identity, grant), options...)
}

// joinAt connects to the server at the URL. The client leaves with the test.
func (m mode) joinAt(t *testing.T, url, jwt string, options ...lksdk.ConnectOption) *peer {
	t.Helper()
	p := &peer{in: map[string]*inbound{}}
	p.Room = lksdk.NewRoom(p.callback())
	options = append(append(slices.Clone(m.options), lksdk.WithConnectTimeout(patience)), options...)
	require.NoError(t, p.JoinWithToken(url, jwt, options...))
	t.Cleanup(func() {
		p.Disconnect()
		p.endReading()
		if t.Failed() {
			t.Logf("%s was told: %s", p.LocalParticipant.Identity(), strings.Join(p.lines(), ", "))
		}
	})
	return p
}

func (p *peer) callback() *lksdk.RoomCallback {
	cb := lksdk.NewRoomCallback()
	who := func(x lksdk.Participant) string { return x.Identity() }
	cb.OnParticipantConnected = func(r *lksdk.RemoteParticipant) { p.note("joined %s", who(r)) }
	cb.OnParticipantDisconnected = func(r *lksdk.RemoteParticipant) { p.note("left %s", who(r)) }
	cb.OnDisconnected = func() { p.note("disconnected %s", p.DisconnectReason()) }
	cb.OnReconnecting = func() { p.note("reconnecting") }
	cb.OnReconnected = func() { p.note("reconnected") }
	cb.OnRoomMetadataChanged = func(m string) { p.note("room metadata %s", m) }
	cb.OnMetadataChanged = func(_ string, x lksdk.Participant) { p.note("metadata %s %s", who(x), x.Metadata()) }
	cb.OnAttributesChanged = func(changed map[string]string, x lksdk.Participant) {
		p.note("attributes %s %v", who(x), changed)
	}
	cb.OnTrackPublished = func(pub *lksdk.RemoteTrackPublication, r *lksdk.RemoteParticipant) {
		p.note("published %s %s", who(r), pub.Source())
	}
	cb.OnTrackUnpublished = func(pub *lksdk.RemoteTrackPublication, r *lksdk.RemoteParticipant) {
		p.note("unpublished %s %s", who(r), pub.Source())
	}
	cb.OnLocalTrackUnpublished = func(pub *lksdk.LocalTrackPublication, lp *lksdk.LocalParticipant) {
		p.note("unpublished %s %s", lp.Identity(), pub.Source())
	}
	cb.OnTrackMuted = func(pub lksdk.TrackPublication, x lksdk.Participant) { p.note("muted %s %s", who(x), pub.Source()) }
	cb.OnTrackUnmuted = func(pub lksdk.TrackPublication, x lksdk.Participant) { p.note("unmuted %s %s", who(x), pub.Source()) }
	cb.OnLocalTrackSubscribed = func(pub *lksdk.LocalTrackPublication, _ *lksdk.LocalParticipant) {
		p.note("someone subscribed to %s", pub.Source())
	}
	cb.OnTrackSubscribed = func(track *webrtc.TrackRemote, pub *lksdk.RemoteTrackPublication, r *lksdk.RemoteParticipant) {
		p.note("subscribed %s %s", who(r), pub.Source())
		p.read(track, pub.SID())
	}
	cb.OnTrackUnsubscribed = func(_ *webrtc.TrackRemote, pub *lksdk.RemoteTrackPublication, r *lksdk.RemoteParticipant) {
		p.note("unsubscribed %s %s", who(r), pub.Source())
	}
	cb.OnActiveSpeakersChanged = func(speakers []lksdk.Participant) {
		var names []string
		for _, s := range speakers {
			names = append(names, who(s))
		}
		p.note("speaking %v", names)
	}
	cb.OnConnectionQualityChanged = func(q *livekit.ConnectionQualityInfo, x lksdk.Participant) {
		p.note("quality %s %s", who(x), q.Quality)
	}
	cb.OnDataPacket = func(d lksdk.DataPacket, params lksdk.DataReceiveParams) {
		if user, ok := d.(*lksdk.UserDataPacket); ok {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.data = append(p.data, datum{params.SenderIdentity, user.Topic, string(user.Payload)})
		}
	}
	return cb
}

func (p *peer) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log, fmt.Sprintf(format, args...))
}

func (p *peer) lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.log)
}

// count is how often the client had this event.
func (p *peer) count(line string) int {
	n := 0
	for _, l := range p.lines() {
		if l == line {
			n++
		}
	}
	return n
}

// await waits until the client has had this event.
func (p *peer) await(t *testing.T, line string) {
	t.Helper()
	p.awaitCount(t, line, 1)
}

func (p *peer) awaitCount(t *testing.T, line string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is told %q (%d times)", p.LocalParticipant.Identity(), line, n),
		func() bool { return p.count(line) >= n })
}

// sees waits until another participant is visible. Servers may delay news about
// participants that publish nothing by some seconds.
func (p *peer) sees(t *testing.T, identity string) *lksdk.RemoteParticipant {
	t.Helper()
	eventually(t, p.LocalParticipant.Identity()+" sees "+identity,
		func() bool { return p.GetParticipantByIdentity(identity) != nil })
	return p.GetParticipantByIdentity(identity)
}

// channelsOpen waits until what from sends can reach to. With one connection the SDK waits
// only for ICE before it sends, and tells nobody that a message was dropped, because its data
// channel was not open yet.
func (m mode) channelsOpen(t *testing.T, from, to *peer) {
	t.Helper()
	if m.name != single.name {
		return
	}
	want := datum{string(from.LocalParticipant.Identity()), "open?", "yes"}
	eventually(t, from.LocalParticipant.Identity()+" can send", func() bool {
		require.NoError(t, from.LocalParticipant.PublishDataPacket(lksdk.UserData([]byte(want.payload)),
			lksdk.WithDataPublishReliable(true), lksdk.WithDataPublishTopic(want.topic)))
		return slices.Contains(to.received(), want)
	})
}

func (p *peer) received() []datum {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.data)
}

// publish sends a source as a track.
func (p *peer) publish(t *testing.T, s *source, kind livekit.TrackSource) *lksdk.LocalTrackPublication {
	t.Helper()
	pub, err := p.LocalParticipant.PublishTrack(s.track, &lksdk.TrackPublicationOptions{
		Name: strings.ToLower(kind.String()), Source: kind, VideoWidth: 320, VideoHeight: 180,
	})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(pub.SID(), "TR_"), pub.SID())
	return pub
}

func (p *peer) publishMicrophone(t *testing.T) *lksdk.LocalTrackPublication {
	t.Helper()
	return p.publish(t, newSource(t, opus), livekit.TrackSource_MICROPHONE)
}

func (p *peer) publishCamera(t *testing.T) *lksdk.LocalTrackPublication {
	t.Helper()
	return p.publish(t, newSource(t, vp8), livekit.TrackSource_CAMERA)
}

// remote returns the publication of another participant, once it is announced.
func (p *peer) remote(t *testing.T, identity string, kind livekit.TrackSource) *lksdk.RemoteTrackPublication {
	t.Helper()
	var found *lksdk.RemoteTrackPublication
	eventually(t, fmt.Sprintf("%s sees %s of %s", p.LocalParticipant.Identity(), kind, identity), func() bool {
		found = p.find(identity, kind)
		return found != nil
	})
	return found
}

// find is remote without the wait; nil if there is none.
func (p *peer) find(identity string, kind livekit.TrackSource) *lksdk.RemoteTrackPublication {
	r := p.GetParticipantByIdentity(identity)
	if r == nil {
		return nil
	}
	for _, pub := range r.TrackPublications() {
		if remote, ok := pub.(*lksdk.RemoteTrackPublication); ok && pub.Source() == kind {
			return remote
		}
	}
	return nil
}

// inbound is the reception of one subscribed track.
type inbound struct {
	codec string

	mu      sync.Mutex // guards the following
	packets []packet
	last    time.Time // when the newest packet of any content came
	made    []byte    // payload of the newest packet without a stamp; nil if there was none
}

// packet is a packet with a stamp. Servers may send others, such as silence while a track
// is muted.
type packet struct {
	seq   uint16
	ts    uint32
	stamp stamp
	at    time.Time
}

// endReading ends the reading of all tracks. A reconnect that the SDK gave up leaves its
// connection open, whose tracks do not end by themselves.
func (p *peer) endReading() {
	p.mu.Lock()
	p.left = true
	for _, track := range p.tracks {
		_ = track.SetReadDeadline(time.Now()) // it may have ended
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// read records a track's packets until the track ends.
func (p *peer) read(track *webrtc.TrackRemote, sid string) {
	in := &inbound{codec: track.Codec().MimeType}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left {
		return
	}
	p.in[sid] = in
	p.tracks = append(p.tracks, track)
	p.wg.Go(func() {
		for {
			pkt, _, err := track.ReadRTP()
			if err != nil {
				return // the track ended
			}
			if len(pkt.Payload) > 0 {
				in.mu.Lock()
				in.last = time.Now()
				in.mu.Unlock()
			}
			s, ok := findStamp(pkt.Payload)
			in.mu.Lock()
			if ok {
				in.packets = append(in.packets, packet{pkt.SequenceNumber, pkt.Timestamp, s, time.Now()})
			} else if len(pkt.Payload) > 0 {
				in.made = bytes.Clone(pkt.Payload)
			}
			in.mu.Unlock()
		}
	})
}

// inbound returns the newest reception of a track; nil if there was none.
func (p *peer) inbound(sid string) *inbound {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.in[sid]
}

// unstamped is the newest payload without a stamp; nil if there was none.
func (i *inbound) unstamped() []byte {
	if i == nil {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.made
}

// newest is the arrival of the newest packet, with a stamp or without.
func (i *inbound) newest() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.last
}

func (i *inbound) all() []packet {
	if i == nil {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.packets)
}

// awaitMedia waits until n more packets of the track have arrived.
func (p *peer) awaitMedia(t *testing.T, sid string, n int) {
	t.Helper()
	since := time.Now()
	eventually(t, fmt.Sprintf("%s receives %d packets of %s", p.LocalParticipant.Identity(), n, sid), func() bool {
		return p.packetsSince(sid, since) >= n
	})
}

// awaitSilence waits until no packet of the track has arrived for a while.
func (p *peer) awaitSilence(t *testing.T, sid string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s receives nothing more of %s", p.LocalParticipant.Identity(), sid), func() bool {
		return p.packetsSince(sid, time.Now().Add(-700*time.Millisecond)) == 0
	})
}

func (p *peer) packetsSince(sid string, since time.Time) int {
	n := 0
	for _, pkt := range p.inbound(sid).all() {
		if pkt.at.After(since) {
			n++
		}
	}
	return n
}

// layers are the layers of all packets so far, one letter each.
func (i *inbound) layers() string {
	var b strings.Builder
	for _, p := range i.all() {
		b.WriteByte(p.stamp.layer)
	}
	return b.String()
}

// checkAudio fails unless sequence numbers and timestamps advance with the frames'
// numbers throughout.
func (i *inbound) checkAudio(t *testing.T, samplesPerFrame uint32) {
	t.Helper()
	packets := i.all()
	require.NotEmpty(t, packets)
	first := packets[0]
	for _, p := range packets {
		frames := p.stamp.number - first.stamp.number
		require.Equal(t, uint16(frames), p.seq-first.seq, "sequence numbers against frames")
		require.Equal(t, frames*samplesPerFrame, p.ts-first.ts, "timestamps against frames")
	}
}

// checkVideo fails unless sequence numbers and timestamps rise with the
// frames' numbers. Servers may put padding between frames.
func (i *inbound) checkVideo(t *testing.T) {
	t.Helper()
	packets := slices.SortedFunc(slices.Values(i.all()), func(a, b packet) int {
		return int(int32(a.stamp.number - b.stamp.number))
	})
	require.NotEmpty(t, packets)
	for n := 1; n < len(packets); n++ {
		a, b := packets[n-1], packets[n]
		if a.stamp.number == b.stamp.number {
			require.Equal(t, a.seq, b.seq, "one packet under two sequence numbers")
			continue
		}
		require.Positive(t, int16(b.seq-a.seq), "sequence numbers rise")
		require.Positive(t, int32(b.ts-a.ts), "timestamps rise")
	}
}
