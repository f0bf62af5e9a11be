package agents_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// line is a way to the server that can go dead: then it keeps the connections open, takes
// no more bytes from either side, and tells neither of the other's end.
type line struct {
	t    *testing.T
	in   net.Listener
	dead chan struct{} // closed by breakDown

	mu     sync.Mutex // guards the following
	remote []net.Conn // to the server
}

func newLine(h *house) *line {
	in, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(h.t, err)
	l := &line{t: h.t, in: in, dead: make(chan struct{})}
	to := strings.TrimPrefix(h.server.URL, "http://")
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := in.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			l.mu.Lock()
			l.remote = append(l.remote, far)
			l.mu.Unlock()
			running.Go(func() { l.carry(near, far) })
			running.Go(func() { l.carry(far, near) })
		}
	})
	h.t.Cleanup(func() {
		_ = in.Close()
		l.end()
		running.Wait()
	})
	return l
}

// carry copies bytes until the line is dead, which it notices as the next ones come.
func (l *line) carry(from, to net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		select {
		case <-l.dead:
			return
		default:
		}
		if err != nil {
			_ = to.Close()
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

func (l *line) breakDown() { close(l.dead) }

// end closes the connections to the server, which notices that.
func (l *line) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.remote {
		_ = c.Close()
	}
	l.remote = nil
}

// over connects a worker by way of a line.
func (h *house) over(l *line, req *livekit.RegisterWorkerRequest) *worker {
	h.t.Helper()
	w := h.dial("ws://"+l.in.Addr().String()+"/agent", key, false)
	w.register(req)
	return w
}

// migrate claims a job, and returns when the server has read that.
func (w *worker) migrate(job string) {
	w.h.t.Helper()
	w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_MigrateJob{MigrateJob: &livekit.MigrateJobRequest{JobIds: []string{job}}}})
	w.caughtUp()
}

// caughtUp returns when the server has read all that the worker sent.
func (w *worker) caughtUp() {
	w.h.t.Helper()
	w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Ping{Ping: &livekit.WorkerPing{Timestamp: 9}}})
	require.EqualValues(w.h.t, 9, w.expect().GetPong().GetLastTimestamp())
}

// workerOf is the worker that the room has for a job.
func (h *house) workerOf(job string) string {
	h.t.Helper()
	j, _, err := h.store.FindJob(h.t.Context(), job)
	require.NoError(h.t, err)
	return j.Info.State.WorkerId
}

// lost is a job whose worker has lost its connection, which the server has not noticed.
func lost(t *testing.T, h *house) (*line, *livekit.JobAssignment) {
	t.Helper()
	l := newLine(h)
	w := h.over(l, named("n"))
	want(t, h, "r", "n")
	h.person("r", "ada")
	a := w.job(1)
	_, err := h.agent(a)
	require.NoError(t, err)
	l.breakDown()
	w.die()
	return l, a
}

// oneAgent requires that the room has kept the job and its agent.
func (h *house) oneAgent(a *livekit.JobAssignment) {
	h.t.Helper()
	require.Equal(h.t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"))
	require.Equal(h.t, []string{a.Job.State.ParticipantIdentity}, h.agentsIn("r"))
	require.Zero(h.t, h.counter("parlor_agent_bad_messages_total", "foreign"))
}

// TestAWorkerIsBackBeforeItsEndIsNoticed: it goes on with its job, whether the old
// connection ends in the usual way or never.
func TestAWorkerIsBackBeforeItsEndIsNoticed(t *testing.T) {
	for name, ends := range map[string]bool{"and then it is": true, "and never is": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			l, a := lost(t, h)
			again := h.worker(named("n"))
			again.migrate(a.Job.Id)
			again.status(a.Job.Id, running)
			again.caughtUp()
			h.oneAgent(a)
			if ends {
				l.end()
			}
			h.eventually("the worker does not go on with its job", func() bool { return h.workerOf(a.Job.Id) == again.id })
			h.eventually("the old connection is held", func() bool { return h.counter("parlor_agent_workers", "n") == 1 })
			h.oneAgent(a)
			require.Empty(t, again.jobs())
			again.status(a.Job.Id, success)
			h.eventually("the job has not ended", func() bool { return h.jobs("r")[success] == 1 })
			require.Zero(t, h.counter("parlor_agent_bad_messages_total", "foreign"))
		})
	}
}

