package agents

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
)

const (
	// atOnce is how many jobs of a kind workers are asked for at one time.
	atOnce = 64
	// look is the time between two looks at jobs that no worker took; workers that
	// become free are asked at once.
	look = 5 * time.Second
)

// pool is the workers of a kind, and the goroutine (run) that finds them jobs. It lives while
// it has workers.
type pool struct {
	h      *Handler
	kind   rooms.AgentKind
	life   context.Context
	stop   context.CancelFunc
	wake   chan struct{} // capacity 1
	places chan struct{} // of what is under way

	workers map[*worker]struct{} // guarded by Handler.mu

	mu       sync.Mutex          // guards the following
	underWay map[string]struct{} // jobs that a worker is being found for
	unplaced bool                // a job found no worker
}

func newPool(h *Handler, k rooms.AgentKind) *pool {
	life, stop := context.WithCancel(h.life)
	return &pool{
		h: h, kind: k, life: life, stop: stop, wake: make(chan struct{}, 1), places: make(chan struct{}, atOnce),
		workers: make(map[*worker]struct{}), underWay: make(map[string]struct{}),
	}
}

// poke has the pool look for jobs.
func (p *pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// freed tells that a worker may take more.
func (p *pool) freed() {
	p.mu.Lock()
	waits := p.unplaced
	p.unplaced = false
	p.mu.Unlock()
	if waits {
		p.poke()
	}
}

// goes runs f beside what runs, unless the handler is closed.
func (h *Handler) goes(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.running.Go(f)
	}
}

// run finds workers for the jobs of the kind. First it has the rooms that want its agents
// by name make the jobs that they have not made, as there was no worker.
func (p *pool) run() {
	p.reconsider()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		next := p.fill()
		timer.Reset(next)
	}
}

// reconsider asks the rooms that have a dispatch of the pool's agent name.
func (p *pool) reconsider() {
	if p.kind.AgentName == "" {
		return // they are for rooms that start
	}
	const page = 100
	for after := ""; ; {
		names, last, err := p.h.cfg.Records.RoomsWanting(p.life, p.kind.AgentName, after, page)
		if err != nil {
			if p.life.Err() == nil {
				p.h.log.Error("cannot read the rooms that want agents", "agent", p.kind.AgentName, "error", err)
			}
			return
		}
		for _, name := range names {
			if err := p.h.rooms.Reconsider(p.life, name, p.kind.AgentName); err != nil && !errors.Is(err, rooms.ErrNoRoom) && p.life.Err() == nil {
				p.h.log.Warn("cannot ask a room for the agents that it wants", "room", name, "error", err)
			}
		}
		if len(names) < page {
			return
		}
		after = last
	}
}

// fill begins to find workers for the jobs that are due, as many as there is place for.
// It returns when to look again.
func (p *pool) fill() time.Duration {
	now := time.Now()
	due, nextMs, err := p.h.cfg.Records.DueJobs(p.life, p.kind, rooms.NowMs(now), 2*atOnce)
	if err != nil {
		if p.life.Err() == nil {
			p.h.log.Error("cannot read the jobs that wait for a worker", "agent", p.kind.AgentName, "error", err)
		}
		return look
	}
	for _, job := range due {
		p.mu.Lock()
		_, already := p.underWay[job.ID]
		p.underWay[job.ID] = struct{}{}
		p.mu.Unlock()
		if already {
			continue
		}
		select {
		case p.places <- struct{}{}:
		default: // its end pokes
			p.over(job.ID, false)
			return look
		}
		p.h.goes(func() {
			placed := p.place(job)
			<-p.places
			p.over(job.ID, !placed)
			if placed {
				p.poke() // there is a place, and there may be jobs that wait for one
			}
		})
	}
	if nextMs != 0 {
		return min(look, max(time.UnixMilli(nextMs).Sub(now), 10*time.Millisecond))
	}
	return look
}

func (p *pool) over(jobID string, unplaced bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.underWay, jobID)
	p.unplaced = p.unplaced || unplaced
}

