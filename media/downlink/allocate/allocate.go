// Package allocate divides the bandwidth of a path among a subscriber's tracks.
//
// The nouns:
//
//   - A [Track] is the subscriber's wish for one track, and the cost of each of its layers.
//   - A [Layer] is a spatial and a temporal layer, with all layers below them. Simulcast and
//     SVC are the same here.
//   - A step is a layer of a track that is worth more than all layers that cost less.
//   - A [Decision] is the layer that fits, and the reason if it is not the wanted one.
//
// Order: first all audio. Then the lowest step of each track, in the order of the classes
// (screen share, speakers, pinned tracks, the rest), and within a class by priority. Then
// the steps above, in the same order: among tracks of one class and priority, the one with
// the least gets its next step first.
//
// Video below 15 frames a second is worth little, whatever its size. Up to that rate,
// motion comes before size; above it, size comes before more motion. A screen share is
// text, so size comes first.
//
// To drain a queue, no spatial layer is changed, because that takes a keyframe: temporal
// layers are left out until the queue is empty.
//
// A forwarded layer stays while it fits; a new layer must fit with a margin. So layers do
// not flap when the bandwidth wavers.
package allocate

import (
	"cmp"
	"math"
	"slices"
)

// The numbers of layers:
const (
	Spatials  = 3
	Temporals = 4
)

// Constants of the division:
const (
	// upMargin is the share of the budget that must remain free above a new layer.
	upMargin = 0.04
	// resumeMargin is the share that must remain free above a track that is resumed.
	resumeMargin = 0.08
	// KeepMargin is by what share of the budget a forwarded layer may exceed it.
	KeepMargin = 0.06
	fluent     = 15.0 // frames per second
)

// Class is the rank of a track: lower classes come first.
type Class uint8

// The classes, in order:
const (
	Screen Class = iota
	Speaker
	Pinned // has a priority, or is shown large
	Rest
	classes
)

// Layer is a spatial and a temporal layer.
type Layer struct{ Spatial, Temporal int8 }

// None is no layer: the track is paused.
var None = Layer{-1, -1}

// Track is a track to decide about. Bitrates are in bits/s.
type Track struct {
	ID       uint32
	Audio    bool
	Class    Class
	Priority uint32 // 1 comes first within the class, and 0, which is none, last
	CanPause bool   // otherwise the lowest layer is forwarded even if it does not fit
	// Bitrates are the measured costs of each layer with all layers below it; 0 = the
	// layer does not exist. Audio uses [0][0].
	Bitrates [Spatials][Temporals]float64
	// Sizes are the pixels, and FPS the frames per second, of each layer; 0 = unknown.
	Sizes [Spatials]int
	FPS   [Spatials][Temporals]float64
	Most  Layer // the highest wanted layer; None = the track is not wanted
	Now   Layer // the forwarded layer; None = the track is not forwarded
	// Steady: the spatial layer of Now stays while one of its temporal layers fits.
	Steady bool
}

// Reason is the reason for a decision.
type Reason uint8

// The reasons.
const (
	Wanted    Reason = iota // the wanted layer is forwarded
	Bandwidth               // a higher layer does not fit
	Paused                  // not even the lowest layer fits
	Absent                  // the publisher does not send the wanted layer
	Unwanted                // the track is not wanted
)

func (r Reason) String() string {
	return [...]string{"wanted", "bandwidth", "paused", "absent", "unwanted"}[min(r, Unwanted)]
}

// Decision is the decision about the track with the same index.
type Decision struct {
	Layer   Layer
	Wanted  Layer   // the best existing layer within the wish
	Bitrate float64 // of Layer
	Reason  Reason
}

// Summary is the result of a division. Bitrates are in bits/s.
type Summary struct {
	Bitrate float64 // of all decisions, once the queue is drained
	Goal    float64 // of all wanted layers
	// Need is the bitrate with the next improvement, margin included; 0 = no wish is
	// unfulfilled.
	Need   float64
	Paused int // tracks
}

