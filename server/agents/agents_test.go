package agents_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
)

const (
	running   = livekit.JobStatus_JS_RUNNING
	pending   = livekit.JobStatus_JS_PENDING
	success   = livekit.JobStatus_JS_SUCCESS
	failed    = livekit.JobStatus_JS_FAILED
	cancelled = livekit.JobStatus_JS_CANCELLED
)

func named(name string) *livekit.RegisterWorkerRequest {
	return &livekit.RegisterWorkerRequest{Type: livekit.JobType_JT_ROOM, AgentName: name}
}

func want(t *testing.T, h *house, room, name string) *livekit.AgentDispatch {
	t.Helper()
	d, err := h.CreateDispatch(context.Background(), &livekit.CreateAgentDispatchRequest{Room: room, AgentName: name, Metadata: "m"})
	require.NoError(t, err)
	return d
}

func TestEveryNewRoomGetsAnAgent(t *testing.T) {
	h := newHouse(t)
	w := h.worker(&livekit.RegisterWorkerRequest{Type: livekit.JobType_JT_ROOM, AllowedPermissions: &livekit.ParticipantPermission{CanSubscribe: true, Hidden: true}})
	_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "r"})
	require.NoError(t, err)

	a := w.job(1)
	require.Equal(t, "r", a.Job.Room.Name)
	require.Equal(t, running, a.Job.State.Status)
	require.Equal(t, "agent-"+a.Job.Id, a.Job.State.ParticipantIdentity)
	c, err := h.verifier.Verify(a.Token)
	require.NoError(t, err)
	require.Equal(t, "agent-"+a.Job.Id, c.Grants.Identity)
	require.Equal(t, livekit.ParticipantInfo_AGENT, c.Grants.GetParticipantKind())
	require.Contains(t, c.Grants.Attributes, "lk.agent_name")
	v := c.Grants.Video
	require.True(t, v.RoomJoin && v.Agent && v.Hidden && v.GetCanSubscribe())
	require.False(t, v.GetCanPublish() || v.GetCanPublishData() || v.GetCanUpdateOwnMetadata())
	_, err = h.agent(a)
	require.NoError(t, err)

	require.NoError(t, h.Delete(t.Context(), "r", nil))
	h.eventually("the job is not terminated", func() bool { return len(w.terminated()) == 1 })
	events := h.events("r")
	require.Equal(t, []string{"room_started", "agent_job_started", "participant_joined"}, events[:3])
	require.Equal(t, "room_finished", events[len(events)-1], "a room's last event")
	require.Contains(t, events, "agent_job_ended")
}

func TestWhoNamesAgentsGetsThoseAlone(t *testing.T) {
	h := newHouse(t)
	implicit, one, two := h.worker(named("")), h.worker(named("one")), h.worker(named("two"))
	_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "r", Agents: []*livekit.RoomAgentDispatch{{AgentName: "one", Metadata: "hello"}}})
	require.NoError(t, err)
	require.Equal(t, "hello", one.job(1).Job.Metadata)

	// As in a token's room configuration.
	_, err = h.enter(rooms.JoinRequest{
		Room: "joined", Info: &livekit.ParticipantInfo{Identity: "ada"},
		Create: &livekit.CreateRoomRequest{Agents: []*livekit.RoomAgentDispatch{{AgentName: "two"}}},
	})
	require.NoError(t, err)
	require.Equal(t, "joined", two.job(1).Job.Room.Name)
	require.Empty(t, implicit.jobs())
	require.Len(t, one.jobs(), 1)

	_, err = h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "bad", Agents: []*livekit.RoomAgentDispatch{{Deployment: "a_b"}}})
	require.Equal(t, rooms.Invalid, rooms.ErrorCode(err))
}

// TestWorkersJobsAndDispatchesAreListed: over all rooms, a page at a time. What a worker says
// of its load need not be a number.
func TestWorkersJobsAndDispatchesAreListed(t *testing.T) {
	h := newHouse(t)
	want(t, h, "a", "scribe")
	want(t, h, "b", "scribe")
	want(t, h, "c", "nobody's")
	w := h.worker(named("scribe"))
	running := w.job(2)
	w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateWorker{UpdateWorker: &livekit.UpdateWorkerStatus{Load: float32(math.NaN())}}})
	h.eventually("the worker takes no more", func() bool { return h.agents.Workers()[0].Full })
	one := h.agents.Workers()[0]
	require.Equal(t, "scribe", one.Kind.AgentName)
	require.Equal(t, key, one.APIKey)
	require.Equal(t, 2, one.Jobs)
	require.Equal(t, 1.0, one.Load)

	jobs, err := h.store.ListJobs(t.Context(), rooms.JobCursor{}, 1)
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	more, err := h.store.ListJobs(t.Context(), rooms.JobCursor{RoomSID: jobs[0].RoomSID, ID: jobs[0].ID}, 2)
	require.NoError(t, err)
	require.Len(t, more, 1)
	jobs = append(jobs, more...)
	require.ElementsMatch(t, []string{"a", "b"}, []string{jobs[0].Room, jobs[1].Room})
	for _, job := range jobs {
		require.Equal(t, livekit.JobStatus_JS_RUNNING, job.Status())
		require.Equal(t, one.ID, job.Info.State.WorkerId)
	}
	require.Contains(t, []string{jobs[0].ID, jobs[1].ID}, running.Job.Id)

	var found []rooms.PlacedDispatch
	for after := (rooms.DispatchCursor{}); ; {
		page, err := h.store.ListDispatches(t.Context(), after, 1)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		found = append(found, page...)
		after = rooms.DispatchCursor{AgentName: page[0].AgentName, RoomSID: page[0].RoomSID, ID: page[0].ID}
	}
	require.Len(t, found, 3)
	require.Equal(t, "nobody's", found[0].AgentName)
	require.Equal(t, []int{0, 1, 1}, []int{found[0].OpenJobs, found[1].OpenJobs, found[2].OpenJobs})
}

