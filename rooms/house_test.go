package rooms_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
	"parlor/rooms/sqlite/sqlitetest"
)

// house is the domain with a real database file.
type house struct {
	t     *testing.T
	path  string
	store *sqlite.Store
	allow func() error // called before each transaction; nil = no error
	*rooms.Rooms
}

type option func(*rooms.Config)

func newHouse(t *testing.T, opts ...option) *house {
	t.Helper()
	h := &house{t: t, path: sqlitetest.Path(t)}
	h.open(opts...)
	t.Cleanup(h.close)
	return h
}

func (h *house) open(opts ...option) {
	h.t.Helper()
	store, err := sqlite.Open(context.Background(), sqlite.Config{Path: h.path, Allow: h.allow})
	require.NoError(h.t, err)
	cfg := rooms.Config{
		Store: store, Log: slog.New(slog.DiscardHandler), AutoCreate: true, RestartGrace: time.Minute,
	}
	for _, o := range opts {
		o(&cfg)
	}
	h.store, h.Rooms = store, rooms.New(cfg)
	require.NoError(h.t, h.Open(context.Background()))
}

func (h *house) close() {
	if h.store == nil {
		return
	}
	require.NoError(h.t, h.Rooms.Close(context.Background()))
	require.NoError(h.t, h.store.Close(context.Background()))
	h.store = nil
}

// restart stops and starts the domain on the same file.
func (h *house) restart(opts ...option) {
	h.close()
	h.open(opts...)
}

// The API's calls, in LiveKit's messages:

func (h *house) Create(ctx context.Context, req *livekit.CreateRoomRequest) (*livekit.Room, error) {
	out, err := h.Rooms.Create(ctx, req)
	if err != nil {
		return nil, err
	}
	return out.Room.Info(), nil
}

func (h *house) Delete(ctx context.Context, name string) error { return h.Rooms.Delete(ctx, name, nil) }

func (h *house) Divide(ctx context.Context, name string, breakouts []rooms.Breakout) (rooms.Record, error) {
	return h.Rooms.Divide(ctx, name, breakouts, nil)
}

func (h *house) UpdateMetadata(ctx context.Context, req *livekit.UpdateRoomMetadataRequest) (rooms.Record, error) {
	return h.Edit(ctx, req.Room, rooms.RoomEdit{Metadata: &req.Metadata})
}

func (h *house) UpdateParticipant(ctx context.Context, req *livekit.UpdateParticipantRequest) (*livekit.ParticipantInfo, error) {
	e := rooms.ParticipantEdit{Name: req.Name, Metadata: req.Metadata, Attributes: req.Attributes}
	if req.Permission != nil {
		e.Permit = func(p *livekit.ParticipantPermission) { proto.Reset(p); proto.Merge(p, req.Permission) }
	}
	m, err := h.EditParticipant(ctx, req.Room, req.Identity, e)
	return m.Info, err
}

// client is the client of a participant, which records the calls of its outlet and its
// peer.
type client struct {
	*rooms.Participant
	snap rooms.Snapshot

	mu         sync.Mutex // guards the following
	messages   []*livekit.SignalResponse
	left       *livekit.LeaveRequest
	subscribed map[string]bool
	trailers   map[string]string // by track SID: the trailer of its last subscription
	data       []*livekit.DataPacket
	tracks     []string // packets of data tracks
	closed     bool
	poor       bool // its connection is poor
	media      *rooms.MediaSummary
}

func (c *client) Send(m *rooms.Message) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.messages = append(c.messages, m.Response)
	return true
}

func (c *client) Leave(l *livekit.LeaveRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == nil {
		c.left = l
	}
}

// Attached implements rooms.Outlet. A test says itself when a client is lost.
func (c *client) Attached() bool { return false }

// fakePeer is the client's media. It only records calls.
type fakePeer struct{ c *client }

var _ rooms.Peer = fakePeer{}

func (fakePeer) AddTrack(rooms.Announcement, *livekit.TrackInfo) {}
func (fakePeer) RemoveTrack(string)                              {}
func (fakePeer) UpdateTrack(*livekit.TrackInfo)                  {}
func (fakePeer) SetTrackSettings([]string, rooms.TrackSettings)  {}
func (fakePeer) SetPublisherAllowed(bool, bool)                  {}
func (p fakePeer) Subscribe(s rooms.Subscription) {
	p.set(s.Info.Sid, true)
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.trailers[s.Info.Sid] = string(s.Trailer)
}
func (p fakePeer) Unsubscribe(sid string) { p.set(sid, false) }
func (p fakePeer) Quality() (livekit.ConnectionQuality, float32) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.c.poor {
		return livekit.ConnectionQuality_POOR, 1
	}
	return livekit.ConnectionQuality_EXCELLENT, 4.5
}

func (p fakePeer) Summary() *rooms.MediaSummary {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return p.c.media
}

