package agents_test

import (
	"context"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// What LiveKit's worker for Python sends, by its source (livekit-agents 1.7.0) and as its
// protobuf library writes it: fields in the order of their numbers, and those with presence
// even if they are 0. recordedJob stands for the job's id.
const (
	// Registers with the permissions that are its default.
	pythonRegister = "0a1b1a05312e372e303a0a080110011801500158014206736372696265"
	// Every 2.5 s; a status of 0 is written, a count of 0 is not.
	pythonIdle = "1a0708001d0000003e"
	// With the identity and the attribute that its framework gives.
	pythonAccept = "12510a16414a5f3031323334353637383961626364656667686910012a1c6167656e742d414a5f303132333435363738396162636465666768693a170a0d6c6b2e6167656e742e6e616d651206736372696265"
	// An answer of false is not written.
	pythonReject  = "12180a16414a5f30313233343536373839616263646566676869"
	pythonRunning = "221a0a16414a5f303132333435363738396162636465666768691001"
	pythonBusy    = "1a0908001d0000803e2001"
	// After it has registered again.
	pythonMigrate  = "3a181216414a5f30313233343536373839616263646566676869"
	pythonSuccess  = "221a0a16414a5f303132333435363738396162636465666768691002"
	pythonDraining = "1a0408012001"

	recordedJob = "AJ_0123456789abcdefghi"
)

// python sends a recorded message about a job.
func (w *worker) python(message, job string) {
	w.h.t.Helper()
	b, err := hex.DecodeString(message)
	require.NoError(w.h.t, err)
	if job != "" {
		require.Len(w.h.t, job, len(recordedJob), "else lengths on the wire would be others")
		b = []byte(strings.ReplaceAll(string(b), recordedJob, job))
	}
	_ = w.conn.Write(context.Background(), websocket.MessageBinary, b) // read reports the connection's end
}

// TestTheWireOfPython: a worker as LiveKit's framework for Python writes it gets a job, keeps
// it over a lost connection, ends it, and takes none that it rejects or that come while it
// drains.
func TestTheWireOfPython(t *testing.T) {
	h := newHouse(t)
	connect := func() *worker {
		w := h.connect(key, false)
		w.answers(func(job *livekit.Job) *livekit.AvailabilityResponse {
			if job.Room.Name == "rejected" {
				w.python(pythonReject, job.Id)
			} else {
				w.python(pythonAccept, job.Id)
			}
			return nil
		})
		w.python(pythonRegister, "")
		require.NotEmpty(t, w.expect().GetRegister().GetWorkerId(), "it takes no other first message")
		return w
	}
	w := connect()
	w.python(pythonIdle, "")
	want(t, h, "r", "scribe")
	h.person("r", "ada")
	a := w.job(1)
	id := a.Job.Id
	require.Equal(t, "agent-"+id, a.Job.State.ParticipantIdentity)
	c, err := h.verifier.Verify(a.Token)
	require.NoError(t, err)
	require.Equal(t, "scribe", c.Grants.Attributes["lk.agent.name"])
	v := c.Grants.Video
	require.True(t, v.RoomJoin && v.Agent && v.GetCanPublish() && v.GetCanSubscribe() && v.GetCanPublishData() && v.GetCanUpdateOwnMetadata())
	require.False(t, v.Hidden)
	_, err = h.agent(a)
	require.NoError(t, err)
	w.python(pythonRunning, id)
	w.python(pythonBusy, "")

	w.die()
	w = connect()
	w.python(pythonMigrate, id)
	want(t, h, "other", "scribe")
	require.NotEqual(t, id, w.job(1).Job.Id)
	require.Equal(t, map[livekit.JobStatus]int{running: 1}, h.jobs("r"), "the job goes on")
	w.python(pythonSuccess, id)
	h.eventually("the job has not ended", func() bool { return h.jobs("r")[success] == 1 })

	want(t, h, "rejected", "scribe")
	h.eventually("the job is not rejected", func() bool { return h.counter("parlor_agent_jobs_total", "refused") >= 1 })
	require.Equal(t, map[livekit.JobStatus]int{pending: 1}, h.jobs("rejected"))
	w.python(pythonDraining, "")
	second := h.worker(named("scribe"))
	second.job(1)
	want(t, h, "late", "scribe")
	h.eventually("the job has no worker", func() bool { return len(second.jobs()) == 2 })
	require.Len(t, w.jobs(), 1)
	require.Zero(t, h.counter("parlor_agent_bad_messages_total", "garbage")+h.counter("parlor_agent_bad_messages_total", "unknown")+h.counter("parlor_agent_bad_messages_total", "foreign"))
}
