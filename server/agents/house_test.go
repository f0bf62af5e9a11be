package agents_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	eventlog "parlor/rooms/log"
	"parlor/rooms/sqlite"
	"parlor/rooms/sqlite/sqlitetest"
	"parlor/server/access"
	"parlor/server/agents"
	"parlor/server/unpack"
)

const (
	key, secret = "APIkey", "a-secret-that-is-long-enough-for-hs256"
	otherKey    = "APIother"
	patience    = time.Minute
)

// house is the domain with a real database file, and the endpoint for workers.
type house struct {
	t        *testing.T
	path     string
	grace    time.Duration                                 // of a restart
	join     time.Duration                                 // for an agent to join
	limit    int64                                         // of a message, in bytes
	kinds    int                                           // largest number of kinds of workers; 0 = the default
	known    func(rooms.AgentKinds) rooms.AgentKinds       // wraps the store of kinds; nil = the store itself
	log      *slog.Logger                                  // nil = none
	tells    func(room string) error                       // called before a room is told of workers, whose error it returns; may be nil
	wanting  func()                                        // called when the rooms that want agents have been read; may be nil
	writing  atomic.Pointer[func()]                        // called before a write; may be nil
	finding  func(context.Context, string) context.Context // called as a worker's job is looked up, and returns the look-up's context; may be nil
	domain   func(*rooms.Config)                           // changes the rooms' configuration; may be nil
	dead     atomic.Bool                                   // nothing is written any more
	store    *sqlite.Store
	verifier *access.Verifier
	agents   *agents.Handler
	metrics  *prometheus.Registry
	server   *httptest.Server
	*rooms.Rooms
}

func newHouse(t *testing.T, with ...func(*house)) *house {
	t.Helper()
	h := &house{t: t, path: sqlitetest.Path(t), grace: patience, join: patience, limit: 2 << 20}
	for _, f := range with {
		f(h)
	}
	h.open()
	t.Cleanup(h.close)
	return h
}

func (h *house) open() {
	h.t.Helper()
	log := h.log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	store, err := sqlite.Open(context.Background(), sqlite.Config{Path: h.path, Allow: func() error {
		if h.dead.Load() {
			return errors.New("the process is dead")
		}
		if f := h.writing.Load(); f != nil {
			(*f)()
		}
		return nil
	}})
	require.NoError(h.t, err)
	h.store, h.verifier, h.metrics = store, access.NewVerifier(map[string]string{key: secret, otherKey: secret}), prometheus.NewPedanticRegistry()
	known := rooms.AgentKinds(store)
	if h.known != nil {
		known = h.known(store)
	}
	h.agents = agents.New(agents.Config{
		Records: wantingRecords{store, h.wanting, h.finding}, Known: known, MostKinds: h.kinds, Grace: h.grace, Verifier: h.verifier, Log: log, Metrics: h.metrics, Guard: unpack.NewGuard(),
		ServerInfo: &livekit.ServerInfo{AgentProtocol: 1}, MaxMessage: h.limit,
	})
	domain := rooms.Config{
		Store: store, Log: log, AutoCreate: true, RestartGrace: h.grace,
		Agents: &rooms.AgentsConfig{Workers: h.agents, Records: store, JoinGrace: h.join, WorkerGrace: 10 * time.Millisecond},
	}
	if h.domain != nil {
		h.domain(&domain)
	}
	h.Rooms = rooms.New(domain)
	require.NoError(h.t, h.agents.Open(context.Background(), toldRooms{h.Rooms, h.tells}))
	require.NoError(h.t, h.Open(context.Background()))
	h.server = httptest.NewServer(h.verifier.Middleware(h.agents))
}

func (h *house) close() {
	if h.store == nil {
		return
	}
	h.Stop()
	require.NoError(h.t, h.agents.Close(context.Background()))
	h.server.Close()
	require.NoError(h.t, h.Rooms.Close(context.Background()))
	require.NoError(h.t, h.store.Close(context.Background()))
	h.store = nil
}

// toldRooms are rooms that can fail to be told that there are workers.
type toldRooms struct {
	*rooms.Rooms
	tells func(room string) error
}