// TestAJobThatEndsBeforeItsWorkersEndIsNoticed has ended as its worker reported.
func TestAJobThatEndsBeforeItsWorkersEndIsNoticed(t *testing.T) {
	h := newHouse(t)
	l, a := lost(t, h)
	again := h.worker(named("n"))
	again.migrate(a.Job.Id)
	again.status(a.Job.Id, success)
	again.caughtUp()
	h.oneAgent(a)
	l.end()
	h.eventually("the job has not ended", func() bool { return h.jobs("r")[success] == 1 })
	require.Equal(t, map[livekit.JobStatus]int{success: 1}, h.jobs("r"))
	require.Zero(t, h.counter("parlor_agent_bad_messages_total", "foreign"))
	h.eventually("it is not counted", func() bool { return h.counter("parlor_agent_jobs_total", "succeeded") == 1 })
}

// TestAJobThatIsTerminatedBeforeItsWorkersEndIsNoticed: the worker learns of that.
func TestAJobThatIsTerminatedBeforeItsWorkersEndIsNoticed(t *testing.T) {
	h := newHouse(t)
	l, a := lost(t, h)
	again := h.worker(named("n"))
	again.migrate(a.Job.Id)
	_, err := h.DeleteDispatch(t.Context(), &livekit.DeleteAgentDispatchRequest{Room: "r", DispatchId: a.Job.DispatchId})
	require.NoError(t, err)
	require.Empty(t, again.terminated(), "the job is not known to be its own")
	l.end()
	h.eventually("the worker is not told", func() bool { return len(again.terminated()) == 1 })
	require.Equal(t, a.Job.Id, again.terminated()[0])
}

// TestAWorkerWhoseClaimWasRefusedLearnsThatTheJobIsOver, whenever it is refused: the connection
// that answered may be the one that it had before, and has lost since.
func TestAWorkerWhoseClaimWasRefusedLearnsThatTheJobIsOver(t *testing.T) {
	for name, before := range map[string]bool{"refused before": true, "refused after": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const other = "AJ_other"
			busy := make(chan struct{})
			h := newHouse(t, func(h *house) {
				h.finding = func(ctx context.Context, id string) context.Context {
					if id == other {
						<-busy
					}
					return ctx
				}
			})
			free := sync.OnceFunc(func() { close(busy) })
			t.Cleanup(free)
			old := h.worker(named("n"))
			want(t, h, "r", "n")
			a := old.job(1)
			if !before { // its answer is not read until the job is over
				old.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_MigrateJob{MigrateJob: &livekit.MigrateJobRequest{JobIds: []string{other}}}})
			}
			again := h.worker(named("n"))
			again.migrate(a.Job.Id)
			refused := func() bool { return h.counter("parlor_agent_bad_messages_total", "foreign") > 0 }
			if before {
				h.eventually("the claim is not refused", refused)
			}
			require.Empty(t, again.terminated())
			_, err := h.DeleteDispatch(t.Context(), &livekit.DeleteAgentDispatchRequest{Room: "r", DispatchId: a.Job.DispatchId})
			require.NoError(t, err)
			if !before {
				require.False(t, refused())
				free()
			}
			h.eventually("the worker is not told", func() bool { return len(again.terminated()) == 1 })
			require.Equal(t, a.Job.Id, again.terminated()[0])
			h.eventually("the worker that has the job is not told", func() bool { return len(old.terminated()) == 1 })
		})
	}
}

