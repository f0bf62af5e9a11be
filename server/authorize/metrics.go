package authorize

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests *prometheus.HistogramVec
	cached   prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "parlor_authorize_request_duration_seconds",
			Help:    "Time that the authorization hook took, by result: allowed, denied or failed.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"result"}),
		cached: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parlor_authorize_cached_total",
			Help: "Questions answered without a request: by what was answered before, or by one that was under way.",
		}),
	}
}

// Describe implements [prometheus.Collector].
func (h *Hook) Describe(ch chan<- *prometheus.Desc) {
	h.metrics.requests.Describe(ch)
	h.metrics.cached.Describe(ch)
}

// Collect implements [prometheus.Collector].
func (h *Hook) Collect(ch chan<- prometheus.Metric) {
	h.metrics.requests.Collect(ch)
	h.metrics.cached.Collect(ch)
}