func (r toldRooms) Reconsider(ctx context.Context, room, agentName string) error {
	if r.tells != nil {
		if err := r.tells(room); err != nil {
			return err
		}
	}
	return r.Rooms.Reconsider(ctx, room, agentName)
}

// wantingRecords are records that tell when the rooms that want agents have been read, and
// when a worker's job is looked up.
type wantingRecords struct {
	rooms.DispatchRecords
	read func()
	find func(context.Context, string) context.Context
}

func (r wantingRecords) FindJob(ctx context.Context, id string) (rooms.Job, string, error) {
	if r.find != nil {
		ctx = r.find(ctx, id)
	}
	return r.DispatchRecords.FindJob(ctx, id)
}

func (r wantingRecords) RoomsWanting(ctx context.Context, agentName, afterSID string, limit int) ([]string, string, error) {
	names, last, err := r.DispatchRecords.RoomsWanting(ctx, agentName, afterSID, limit)
	if r.read != nil {
		r.read()
	}
	return names, last, err
}

// restart stops and starts the house on the same file.
func (h *house) restart() {
	h.close()
	h.open()
}

// crash stops all writes at once, and starts the house again.
func (h *house) crash() {
	h.dead.Store(true)
	h.close()
	h.dead.Store(false)
	h.open()
}

// events are the types of a room's events so far.
func (h *house) events(room string) (types []string) {
	h.t.Helper()
	all, err := h.store.Events(context.Background(), eventlog.Query{Room: room, Limit: 1000})
	require.NoError(h.t, err)
	for _, e := range all {
		types = append(types, e.Type)
	}
	return types
}

// jobs are the jobs of the open room, by status.
func (h *house) jobs(room string) map[livekit.JobStatus]int {
	h.t.Helper()
	rec, err := h.store.FindOpen(context.Background(), room)
	require.NoError(h.t, err)
	jobs, err := h.store.Jobs(context.Background(), rec.SID, 1000)
	require.NoError(h.t, err)
	count := map[livekit.JobStatus]int{}
	for i := range jobs {
		count[jobs[i].Status()]++
	}
	return count
}

func (h *house) counter(name, label string) (n float64) {
	h.t.Helper()
	families, err := h.metrics.Gather()
	require.NoError(h.t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (len(m.GetLabel()) == 0 || m.GetLabel()[0].GetValue() == label) {
				n += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return n
}

func (h *house) eventually(what string, ok func() bool) {
	h.t.Helper()
	require.Eventually(h.t, ok, patience, 5*time.Millisecond, what)
}

// worker is a program that runs agents: a WebSocket to the server.
type worker struct {
	h    *house
	conn *websocket.Conn
	text bool // it speaks JSON
	got  chan *livekit.ServerMessage
	over chan struct{} // closed when the connection has ended
	ping chan struct{} // gets one for each question whether it is there, as far as it has room
	id   string        // set by register
	err  error         // the reason for its end

	mu       sync.Mutex // guards the following
	answer   func(*livekit.Job) *livekit.AvailabilityResponse
	assigned []*livekit.JobAssignment
	ended    []string // jobs that were terminated
}

func token(t *testing.T, h *house, apiKey string, grant *auth.VideoGrant) string {
	t.Helper()
	jwt, err := h.verifier.Mint(apiKey, &auth.ClaimGrants{Video: grant}, time.Hour)
	require.NoError(t, err)
	return jwt
}

// connect opens a worker's connection, without registering.
func (h *house) connect(apiKey string, text bool) *worker {
	h.t.Helper()
	return h.dial(strings.Replace(h.server.URL, "http", "ws", 1)+"/agent", apiKey, text)
}

// dial is connect by a URL.
func (h *house) dial(url, apiKey string, text bool) *worker {
	h.t.Helper()
	ping := make(chan struct{}, 100)
	conn, _, err := websocket.Dial(context.Background(), url, &websocket.DialOptions{
		OnPingReceived: func(context.Context, []byte) bool {
			select {
			case ping <- struct{}{}:
			default:
			}
			return true
		},
		HTTPHeader: map[string][]string{"Authorization": {"Bearer " + token(h.t, h, apiKey, &auth.VideoGrant{Agent: true})}},
	})
	require.NoError(h.t, err)
	w := &worker{h: h, conn: conn, text: text, got: make(chan *livekit.ServerMessage, 100), over: make(chan struct{}), ping: ping}
	w.answer = func(*livekit.Job) *livekit.AvailabilityResponse {
		return &livekit.AvailabilityResponse{Available: true}
	}
	go w.read() // ends with the connection
	h.t.Cleanup(w.die)
	return w
}

// worker registers a worker that accepts jobs.
func (h *house) worker(req *livekit.RegisterWorkerRequest) *worker {
	h.t.Helper()
	w := h.connect(key, false)
	w.register(req)
	return w
}

func (w *worker) register(req *livekit.RegisterWorkerRequest) {
	w.h.t.Helper()
	w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: req}})
	res := w.expect().GetRegister()
	w.id = res.GetWorkerId()
	require.True(w.h.t, strings.HasPrefix(w.id, "AW_"))
	require.EqualValues(w.h.t, 1, res.ServerInfo.AgentProtocol)
	// The worker is in its pool when the next message is answered.
	w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Ping{Ping: &livekit.WorkerPing{Timestamp: 7}}})
	require.EqualValues(w.h.t, 7, w.expect().GetPong().GetLastTimestamp())
}

