package forward

import (
	"time"

	"github.com/pion/rtcp"
)

// A request for a keyframe is under way until its answer may be expected: for the round trip
// to the publisher, and keyEncode for a frame to be taken and encoded; or for keyMargin more
// than answers have taken, where the publisher is slower. What subscribers ask for meanwhile,
// the same keyframe will answer. One that is not answered by then was lost, and is repeated:
// then and each time after twice as long, up to an interval.
const (
	keyEncode     = int64(100 * time.Millisecond)
	keyMargin     = int64(50 * time.Millisecond)
	keyWaitLeast  = int64(150 * time.Millisecond)
	keyWaitMost   = int64(2 * time.Second)
	keyDefaultRTT = int64(70 * time.Millisecond)

	// Keyframes cost a publisher much of its bitrate. In the long run a layer is asked for one in
	// an interval.
	keyIntervalLow  = int64(500 * time.Millisecond)
	keyIntervalHigh = int64(time.Second)
	// keySpacing is the least between two requests of which the first was answered. libwebrtc's
	// encoders ignore those that are less than 300 ms apart.
	keySpacing = int64(350 * time.Millisecond)
	// Subscribers who come just after a keyframe for another need not wait for a whole interval,
	// up to so many times in a row: one who has no picture, and one whose picture stands. The
	// latter leave one for the former, however long they ask.
	keyCreditStart   = 2
	keyCreditPicture = 1

	// keyAnswered is how long after a request a keyframe is taken for the answer.
	keyAnswered = int64(time.Second)
)

// keyRequests are the requests for keyframes of a layer. It belongs to the layer, and is guarded
// by its mu.
type keyRequests struct {
	wanted bool
	start  bool  // a subscriber has no picture without it
	first  int64 // when the requests began that have no answer yet
	asked  int64 // time of the last one; 0 = never
	tries  uint8 // how many have no answer
	took   int64 // smoothed time from the first one to the answer; 0 = none yet
	paid   int64 // time until which the keyframes asked for so far are an interval apart each
	fir    uint8 // number of the last one, for FIR
}

// answered notes that a keyframe has come. One that comes sooner than a round trip after a
// request, was sent before the publisher had it, and tells nothing of the time that takes.
func (k *keyRequests) answered(now, rtt int64) {
	// If there were several, it is not known which of them it answers. The first may have been
	// lost, so that counts no more than twice the time that was waited for it.
	if took := min(now-k.first, 2*k.wait(rtt)); k.tries > 0 && took >= max(rtt, 1) {
		if k.took == 0 {
			k.took = took
		}
		k.took += (took - k.took) / 4
	}
	k.wanted, k.start, k.tries = false, false, 0
}

// wait is how long the answer to a request may take.
func (k *keyRequests) wait(rtt int64) int64 {
	if rtt == 0 {
		rtt = keyDefaultRTT
	}
	return min(max(rtt+keyEncode, k.took+keyMargin, keyWaitLeast), keyWaitMost)
}

// due reports whether a keyframe is to be asked for now.
func (k *keyRequests) due(now, interval, rtt int64) bool {
	if !k.wanted {
		return false
	}
	if k.asked == 0 {
		return true
	}
	apart := interval
	if k.tries > 0 {
		wait := k.wait(rtt)
		apart = min(wait<<min(k.tries-1, 4), max(interval, wait))
	} else if ahead := k.paid - now; ahead <= keyCreditPicture*interval || k.start && ahead <= keyCreditStart*interval {
		apart = keySpacing
	}
	return now-k.asked >= apart
}

// RequestKeyFrame asks the publisher for a keyframe. A request that comes while another is
// under way, or too soon after a keyframe, is sent later, unless a keyframe comes first.
func (l *Layer) RequestKeyFrame() { l.requestKeyFrame(l.track.since(time.Now()), false) }

// requestKeyFrame requests a keyframe. start: a subscriber has no picture without it.
func (l *Layer) requestKeyFrame(now int64, start bool) {
	if !l.track.video || l.track.muted.Load() {
		return
	}
	l.track.stir(now)
	l.mu.Lock()
	l.keys.wanted, l.keys.start = true, l.keys.start || start
	request := l.keyRequestLocked(now)
	l.mu.Unlock()
	if request != nil {
		l.writeRTCP(request)
	}
}

// repeatKeyRequestLocked is the request for a keyframe of a layer that is sent, if one is wanted
// still and due; else nil. mu is held.
func (l *Layer) repeatKeyRequestLocked(now int64) rtcp.Packet {
	if !l.keys.wanted || !l.live.Load() || l.track.muted.Load() {
		return nil
	}
	return l.keyRequestLocked(now)
}

// keyRequestLocked is the request for a keyframe, if one is wanted and due; else nil. mu is
// held.
func (l *Layer) keyRequestLocked(now int64) rtcp.Packet {
	interval := keyIntervalLow
	if l.isHigh() {
		interval = keyIntervalHigh
	}
	k := &l.keys
	if !l.hasSSRC || !k.due(now, interval, int64(l.rttLocked())) {
		return nil
	}
	k.asked = max(now, 1)
	if k.tries == 0 {
		k.first, k.paid = k.asked, max(k.paid, now)+interval
		k.fir++ // a repeated request has the number of the first (RFC 5104, section 4.3.1.2)
	}
	k.tries = min(k.tries+1, 100)
	l.track.keyAsked.Store(now)
	l.counters.keyRequests.Add(1)
	if l.cfg.FIR {
		return &rtcp.FullIntraRequest{
			SenderSSRC: l.track.rtcpSSRC,
			MediaSSRC:  l.ssrc,
			FIR:        []rtcp.FIREntry{{SSRC: l.ssrc, SequenceNumber: k.fir}},
		}
	}
	return &rtcp.PictureLossIndication{SenderSSRC: l.track.rtcpSSRC, MediaSSRC: l.ssrc}
}