func TestADispatchWaitsForItsWorker(t *testing.T) {
	h := newHouse(t)
	d := want(t, h, "r", "late")
	require.Empty(t, d.State.Jobs)
	h.restart()
	w := h.worker(named("late"))
	a := w.job(1)
	require.Equal(t, "m", a.Job.Metadata)
	require.Equal(t, d.Id, a.Job.DispatchId)
	agent, err := h.agent(a)
	require.NoError(t, err)

	list, err := h.ListDispatch(t.Context(), &livekit.ListAgentDispatchRequest{Room: "r", DispatchId: d.Id})
	require.NoError(t, err)
	require.Len(t, list.AgentDispatches, 1)
	require.Len(t, list.AgentDispatches[0].State.Jobs, 1)
	require.Equal(t, running, list.AgentDispatches[0].State.Jobs[0].State.Status)

	gone, err := h.DeleteDispatch(t.Context(), &livekit.DeleteAgentDispatchRequest{Room: "r", DispatchId: d.Id})
	require.NoError(t, err)
	require.NotZero(t, gone.State.DeletedAt)
	require.Equal(t, success, gone.State.Jobs[0].State.Status)
	h.eventually("the job is not terminated", func() bool { return len(w.terminated()) == 1 })
	select { // it does not leave by itself
	case l := <-agent.left:
		require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, l.Reason)
	case <-time.After(patience):
		require.FailNow(t, "the agent was not sent away")
	}
	_, err = h.agent(a)
	require.Equal(t, rooms.Denied, rooms.ErrorCode(err), "its job is over")
	_, err = h.DeleteDispatch(t.Context(), &livekit.DeleteAgentDispatchRequest{Room: "r", DispatchId: d.Id})
	require.Equal(t, rooms.ErrNoDispatch, err)
	list, err = h.ListDispatch(t.Context(), &livekit.ListAgentDispatchRequest{Room: "r"})
	require.NoError(t, err)
	require.Empty(t, list.AgentDispatches)
	_, err = h.ListDispatch(t.Context(), &livekit.ListAgentDispatchRequest{Room: "nowhere"})
	require.Equal(t, rooms.NotFound, rooms.ErrorCode(err))
}

// TestAnUnnamedDispatchWaitsForItsWorkers: one job for each namespace, whenever its first
// worker comes, and none for the second.
func TestAnUnnamedDispatchWaitsForItsWorkers(t *testing.T) {
	h := newHouse(t)
	_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "r", Agents: []*livekit.RoomAgentDispatch{{Metadata: "m"}, {AgentName: "other"}}})
	require.NoError(t, err)
	kind := func(namespace string) *livekit.RegisterWorkerRequest {
		return &livekit.RegisterWorkerRequest{Type: livekit.JobType_JT_ROOM, Namespace: &namespace}
	}
	one := h.worker(kind("one"))
	require.Equal(t, "m", one.job(1).Job.Metadata)
	h.restart()
	one, other := h.worker(kind("one")), h.worker(kind("one"))
	two := h.worker(kind("two"))
	require.Equal(t, "two", two.job(1).Job.Namespace)
	require.Empty(t, one.jobs())
	require.Empty(t, other.jobs())
	require.Equal(t, map[livekit.JobStatus]int{running: 2}, h.jobs("r"))
}

// TestOccupiedRoomsGetTheAgentsForEveryRoom that come late; empty ones get them with the
// first that joins. An agent that has done its work has no successor, and one whose
// dispatch was deleted does not come again.
func TestOccupiedRoomsGetTheAgentsForEveryRoom(t *testing.T) {
	h := newHouse(t)
	for _, room := range []string{"empty", "named"} {
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: room, EmptyTimeout: 3600, Agents: map[string][]*livekit.RoomAgentDispatch{"named": {{AgentName: "n"}}}[room]})
		require.NoError(t, err)
	}
	h.person("r", "ada")
	h.person("named", "ada")
	first := h.worker(named(""))
	require.Equal(t, "r", first.job(1).Job.Room.Name)
	require.Empty(t, h.jobs("empty"))
	h.person("empty", "ada")
	require.Equal(t, "empty", first.job(2).Job.Room.Name)
	h.person("empty", "bob")

	a := first.job(1)
	agent, err := h.agent(a)
	require.NoError(t, err)
	first.status(a.Job.Id, success)
	h.eventually("the job has not ended", func() bool { return h.jobs("r")[success] == 1 })
	select {
	case <-agent.left:
	case <-time.After(patience):
		require.FailNow(t, "the agent was not sent away")
	}
	list, err := h.ListDispatch(t.Context(), &livekit.ListAgentDispatchRequest{Room: "empty"})
	require.NoError(t, err)
	require.Len(t, list.AgentDispatches, 1)
	_, err = h.DeleteDispatch(t.Context(), &livekit.DeleteAgentDispatchRequest{Room: "empty", DispatchId: list.AgentDispatches[0].Id})
	require.NoError(t, err)

	second := h.worker(&livekit.RegisterWorkerRequest{Type: livekit.JobType_JT_PARTICIPANT}) // another kind
	require.Equal(t, "r", second.job(1).Job.Room.Name)
	h.person("empty", "cyd")
	h.restart()
	third := h.worker(named(""))
	h.person("new", "ada")
	require.Equal(t, "new", third.job(1).Job.Room.Name)
	require.Equal(t, map[livekit.JobStatus]int{success: 1, running: 1}, h.jobs("r"))
	require.Equal(t, map[livekit.JobStatus]int{success: 1}, h.jobs("empty"))
	require.Empty(t, h.jobs("named"))
}