func (w *worker) send(m *livekit.WorkerMessage) {
	kind, marshal := websocket.MessageBinary, proto.Marshal
	if w.text {
		kind, marshal = websocket.MessageText, protojson.Marshal
	}
	b, err := marshal(m)
	if err == nil {
		_ = w.conn.Write(context.Background(), kind, b) // read reports the connection's end
	}
}

// expect is the next message that does not concern jobs.
func (w *worker) expect() *livekit.ServerMessage {
	w.h.t.Helper()
	select {
	case m := <-w.got:
		return m
	case <-w.over:
		require.FailNow(w.h.t, "the connection has ended", "%v", w.err)
	case <-time.After(patience):
		require.FailNow(w.h.t, "no message has come")
	}
	return nil
}

func (w *worker) read() {
	defer close(w.over)
	w.conn.SetReadLimit(-1)
	for {
		typ, b, err := w.conn.Read(context.Background())
		m := &livekit.ServerMessage{}
		if err == nil && typ == websocket.MessageText {
			err = protojson.Unmarshal(b, m)
		} else if err == nil {
			err = proto.Unmarshal(b, m)
		}
		if err != nil {
			w.err = err
			return
		}
		w.mu.Lock()
		answer := w.answer
		switch {
		case m.GetAssignment() != nil:
			w.assigned = append(w.assigned, m.GetAssignment())
		case m.GetTermination() != nil:
			w.ended = append(w.ended, m.GetTermination().JobId)
		}
		w.mu.Unlock()
		switch {
		case m.GetAvailability() != nil:
			if res := answer(m.GetAvailability().Job); res != nil {
				res.JobId = m.GetAvailability().Job.Id
				w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{Availability: res}})
			}
		case m.GetAssignment() == nil && m.GetTermination() == nil:
			w.got <- m
		}
	}
}

func (w *worker) answers(f func(*livekit.Job) *livekit.AvailabilityResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

// die closes the connection without a message.
func (w *worker) die() {
	_ = w.conn.CloseNow() // it may have ended
	<-w.over
}

// jobs are the worker's assignments so far.
func (w *worker) jobs() []*livekit.JobAssignment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*livekit.JobAssignment(nil), w.assigned...)
}

// takeJobs are the assignments since the last call, which jobs no longer returns.
func (w *worker) takeJobs() (all []*livekit.JobAssignment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all, w.assigned = w.assigned, nil
	return all
}

func (w *worker) terminated() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.ended...)
}

// job waits for the worker's nth job, from 1.
func (w *worker) job(n int) *livekit.JobAssignment {
	w.h.t.Helper()
	w.h.eventually("the worker has not got its job", func() bool { return len(w.jobs()) >= n })
	return w.jobs()[n-1]
}

// status reports the state of a job.
func (w *worker) status(id string, s livekit.JobStatus) {
	w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateJob{UpdateJob: &livekit.UpdateJobStatus{JobId: id, Status: s}}})
}

