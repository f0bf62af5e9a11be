package conformance

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// agentKills is how often TestAgentsOverKills kills its server.
var agentKills = flag.Int("agent-kills", 20, "how often the server is killed with agents at work")

// agentWorker runs agents as LiveKit's frameworks do: it keeps a connection, reports its
// running jobs after a reconnect, and makes each agent join with the Go SDK.
type agentWorker struct {
	t    *testing.T
	url  string
	reg  *livekit.RegisterWorkerRequest
	life context.Context
	stop context.CancelFunc
	done sync.WaitGroup // its goroutines

	mu         sync.Mutex // guards the following
	conn       *websocket.Conn
	registered int
	jobs       map[string]*agentJob
	ended      []string // by the server
}

// agentJob is the job of one agent.
type agentJob struct {
	assignment *livekit.JobAssignment
	room       *lksdk.Room // nil until it has joined
	cancel     context.CancelFunc
}

func newAgentWorker(t *testing.T, url string, reg *livekit.RegisterWorkerRequest) *agentWorker {
	t.Helper()
	w := &agentWorker{t: t, url: url, reg: reg, jobs: map[string]*agentJob{}}
	w.life, w.stop = context.WithCancel(context.Background())
	w.done.Go(w.run)
	t.Cleanup(w.end)
	eventually(t, "the worker is registered", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.registered > 0
	})
	return w
}

// end stops the worker and its agents, like the end of its process.
func (w *agentWorker) end() {
	w.stop()
	w.mu.Lock()
	if w.conn != nil {
		_ = w.conn.CloseNow() // it may be closed already
	}
	w.mu.Unlock()
	w.done.Wait()
}

// run connects repeatedly.
func (w *agentWorker) run() {
	for w.life.Err() == nil {
		w.serve()
		select {
		case <-w.life.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (w *agentWorker) serve() {
	jwt, err := auth.NewAccessToken(apiKey, apiSecret).SetVideoGrant(&auth.VideoGrant{Agent: true}).ToJWT()
	if err != nil {
		w.t.Error(err)
		return
	}
	conn, _, err := websocket.Dial(w.life, w.url+"/agent", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + jwt}}})
	if err != nil {
		return // the server is down
	}
	defer conn.CloseNow()
	w.mu.Lock()
	w.conn = conn
	var ids []string
	for id := range w.jobs {
		ids = append(ids, id)
	}
	w.mu.Unlock()
	w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: w.reg}})
	if len(ids) > 0 {
		w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_MigrateJob{MigrateJob: &livekit.MigrateJobRequest{JobIds: ids}}})
	}
	for {
		_, b, err := conn.Read(w.life)
		m := &livekit.ServerMessage{}
		if err != nil || proto.Unmarshal(b, m) != nil {
			return
		}
		w.handle(m)
	}
}

func (w *agentWorker) send(m *livekit.WorkerMessage) {
	w.mu.Lock()
	conn := w.conn
	w.mu.Unlock()
	if b, err := proto.Marshal(m); err == nil {
		_ = conn.Write(w.life, websocket.MessageBinary, b) // the reader notices the connection's end
	}
}

func (w *agentWorker) handle(m *livekit.ServerMessage) {
	switch m := m.Message.(type) {
	case *livekit.ServerMessage_Register:
		w.mu.Lock()
		w.registered++
		w.mu.Unlock()
	case *livekit.ServerMessage_Availability:
		w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{Availability: &livekit.AvailabilityResponse{
			JobId: m.Availability.Job.Id, Available: true, ParticipantName: "an agent",
		}}})
	case *livekit.ServerMessage_Assignment:
		ctx, cancel := context.WithCancel(w.life)
		job := &agentJob{assignment: m.Assignment, cancel: cancel}
		w.mu.Lock()
		w.jobs[m.Assignment.Job.Id] = job
		w.mu.Unlock()
		w.done.Go(func() { w.work(ctx, job) })
	case *livekit.ServerMessage_Termination:
		w.mu.Lock()
		w.ended = append(w.ended, m.Termination.JobId)
		if job := w.jobs[m.Termination.JobId]; job != nil {
			job.cancel()
		}
		w.mu.Unlock()
	}
}

// work runs an agent, from the assignment of its job to its end.
func (w *agentWorker) work(ctx context.Context, job *agentJob) {
	over := make(chan struct{}, 1)
	status := livekit.JobStatus_JS_FAILED
	for ctx.Err() == nil {
		room, err := lksdk.ConnectToRoomWithToken(w.url, job.assignment.Token, &lksdk.RoomCallback{
			OnDisconnected: func() { over <- struct{}{} },
		})
		if err != nil { // the server is down, or the job is over, of which the worker is told
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
			continue
		}
		w.mu.Lock()
		job.room = room
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			room.Disconnect()
			status = livekit.JobStatus_JS_SUCCESS
		case <-over:
		}
		break
	}
	id := job.assignment.Job.Id
	w.mu.Lock()
	delete(w.jobs, id)
	w.mu.Unlock()
	w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateJob{UpdateJob: &livekit.UpdateJobStatus{JobId: id, Status: status}}})
}

