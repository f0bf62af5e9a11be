package forward

import "time"

// The room's playout delay follows the jitter that the receiver reports, within the
// room's bounds: it is playoutJitters times that, and changes by playoutStep ms a second
// at most. A room that has only a least delay has Chromium's most, in ms.
const (
	playoutJitters = 10
	playoutStep    = 80
	playoutMost    = 10_000
)

// playout is the room's playout delay as a subscriber is told it
// (http://www.webrtc.org/experiments/rtp-hdrext/playout-delay). It is in the packets until
// a report shows that it has arrived.
type playout struct {
	given           bool   // the room has one
	lowest, highest uint16 // bounds, in units of 10 ms
	now             uint16 // the least delay at present, in these units
	told            bool
	acked           bool
	first           uint16 // number of the first packet with it
	at              int64  // when that was sent
}

func newPlayout(lowest, highest uint32) playout {
	if highest == 0 && lowest > 0 {
		highest = playoutMost
	}
	lo := uint16(min(lowest/10, 0xfff))
	return playout{given: highest != 0, lowest: lo, highest: uint16(min(max(highest, lowest)/10, 0xfff)), now: lo}
}

// next is the least delay for the packet with a number, of 12 bits. said is false if the
// packet needs none.
func (d *playout) next(number uint16, now int64) (least uint16, said bool) {
	if d.acked || !d.given {
		return 0, false
	}
	if !d.told {
		d.told, d.first, d.at = true, number, now
	}
	return d.now, true
}

// reported takes a report: the last number that arrived, and the jitter.
func (d *playout) reported(last uint16, jitter time.Duration, now int64) {
	if !d.told {
		return
	}
	d.acked = d.acked || int16(last-d.first) >= 0
	limit := uint16(playoutStep * min(max(now-d.at, 0), int64(time.Second)) / int64(time.Second) / 10)
	want := uint16(min(playoutJitters*jitter.Milliseconds()/10, 0xfff))
	want = min(max(want, d.now-min(d.now, limit)), d.now+limit)
	if want = min(max(want, d.lowest), d.highest); want != d.now {
		d.now, d.told, d.acked = want, false, false
	}
}