// silentOutlet is the outlet of a client that records only its tracks and its leave.
type silentOutlet struct {
	left   chan *livekit.LeaveRequest
	tracks chan *livekit.TrackInfo
}

func (o silentOutlet) Send(m *rooms.Message) bool {
	if t := m.Response.GetTrackPublished(); t != nil {
		o.tracks <- t.Track
	}
	return true
}
func (o silentOutlet) Leave(l *livekit.LeaveRequest) {
	select {
	case o.left <- l:
	default:
	}
}
func (silentOutlet) Attached() bool { return false }

// noPeer is media without any effect.
type noPeer struct{}

func (noPeer) AddTrack(rooms.Announcement, *livekit.TrackInfo)      {}
func (noPeer) RemoveTrack(string)                                   {}
func (noPeer) UpdateTrack(*livekit.TrackInfo)                       {}
func (noPeer) SetTrackSettings([]string, rooms.TrackSettings)       {}
func (noPeer) SetPublisherAllowed(bool, bool)                       {}
func (noPeer) Subscribe(rooms.Subscription)                         {}
func (noPeer) Unsubscribe(string)                                   {}
func (noPeer) SendData(rooms.Peer, livekit.DataPacket_Kind, []byte) {}
func (noPeer) SendDataTrack([]byte)                                 {}
func (noPeer) Summary() *rooms.MediaSummary                         { return nil }
func (noPeer) BeginSummary()                                        {}
func (noPeer) Quality() (livekit.ConnectionQuality, float32) {
	return livekit.ConnectionQuality_EXCELLENT, 5
}
func (noPeer) Close() {}

// participant is a client in a room.
type participant struct {
	*rooms.Participant
	left   chan *livekit.LeaveRequest
	tracks chan *livekit.TrackInfo
}

// publish publishes the client's next announced track.
func (p *participant) publish() {
	info := <-p.tracks
	p.TrackPublished(soundless(info.Sid), rooms.TrackFacts{})
	p.Sync()
}

// soundless is a track without media.
type soundless string

func (s soundless) SID() string               { return string(s) }
func (soundless) AudioLevel() (float32, bool) { return 0, false }

// enter makes a client join, with the claims of a token if it has one.
func (h *house) enter(req rooms.JoinRequest) (*participant, error) {
	out := silentOutlet{left: make(chan *livekit.LeaveRequest, 1), tracks: make(chan *livekit.TrackInfo, 10)}
	req.Outlet = out
	p, _, err := h.Join(context.Background(), req)
	if err != nil {
		return nil, err
	}
	if err := p.Enter(noPeer{}, func(*rooms.Participant, rooms.Snapshot) {}); err != nil {
		return nil, err
	}
	p.Connected()
	p.Sync()
	return &participant{p, out.left, out.tracks}, nil
}

// person joins as a participant that is not an agent.
func (h *house) person(room, identity string) *participant {
	h.t.Helper()
	p, err := h.enter(rooms.JoinRequest{Room: room, Info: &livekit.ParticipantInfo{
		Identity: identity, Permission: &livekit.ParticipantPermission{CanPublish: true, CanSubscribe: true},
	}})
	require.NoError(h.t, err)
	return p
}

// agent joins as the agent of a job.
func (h *house) agent(a *livekit.JobAssignment) (*participant, error) {
	c, err := h.verifier.Verify(a.Token)
	require.NoError(h.t, err)
	return h.enter(rooms.JoinRequest{Room: c.Grants.Video.Room, Job: c.ID, IssuedMs: c.NotBefore.UnixMilli(), Info: &livekit.ParticipantInfo{
		Identity: c.Grants.Identity, Kind: c.Grants.GetParticipantKind(), Permission: c.Grants.Video.ToPermission(),
	}})
}

// agentsIn are the identities of the agents in a room, including those expected back.
func (h *house) agentsIn(room string) (all []string) {
	h.t.Helper()
	list, err := h.Participants(context.Background(), room)
	require.NoError(h.t, err)
	for _, p := range list {
		if p.Kind == livekit.ParticipantInfo_AGENT {
			all = append(all, p.Identity)
		}
	}
	return all
}