type step struct {
	layer Layer
	cost  float64
	value float64
}

type candidate struct {
	index int
	all   []step
	steps []step // all, or those of one spatial layer that must stay
	at    int    // -1 = none
	now   int    // the step that is forwarded now; -1 = none
	done  bool
	// spatial is the layer that is forwarded now; -1 = none.
	spatial int8
}

// Allocator divides, and reuses memory between calls. The zero value is ready for use. It
// is not safe for concurrent use.
type Allocator struct {
	candidates []candidate
	decisions  []Decision
	order      []int
	steps      []step
}

// Divide decides about tracks with a budget in bits/s; 0 = no bound. momentary is a lower
// bound until a queue is drained, if it is below the budget: temporal layers are left out
// to meet it. The decisions are valid until the next call.
func (a *Allocator) Divide(tracks []Track, budget, momentary float64) ([]Decision, Summary) {
	a.prepare(tracks)
	bound := budget
	if bound <= 0 {
		bound = math.Inf(1)
	}
	var s Summary
	for i := range tracks {
		if t := &tracks[i]; t.Audio && t.Most != None {
			s.Bitrate += t.Bitrates[0][0]
		}
	}
	s.Goal = s.Bitrate
	a.release(tracks, s.Bitrate, bound)
	for _, i := range a.order {
		c := &a.candidates[i]
		s.Goal += c.all[len(c.all)-1].cost
		if !tracks[c.index].CanPause {
			c.at = 0
			s.Bitrate += c.steps[0].cost
		}
	}
	for _, i := range a.order {
		if c := &a.candidates[i]; c.at < 0 {
			a.raise(c, &s.Bitrate, bound)
		}
	}
	for from := 0; from < len(a.order); {
		to := from
		for to < len(a.order) && a.compare(tracks, a.order[from], a.order[to]) == 0 {
			to++
		}
		for {
			least := a.least(a.order[from:to])
			if least == nil {
				break
			}
			a.raise(least, &s.Bitrate, bound)
		}
		from = to
	}
	a.decide(tracks)
	s.Need = a.need(s.Bitrate)
	for i := range a.candidates {
		if a.candidates[i].at < 0 {
			s.Paused++
		}
	}
	if momentary > 0 && momentary < s.Bitrate {
		a.thin(tracks, s.Bitrate, momentary)
	}
	return a.decisions, s
}

// prepare finds the steps of each video track and their order.
func (a *Allocator) prepare(tracks []Track) {
	a.candidates, a.order, a.steps = a.candidates[:0], a.order[:0], a.steps[:0]
	if need := len(tracks) * (Spatials + 1) * Temporals; cap(a.steps) < need {
		a.steps = make([]step, 0, 2*need)
	}
	for i := range tracks {
		t := &tracks[i]
		if t.Audio || t.Most == None {
			continue
		}
		all := a.addSteps(t, 0, t.Most.Spatial)
		for s := int8(0); s < Spatials && len(all) == 0; s++ {
			all = a.addSteps(t, s, s) // no wanted layer exists: take the lowest one
		}
		if len(all) == 0 {
			continue
		}
		c := candidate{index: i, all: all, at: -1, spatial: t.Now.Spatial}
		c.use(t, all)
		if t.Steady && t.Now != None && t.Now.Spatial <= t.Most.Spatial {
			if steps := a.addSteps(t, t.Now.Spatial, t.Now.Spatial); len(steps) > 0 {
				c.use(t, steps)
			}
		}
		a.order = append(a.order, len(a.candidates))
		a.candidates = append(a.candidates, c)
	}
	slices.SortStableFunc(a.order, func(x, y int) int { return a.compare(tracks, x, y) })
}