// place asks worker after worker until one has the job. It reports false if none takes it
// now.
func (p *pool) place(due rooms.DueJob) bool {
	asked := map[*worker]bool{}
	for {
		job, err := p.h.rooms.PendingJob(p.life, due.Room, due.ID)
		if err != nil {
			return p.gone(due, err)
		}
		w := p.pick(asked)
		if w == nil {
			if len(asked) == 0 {
				return false
			}
			p.h.log.Info("no worker takes a job, it waits", "job", due.ID, "room", due.Room, "agent", p.kind.AgentName, "asked", len(asked))
			// Behind the others, which may be taken.
			return p.gone(due, p.h.rooms.PostponeJob(p.life, due.Room, due.ID, time.Now().Add(look)))
		}
		asked[w] = true
		job.State.WorkersAsked = uint32(len(asked))
		res, err := w.ask(p.life, job, false)
		switch {
		case err == nil && res.Terminate:
			p.h.metrics.jobs.WithLabelValues("declined").Inc()
			return p.gone(due, p.h.rooms.EndJob(p.life, due.Room, due.ID, "", livekit.JobStatus_JS_SUCCESS, ""))
		case errors.Is(err, errRefused):
			p.h.metrics.jobs.WithLabelValues("refused").Inc()
			continue
		case errors.Is(err, errSilent):
			p.h.metrics.jobs.WithLabelValues("unanswered").Inc()
			w.log.Warn("the worker does not answer", "job", due.ID)
			continue
		case errors.Is(err, errGone):
			continue
		case err != nil:
			return false
		}
		started, err := p.h.rooms.AssignJob(p.life, due.Room, due.ID, rooms.JobAnswer{WorkerID: w.id, APIKey: w.key, Identity: res.ParticipantIdentity})
		switch rooms.ErrorCode(err) {
		case rooms.Exists, rooms.Invalid: // by the identity that the worker chose
			if err != nil {
				w.log.Warn("the worker's agent cannot be let in", "job", due.ID, "why", err)
				p.h.metrics.jobs.WithLabelValues("refused").Inc()
				continue
			}
		}
		if err != nil {
			return p.gone(due, err)
		}
		p.h.assigned(w, started, res)
		return true
	}
}

// gone reports whether err, of a room that was asked about the job, says that nobody need
// be found for it any more.
func (p *pool) gone(due rooms.DueJob, err error) bool {
	if err == nil || rooms.ErrorCode(err) == rooms.NotFound || p.life.Err() != nil {
		return true
	}
	p.h.log.Warn("cannot give a job to a worker, trying again", "job", due.ID, "room", due.Room, "error", err)
	return false
}

// assigned gives w a job that is on disk as its own.
func (h *Handler) assigned(w *worker, job *livekit.Job, res *livekit.AvailabilityResponse) {
	token, err := h.token(w, job, res)
	if err == nil && !h.give(w, job.Id, job.Room.Name) {
		err = errGone
	}
	if err != nil {
		w.log.Warn("a job was not given", "job", job.Id, "error", err)
		if err := h.rooms.EndJob(h.life, job.Room.Name, job.Id, w.id, livekit.JobStatus_JS_FAILED, err.Error()); err != nil {
			w.log.Warn("cannot end a job that was not given", "job", job.Id, "error", err)
		}
		return
	}
	h.metrics.jobs.WithLabelValues("assigned").Inc()
	w.send(&livekit.ServerMessage{Message: &livekit.ServerMessage_Assignment{
		Assignment: &livekit.JobAssignment{Job: job, Token: token},
	}})
}

// pick chooses a worker that was not asked yet, by chance, each with the weight of what it
// has free; nil if none has.
func (p *pool) pick(asked map[*worker]bool) *worker {
	p.h.mu.Lock()
	all := maps.Clone(p.workers)
	p.h.mu.Unlock()
	now := time.Now()
	var chosen *worker
	var sum float32
	for w := range all {
		free := w.capacity(now)
		if asked[w] || free <= 0 {
			continue
		}
		sum += free
		if rand.Float32()*sum < free { // each stays with the chance of its share
			chosen = w
		}
	}
	return chosen
}
