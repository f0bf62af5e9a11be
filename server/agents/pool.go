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
	// atOnce is how many jobs of a kind are offered to workers at a time.
	atOnce = 64
	// look is the time between two looks for jobs that no worker took. A worker that
	// becomes free is offered jobs at once.
	look = 5 * time.Second
)

// pool holds the workers of a kind, and run, the goroutine that offers them jobs. It
// lives while it has workers.
type pool struct {
	h      *Handler
	kind   rooms.AgentKind
	life   context.Context
	stop   context.CancelFunc
	wake   chan struct{} // capacity 1
	places chan struct{} // one for each job that is being offered

	workers map[*worker]struct{} // guarded by Handler.mu

	mu       sync.Mutex          // guards the following
	underWay map[string]struct{} // jobs that are being offered
	offers   map[string]*offer   // that are not answered yet, by job
	unplaced bool                // a job found no worker
}

func newPool(h *Handler, k rooms.AgentKind) *pool {
	life, stop := context.WithCancel(h.life)
	return &pool{
		h: h, kind: k, life: life, stop: stop, wake: make(chan struct{}, 1), places: make(chan struct{}, atOnce),
		workers: make(map[*worker]struct{}), underWay: make(map[string]struct{}),
		offers: make(map[string]*offer),
	}
}

// poke makes the pool look for jobs.
func (p *pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// freed tells that a worker can take more jobs.
func (p *pool) freed() {
	p.mu.Lock()
	waits := p.unplaced
	p.unplaced = false
	p.mu.Unlock()
	if waits {
		p.poke()
	}
}

// goes runs f on a goroutine that Close waits for, unless the handler is closed.
func (h *Handler) goes(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.running.Go(f)
	}
}

// run offers the jobs of the kind to workers. First it has the rooms that want its agents
// make the jobs that they could not make without a worker.
func (p *pool) run() {
	news := news{p: p, told: make(map[string]struct{}), failed: make(map[string]struct{})}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		news.spread()
		next := p.fill()
		if !news.over() {
			next = min(next, max(time.Until(news.again), 0))
		}
		timer.Reset(next)
	}
}

// Bounds of the time before rooms that could not be told are told again.
const (
	firstRetry   = time.Second
	longestRetry = 30 * time.Second
)

// news is on its way to the rooms that want the agents of a pool: there are workers. The
// pool's goroutine alone uses it.
type news struct {
	p      *pool
	after  string              // the last room that was read
	read   bool                // all have been read that have a dispatch of the agent name
	done   bool                // and all that are occupied, if the agents go to every room
	told   map[string]struct{} // until done
	failed map[string]struct{} // could not be told
	wait   time.Duration       // before the next attempt
	again  time.Time           // of it
}

func (n *news) over() bool { return n.done && len(n.failed) == 0 }

// spread tells the rooms that have a dispatch of the pool's agent name and, if its agents
// go to every room, the occupied ones. Later calls tell those alone that could not be told,
// once their time has come.
func (n *news) spread() {
	const page = 100
	p := n.p
	if n.over() || time.Now().Before(n.again) {
		return
	}
	for name := range n.failed {
		if n.tell(name) {
			delete(n.failed, name)
		}
	}
	for !n.read && p.life.Err() == nil {
		names, last, err := p.h.cfg.Records.RoomsWanting(p.life, p.kind.AgentName, n.after, page)
		if err != nil {
			if p.life.Err() == nil {
				p.h.log.Error("cannot read the rooms that want agents, trying again", "agent", p.kind.AgentName, "error", err)
			}
			break
		}
		for _, name := range names {
			n.first(name)
		}
		n.after, n.read = last, len(names) < page
	}
	if n.read && !n.done {
		if p.kind.AgentName == "" {
			for _, name := range p.h.rooms.Live() {
				n.first(name)
			}
		}
		n.done, n.told = true, nil
	}
	n.wait = min(max(2*n.wait, firstRetry), longestRetry)
	n.again = time.Now().Add(n.wait)
}

// first tells a room that has not been told yet.
func (n *news) first(name string) {
	if _, is := n.told[name]; is {
		return
	}
	n.told[name] = struct{}{}
	if !n.tell(name) {
		n.failed[name] = struct{}{}
	}
}

// tell reports whether the room needs to be told no more.
func (n *news) tell(name string) bool {
	p := n.p
	if p.life.Err() != nil {
		return true
	}
	err := p.h.rooms.Reconsider(p.life, name, p.kind.AgentName)
	if err == nil || errors.Is(err, rooms.ErrNoRoom) || p.life.Err() != nil {
		return true
	}
	if _, again := n.failed[name]; !again {
		p.h.log.Warn("cannot ask a room for the agents that it wants, trying again", "room", name, "error", err)
	}
	return false
}

// fill begins to offer the jobs that are due, as many as places allows. It returns when
// to look again.
func (p *pool) fill() time.Duration {
	nowMs := p.h.rooms.Now().Ms
	due, nextMs, err := p.h.cfg.Records.DueJobs(p.life, p.kind, nowMs, 2*atOnce)
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
		default: // the end of another offer pokes
			p.over(job.ID, false)
			return look
		}
		p.h.goes(func() {
			placed := p.place(job)
			<-p.places
			p.over(job.ID, !placed)
			if placed {
				p.poke() // there is a place again, and jobs may wait for it
			}
		})
	}
	if nextMs != 0 {
		return min(look, max(time.Duration(nextMs-nowMs)*time.Millisecond, 10*time.Millisecond))
	}
	return look
}

func (p *pool) over(jobID string, unplaced bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.underWay, jobID)
	p.unplaced = p.unplaced || unplaced
}

// place offers a job to worker after worker until one takes it. It reports false if none
// takes it now.
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
			// The job goes behind the others, which a worker may take.
			return p.gone(due, p.h.rooms.PostponeJob(p.life, due.Room, due.ID, look))
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
		started, err := p.h.rooms.AssignJob(p.life, due.Room, due.ID, rooms.JobAnswer{WorkerID: res.from.id, APIKey: w.key, Identity: res.ParticipantIdentity})
		switch rooms.ErrorCode(err) {
		case rooms.Exists, rooms.Invalid: // because of the identity that the worker chose
			if err != nil {
				w.log.Warn("the worker's agent cannot be let in", "job", due.ID, "why", err)
				p.h.metrics.jobs.WithLabelValues("refused").Inc()
				continue
			}
		}
		if err != nil {
			return p.gone(due, err)
		}
		p.h.assigned(started, res)
		return true
	}
}

// gone reports whether the pool is done with the job after a room answered err.
func (p *pool) gone(due rooms.DueJob, err error) bool {
	if err == nil || rooms.ErrorCode(err) == rooms.NotFound || p.life.Err() != nil {
		return true
	}
	p.h.log.Warn("cannot give a job to a worker, trying again", "job", due.ID, "room", due.Room, "error", err)
	return false
}

// assigned sends the worker that answered its job, which is on disk as its own.
func (h *Handler) assigned(job *livekit.Job, res answer) {
	w := res.from
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

// pick chooses a worker that was not asked yet, at random and weighted by free capacity;
// nil if none has any.
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
		if rand.Float32()*sum < free { // so each worker is chosen with its share of the sum
			chosen = w
		}
	}
	return chosen
}