// agentsIn are the agents in a room, according to the API.
func agentsIn(t *testing.T, s *server, room string) (all []*livekit.ParticipantInfo) {
	t.Helper()
	res, err := roomService(s).ListParticipants(t.Context(), &livekit.ListParticipantsRequest{Room: room})
	require.NoError(t, err)
	for _, p := range res.Participants {
		if p.Kind == livekit.ParticipantInfo_AGENT {
			all = append(all, p)
		}
	}
	return all
}

// oneAgent waits for a room's only agent.
func oneAgent(t *testing.T, s *server, room string) (agent *livekit.ParticipantInfo) {
	t.Helper()
	eventually(t, "the room has its agent", func() bool {
		all := agentsIn(t, s, room)
		require.LessOrEqual(t, len(all), 1, all)
		if len(all) == 1 {
			agent = all[0]
		}
		return len(all) == 1 && agent.State == livekit.ParticipantInfo_ACTIVE
	})
	return agent
}

func TestAgents(t *testing.T) {
	t.Parallel()
	s := startServer(t, settings{})
	dispatches := lksdk.NewAgentDispatchServiceClient(s.http(), apiKey, apiSecret)
	machine := newWire(t, s)
	newAgentWorker(t, machine.ws(), &livekit.RegisterWorkerRequest{AgentName: "scribe"})
	implicit := newAgentWorker(t, s.ws(), &livekit.RegisterWorkerRequest{})

	// A room that a token opens without a request for agents gets the agent for every
	// room.
	plain := roomName(t)
	dual.joinAt(t, s.ws(), token(t, "ada", join(plain)))
	agent := oneAgent(t, s, plain)
	require.Equal(t, "an agent", agent.Name)
	require.Contains(t, agent.Attributes, "lk.agent_name")

	// One with a request for an agent gets only that one.
	named := plain + "-named"
	jwt, err := auth.NewAccessToken(apiKey, apiSecret).SetIdentity("ada").SetVideoGrant(join(named)).
		SetRoomConfig(&livekit.RoomConfiguration{Agents: []*livekit.RoomAgentDispatch{{AgentName: "scribe", Metadata: "write"}}}).ToJWT()
	require.NoError(t, err)
	ada := single.joinAt(t, s.ws(), jwt)
	agent = oneAgent(t, s, named)
	require.Equal(t, "scribe", agent.Attributes["lk.agent_name"])
	ada.sees(t, agent.Identity)

	// The same holds for a room that a dispatch opens.
	asked := plain + "-asked"
	d, err := dispatches.CreateDispatch(t.Context(), &livekit.CreateAgentDispatchRequest{Room: asked, AgentName: "scribe", Metadata: "m"})
	require.NoError(t, err)
	// In LiveKit, rooms that a dispatch opens get the agent for every room too.
	eventually(t, "both agents are there", func() bool { return len(agentsIn(t, s, asked)) == 2 })
	list, err := dispatches.ListDispatch(t.Context(), &livekit.ListAgentDispatchRequest{Room: asked, DispatchId: d.Id})
	require.NoError(t, err)
	require.Len(t, list.AgentDispatches, 1)
	require.Len(t, list.AgentDispatches[0].State.Jobs, 1)
	_, err = dispatches.DeleteDispatch(t.Context(), &livekit.DeleteAgentDispatchRequest{Room: asked, DispatchId: d.Id})
	require.NoError(t, err)
	eventually(t, "the agent has left", func() bool { return len(agentsIn(t, s, asked)) == 1 })

	if !env.reference {
		// The agents of a worker whose machine is lost are replaced.
		newAgentWorker(t, s.ws(), &livekit.RegisterWorkerRequest{AgentName: "scribe"})
		machine.hold()
		machine.cut()
		ada.await(t, "left "+agent.Identity)
		require.NotEqual(t, agent.Identity, oneAgent(t, s, named).Identity)
	}

	_, err = roomService(s).DeleteRoom(t.Context(), &livekit.DeleteRoomRequest{Room: plain})
	require.NoError(t, err)
	eventually(t, "the job is terminated", func() bool {
		implicit.mu.Lock()
		defer implicit.mu.Unlock()
		return len(implicit.ended) > 0
	})
}

