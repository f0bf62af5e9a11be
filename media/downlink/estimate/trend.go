package estimate

import "time"

// Constants of the trend, after draft-ietf-rmcat-gcc-02 and libwebrtc:
const (
	groupLength   = int64(5 * time.Millisecond)
	longestGroup  = int64(100 * time.Millisecond)
	trendWindow   = 20 // groups
	trendSmooth   = 0.9
	trendGain     = 4
	trendCount    = 60 // groups until the trend has its full weight
	firstLimit    = 12.5
	leastLimit    = 6
	mostLimit     = 600
	limitUp       = 0.0087 // per ms
	limitDown     = 0.039
	limitOutlier  = 15
	overuseAfter  = 10.0 // ms of sending time above the limit
	resetArrivals = int64(3 * time.Second)
)

type group struct {
	firstSent, sent, arrived, firstArrived int64
	valid                                  bool
}

// trend follows how the distance between groups changes on the path: a growing queue
// delays each group longer than the group before.
type trend struct {
	current, previous group

	accumulated, smoothed float64 // ms
	firstArrival          int64
	points                [trendWindow]struct{ at, delay float64 }
	count                 int

	limit     float64
	limitAt   int64
	before    float64 // former slope
	over      float64 // ms of sending time above the limit
	overCount int
	usage     usage
}

type usage uint8

const (
	normal usage = iota
	overuse
	underuse
)

func (t *trend) reset() { *t = trend{limit: t.limit} }

// add takes a packet that arrived. Packets come in the order of their numbers.
func (t *trend) add(sentAt, arrived int64) {
	g := &t.current
	switch {
	case !g.valid:
		*g = group{sentAt, sentAt, arrived, arrived, true}
		return
	case sentAt < g.firstSent:
		return // out of order
	case sentAt-g.firstSent <= groupLength || t.together(sentAt, arrived):
		g.sent, g.arrived = max(g.sent, sentAt), max(g.arrived, arrived)
		return
	}
	if t.previous.valid {
		t.compare()
	}
	t.previous = t.current
	t.current = group{sentAt, sentAt, arrived, arrived, true}
}

// together reports whether a packet arrived in one burst with the group before it. On a
// link that delivers in bursts, the distances within a burst mean nothing.
func (t *trend) together(sentAt, arrived int64) bool {
	g := &t.current
	gap := arrived - g.arrived
	return arrived-g.firstArrived < longestGroup && gap <= groupLength && gap < sentAt-g.sent
}

func (t *trend) compare() {
	sentGap, arrivedGap := t.current.sent-t.previous.sent, t.current.arrived-t.previous.arrived
	if arrivedGap > resetArrivals || arrivedGap < -resetArrivals || sentGap > resetArrivals {
		current := t.current
		t.reset()
		t.current = current
		return
	}
	if arrivedGap < 0 {
		return
	}
	t.update(float64(arrivedGap-sentGap)/1e6, float64(sentGap)/1e6, t.current.arrived)
}

func (t *trend) update(delta, sentGap float64, arrived int64) {
	if t.count == 0 {
		t.firstArrival = arrived
	}
	t.accumulated += delta
	t.smoothed = trendSmooth*t.smoothed + (1-trendSmooth)*t.accumulated
	point := &t.points[t.count%trendWindow]
	point.at, point.delay = float64(arrived-t.firstArrival)/1e6, t.smoothed
	t.count++
	slope := t.before
	if t.count >= trendWindow {
		slope = t.slope()
	}
	t.detect(slope, sentGap, arrived)
}

// slope is the slope of the line through the points (least squares).
func (t *trend) slope() float64 {
	var at, delay float64
	for i := range t.points {
		at += t.points[i].at
		delay += t.points[i].delay
	}
	at, delay = at/trendWindow, delay/trendWindow
	var above, below float64
	for i := range t.points {
		d := t.points[i].at - at
		above += d * (t.points[i].delay - delay)
		below += d * d
	}
	if below == 0 {
		return 0
	}
	return above / below
}

func (t *trend) detect(slope, sentGap float64, arrived int64) {
	if t.limit == 0 {
		t.limit = firstLimit
	}
	weighed := float64(min(t.count, trendCount)) * slope * trendGain
	switch {
	case weighed > t.limit:
		t.over += sentGap
		t.overCount++
		if t.over > overuseAfter && t.overCount > 1 && slope >= t.before {
			t.over, t.overCount = 0, 0
			t.usage = overuse
		}
	case weighed < -t.limit:
		t.over, t.overCount, t.usage = 0, 0, underuse
	default:
		t.over, t.overCount, t.usage = 0, 0, normal
	}
	t.before = slope
	t.adapt(weighed, arrived)
}

// adapt moves the limit towards recent trends, so that a path which is never quiet, or
// which carries other traffic too, does not starve this traffic.
func (t *trend) adapt(weighed float64, arrived int64) {
	if t.limitAt == 0 {
		t.limitAt = arrived
	}
	size := max(weighed, -weighed)
	if size > t.limit+limitOutlier {
		t.limitAt = arrived
		return
	}
	k := limitUp
	if size < t.limit {
		k = limitDown
	}
	passed := min(float64(arrived-t.limitAt)/1e6, 100)
	t.limit = min(max(t.limit+k*(size-t.limit)*passed, leastLimit), mostLimit)
	t.limitAt = arrived
}