// TestAWorkerThatIsBackTooLate is told that its job is over: another worker has the next.
func TestAWorkerThatIsBackTooLate(t *testing.T) {
	h := newHouse(t)
	w := h.worker(named("n"))
	want(t, h, "r", "n")
	a := w.job(1)
	w.die()
	h.eventually("the job goes on", func() bool { return h.jobs("r")[failed] == 1 })
	next := h.worker(named("n"))
	b := next.job(1)
	require.NotEqual(t, a.Job.Id, b.Job.Id)
	again := h.worker(named("n"))
	again.status(a.Job.Id, success)
	again.caughtUp()
	require.Empty(t, again.terminated(), "it knows that the job is over")
	again.migrate(a.Job.Id)
	h.eventually("the worker is not told", func() bool { return len(again.terminated()) == 1 })
	require.Equal(t, a.Job.Id, again.terminated()[0])
	require.Empty(t, next.terminated())
	require.EqualValues(t, 2, h.counter("parlor_agent_bad_messages_total", "foreign"))
	require.Equal(t, map[livekit.JobStatus]int{running: 1, failed: 1}, h.jobs("r"))
}

// TestAWorkerLosesItsConnectionTwice before the server has noticed either end.
func TestAWorkerLosesItsConnectionTwice(t *testing.T) {
	h := newHouse(t)
	first, a := lost(t, h)
	second := newLine(h)
	w := h.over(second, named("n"))
	w.migrate(a.Job.Id)
	second.breakDown()
	w.die()
	again := h.worker(named("n"))
	again.migrate(a.Job.Id)
	first.end()
	h.eventually("the worker does not go on with its job", func() bool { return h.workerOf(a.Job.Id) == again.id })
	second.end()
	h.eventually("an old connection is held", func() bool { return h.counter("parlor_agent_workers", "n") == 1 })
	require.Equal(t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"))
	require.Len(t, h.agentsIn("r"), 1)
	require.Empty(t, again.jobs())
}

// TestAWorkerThatClaimsAJobAndGoes does not keep it from another.
func TestAWorkerThatClaimsAJobAndGoes(t *testing.T) {
	h := newHouse(t)
	l, a := lost(t, h)
	goes := h.worker(named("n"))
	goes.migrate(a.Job.Id)
	goes.die()
	h.eventually("it is not gone", func() bool { return h.counter("parlor_agent_workers", "n") == 1 })
	agent, err := h.agent(a) // it has connected again
	require.NoError(t, err)
	l.end()
	h.eventually("the old connection is held", func() bool { return h.counter("parlor_agent_workers", "n") == 0 })
	agent.Disconnected(livekit.DisconnectReason_CONNECTION_TIMEOUT)
	next := h.worker(named("n"))
	b := next.job(1)
	require.NotEqual(t, a.Job.Id, b.Job.Id)
	_, err = h.agent(a)
	require.Equal(t, rooms.Denied, rooms.ErrorCode(err))
	require.Equal(t, map[livekit.JobStatus]int{running: 1, failed: 1}, h.jobs("r"))
}

// TestAWorkerThatIsThereKeepsItsJob, however often others claim it.
func TestAWorkerThatIsThereKeepsItsJob(t *testing.T) {
	h := newHouse(t)
	owner := h.worker(named("n"))
	want(t, h, "r", "n")
	a := owner.job(1)
	_, err := h.agent(a)
	require.NoError(t, err)
	const each = 20
	var thieves sync.WaitGroup
	for range 3 {
		w := h.worker(named("n"))
		thieves.Go(func() {
			for range each {
				w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_MigrateJob{MigrateJob: &livekit.MigrateJobRequest{JobIds: []string{a.Job.Id}}}})
				w.status(a.Job.Id, success)
			}
		})
	}
	thieves.Wait()
	h.eventually("not each is refused", func() bool {
		return h.counter("parlor_agent_bad_messages_total", "foreign") == 3*each*2
	})
	require.Equal(t, owner.id, h.workerOf(a.Job.Id))
	require.Equal(t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"))
	owner.status(a.Job.Id, success)
	h.eventually("the job has not ended", func() bool { return h.jobs("r")[success] == 1 })
}

