package downlink

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"parlor/media/downlink/feedback"
	"parlor/media/downlink/sent"
)

// many are paths that get 250 packets a second each, and report ten times a second.
type many struct {
	paths  []*Path
	bursts []Burst
	raw    [][]byte
	report feedback.Report
	rnd    *rand.Rand
	now    int64
	others []byte // memory that is used between the reports
}

const reportedPackets = 25

func newMany(count int) *many {
	m := &many{rnd: rand.New(rand.NewPCG(1, 1)), now: int64(time.Hour), raw: make([][]byte, count), others: make([]byte, 4<<20)}
	turns := NewTurns(func(func()) {})
	for range count {
		d := New(still{})
		d.ActIn(turns)
		d.control.JudgeBySending()
		d.connected.Store(true)
		m.paths, m.bursts = append(m.paths, d), append(m.bursts, d.NewBurst())
	}
	return m
}

// send sends on each path what is reported next, and makes the reports.
func (m *many) send() {
	const unit, between = int64(250 * time.Microsecond), int64(4 * time.Millisecond)
	for i := range m.paths {
		reference := m.now / int64(64*time.Millisecond)
		r := &m.report
		r.Reference, r.Arrivals = uint32(reference)&0xffffff, r.Arrivals[:0]
		for k := range reportedPackets {
			at := m.now + int64(k)*between
			number, _ := m.bursts[i].Leave(at, Departing{Size: 1100, Kind: sent.Video, Wide: true, SSRC: 1})
			m.bursts[i].End(at)
			if k == 0 {
				r.Base = number
			}
			arrival := at + int64(20*time.Millisecond) + m.rnd.Int64N(int64(2*time.Millisecond))
			r.Arrivals = append(r.Arrivals, int32((arrival-reference*int64(64*time.Millisecond))/unit))
		}
		m.raw[i] = r.Append(m.raw[i][:0], 9, 1)
	}
	m.now += reportedPackets * between
}

// work uses much other memory, as encrypting what is forwarded does.
func (m *many) work() {
	for i := 0; i < len(m.others); i += 64 {
		m.others[i]++
	}
}

func (m *many) take(i int) { m.paths[i].feedback(m.now+int64(25*time.Millisecond), m.raw[i]) }

// BenchmarkFeedback is the cost of a report on 25 packets, if reports follow each other, and
// if there is other work between them: then what is needed for a report has left the
// processor's nearest caches.
func BenchmarkFeedback(b *testing.B) {
	const count = 200
	for name, between := range map[string]func(*many){"in turns": func(*many) {}, "between other work": (*many).work} {
		b.Run(name, func(b *testing.B) {
			m := newMany(count)
			b.ReportAllocs()
			var spent []time.Duration
			for b.Loop() {
				m.send()
				m.work()
				for i := range m.paths {
					between(m)
					began := time.Now()
					m.take(i)
					spent = append(spent, time.Since(began))
				}
			}
			slices.Sort(spent)
			b.ReportMetric(float64(spent[len(spent)/2]), "ns/report") // the median: what else runs does not count
		})
	}
}