// TestARoomThatCannotBeTold of a worker gets its agent once it can be. Meanwhile no other
// room is told again, however often the pool has something to do.
func TestARoomThatCannotBeTold(t *testing.T) {
	var mu sync.Mutex
	told, broken := map[string]int{}, true
	var log bytes.Buffer
	h := newHouse(t, func(h *house) {
		h.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		h.tells = func(room string) error {
			mu.Lock()
			defer mu.Unlock()
			told[room]++
			if room == "failed" && broken {
				return rooms.ErrFailed
			}
			return nil
		}
	})
	for _, room := range []string{"asked", "failed"} {
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: room, EmptyTimeout: 3600, Agents: []*livekit.RoomAgentDispatch{{}}})
		require.NoError(t, err)
	}
	h.person("asked", "ada")
	h.person("occupied", "ada")
	w := h.worker(named(""))
	w.job(2)
	for n := range 5 { // each is placed, and wakes the pool
		h.person(fmt.Sprint("new-", n), "ada")
		w.job(3 + n)
	}
	for _, of := range []string{"more", "and more"} {
		before := func() int { mu.Lock(); defer mu.Unlock(); return told["failed"] }()
		h.eventually(of, func() bool { mu.Lock(); defer mu.Unlock(); return told["failed"] > before })
	}
	mu.Lock()
	require.Equal(t, 1, told["asked"])
	require.Equal(t, 1, told["occupied"])
	broken = false
	mu.Unlock()
	h.eventually("the room has its agent", func() bool { return h.jobs("failed")[running] == 1 })
	h.close()
	require.Equal(t, 1, strings.Count(log.String(), "cannot ask a room"), log.String())
}

// TestAWorkerThatComesWhileADispatchIsWritten finds no room that wants it, and gets the
// job all the same.
func TestAWorkerThatComesWhileADispatchIsWritten(t *testing.T) {
	read := make(chan struct{}, 1)
	h := newHouse(t, func(h *house) { h.wanting = func() { read <- struct{}{} } })
	h.person("there", "ada")
	n := 0
	for what, ask := range map[string]func(agents []*livekit.RoomAgentDispatch) error{
		"a dispatch": func(agents []*livekit.RoomAgentDispatch) error {
			_, err := h.CreateDispatch(t.Context(), &livekit.CreateAgentDispatchRequest{Room: "there", AgentName: agents[0].AgentName})
			return err
		},
		"a room": func(agents []*livekit.RoomAgentDispatch) error {
			_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "made", Agents: agents})
			return err
		},
		"a join": func(agents []*livekit.RoomAgentDispatch) error {
			_, err := h.enter(rooms.JoinRequest{
				Room: "joined", Info: &livekit.ParticipantInfo{Identity: "ada"}, Create: &livekit.CreateRoomRequest{Agents: agents},
			})
			return err
		},
	} {
		n++
		name := "agent-" + strconv.Itoa(n)
		begun, hold := make(chan struct{}), make(chan struct{})
		wait := sync.OnceFunc(func() { close(begun); <-hold })
		h.writing.Store(&wait)
		done := make(chan error, 1)
		go func() { done <- ask([]*livekit.RoomAgentDispatch{{AgentName: name}}) }()
		<-begun
		w := h.worker(named(name))
		<-read
		close(hold)
		require.NoError(t, <-done, what)
		w.job(1)
	}
}

// TestJobsAreDueAlsoAfterAStepOfTheClock: the wall clock was set back by two hours while rooms
// ran, and the one by which jobs wait goes on.
func TestJobsAreDueAlsoAfterAStepOfTheClock(t *testing.T) {
	h := newHouse(t, func(h *house) {
		h.domain = func(c *rooms.Config) {
			began, ahead := time.Now(), 2*time.Hour
			c.Boot, c.Elapsed = "a", func() time.Duration { return time.Since(began) }
			require.NoError(t, c.Store.SetClock(t.Context(), rooms.ClockState{Boot: "a", Base: began.Add(ahead).UnixNano(), Ahead: int64(ahead)}, nil))
		}
	})
	want(t, h, "r", "n")
	h.worker(named("n")).job(1)
}

