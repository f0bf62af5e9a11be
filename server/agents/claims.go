package agents

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"
)

// probeTimeout is how long a worker has to answer when another claims one of its jobs.
const probeTimeout = 5 * time.Second

// claim is a worker's word that it has a job that another connection has. A worker whose
// connection broke connects again at once, and the server may notice the end of the old
// connection only later. So the worker that has the job is asked whether it is still there:
// its answer refuses the claim, and the end of its connection honours it, even if it was
// refused: the old connection may have answered just before it broke.
type claim struct {
	w        *worker
	messages int                      // with which it claimed the job, none = the claim is refused
	end      *livekit.UpdateJobStatus // of the job, by one of them; nil = none
	over     bool                     // the job was terminated meanwhile
}

// verdict is what becomes of a worker's word that it has a job.
type verdict int

const (
	foreign verdict = iota // it does not have it
	owned                  // it has it
	claimed                // another has it, which is asked
	gone                   // its connection has ended
)

// claim gives a job that no worker has to w, and remembers w's claim on one that another
// has. A worker has at most one claim on each of its jobs, that of the newest connection:
// an older one may have broken, and its last messages are still being read. The caller
// holds the job's turn.
func (h *Handler) claim(w *worker, jobID, room string, end *livekit.UpdateJobStatus) verdict {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.done.Err() != nil {
		return gone
	}
	owner := h.jobs[jobID]
	if owner == nil {
		if !w.take(jobID, room) {
			return gone
		}
		h.jobs[jobID] = w
		return owned
	}
	c := owner.claims[jobID]
	if c != nil && c.w.done.Err() == nil && c.w.since.After(w.since) {
		return foreign
	}
	if c == nil || c.w != w {
		h.refused(c)
		c = &claim{w: w}
		owner.claims[jobID] = c
	}
	c.messages++
	if isEnd(end) {
		c.end = end
	}
	if !owner.probed && !h.closed {
		owner.probed = true
		h.running.Go(owner.probe)
	}
	return claimed
}

// refused counts the messages of a claim, which may be nil, as those about any other job
// that a worker does not have.
func (h *Handler) refused(c *claim) {
	if c != nil {
		h.metrics.bad.WithLabelValues("foreign").Add(float64(c.messages))
		c.messages = 0
	}
}

// dropRefused forgets the claim on a job that is no longer the worker's, if it is refused.
// The caller holds Handler.mu.
func (w *worker) dropRefused(jobID string) {
	if c := w.claims[jobID]; c != nil && c.messages == 0 {
		delete(w.claims, jobID)
	}
}

// endClaim tells the worker that claims a job of w that it is over, at once if the claim is
// refused: it may have the job's agent all the same, and learn of it in no other way. Else it is
// told when the claim is decided. The caller holds Handler.mu.
func (w *worker) endClaim(jobID string) {
	c := w.claims[jobID]
	switch {
	case c == nil:
	case c.messages == 0:
		delete(w.claims, jobID)
		c.w.terminate(jobID)
	default:
		c.over = true
	}
}

// probe asks the worker whether it is still there until each claim on its jobs is refused. If it
// does not answer its connection ends, and with it the claims are honoured. An answer
// refuses only the claims that were made before the question.
func (w *worker) probe() {
	for {
		claims := w.h.claimsOn(w)
		if len(claims) == 0 {
			return
		}
		err := w.there(probeTimeout)
		if errors.Is(err, errBusy) {
			continue
		}
		if err != nil {
			w.log.Info("the worker does not answer, and another has its jobs", "error", err)
			w.cut()
			return
		}
		w.h.refuseClaims(w, claims)
	}
}

// claimsOn returns the claims on the jobs of a worker, for its probe, which is over if all
// are refused: then it returns none.
func (h *Handler) claimsOn(w *worker) map[string]*claim {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.probed = false
	for _, c := range w.claims {
		w.probed = w.probed || c.messages > 0
	}
	if !w.probed {
		return nil
	}
	return maps.Clone(w.claims)
}

// refuseClaims refuses those of the claims that are still made on the jobs of a worker. It
// forgets those that can be honoured no more.
func (h *Handler) refuseClaims(owner *worker, claims map[string]*claim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, c := range claims {
		if owner.claims[id] != c {
			continue
		}
		if c.over {
			c.w.terminate(id)
		}
		h.refused(c)
		if h.jobs[id] != owner || c.w.done.Err() != nil {
			delete(owner.claims, id)
		}
	}
}

// passAll passes on the jobs of a worker that has gone, which are had, and answers the
// claims on others of its jobs.
func (h *Handler) passAll(from *worker, had map[string]string) {
	var ends []func()
	for id, room := range had {
		if c := h.pass(from, id, room); c != nil && c.end != nil {
			ends = append(ends, func() { c.w.reported(c.end, room) })
		}
	}
	h.mu.Lock()
	rest := from.claims // no job is from's, so no more are made
	from.claims = nil
	for id, c := range rest {
		if c.over {
			c.w.terminate(id)
		} else {
			h.refused(c)
		}
	}
	h.mu.Unlock()
	for _, end := range ends { // last, because each waits for the disk
		end()
	}
}

// pass gives a job of a worker that has gone to the one that claims it, and returns the
// claim; else it tells the room that the worker is gone.
func (h *Handler) pass(from *worker, jobID, room string) *claim {
	defer h.turns.take(jobID)()
	h.mu.Lock()
	if h.jobs[jobID] != from { // it is over
		h.mu.Unlock()
		return nil
	}
	delete(h.jobs, jobID)
	c := from.claims[jobID]
	delete(from.claims, jobID)
	if c != nil && (from.ends(jobID) || !c.w.take(jobID, room)) {
		h.refused(c)
		c = nil
	}
	if c != nil {
		h.jobs[jobID] = c.w
	}
	h.mu.Unlock()
	if c != nil {
		err := h.rooms.AdoptJob(h.life, room, jobID, c.w.id)
		if err == nil {
			c.w.log.Info("worker goes on with a job", "job", jobID, "room", room, "before", from.id)
			return c
		}
		h.release(c.w, jobID)
		h.refused(c)
	}
	if err := h.rooms.WorkerLost(h.life, room, jobID, from.id); err != nil && h.life.Err() == nil {
		from.log.Warn("cannot tell a room that a worker is gone", "room", room, "job", jobID, "error", err)
	}
	return nil
}

// turns lets one goroutine at a time change which worker has a job and tell the room. So
// the room hears of the workers in their order, and a worker that has a job is the one that
// the room knows. Rooms take no turns.
type turns struct {
	mu sync.Mutex // guards the following
	m  map[string]*turn
}

type turn struct {
	sync.Mutex
	n int // goroutines that have it or wait for it; guarded by turns.mu
}

// take waits for the turn of a job; leave ends it.
func (t *turns) take(jobID string) (leave func()) {
	t.mu.Lock()
	one := t.m[jobID]
	if one == nil {
		one = &turn{}
		t.m[jobID] = one
	}
	one.n++
	t.mu.Unlock()
	one.Lock()
	return func() {
		one.Unlock()
		t.mu.Lock()
		defer t.mu.Unlock()
		if one.n--; one.n == 0 {
			delete(t.m, jobID)
		}
	}
}