// TestAgentsThatComeLate: a room gets its agent when the first worker comes, whether it
// asked for one by name or is there for the agents of every room.
func TestAgentsThatComeLate(t *testing.T) {
	t.Parallel()
	s := startServer(t, settings{})
	plain := roomName(t)
	asked := plain + "-asked"
	ada := dual.joinAt(t, s.ws(), token(t, "ada", join(plain)))
	_, err := roomService(s).CreateRoom(t.Context(), &livekit.CreateRoomRequest{
		Name: asked, EmptyTimeout: 3600, Agents: []*livekit.RoomAgentDispatch{{}, {AgentName: "scribe"}},
	})
	require.NoError(t, err)
	for _, namespace := range []string{"one", "two"} {
		newAgentWorker(t, s.ws(), &livekit.RegisterWorkerRequest{Namespace: &namespace})
	}
	newAgentWorker(t, s.ws(), &livekit.RegisterWorkerRequest{AgentName: "scribe"})
	if env.reference {
		// In LiveKit these come to rooms that start, and to no other.
		time.Sleep(5 * time.Second)
		require.Empty(t, agentsIn(t, s, plain))
		require.Empty(t, agentsIn(t, s, asked))
		return
	}
	eventually(t, "the agents are there", func() bool {
		return len(agentsIn(t, s, plain)) == 2 && len(agentsIn(t, s, asked)) == 3
	})
	for _, agent := range agentsIn(t, s, plain) {
		ada.sees(t, agent.Identity)
	}
	newAgentWorker(t, s.ws(), &livekit.RegisterWorkerRequest{Namespace: proto.String("one")})
	dual.joinAt(t, s.ws(), token(t, "bob", join(plain)))
	// What the room would give the worker comes before the agents of a later one.
	later := plain + "-later"
	dual.joinAt(t, s.ws(), token(t, "cyd", join(later)))
	eventually(t, "a later room has its agents", func() bool { return len(agentsIn(t, s, later)) == 2 })
	require.Len(t, agentsIn(t, s, plain), 2, "a second worker of a kind is not a second agent")
}

// TestAgentsOverKills: however often the server is killed, each room that requested an
// agent has exactly one, and no job is started twice.
func TestAgentsOverKills(t *testing.T) {
	parlorOnly(t)
	t.Parallel()
	s := startServer(t, settings{"restart_grace": "10s"})
	for range 2 {
		newAgentWorker(t, s.ws(), &livekit.RegisterWorkerRequest{AgentName: "scribe"})
	}
	newRoom := func(name string) {
		t.Helper()
		_, err := roomService(s).CreateRoom(t.Context(), &livekit.CreateRoomRequest{
			Name: name, EmptyTimeout: 3600, Agents: []*livekit.RoomAgentDispatch{{AgentName: "scribe"}},
		})
		require.NoError(t, err)
	}
	base := roomName(t)
	rooms := []string{base + "-0", base + "-1"}
	for _, room := range rooms {
		newRoom(room)
		oneAgent(t, s, room)
	}
	for n := range *agentKills {
		if n%5 == 0 { // a room with a new request
			rooms = append(rooms, base+"-n"+time.Now().Format("150405.000"))
			newRoom(rooms[len(rooms)-1])
		}
		s.kill()
		require.NoError(t, s.start())
		for _, room := range rooms {
			require.LessOrEqual(t, len(agentsIn(t, s, room)), 1, "after kill %d", n+1)
		}
		select { // at any point of their return
		case <-time.After(rand.N(1500 * time.Millisecond)):
		case <-t.Context().Done():
		}
	}
	for _, room := range rooms {
		eventuallyWithin(t, 2*patience, "the room has its agent", func() bool {
			all := agentsIn(t, s, room)
			require.LessOrEqual(t, len(all), 1, all)
			return len(all) == 1 && all[0].State == livekit.ParticipantInfo_ACTIVE
		})
	}
	var started []string
	for after := ""; ; {
		url := s.http() + "/v1/events?limit=500"
		if after != "" {
			url += "&after=" + after
		}
		status, body, err := fetch(t.Context(), url, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(apiKey+":"+apiSecret)))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, body)
		var page struct {
			Cursor string
			Events []struct {
				Type  string
				Event struct{ Job struct{ ID string } }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(body), &page))
		for _, e := range page.Events {
			if e.Type == "agent_job_started" {
				require.NotEmpty(t, e.Event.Job.ID, body)
				require.False(t, slices.Contains(started, e.Event.Job.ID), "job %s was begun twice", e.Event.Job.ID)
				started = append(started, e.Event.Job.ID)
			}
		}
		if len(page.Events) == 0 {
			break
		}
		after = page.Cursor
	}
	require.GreaterOrEqual(t, len(started), len(rooms))
	t.Logf("%d kills, %d rooms, %d jobs", *agentKills, len(rooms), len(started))
}