func TestTheNextWorkerIsAsked(t *testing.T) {
	h := newHouse(t)
	var workers []*worker
	for range 3 {
		w := h.worker(named("n"))
		w.answers(func(*livekit.Job) *livekit.AvailabilityResponse { return &livekit.AvailabilityResponse{} })
		workers = append(workers, w)
	}
	want(t, h, "r", "n")
	h.eventually("the job does not wait", func() bool { return h.counter("parlor_agent_jobs_total", "refused") >= 3 && h.jobs("r")[pending] == 1 })
	h.eventually("nobody is told that it waits", func() bool { return strings.Contains(strings.Join(h.events("r"), " "), "agent_job_pending") })
	workers[2].answers(func(*livekit.Job) *livekit.AvailabilityResponse {
		return &livekit.AvailabilityResponse{Available: true, ParticipantIdentity: "helper"}
	})
	require.Equal(t, "helper", workers[2].job(1).Job.State.ParticipantIdentity)
	require.Equal(t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"))
}

func TestASilentWorkerHoldsNobodyUp(t *testing.T) {
	h := newHouse(t)
	silent := h.worker(named("n"))
	asked := make(chan struct{}, 10)
	silent.answers(func(*livekit.Job) *livekit.AvailabilityResponse { asked <- struct{}{}; return nil })
	want(t, h, "r", "n")
	<-asked
	w := h.worker(named("n"))
	w.job(1)
	require.EqualValues(t, 1, h.counter("parlor_agent_jobs_total", "unanswered"))
	require.Empty(t, silent.jobs())
}

func TestWorkersAreChosenByLoad(t *testing.T) {
	h := newHouse(t)
	full, loaded, free := h.worker(named("n")), h.worker(named("n")), h.worker(named("n"))
	report := func(w *worker, u *livekit.UpdateWorkerStatus) {
		w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateWorker{UpdateWorker: u}})
		w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Ping{Ping: &livekit.WorkerPing{}}})
		w.expect()
	}
	report(full, &livekit.UpdateWorkerStatus{Status: livekit.WorkerStatus_WS_FULL.Enum()})
	report(loaded, &livekit.UpdateWorkerStatus{Load: 1})
	for _, room := range []string{"a", "b", "c", "d"} {
		want(t, h, room, "n")
	}
	free.job(4)
	require.Empty(t, full.jobs())
	require.Empty(t, loaded.jobs())

	report(free, &livekit.UpdateWorkerStatus{Status: livekit.WorkerStatus_WS_FULL.Enum()})
	want(t, h, "e", "n")
	report(full, &livekit.UpdateWorkerStatus{Status: livekit.WorkerStatus_WS_AVAILABLE.Enum()})
	require.Equal(t, "e", full.job(1).Job.Room.Name)
}

func TestAnAgentThatIsLostHasASuccessor(t *testing.T) {
	h := newHouse(t)
	first := h.worker(named("n"))
	want(t, h, "r", "n")
	h.person("r", "ada")
	a := first.job(1)
	agent, err := h.agent(a)
	require.NoError(t, err)
	first.die()
	agent.Disconnected(livekit.DisconnectReason_CONNECTION_TIMEOUT)

	second := h.worker(named("n"))
	b := second.job(1)
	require.NotEqual(t, a.Job.Id, b.Job.Id)
	require.EqualValues(t, 1, b.Job.State.Attempts, "the first was lost by no fault of its own")
	_, err = h.agent(b)
	require.NoError(t, err)
	_, err = h.agent(a)
	require.Equal(t, rooms.Denied, rooms.ErrorCode(err), "the room has an agent")
	// Nor with a token that its session issued.
	_, err = h.enter(rooms.JoinRequest{Room: "r", Info: &livekit.ParticipantInfo{Identity: a.Job.State.ParticipantIdentity, Kind: livekit.ParticipantInfo_AGENT}})
	require.Equal(t, rooms.Denied, rooms.ErrorCode(err))
	require.Equal(t, []string{b.Job.State.ParticipantIdentity}, h.agentsIn("r"))
	require.Equal(t, map[livekit.JobStatus]int{running: 1, failed: 1}, h.jobs("r"))
}