// compare orders two candidates by class and priority.
func (a *Allocator) compare(tracks []Track, x, y int) int {
	s, t := &tracks[a.candidates[x].index], &tracks[a.candidates[y].index]
	if s.Class != t.Class {
		return int(s.Class) - int(t.Class)
	}
	return cmp.Compare(s.Priority-1, t.Priority-1) // 0 becomes the highest number
}

// use makes a candidate choose among steps.
func (c *candidate) use(t *Track, steps []step) {
	c.steps, c.now = steps, -1
	for j := range steps {
		if t.Now != None && steps[j].cost <= cost(t, t.Now) {
			c.now = j
		}
	}
}

// release lets spatial layers that should stay change, if they do not fit. sound is the
// bitrate of the audio, which comes before all video.
func (a *Allocator) release(tracks []Track, sound, bound float64) {
	total := sound
	for i := range a.candidates {
		total += a.candidates[i].all[0].cost
	}
	for _, i := range a.order {
		c := &a.candidates[i]
		more := c.steps[0].cost - c.all[0].cost
		if more > 0 && total+more > bound*(1+KeepMargin) {
			c.use(&tracks[c.index], c.all)
			continue
		}
		total += more
	}
}

// thin leaves out temporal layers until all fits, the last tracks first.
func (a *Allocator) thin(tracks []Track, total, bound float64) {
	for i := len(a.order) - 1; i >= 0; i-- {
		index := a.candidates[a.order[i]].index
		d := &a.decisions[index]
		for total > bound && d.Layer != None && d.Layer.Temporal > 0 {
			lower := Layer{d.Layer.Spatial, d.Layer.Temporal - 1}
			less := cost(&tracks[index], lower)
			if less == 0 {
				break
			}
			total -= d.Bitrate - less
			d.Layer, d.Bitrate, d.Reason = lower, less, Bandwidth
		}
	}
}

func cost(t *Track, l Layer) float64 {
	if l.Spatial < 0 || l.Spatial >= Spatials || l.Temporal < 0 || l.Temporal >= Temporals {
		return 0
	}
	return t.Bitrates[l.Spatial][l.Temporal]
}

// addSteps adds the layers of a track, between two spatial ones, that are worth more than
// all layers that cost less.
func (a *Allocator) addSteps(t *Track, lowest, highest int8) []step {
	from := len(a.steps)
	for s := lowest; s <= min(highest, Spatials-1); s++ {
		for u := int8(0); u <= min(t.Most.Temporal, Temporals-1); u++ {
			if l := (Layer{s, u}); cost(t, l) > 0 {
				a.steps = append(a.steps, step{l, cost(t, l), value(t, l)})
			}
		}
	}
	steps := a.steps[from:]
	slices.SortFunc(steps, func(x, y step) int {
		switch {
		case x.cost != y.cost:
			if x.cost < y.cost {
				return -1
			}
			return 1
		case x.value > y.value:
			return -1
		case x.value < y.value:
			return 1
		}
		return 0
	})
	kept := 0
	for _, s := range steps {
		if kept == 0 || s.value > steps[kept-1].value {
			steps[kept] = s
			kept++
		}
	}
	a.steps = a.steps[:from+kept]
	return a.steps[from:]
}

// value is the worth of a layer: the doublings of its size and of its motion.
func value(t *Track, l Layer) float64 {
	pixels := float64(t.Sizes[l.Spatial])
	if pixels <= 0 {
		pixels = 320 * 180 * math.Pow(4, float64(l.Spatial))
	}
	fps := t.FPS[l.Spatial][l.Temporal]
	if fps <= 0 {
		// Assume that each temporal layer doubles the rate, up to 30 at the highest one
		// that is sent.
		top := 0
		for u := range Temporals {
			if t.Bitrates[l.Spatial][u] > 0 {
				top = u
			}
		}
		fps = 30 / math.Pow(2, float64(max(top-int(l.Temporal), 0)))
	}
	size, motion := math.Log2(pixels), math.Log2(fps)
	if t.Class == Screen {
		return size + 0.25*motion
	}
	// A spatial layer adds about two doublings of size. Below fluent motion, a doubling
	// of the frame rate is worth more than that; above, less.
	slow := min(motion, math.Log2(fluent))
	return size + 3*slow + 0.75*(motion-slow)
}

