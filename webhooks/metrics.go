package webhooks

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parlor/rooms/log"
)

// scrapeTime bounds how long a scrape waits for the store.
const scrapeTime = 2 * time.Second

// metrics counts attempts as they are made, and reads everything else from the store when
// it is scraped, so that there is no second copy to disagree.
type metrics struct {
	dispatcher *Dispatcher

	attempts *prometheus.CounterVec
	latency  *prometheus.HistogramVec

	pending, oldest, dead, delivered, state *prometheus.Desc

	mu      sync.Mutex // guards waiting
	waiting map[int64]waiting
}

// waiting is the oldest pending event of an endpoint, and since when it has waited, by a clock
// that is not set.
type waiting struct {
	seq   int64
	since time.Time
}

// age is how long the oldest pending event has waited: by its own time when it is first seen
// here, and then as time passes, since the wall clock may be set. The next one has not waited
// for longer.
func (m *metrics) age(e *EndpointStatus, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.OldestSeq == 0 {
		delete(m.waiting, e.ID)
		return 0
	}
	w, before := m.waiting[e.ID]
	if w.seq != e.OldestSeq {
		next := waiting{e.OldestSeq, now.Add(-max(0, now.Sub(time.UnixMilli(e.OldestPendingMs))))}
		if before && w.seq < next.seq && next.since.Before(w.since) {
			next.since = w.since
		}
		w = next
		m.waiting[e.ID] = w
	}
	return now.Sub(w.since)
}

var _ prometheus.Collector = (*metrics)(nil)

func newMetrics(d *Dispatcher) *metrics {
	labels := []string{"endpoint", "url"}
	desc := func(name, help string, more ...string) *prometheus.Desc {
		return prometheus.NewDesc("parlor_webhook_"+name, help, append(labels[:2:2], more...), nil)
	}
	return &metrics{
		dispatcher: d,
		waiting:    make(map[int64]waiting),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parlor_webhook_attempts_total",
			Help: "Requests to a webhook endpoint, by what came of them.",
		}, append(labels[:2:2], "outcome")),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "parlor_webhook_attempt_seconds",
			Help:    "Time from a request to a webhook endpoint to its answer.",
			Buckets: []float64{.005, .025, .1, .25, 1, 2.5, 5, 15},
		}, labels),
		pending:   desc("pending", "Deliveries that are to be sent."),
		oldest:    desc("oldest_pending_seconds", "Age of the oldest pending event; 0 if none pends."),
		dead:      desc("dead", "Dead letters: deliveries that were given up and can be replayed."),
		delivered: desc("delivered_total", "Deliveries that were acknowledged, ever."),
		state:     desc("endpoint_state", "1 for the state that the endpoint is in.", "state"),
	}
}

// workerMetrics are the counters of one endpoint.
type workerMetrics struct {
	attempts *prometheus.CounterVec
	latency  prometheus.Observer
}

func (m *metrics) worker(e log.Endpoint) workerMetrics {
	labels := prometheus.Labels{"endpoint": strconv.FormatInt(e.ID, 10), "url": redact(e.URL)}
	return workerMetrics{attempts: m.attempts.MustCurryWith(labels), latency: m.latency.With(labels)}
}

func (m workerMetrics) attempt(outcome string, d time.Duration) {
	m.attempts.WithLabelValues(outcome).Inc()
	m.latency.Observe(d.Seconds())
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(c chan<- *prometheus.Desc) {
	m.attempts.Describe(c)
	m.latency.Describe(c)
	for _, d := range []*prometheus.Desc{m.pending, m.oldest, m.dead, m.delivered, m.state} {
		c <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	m.attempts.Collect(c)
	m.latency.Collect(c)
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime) // Collect has no context
	defer cancel()
	endpoints, err := m.dispatcher.Endpoints(ctx)
	if err != nil {
		c <- prometheus.NewInvalidMetric(m.pending, err)
		return
	}
	for _, e := range endpoints {
		m.collect(c, &e)
	}
}

func (m *metrics) collect(c chan<- prometheus.Metric, e *EndpointStatus) {
	labels := []string{strconv.FormatInt(e.ID, 10), e.URL}
	put := func(d *prometheus.Desc, t prometheus.ValueType, v float64, more ...string) {
		metric, err := prometheus.NewConstMetric(d, t, v, append(labels[:2:2], more...)...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(d, err)
		}
		c <- metric
	}
	put(m.pending, prometheus.GaugeValue, float64(e.Pending))
	put(m.oldest, prometheus.GaugeValue, e.Waits.Seconds())
	put(m.dead, prometheus.GaugeValue, float64(e.Dead))
	put(m.delivered, prometheus.CounterValue, float64(e.Delivered))
	state := string(e.State)
	if e.Down && e.State == log.EndpointOn {
		state = "down"
	}
	put(m.state, prometheus.GaugeValue, 1, state)
}