// An agent that the server told to rejoin continues its job.
func TestAnAgentThatIsToldToJoinAgain(t *testing.T) {
	h := newHouse(t)
	w := h.worker(named("n"))
	want(t, h, "r", "n")
	h.person("r", "ada")
	a := w.job(1)
	agent, err := h.agent(a)
	require.NoError(t, err)
	agent.NeedsReconnect("its media failed")
	require.Equal(t, livekit.LeaveRequest_RECONNECT, (<-agent.left).Action)
	_, err = h.agent(a)
	require.NoError(t, err)
	require.Equal(t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"))
	require.Len(t, w.jobs(), 1)
}

func TestAWorkerThatDiesBeforeItsAgentJoins(t *testing.T) {
	h := newHouse(t)
	first := h.worker(named("n"))
	want(t, h, "r", "n")
	first.job(1)
	first.die()
	second := h.worker(named("n"))
	second.job(1)
	require.Equal(t, map[livekit.JobStatus]int{running: 1, failed: 1}, h.jobs("r"))
}

func TestAnAgentThatNeverJoinsHasASuccessor(t *testing.T) {
	h := newHouse(t, func(h *house) { h.join = 20 * time.Millisecond })
	w := h.worker(named("n"))
	want(t, h, "r", "n")
	a, b := w.job(1), w.job(2)
	require.NotEqual(t, a.Job.Id, b.Job.Id)
	h.eventually("the worker is not told", func() bool { return len(w.terminated()) > 0 })
}

func TestAnAgentThatHasDoneItsWorkHasNone(t *testing.T) {
	h := newHouse(t)
	w := h.worker(named("n"))
	want(t, h, "r", "n")
	h.person("r", "ada")
	a := w.job(1)
	agent, err := h.agent(a)
	require.NoError(t, err)
	agent.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	w.status(a.Job.Id, success)
	h.eventually("the job has not ended", func() bool { return h.jobs("r")[success] == 1 })
	h.worker(named("n")) // it is asked for the existing rooms
	require.NoError(t, h.Reconsider(t.Context(), "r", "n"))
	require.Equal(t, map[livekit.JobStatus]int{success: 1}, h.jobs("r"))
	require.Empty(t, h.agentsIn("r"))

	// A job that failed according to its worker is done again.
	want(t, h, "s", "n")
	h.eventually("no job", func() bool { return h.jobs("s")[running] == 1 })
	h.person("s", "ada")
	var b *livekit.JobAssignment
	all := w.jobs()
	if len(all) < 2 {
		return // the other worker has it
	}
	b = all[1]
	w.status(b.Job.Id, failed)
	h.eventually("no successor", func() bool { return h.jobs("s")[failed] == 1 && h.jobs("s")[running] == 1 })
}

// TestAJobThatCannotBeEndedIsItsWorkers until its end is written, even if the worker goes.
func TestAJobThatCannotBeEndedIsItsWorkers(t *testing.T) {
	h := newHouse(t)
	for _, goes := range []bool{false, true} {
		room := fmt.Sprint("r", goes)
		w := h.worker(named(room))
		want(t, h, room, room)
		h.person(room, "ada")
		a := w.job(1)
		ended := h.counter("parlor_agent_jobs_total", "succeeded")
		h.dead.Store(true)
		w.status(a.Job.Id, success)
		w.status(a.Job.Id, success)
		w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Ping{Ping: &livekit.WorkerPing{Timestamp: 8}}})
		require.EqualValues(t, 8, w.expect().GetPong().GetLastTimestamp(), "it was read after the status")
		require.Equal(t, ended, h.counter("parlor_agent_jobs_total", "succeeded"))
		if goes {
			w.conn.CloseNow()
		}
		h.dead.Store(false)
		h.eventually("its end is not told", func() bool { return h.counter("parlor_agent_jobs_total", "succeeded") == ended+1 })
		require.Equal(t, map[livekit.JobStatus]int{success: 1}, h.jobs(room))
	}
}

// TestAPersonIsNoAgent: a person who joins under an identity that a worker has chosen is
// not affected, and the agent for that identity is replaced by another.
func TestAPersonIsNoAgent(t *testing.T) {
	h := newHouse(t)
	w := h.worker(named("n"))
	w.answers(func(*livekit.Job) *livekit.AvailabilityResponse {
		return &livekit.AvailabilityResponse{Available: true, ParticipantIdentity: "alice"}
	})
	d := want(t, h, "r", "n")
	a := w.job(1)
	require.Equal(t, "alice", a.Job.State.ParticipantIdentity)
	w.answers(func(*livekit.Job) *livekit.AvailabilityResponse {
		return &livekit.AvailabilityResponse{Available: true, ParticipantIdentity: "helper"}
	})
	alice := h.person("r", "alice")
	b := w.job(2)
	require.Equal(t, "helper", b.Job.State.ParticipantIdentity)
	require.Equal(t, map[livekit.JobStatus]int{failed: 1, running: 1}, h.jobs("r"))
	h.eventually("the worker is not told", func() bool { return slices.Equal(w.terminated(), []string{a.Job.Id}) })
	list, err := h.ListDispatch(t.Context(), &livekit.ListAgentDispatchRequest{Room: "r"})
	require.NoError(t, err)
	require.Contains(t, list.String(), "its identity was taken")
	_, err = h.agent(a)
	require.Equal(t, rooms.Denied, rooms.ErrorCode(err), "its job is over")
	helper, err := h.agent(b)
	require.NoError(t, err)

	// A person who joins under the identity of an agent that should leave is not removed
	// either.
	stays := h.worker(named("m"))
	last := want(t, h, "r", "m")
	agent, err := h.agent(stays.job(1))
	require.NoError(t, err)
	for _, id := range []string{d.Id, last.Id} {
		_, err = h.DeleteDispatch(t.Context(), &livekit.DeleteAgentDispatchRequest{Room: "r", DispatchId: id})
		require.NoError(t, err)
	}
	helper.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	<-helper.left
	person := h.person("r", "helper")
	select { // the one that does not leave
	case <-agent.left:
	case <-time.After(patience):
		require.FailNow(t, "the agent was not sent away")
	}
	person.Sync()
	here, err := h.Participants(t.Context(), "r")
	require.NoError(t, err)
	require.Len(t, here, 2)
	require.Empty(t, alice.left)
	require.Empty(t, person.left)
}

