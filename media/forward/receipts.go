package forward

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
)

// receipts are what the subscriber's reports say of a stream. Their lock is a leaf, and held for
// short times only: the reader of the socket waits for it when a report comes, and must not
// wait for [Forwarder.mu], which is held while packets are written.
type receipts struct {
	rate atomic.Int64 // clock rate of the last forwarded packet, Hz

	mu      sync.Mutex // guards the following
	newest  receipt
	sentSR  [4]sentReport // the newest first
	playout playout
}

// receipt is what has been reported until now.
type receipt struct {
	rtt      time.Duration
	loss     float32 // smoothed share of packets lost
	lost     uint32
	jitter   uint32 // in µs
	fraction uint8  // 256ths of the packets that were lost since the report before
	came     bool   // a report has
}

// fractionLost is the share of packets that were lost since the report before.
func (r *receipt) fractionLost() float64 { return float64(r.fraction) / 256 }

func (r *receipt) jitterTime() time.Duration { return time.Duration(r.jitter) * time.Microsecond }

// sentReport is a sender report, from whose time the round-trip time is measured.
type sentReport struct {
	middle uint32 // middle 32 bits of its NTP time
	at     uint32 // see answerTime
}

// take takes a report block. steady: the stream's frames come at a steady rate, so that its
// jitter is the network's.
func (r *receipts) take(report *rtcp.ReceptionReport, steady bool, now int64) receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := &r.newest
	n.came, n.fraction = true, report.FractionLost
	n.loss += (float32(n.fractionLost()) - n.loss) / 3
	n.lost = cumulativeLost(report.TotalLost)
	n.jitter = uint32(min(uint64(report.Jitter)*1_000_000/uint64(r.rate.Load()), math.MaxUint32))
	jitter := n.jitterTime()
	if !steady {
		jitter = 0
	}
	r.playout.reported(uint16(report.LastSequenceNumber), jitter, now)
	for _, sent := range r.sentSR {
		if report.LastSenderReport != 0 && sent.middle == report.LastSenderReport {
			delay := int64(report.Delay) * int64(time.Second) / 65536
			n.rtt = time.Duration(max(sinceAnswer(now, sent.at)-delay, 0))
			break
		}
	}
	return *n
}

// cumulativeLost is a report block's count of lost packets. It is a signed number of 24 bits
// (RFC 3550, section 6.4.1): a receiver to which some packets came twice may have got more
// than were sent, and has lost none as far as it can tell.
func cumulativeLost(field uint32) uint32 { return uint32(max(int32(field<<8)>>8, 0)) }

// reports notes a sender report.
func (r *receipts) reports(ntp uint64, now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.sentSR[1:], r.sentSR[:])
	r.sentSR[0] = sentReport{middle: uint32(ntp >> 16), at: answerTime(now)}
}

// next is [playout.next].
func (r *receipts) next(number uint16, now int64) (least uint16, said bool) {
	if !r.playout.given { // which never changes
		return 0, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.playout.next(number, now)
}

// get is what has been reported until now.
func (r *receipts) get() receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest
}
