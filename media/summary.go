package media

import (
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media/forward"
	"parlor/rooms"
)

// lookedOver is the number of looks in a minute.
const lookedOver = int(time.Minute / qualityInterval)

// summaryMeter summarises the media of a session. The peer's loop looks at the streams
// every [qualityInterval] and when one ends. Other goroutines read the last summary.
type summaryMeter struct {
	// The following belong to the loop.
	streams map[stream]forward.Traffic // counted so far
	ended   flows                      // counts of streams that ended since the last look
	last    time.Time                  // time of the last look; zero: not connected yet

	// mu guards the following.
	mu     sync.Mutex
	total  *rooms.MediaSummary // nil: no look yet
	looks  [lookedOver]look    // a ring of the looks of the last minute
	next   int
	whole  bool // the worst minute so far is a whole one
	course course
}

// flows are the counts of both directions.
type flows struct{ up, down rooms.MediaFlow }

// look is the result of one look.
type look struct {
	from, to time.Time // zero: no look
	score    float64
	rtt      time.Duration // 0 = unknown
	flows
}

func newSummaryMeter() *summaryMeter {
	return &summaryMeter{streams: map[stream]forward.Traffic{}}
}

// Summary implements rooms.Peer.
func (p *Peer) Summary() *rooms.MediaSummary {
	p.summary.mu.Lock()
	defer p.summary.mu.Unlock()
	return p.summary.total
}

// BeginSummary implements rooms.Peer.
func (p *Peer) BeginSummary() {
	m := p.summary
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total, m.looks, m.whole = nil, [lookedOver]look{}, false
}

// follow begins to judge and count a stream.
func (p *Peer) follow(s stream) {
	p.quality.add(s)
	p.summary.streams[s] = forward.Traffic{}
}

// unfollow ends that.
func (p *Peer) unfollow(s stream) {
	p.quality.remove(s)
	p.summary.account(s, &p.summary.ended)
	delete(p.summary.streams, s)
}

// begin is called when the media is connected.
func (m *summaryMeter) begin(now time.Time) { m.last = now }

// account adds the counts of s since the last look to f.
func (m *summaryMeter) account(s stream, f *flows) forward.Account {
	before, a := m.streams[s], s.Account()
	now := a.Traffic
	// Late packets reduce the number of lost ones.
	now.Lost = max(now.Lost, before.Lost)
	m.streams[s] = now
	flow, sent := &f.down, now.Packets-before.Packets
	if a.Inbound {
		flow = &f.up
		sent += now.Lost - before.Lost
	}
	flow.Packets += sent
	flow.Bytes += now.Bytes - before.Bytes
	flow.Lost += now.Lost - before.Lost
	flow.NACKs += now.NACKs - before.NACKs
	flow.KeyRequests += now.KeyRequests - before.KeyRequests
	return a
}

// look counts what happened since the last look. protocol carried the media, score is its
// quality, and estimate is what the path to the client carries, in bits/s; 0 = unknown.
func (m *summaryMeter) look(protocol string, score, estimate float64, now time.Time) {
	elapsed := now.Sub(m.last)
	ms := elapsed.Milliseconds()
	if ms <= 0 {
		return
	}
	l := look{from: m.last, to: now, score: score, flows: m.ended}
	m.last, m.ended = now, flows{}
	var layers [4]int64
	for s := range m.streams {
		a := m.account(s, &l.flows)
		l.rtt = max(l.rtt, a.RTT)
		if a.Shown {
			layers[layerOf(a.Quality)] += ms
		}
	}
	for _, f := range []*rooms.MediaFlow{&l.up, &l.down} {
		if f.Packets > 0 {
			f.FlowingMs = ms
		}
	}
	part := &rooms.MediaSummary{ConnectedMs: ms, Up: l.up, Down: l.down, LayerMs: layers}
	if protocol == "tcp" {
		part.TCPMs = ms
	}
	if l.rtt > 0 {
		part.RTTMs, part.RTTKnownMs = inMilliseconds(l.rtt), ms
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks[m.next] = l
	m.next = (m.next + 1) % lookedOver
	m.course.add(&l, estimate)
	sum := *m.total.Plus(part)
	m.judgeMinuteLocked(&sum)
	m.total = &sum
}

// judgeMinuteLocked replaces the worst minute by the last one if that was worse. Before
// there was a whole minute, it takes the time so far. mu is held.
func (m *summaryMeter) judgeMinuteLocked(sum *rooms.MediaSummary) {
	of := rooms.MediaMinute{}
	var known, passed time.Duration
	var all flows
	whole := true
	for i := range m.looks {
		l := &m.looks[(m.next+i)%lookedOver] // the oldest first
		if l.to.IsZero() {
			whole = false
			continue
		}
		if passed == 0 {
			of.FromMs = l.from.UnixMilli()
		}
		took := l.to.Sub(l.from)
		passed += took
		of.ToMs = l.to.UnixMilli()
		of.Score += l.score * took.Seconds()
		if l.rtt > 0 {
			known += took
			of.RTTMs += inMilliseconds(l.rtt) * took.Seconds()
		}
		all.up.Bytes, all.up.Packets, all.up.Lost = all.up.Bytes+l.up.Bytes, all.up.Packets+l.up.Packets, all.up.Lost+l.up.Lost
		all.down.Bytes, all.down.Packets, all.down.Lost = all.down.Bytes+l.down.Bytes, all.down.Packets+l.down.Packets, all.down.Lost+l.down.Lost
	}
	of.Score = min(of.Score/passed.Seconds(), maxScore) // rounding can make it more
	if known > 0 {
		of.RTTMs /= known.Seconds()
	}
	of.UpLoss, of.DownLoss = all.up.Loss(), all.down.Loss()
	of.UpBitrate, of.DownBitrate = float64(all.up.Bytes*8)/passed.Seconds(), float64(all.down.Bytes*8)/passed.Seconds()
	if !m.whole || of.Score < sum.Worst.Score {
		sum.Worst, m.whole = of, whole
	}
}

// layerOf is the index of a quality in [rooms.MediaSummary.LayerMs].
func layerOf(q livekit.VideoQuality) int {
	if q == livekit.VideoQuality_OFF {
		return 0
	}
	return min(int(q)+1, 3)
}

func inMilliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