func TestARestartLeavesOneAgent(t *testing.T) {
	h := newHouse(t)
	w := h.worker(named("n"))
	want(t, h, "r", "n")
	h.person("r", "ada")
	a := w.job(1)
	_, err := h.agent(a)
	require.NoError(t, err)

	h.restart()
	require.Len(t, h.agentsIn("r"), 1, "it is expected back")
	again := h.worker(named("n"))
	_, err = h.agent(a)
	require.NoError(t, err)
	again.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_MigrateJob{MigrateJob: &livekit.MigrateJobRequest{JobIds: []string{a.Job.Id}}}})
	again.status(a.Job.Id, running)
	require.NoError(t, h.Reconsider(t.Context(), "r", "n"))
	require.Empty(t, again.jobs())
	require.Equal(t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"))
	again.status(a.Job.Id, success)

	h.eventually("its worker has it no longer", func() bool { return h.jobs("r")[success] == 1 })
}

// TestRoomsThatOpenBeforeTheWorkersAreBack: they get the agent for every room too.
func TestRoomsThatOpenBeforeTheWorkersAreBack(t *testing.T) {
	h := newHouse(t)
	h.worker(named(""))
	h.eventually("the kind is not noted", func() bool {
		kinds, err := h.store.AgentKinds(t.Context(), 10)
		return err == nil && len(kinds) == 1
	})
	h.restart()
	h.person("r", "ada")
	require.Equal(t, map[livekit.JobStatus]int{pending: 1}, h.jobs("r"))
	w := h.worker(named(""))
	require.Equal(t, "r", w.job(1).Job.Room.Name)
}

// TestKindsThatComeAndGo: the number of kinds of workers is bounded, both for a new room
// and on disk.
func TestKindsThatComeAndGo(t *testing.T) {
	const most = 3
	h := newHouse(t, func(h *house) { h.kinds = most })
	kind := func(i int) *livekit.RegisterWorkerRequest {
		return &livekit.RegisterWorkerRequest{Namespace: proto.String(strconv.Itoa(i))}
	}
	stays := h.worker(kind(0))
	for i := range 3 * most {
		w := h.worker(kind(i + 1))
		w.die()
		h.eventually("the worker is not gone", func() bool { return h.counter("parlor_agent_workers", "") == 1 })
	}
	last := strconv.Itoa(3 * most)
	noted := func() (all []string) {
		kinds, err := h.store.AgentKinds(t.Context(), 100)
		require.NoError(t, err)
		for _, k := range kinds {
			all = append(all, k.Namespace)
		}
		return all
	}
	h.eventually("the kinds are not noted", func() bool { all := noted(); return len(all) == most && slices.Contains(all, last) })
	require.Contains(t, noted(), "0", "it has a worker")
	h.person("r", "ada")
	require.Equal(t, "r", stays.job(1).Job.Room.Name)
	require.Equal(t, map[livekit.JobStatus]int{running: 1, pending: most - 1}, h.jobs("r"))

	// With a worker of each of them there is no room for one more.
	for i := range most - 1 {
		h.worker(kind(100 + i))
	}
	late := h.connect(key, false)
	late.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: kind(200)}})
	<-late.over
	require.Equal(t, websocket.StatusTryAgainLater, websocket.CloseStatus(late.err), late.err)
	// After a start the bound applies too.
	for _, ns := range []string{"x", "y", "z"} {
		require.NoError(t, h.store.SetAgentKind(t.Context(), rooms.AgentKind{Namespace: ns}, true))
	}
	h.restart()
	require.Len(t, noted(), most)
	h.person("s", "ada")
	require.Equal(t, map[livekit.JobStatus]int{pending: most}, h.jobs("s"))
}

// slowToForget stores the kinds of workers, and blocks when it should forget one.
type slowToForget struct {
	kindsKeeper
	held, on, done chan struct{} // held: it blocks; on: it may continue; done: it has forgotten
}

type kindsKeeper = rooms.AgentKinds

func (s slowToForget) SetAgentKind(ctx context.Context, k rooms.AgentKind, there bool) error {
	if there {
		return s.kindsKeeper.SetAgentKind(ctx, k, true)
	}
	s.held <- struct{}{}
	<-s.on
	err := s.kindsKeeper.SetAgentKind(ctx, k, false)
	s.done <- struct{}{}
	return err
}

// TestAKindThatIsBackStaysNoted, even if the absence of its worker is written late.
func TestAKindThatIsBackStaysNoted(t *testing.T) {
	slow := slowToForget{held: make(chan struct{}, 10), on: make(chan struct{}), done: make(chan struct{}, 10)}
	h := newHouse(t, func(h *house) {
		h.grace = time.Nanosecond
		h.known = func(k rooms.AgentKinds) rooms.AgentKinds { slow.kindsKeeper = k; return slow }
	})
	noted := func() bool {
		kinds, err := h.store.AgentKinds(t.Context(), 10)
		require.NoError(t, err)
		return len(kinds) == 1
	}
	w := h.worker(named(""))
	h.eventually("the kind is not noted", noted)
	w.die()
	h.eventually("the worker is not gone", func() bool { return h.counter("parlor_agent_workers", "") == 0 })
	h.person("r", "ada") // she makes the room look for an agent: there is none
	<-slow.held
	again := h.worker(named(""))
	h.person("s", "ada")
	again.job(1)
	close(slow.on)
	<-slow.done
	h.eventually("the kind of a worker that is there is forgotten", noted)
}

