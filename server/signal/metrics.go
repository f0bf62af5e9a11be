package signal

import "github.com/prometheus/client_golang/prometheus"

// metrics count events of the signalling.
type metrics struct {
	connections *prometheus.GaugeVec
	joins       *prometheus.CounterVec
	bad         *prometheus.CounterVec
	slow        prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "parlor_signal_connections", Help: "Open signalling WebSockets, by peer connection mode.",
		}, []string{"mode"}),
		joins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parlor_signal_connects_total", Help: "Connect requests, by what became of them: joined, resumed, mismatch, or the HTTP status of the refusal.",
		}, []string{"result"}),
		bad: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parlor_signal_bad_messages_total", Help: "Signalling messages that could not be read, by why.",
		}, []string{"why"}),
		slow: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parlor_signal_slow_clients_total", Help: "WebSockets cut off because the client did not read its messages.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.connections, m.joins, m.bad, m.slow)
	}
	return m
}