// raise gives a track its next step if that fits, or if the track has it now.
func (a *Allocator) raise(c *candidate, total *float64, bound float64) {
	have := 0.0
	if c.at >= 0 {
		have = c.steps[c.at].cost
	}
	next := c.at + 1
	free := bound - (*total - have)
	switch {
	case next <= c.now && c.steps[next].cost <= free+c.tolerance(next, free, bound), c.steps[next].cost <= free-c.margin(&c.steps[next])*bound, math.IsInf(bound, 1):
		*total += c.steps[next].cost - have
		c.at = next
	default:
		c.done = true
	}
}

// tolerance is by how much a step that is not above the forwarded one may exceed what is
// free. A layer that begins with a keyframe must fit: the queue of a path that has just
// narrowed has no room for it.
func (c *candidate) tolerance(next int, free, bound float64) float64 {
	most := KeepMargin * bound
	if c.steps[next].layer.Spatial == c.spatial || c.steps[c.now].layer.Spatial == c.spatial && c.steps[c.now].cost <= free+most {
		return most
	}
	return 0
}

// margin is the share of the budget that must remain free above the next step. It is 0
// for more frames of the forwarded spatial layer: they need no keyframe, and can be left
// out again at once.
func (c *candidate) margin(next *step) float64 {
	switch {
	case next.layer.Spatial == c.spatial:
		return 0
	case c.at < 0:
		return resumeMargin
	}
	return upMargin
}

// least is the track of a class that has the least and may get more; nil if there is
// none.
func (a *Allocator) least(order []int) (least *candidate) {
	for _, i := range order {
		c := &a.candidates[i]
		if c.done || c.at < 0 || c.at == len(c.steps)-1 {
			continue
		}
		if least == nil || c.steps[c.at].value < least.steps[least.at].value {
			least = c
		}
	}
	return least
}

func (a *Allocator) decide(tracks []Track) {
	a.decisions = a.decisions[:0]
	for i := range tracks {
		t := &tracks[i]
		switch {
		case t.Most == None:
			a.decisions = append(a.decisions, Decision{Layer: None, Wanted: None, Reason: Unwanted})
		case t.Audio:
			a.decisions = append(a.decisions, Decision{Bitrate: t.Bitrates[0][0]})
		default:
			a.decisions = append(a.decisions, Decision{Layer: None, Wanted: None, Reason: Absent})
		}
	}
	for i := range a.candidates {
		c := &a.candidates[i]
		t, top := &tracks[c.index], c.all[len(c.all)-1]
		d := Decision{Layer: None, Wanted: top.layer, Reason: Paused}
		if c.at >= 0 {
			d.Layer, d.Bitrate, d.Reason = c.steps[c.at].layer, c.steps[c.at].cost, Bandwidth
			switch {
			case d.Layer != top.layer:
			case top.layer.Spatial < t.Most.Spatial || top.layer.Spatial > t.Most.Spatial:
				d.Reason = Absent
			default:
				d.Reason = Wanted
			}
		}
		a.decisions[c.index] = d
	}
}

// need is the bitrate with the cheapest improvement and its margin.
func (a *Allocator) need(total float64) float64 {
	best := math.Inf(1)
	for _, i := range a.order {
		c := &a.candidates[i]
		have := 0.0
		if c.at >= 0 {
			have = c.steps[c.at].cost
		}
		for i := range c.all {
			if next := &c.all[i]; next.cost > have {
				best = min(best, (total+next.cost-have)/(1-c.margin(next)))
				break
			}
		}
	}
	if math.IsInf(best, 1) {
		return 0
	}
	return best
}