// TestANewRoomHasNoMoreJobsThanItMay, however many kinds of workers fit its request.
func TestANewRoomHasNoMoreJobsThanItMay(t *testing.T) {
	h := newHouse(t)
	const kinds = rooms.MostJobs/rooms.MostDispatches + 1
	for i := range kinds {
		w := h.worker(&livekit.RegisterWorkerRequest{AgentName: "n", Namespace: proto.String(strconv.Itoa(i))})
		w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateWorker{UpdateWorker: &livekit.UpdateWorkerStatus{Status: livekit.WorkerStatus_WS_FULL.Enum()}}})
		w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Ping{Ping: &livekit.WorkerPing{}}})
		w.expect()
	}
	var all []*livekit.RoomAgentDispatch
	for range rooms.MostDispatches {
		all = append(all, &livekit.RoomAgentDispatch{AgentName: "n"})
	}
	_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "r", Agents: all})
	require.NoError(t, err)
	require.Equal(t, map[livekit.JobStatus]int{pending: rooms.MostJobs}, h.jobs("r"))
	list, err := h.ListDispatch(t.Context(), &livekit.ListAgentDispatchRequest{Room: "r"})
	require.NoError(t, err)
	require.Len(t, list.AgentDispatches, rooms.MostDispatches)
}

func TestAnAgentThatDoesNotComeBackHasASuccessor(t *testing.T) {
	h := newHouse(t, func(h *house) { h.grace = 50 * time.Millisecond })
	w := h.worker(named("n"))
	want(t, h, "r", "n") // its agent was in the room
	want(t, h, "s", "n") // its agent had not joined yet
	w.job(2)
	for _, a := range w.jobs() {
		if a.Job.Room.Name == "r" {
			_, err := h.agent(a)
			require.NoError(t, err)
		}
	}
	h.restart()
	again := h.worker(named("n"))
	again.job(2)
	for _, a := range again.jobs() {
		_, err := h.agent(a)
		require.NoError(t, err)
	}
	for _, room := range []string{"r", "s"} {
		require.Len(t, h.agentsIn(room), 1)
		require.Equal(t, map[livekit.JobStatus]int{running: 1, failed: 1}, h.jobs(room))
	}
}

func TestJobsOfParticipants(t *testing.T) {
	h := newHouse(t)
	w := h.worker(&livekit.RegisterWorkerRequest{Type: livekit.JobType_JT_PARTICIPANT})
	publishers := h.worker(&livekit.RegisterWorkerRequest{Type: livekit.JobType_JT_PUBLISHER})
	ada := h.person("r", "ada")
	require.Equal(t, "ada", w.job(1).Job.Participant.Identity)
	_, err := h.agent(w.job(1))
	require.NoError(t, err)
	h.person("r", "bob")
	require.Equal(t, "bob", w.job(2).Job.Participant.Identity)
	require.Len(t, w.jobs(), 2, "an agent is nobody that an agent is for")

	for _, cid := range []string{"a", "b"} {
		ada.AddTrack(&livekit.AddTrackRequest{Cid: cid, Type: livekit.TrackType_AUDIO, Source: livekit.TrackSource_MICROPHONE})
	}
	ada.Sync()
	require.Empty(t, publishers.jobs(), "it has announced tracks, and published none")
	ada.publish()
	require.Equal(t, "ada", publishers.job(1).Job.Participant.Identity)
	ada.publish()
	require.Len(t, publishers.jobs(), 1)
}

func TestARoomThatEndsCancelsWhatWaits(t *testing.T) {
	h := newHouse(t)
	w := h.worker(named("n"))
	w.answers(func(*livekit.Job) *livekit.AvailabilityResponse { return &livekit.AvailabilityResponse{} })
	_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "r", EmptyTimeout: 1, Agents: []*livekit.RoomAgentDispatch{{AgentName: "n"}}})
	require.NoError(t, err)
	h.eventually("the room has not ended at its deadline", func() bool {
		events := h.events("r")
		return len(events) > 0 && events[len(events)-1] == "room_finished"
	})
	events := h.events("r")
	require.Equal(t, "agent_job_ended", events[len(events)-2])
	w.answers(func(*livekit.Job) *livekit.AvailabilityResponse {
		return &livekit.AvailabilityResponse{Available: true}
	})
	names, _, err := h.store.RoomsWanting(t.Context(), "n", "", 10)
	require.NoError(t, err)
	require.Empty(t, names)
}

func TestASimulatedJob(t *testing.T) {
	h := newHouse(t)
	h.person("r", "ada")
	w := h.worker(named("n"))
	w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_SimulateJob{SimulateJob: &livekit.SimulateJobRequest{Room: &livekit.Room{Name: "r"}}}})
	_, err := h.agent(w.job(1))
	require.NoError(t, err)
	require.Equal(t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"))
}

// TestASimulatedJobKeepsWhoItIsForAlone: the worker's other data about the participant is
// ignored.
func TestASimulatedJobKeepsWhoItIsForAlone(t *testing.T) {
	h := newHouse(t)
	h.person("r", "ada")
	w := h.worker(named("n"))
	simulate := func(p *livekit.ParticipantInfo) {
		w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_SimulateJob{SimulateJob: &livekit.SimulateJobRequest{
			Room: &livekit.Room{Name: "r"}, Participant: p,
		}}})
	}
	simulate(&livekit.ParticipantInfo{Identity: strings.Repeat("x", 100<<10)})
	h.eventually("it is not counted", func() bool { return h.counter("parlor_agent_bad_messages_total", "simulate") == 1 })
	simulate(&livekit.ParticipantInfo{Identity: "bob", Sid: "PA_bob", Metadata: strings.Repeat("x", 100<<10), Attributes: map[string]string{"a": "b"}})
	a := w.job(1)
	require.Equal(t, livekit.JobType_JT_PUBLISHER, a.Job.Type)
	job, _, err := h.store.FindJob(t.Context(), a.Job.Id)
	require.NoError(t, err)
	require.True(t, proto.Equal(&livekit.ParticipantInfo{Identity: "bob", Sid: "PA_bob"}, job.Info.Participant), "%d bytes", proto.Size(job.Info))
}