// TestTheNewestConnectionGoesOnWithTheJob, even if an older one claims it later.
func TestTheNewestConnectionGoesOnWithTheJob(t *testing.T) {
	h := newHouse(t)
	l, a := lost(t, h)
	older, newest := h.worker(named("n")), h.worker(named("n"))
	newest.migrate(a.Job.Id)
	older.migrate(a.Job.Id)
	require.EqualValues(t, 1, h.counter("parlor_agent_bad_messages_total", "foreign"))
	l.end()
	h.eventually("the newest does not go on with its job", func() bool { return h.workerOf(a.Job.Id) == newest.id })
	require.Equal(t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"))
}

// TestAClaimWhoseConnectionEndsAsItIsRead neither displaces another's nor counts as one on a
// job that the worker does not have.
func TestAClaimWhoseConnectionEndsAsItIsRead(t *testing.T) {
	for name, found := range map[string]bool{"after the look-up": true, "before": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := make(chan string, 1) // that is looked up as the connection ends
			reading, ended := make(chan struct{}), make(chan struct{})
			h := newHouse(t, func(h *house) {
				h.finding = func(ctx context.Context, id string) context.Context {
					select {
					case which := <-job:
						if which != id {
							job <- which
							return ctx
						}
					default:
						return ctx
					}
					close(reading)
					<-ctx.Done()
					close(ended)
					if found {
						return context.WithoutCancel(ctx)
					}
					return ctx
				}
			})
			l, a := lost(t, h)
			stays := h.worker(named("n"))
			stays.migrate(a.Job.Id)
			ends := h.worker(named("n"))
			job <- a.Job.Id
			ends.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_MigrateJob{MigrateJob: &livekit.MigrateJobRequest{JobIds: []string{a.Job.Id}}}})
			<-reading
			ends.die()
			// The server notices that as it writes.
			for i := 0; ; i++ {
				want(t, h, fmt.Sprint("other-", i), "n")
				select {
				case <-ended:
				default:
					continue
				}
				break
			}
			h.eventually("the connection is held", func() bool { return h.counter("parlor_agent_workers", "n") <= 2 })
			l.end()
			h.eventually("the worker does not go on with its job", func() bool { return h.workerOf(a.Job.Id) == stays.id })
			h.oneAgent(a)
		})
	}
}

// TestAWorkerWhoseMessagesTheServerIsBusyWith is there, however late its answer is read.
func TestAWorkerWhoseMessagesTheServerIsBusyWith(t *testing.T) {
	const other = "AJ_other"
	busy := make(chan struct{})
	h := newHouse(t, func(h *house) {
		h.finding = func(ctx context.Context, id string) context.Context {
			if id == other {
				<-busy
			}
			return ctx
		}
	})
	free := sync.OnceFunc(func() { close(busy) })
	t.Cleanup(free)
	owner := h.worker(named("n"))
	want(t, h, "r", "n")
	a := owner.job(1)
	_, err := h.agent(a)
	require.NoError(t, err)
	owner.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_MigrateJob{MigrateJob: &livekit.MigrateJobRequest{JobIds: []string{other}}}})
	thief := h.worker(named("n"))
	thief.migrate(a.Job.Id)
	// Of three questions one at most is not because of the claim, so the time for an
	// answer is over.
	for range 3 {
		select {
		case <-owner.ping:
		case <-owner.over:
			require.FailNow(t, "the worker is cut off")
		}
	}
	free()
	owner.caughtUp()
	h.eventually("the claim is not refused", func() bool { return h.counter("parlor_agent_bad_messages_total", "foreign") == 2 })
	require.Equal(t, owner.id, h.workerOf(a.Job.Id))
	require.Equal(t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"))
}

