package agents

import (
	"sync"

	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"

	"parlor/rooms"
)

// mostNames is how many agent names the metrics distinguish; the others are "other".
const mostNames = 100

// metrics counts what happens between the server and workers.
type metrics struct {
	workers  *prometheus.GaugeVec
	connects *prometheus.CounterVec
	jobs     *prometheus.CounterVec
	bad      *prometheus.CounterVec

	mu    sync.Mutex // guards names
	names map[string]bool
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		workers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "parlor_agent_workers", Help: "Workers that are registered, by their agent's name and the type of their jobs.",
		}, []string{"agent", "type"}),
		connects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parlor_agent_refused_total", Help: "Workers that were not let in, by HTTP status.",
		}, []string{"status"}),
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parlor_agent_jobs_total",
			Help: "What workers did with jobs: assigned, refused, unanswered, declined for good, succeeded, failed.",
		}, []string{"outcome"}),
		bad: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parlor_agent_bad_messages_total",
			Help: "Messages of workers that were not taken, by why; foreign: of a job that the worker does not have; simulate: a job for a participant whose identity or SID is too long; slow: one to a worker that does not read.",
		}, []string{"why"}),
		names: make(map[string]bool),
	}
	// Series exist from the start, because a rate needs an earlier value.
	for _, outcome := range []string{"assigned", "refused", "unanswered", "declined", "succeeded", "failed"} {
		m.jobs.WithLabelValues(outcome)
	}
	for typ := range livekit.JobType_name {
		m.workers.WithLabelValues("", livekit.JobType(typ).String())
	}
	if reg != nil {
		reg.MustRegister(m.workers, m.connects, m.jobs, m.bad)
	}
	return m
}

// name is the label of a kind's agent.
func (m *metrics) name(k rooms.AgentKind) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.names[k.AgentName] {
		if len(m.names) >= mostNames {
			return "other"
		}
		m.names[k.AgentName] = true
	}
	return k.AgentName
}

// ended counts a job by the status that its worker reported.
func (m *metrics) ended(s livekit.JobStatus) {
	outcome := "failed"
	if s == livekit.JobStatus_JS_SUCCESS {
		outcome = "succeeded"
	}
	m.jobs.WithLabelValues(outcome).Inc()
}