func TestWorkersWithoutTheGrantAreRefused(t *testing.T) {
	h := newHouse(t)
	res, err := h.server.Client().Get(h.server.URL + "/agent")
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusNotFound, res.StatusCode, "it is no WebSocket")
	for _, grant := range []*auth.VideoGrant{nil, {RoomJoin: true, Room: "r"}} {
		_, res, err := websocket.Dial(t.Context(), strings.Replace(h.server.URL, "http", "ws", 1)+"/agent", &websocket.DialOptions{
			HTTPHeader: http.Header{"Authorization": {"Bearer " + token(t, h, key, grant)}},
		})
		require.Error(t, err)
		require.Equal(t, http.StatusUnauthorized, res.StatusCode)
	}
}

// TestTheTokenOfAnAgentIsNoWorkers: it admits the agent to its room, and does not permit
// taking jobs.
func TestTheTokenOfAnAgentIsNoWorkers(t *testing.T) {
	h := newHouse(t)
	w := h.worker(named("n"))
	want(t, h, "r", "n")
	for what, jwt := range map[string]string{
		"a job's":       w.job(1).Token,
		"one to join":   token(t, h, key, &auth.VideoGrant{Agent: true, RoomJoin: true}),
		"one of a room": token(t, h, key, &auth.VideoGrant{Agent: true, Room: "r"}),
	} {
		_, res, err := websocket.Dial(t.Context(), strings.Replace(h.server.URL, "http", "ws", 1)+"/agent", &websocket.DialOptions{
			HTTPHeader: http.Header{"Authorization": {"Bearer " + jwt}},
		})
		require.Error(t, err, what)
		require.Equal(t, http.StatusUnauthorized, res.StatusCode, what)
		why, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Contains(t, string(why), "the token is for a room", what)
	}
	require.EqualValues(t, 3, h.counter("parlor_agent_refused_total", "401"))
}

func TestWorkersThatSpeakJSON(t *testing.T) {
	h := newHouse(t)
	w := h.connect(key, true)
	w.register(named("n"))
	want(t, h, "r", "n")
	require.NotEmpty(t, w.job(1).Token)
}

func TestHostileWorkers(t *testing.T) {
	h := newHouse(t, func(h *house) { h.limit = 64 << 10 })
	owner := h.worker(named("n"))
	want(t, h, "r", "n")
	a := owner.job(1)

	// A job of another worker, on a connection of the same kind, of another key, and of
	// another kind.
	thief := h.worker(named("n"))
	foreign := h.connect(otherKey, false)
	foreign.register(named("n"))
	for i, w := range []*worker{thief, foreign, h.worker(named("other"))} {
		w.status(a.Job.Id, success)
		w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_MigrateJob{MigrateJob: &livekit.MigrateJobRequest{JobIds: []string{a.Job.Id, "AJ_x"}}}})
		w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{Availability: &livekit.AvailabilityResponse{JobId: a.Job.Id, Available: true}}})
		h.eventually("they are not counted", func() bool { return h.counter("parlor_agent_bad_messages_total", "foreign") == float64(4*(i+1)) })
	}
	require.Equal(t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"))

	closes := func(w *worker, status websocket.StatusCode) {
		t.Helper()
		select {
		case <-w.over:
		case <-time.After(patience):
			require.FailNow(t, "the connection goes on")
		}
		require.Equal(t, status, websocket.CloseStatus(w.err), w.err)
	}
	early := h.connect(key, false)
	early.status("AJ_x", success)
	closes(early, websocket.StatusPolicyViolation)
	typeless := h.connect(key, false)
	typeless.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: &livekit.RegisterWorkerRequest{Type: 9}}})
	closes(typeless, websocket.StatusPolicyViolation)
	twice := h.worker(named("n"))
	twice.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: named("n")}})
	closes(twice, websocket.StatusPolicyViolation)
	garbage := h.worker(named("n"))
	require.NoError(t, garbage.conn.Write(t.Context(), websocket.MessageBinary, []byte{0xff, 0xff, 0xff}))
	closes(garbage, websocket.StatusInvalidFramePayloadData)
	long := h.worker(named("n"))
	long.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateJob{UpdateJob: &livekit.UpdateJobStatus{Error: strings.Repeat("x", 65<<10)}}})
	closes(long, websocket.StatusMessageTooBig)

	// An identity that belongs to another participant.
	h.person("s", "ada")
	greedy := h.worker(named("greedy"))
	greedy.answers(func(*livekit.Job) *livekit.AvailabilityResponse {
		return &livekit.AvailabilityResponse{Available: true, ParticipantIdentity: "ada"}
	})
	want(t, h, "s", "greedy")
	h.eventually("the job does not wait", func() bool { return h.counter("parlor_agent_jobs_total", "refused") >= 1 })
	require.Empty(t, greedy.jobs())
}