// TestAConnectionThatAnswersJustBeforeItBreaks: the worker that is back goes on with its job.
func TestAConnectionThatAnswersJustBeforeItBreaks(t *testing.T) {
	for name, ends := range map[string]bool{"and the job goes on": false, "and the job has ended": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			old := h.worker(named("n"))
			want(t, h, "r", "n")
			h.person("r", "ada")
			a := old.job(1)
			_, err := h.agent(a)
			require.NoError(t, err)
			again := h.worker(named("n"))
			again.migrate(a.Job.Id)
			refused := 1.0
			if ends {
				again.status(a.Job.Id, success)
				refused++
			}
			h.eventually("the claim is not refused", func() bool { return h.counter("parlor_agent_bad_messages_total", "foreign") == refused })
			require.Equal(t, old.id, h.workerOf(a.Job.Id))
			old.die()
			is := running
			if ends {
				is = success
			}
			h.eventually("the worker does not go on with its job", func() bool { return h.workerOf(a.Job.Id) == again.id && h.jobs("r")[is] == 1 })
			require.Equal(t, map[livekit.JobStatus]int{is: 1}, h.jobs("r"))
			require.Equal(t, refused, h.counter("parlor_agent_bad_messages_total", "foreign"))
		})
	}
}

// TestAnAnswerOnTheNextConnection: the worker gets the job there at once.
func TestAnAnswerOnTheNextConnection(t *testing.T) {
	h := newHouse(t)
	l := newLine(h)
	w := h.over(l, named("n"))
	asked := make(chan string, 1)
	w.answers(func(j *livekit.Job) *livekit.AvailabilityResponse { asked <- j.Id; return nil })
	d := want(t, h, "r", "n")
	job := <-asked
	l.breakDown()
	w.die()
	yes := &livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{Availability: &livekit.AvailabilityResponse{JobId: job, Available: true}}}
	otherKeys, otherName := h.connect(otherKey, false), h.worker(named("other"))
	otherKeys.register(named("n"))
	for i, w := range []*worker{otherKeys, otherName} {
		w.send(yes)
		w.caughtUp()
		require.EqualValues(t, i+1, h.counter("parlor_agent_bad_messages_total", "foreign"))
	}
	again := h.worker(named("n"))
	again.send(yes)
	again.caughtUp()
	require.EqualValues(t, 2, h.counter("parlor_agent_bad_messages_total", "foreign"))
	a := again.job(1)
	require.Equal(t, job, a.Job.Id)
	require.Equal(t, d.Id, a.Job.DispatchId)
	require.Equal(t, again.id, h.workerOf(job))
	_, err := h.agent(a)
	require.NoError(t, err)
	require.Equal(t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"))
}

// A worker that answers too late does not answer for the one that is asked after it, though it
// is newer.
func TestALateAnswerIsNotThatOfAnother(t *testing.T) {
	h := newHouse(t)
	asked := map[*worker]chan string{}
	come := func(full bool) *worker {
		w := h.worker(named("n"))
		c := make(chan string, 1)
		asked[w] = c
		w.answers(func(j *livekit.Job) *livekit.AvailabilityResponse { c <- j.Id; return nil })
		if full {
			w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateWorker{UpdateWorker: &livekit.UpdateWorkerStatus{Status: livekit.WorkerStatus_WS_FULL.Enum()}}})
			w.caughtUp()
		}
		return w
	}
	answer := func(w *worker, job string, yes bool) {
		w.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{Availability: &livekit.AvailabilityResponse{JobId: job, Available: yes}}})
		w.caughtUp()
	}
	older := come(true)
	newer := come(false)
	want(t, h, "r", "n")
	job := <-asked[newer]
	older.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateWorker{UpdateWorker: &livekit.UpdateWorkerStatus{Status: livekit.WorkerStatus_WS_AVAILABLE.Enum()}}})
	require.Equal(t, job, <-asked[older], "when the newer one has not answered in time")
	answer(newer, job, false)
	require.EqualValues(t, 1, h.counter("parlor_agent_bad_messages_total", "foreign"))
	answer(older, job, true)
	require.Equal(t, job, older.job(1).Job.Id)
	require.Equal(t, older.id, h.workerOf(job))
}