func (p fakePeer) BeginSummary() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.media = nil
}

func (p fakePeer) set(sid string, on bool) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.subscribed[sid] = on
}

func (p fakePeer) SendData(_ rooms.Peer, _ livekit.DataPacket_Kind, packet []byte) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.data = append(p.c.data, mustUnmarshal(packet))
}

func (p fakePeer) SendDataTrack(packet []byte) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.tracks = append(p.c.tracks, string(packet))
}

func (p fakePeer) Close() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.closed = true
}

type fakeTrack string

func (t fakeTrack) SID() string               { return string(t) }
func (fakeTrack) AudioLevel() (float32, bool) { return 0, false }
func (c *client) isSubscribed(sid string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.subscribed[sid]
}
func (c *client) leave() *livekit.LeaveRequest { c.mu.Lock(); defer c.mu.Unlock(); return c.left }
func (c *client) packets() []*livekit.DataPacket {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*livekit.DataPacket(nil), c.data...)
}

// find returns the newest message for which f returns a value.
func find[T any](c *client, f func(*livekit.SignalResponse) *T) *T {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.messages) - 1; i >= 0; i-- {
		if v := f(c.messages[i]); v != nil {
			return v
		}
	}
	return nil
}

func anyone() *livekit.ParticipantPermission {
	return &livekit.ParticipantPermission{CanPublish: true, CanSubscribe: true, CanPublishData: true}
}

// try joins. edit may change the request.
func (h *house) try(room, identity string, edit ...func(*rooms.JoinRequest)) (*client, error) {
	c := &client{subscribed: make(map[string]bool), trailers: make(map[string]string)}
	req := rooms.JoinRequest{
		Room:          room,
		Info:          &livekit.ParticipantInfo{Identity: identity, Permission: anyone()},
		Protocol:      17,
		AutoSubscribe: true,
		IssuedMs:      1, // long ago
		Outlet:        c,
	}
	for _, e := range edit {
		e(&req)
	}
	var err error
	c.Participant, _, err = h.Join(context.Background(), req)
	if err != nil {
		return nil, err
	}
	return c, c.Enter(fakePeer{c}, func(_ *rooms.Participant, snap rooms.Snapshot) { c.snap = snap })
}

// join joins and connects.
func (h *house) join(room, identity string, edit ...func(*rooms.JoinRequest)) *client {
	h.t.Helper()
	c, err := h.try(room, identity, edit...)
	require.NoError(h.t, err)
	c.Connected()
	c.Sync()
	return c
}

// publish announces and negotiates a track, and returns the track's SID.
func (c *client) publish(t *testing.T, cid string, src livekit.TrackSource) string {
	t.Helper()
	typ := livekit.TrackType_VIDEO
	if src == livekit.TrackSource_MICROPHONE {
		typ = livekit.TrackType_AUDIO
	}
	c.AddTrack(&livekit.AddTrackRequest{Cid: cid, Type: typ, Source: src})
	c.Sync()
	resp := find(c, func(m *livekit.SignalResponse) *livekit.TrackPublishedResponse {
		if tp := m.GetTrackPublished(); tp.GetCid() == cid {
			return tp
		}
		return nil
	})
	require.NotNil(t, resp, "track_published for %s", cid)
	c.TrackPublished(fakeTrack(resp.Track.Sid), rooms.TrackFacts{})
	c.Sync()
	return resp.Track.Sid
}

// parlorsOwn are the event types that LiveKit does not have.
func parlorsOwn() (names []string) {
	for _, t := range log.Types() {
		if t.For == log.Askers {
			names = append(names, t.Name)
		}
	}
	return names
}

// log is the event log, or its events of some types.
func (h *house) log(types ...string) []log.Event {
	h.t.Helper()
	var all []log.Event
	for after := int64(0); ; {
		page, err := h.store.Events(context.Background(), log.Query{After: after, Limit: 1000, Types: types})
		require.NoError(h.t, err)
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		after = page[len(page)-1].Seq
	}
}

// events is the event log in LiveKit's terms, as types with the participant's identity.
func (h *house) events(room string) []string {
	h.t.Helper()
	evs, err := h.store.Events(context.Background(), log.Query{Limit: 10_000, Room: room})
	require.NoError(h.t, err)
	var out []string
	own := parlorsOwn()
	for i, e := range evs {
		require.EqualValues(h.t, seqIn(evs[:i], e.RoomSID)+1, e.RoomSeq, "room_seq is gapless")
		w := webhook(h.t, e)
		if slices.Contains(own, e.Type) {
			continue
		}
		s := e.Type
		if id := w.GetParticipant().GetIdentity(); id != "" {
			s += " " + id
		}
		out = append(out, s)
	}
	return out
}

func seqIn(evs []log.Event, roomSID string) (n int64) {
	for _, e := range evs {
		if e.RoomSID == roomSID {
			n = e.RoomSeq
		}
	}
	return n
}
