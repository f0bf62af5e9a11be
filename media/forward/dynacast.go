package forward

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"
)

// How long a lower demand must last before the publisher is told.
const (
	lowerAfter  = 5 * time.Second
	nobodyAfter = 10 * time.Second // before the first subscriber
)

// Wanted says which qualities of a codec have subscribers: all up to the highest.
type Wanted struct {
	Codec   string               // in lower case, without its kind: "vp8"
	Highest livekit.VideoQuality // OFF: none
}

// Has reports whether the quality q is wanted.
func (w Wanted) Has(q livekit.VideoQuality) bool { return rank(q) <= rank(w.Highest) }

// dynacast tells the publisher which qualities have subscribers, so that it need not send
// the others.
type dynacast struct {
	main string // name of the codec that is listed first
	tell func([]Wanted)

	// telling is held while tell is called, so that the calls are in order.
	telling sync.Mutex

	mu      sync.Mutex                      // guards the following
	wished  map[string]livekit.VideoQuality // what subscribers want
	ceiling livekit.VideoQuality            // the highest that is asked for; HIGH: all that they want
	want    map[string]livekit.VideoQuality // what is to be asked for
	told    map[string]livekit.VideoQuality // nil: the publisher was told nothing yet
	asked   map[string]askedSince           // of the codecs in told
	due     time.Time                       // when a lower demand is told; zero: none waits
	served  bool                            // some quality has been wanted
}

// askedSince is since when the publisher is asked for each quality of a codec.
type askedSince [livekit.VideoQuality_HIGH + 1]time.Time

func (d *dynacast) init(main Codec, tell func([]Wanted)) {
	d.main, d.tell, d.ceiling = codecName(main), tell, livekit.VideoQuality_HIGH
}

// codecName is the name of a codec in a [Wanted]: "vp8". RED has the name of the codec
// that it carries.
func codecName(c Codec) string {
	if c.family() == redundant {
		return "opus"
	}
	_, name, ok := strings.Cut(strings.ToLower(c.MimeType), "/")
	if !ok {
		return strings.ToLower(c.MimeType)
	}
	return name
}

// rank is the order of qualities, with OFF lowest.
func rank(q livekit.VideoQuality) int {
	if q == livekit.VideoQuality_OFF {
		return -1
	}
	return int(q)
}

// order sorts codecs by name, with the main codec first.
func (d *dynacast) order(a, b string) int {
	switch d.main {
	case a:
		return -1
	case b:
		return 1
	}
	return strings.Compare(a, b)
}

// update computes the present demand for each codec. It calls wanted with mu held, so
// that of two updates the later one prevails.
func (d *dynacast) update(wanted func() map[string]livekit.VideoQuality, now time.Time) {
	d.mu.Lock()
	d.wished = wanted()
	want := maps.Clone(d.wished)
	for name, q := range want {
		if rank(q) > rank(d.ceiling) {
			want[name] = d.ceiling
		}
	}
	for name := range d.told {
		if _, ok := want[name]; !ok { // tell the publisher that this codec is not wanted any more
			want[name] = livekit.VideoQuality_OFF
		}
	}
	raise, lower := false, len(d.told) == 0
	for name, q := range want {
		old, known := d.told[name]
		if q != livekit.VideoQuality_OFF {
			d.served = true
		}
		switch {
		case !known && q == livekit.VideoQuality_OFF:
			lower = true
		case !known || rank(q) > rank(old):
			raise = true
		case rank(q) < rank(old):
			lower = true
		}
	}
	d.want = want
	switch {
	case raise:
		// A demand that fell at the same moment keeps its grace period.
		merged := maps.Clone(want)
		for name, old := range d.told {
			if q, ok := merged[name]; ok && rank(old) > rank(q) {
				merged[name] = old
			}
		}
		d.setTold(merged, now)
		d.arm(!maps.Equal(merged, want), now)
	default:
		d.arm(lower, now)
		d.mu.Unlock()
		return
	}
	d.mu.Unlock()
	d.send()
}

// limit sets the highest quality that the publisher is asked for, whatever subscribers want. A lower
// one is told at once; for a higher one update must be called.
func (d *dynacast) limit(ceiling livekit.VideoQuality, now time.Time) {
	d.mu.Lock()
	d.ceiling = ceiling
	told, changed := maps.Clone(d.told), false
	for name, q := range told {
		if rank(q) > rank(ceiling) {
			told[name], changed = ceiling, true
		}
	}
	if changed {
		d.setTold(told, now)
	}
	d.mu.Unlock()
	if changed {
		d.send()
	}
}

// withheld reports whether subscribers want a quality of a codec that is not asked for.
func (d *dynacast) withheld(codec string, q livekit.VideoQuality) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	wished, ok := d.wished[codec]
	return ok && rank(q) > rank(d.ceiling) && rank(q) <= rank(wished)
}

// arm starts or stops the wait before a lower demand is told. mu is held.
func (d *dynacast) arm(lower bool, now time.Time) {
	switch {
	case !lower:
		d.due = time.Time{}
	case d.due.IsZero() && !d.served:
		d.due = now.Add(nobodyAfter)
	case d.due.IsZero():
		d.due = now.Add(lowerAfter)
	}
}

// setTold notes what the publisher is told now. mu is held.
func (d *dynacast) setTold(told map[string]livekit.VideoQuality, now time.Time) {
	if d.asked == nil {
		d.asked = make(map[string]askedSince, len(told))
	}
	for name, q := range told {
		asked, above := d.asked[name], 0
		if old, ok := d.told[name]; ok {
			above = rank(old) + 1
		}
		for i := above; i <= rank(q) && i < len(asked); i++ {
			asked[i] = now
		}
		d.asked[name] = asked
	}
	d.told = told
}

// expected is the highest quality of a codec that the publisher has been asked for since a
// time before the given one, and since when it is asked for each; OFF: none.
func (d *dynacast) expected(codec string, before time.Time) (highest livekit.VideoQuality, asked askedSince) {
	d.mu.Lock()
	defer d.mu.Unlock()
	highest = livekit.VideoQuality_OFF
	told, ok := d.told[codec]
	if !ok {
		return highest, asked
	}
	asked = d.asked[codec]
	for q, since := range asked {
		if q <= rank(told) && since.Before(before) {
			highest = livekit.VideoQuality(q)
		}
	}
	return highest, asked
}

// waits reports whether a lower demand is waiting to be told.
func (d *dynacast) waits() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.due.IsZero()
}

// tick tells a lower demand that has lasted long enough.
func (d *dynacast) tick(now time.Time) {
	d.mu.Lock()
	if d.due.IsZero() || now.Before(d.due) {
		d.mu.Unlock()
		return
	}
	d.due = time.Time{}
	d.setTold(d.want, now)
	d.mu.Unlock()
	d.send()
}

// repeat tells the publisher again what it was told last, if anything.
func (d *dynacast) repeat() {
	d.mu.Lock()
	told := d.told != nil
	d.mu.Unlock()
	if told {
		d.send()
	}
}

// send tells the publisher the present demand.
func (d *dynacast) send() {
	if d.tell == nil {
		return
	}
	d.telling.Lock()
	defer d.telling.Unlock()
	d.mu.Lock()
	told := d.told
	d.mu.Unlock()
	var wanted []Wanted
	for _, name := range slices.SortedFunc(maps.Keys(told), d.order) {
		wanted = append(wanted, Wanted{Codec: name, Highest: told[name]})
	}
	d.tell(wanted)
}
