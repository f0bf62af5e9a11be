package forward

import (
	"time"

	"github.com/pion/rtcp"

	"math"
	"parlor/media/forward/audiolevel"
)

// The interval of receiver reports, and how long the packets of a silent layer are kept.
const (
	videoReports = int64(time.Second)
	audioReports = int64(2 * time.Second)
	forgetAfter  = int64(10 * time.Second)
)

// senderReport relates a stream's timestamps to its sender's wall clock.
type senderReport struct {
	ntp   uint64 // arrival
	rtp   uint32
	at    int64 // when it came
	valid bool

	generation uint32 // of the layer
}

// askAgain sends a NACK to the publisher.
func (l *Layer) askAgain(ssrc uint32, numbers []uint16) {
	l.counters.nacks.Add(uint64(len(numbers)))
	l.writeRTCP(&rtcp.TransportLayerNack{
		SenderSSRC: l.track.rtcpSSRC,
		MediaSSRC:  ssrc,
		Nacks:      rtcp.NackPairsFromSequenceNumbers(numbers),
	})
}

func (l *Layer) writeRTCP(packets ...rtcp.Packet) {
	if l.cfg.WriteRTCP == nil {
		return
	}
	if l.cfg.WriteRTCP(packets) != nil {
		l.counters.rtcpErrors.Add(1)
	}
}

// tick repeats requests for packets and keyframes that are still missing, and reports to
// the publisher.
func (l *Layer) tick(now int64) {
	var packets []rtcp.Packet
	l.mu.Lock()
	l.rates.tick(now)
	if now-l.judged >= int64(time.Second) {
		l.judged = now
		lost := l.stream.Lost()
		l.window.add(l.rates.packets+lost, lost)
		l.countLocked()
	}
	if now-l.lastArrival.Load() > forgetAfter {
		l.ring.Clear() // packets this old are not asked for
	}
	if l.missing != nil && l.missing.Waiting() {
		if numbers := l.missing.Due(now, nil); len(numbers) > 0 {
			l.counters.nacks.Add(uint64(len(numbers)))
			packets = append(packets, &rtcp.TransportLayerNack{
				SenderSSRC: l.track.rtcpSSRC, MediaSSRC: l.ssrc,
				Nacks: rtcp.NackPairsFromSequenceNumbers(numbers),
			})
		}
	}
	if request := l.repeatKeyRequestLocked(now); request != nil {
		packets = append(packets, request)
	}
	if report := l.receiverReportLocked(now); report != nil {
		packets = append(packets, report)
	}
	l.mu.Unlock()
	if len(packets) > 0 {
		l.writeRTCP(packets...)
	}
	if l.cfg.TWCC != nil {
		l.cfg.TWCC.flush(l.track.epoch.Add(time.Duration(now)))
	}
	l.release(now)
}

// release sends packets that wait for the rest of a frame that does not come, and ends
// the speech of a microphone whose packets have stopped.
func (l *Layer) release(now int64) {
	l.fan.Lock()
	defer l.fan.Unlock()
	if len(l.burst) > 0 && now-l.previous > int64(tickInterval)/2 {
		l.flush()
	}
	if l.level != nil && l.level.Expire(now) {
		l.track.setAudioLevel(l.level)
	}
}

// receiverReportLocked is a receiver report (RFC 3550, section 6.4.2), if it is due; else
// nil.
func (l *Layer) receiverReportLocked(now int64) rtcp.Packet {
	interval := videoReports
	if !l.track.video {
		interval = audioReports
	}
	if now-l.reported < interval {
		return nil
	}
	r, ok := l.stream.Report()
	if !ok {
		return nil
	}
	l.reported = now
	block := rtcp.ReceptionReport{
		SSRC:               l.ssrc,
		FractionLost:       r.FractionLost,
		TotalLost:          r.TotalLost,
		LastSequenceNumber: r.LastSequence,
		Jitter:             r.Jitter,
	}
	if now-l.report.at < senderReportAge && l.report.valid {
		block.LastSenderReport = uint32(l.report.ntp >> 16)
		block.Delay = uint32(max(now-l.report.at, 0) * 65536 / int64(time.Second))
	}
	return &rtcp.ReceiverReport{SSRC: l.track.rtcpSSRC, Reports: []rtcp.ReceptionReport{block}}
}

// senderReportAge is how old a sender report may be to which a receiver report refers: 16 bits of
// seconds tell its age.
const senderReportAge = int64(time.Hour)

// SetRTT sets the round-trip time to the publisher, which must be more than 0. Requests for
// packets and for keyframes are repeated by it. Without SetRTT only answers show how long to
// wait for them.
func (l *Layer) SetRTT(rtt time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rtt = int64(rtt)
	if l.missing != nil {
		l.missing.SetRTT(rtt)
	}
}

// rttLocked is the round-trip time to the publisher, as set or else as answers to requests for
// packets show; 0 = unknown. mu is held.
func (l *Layer) rttLocked() time.Duration {
	if l.rtt == 0 && l.missing != nil {
		return l.missing.RTT()
	}
	return time.Duration(l.rtt)
}

// setAudioLevel stores the level for AudioLevel.
func (t *Track) setAudioLevel(level *audiolevel.Level) {
	v, speaking := level.Get()
	if !speaking {
		v = 0
	}
	t.audio.Store(math.Float32bits(v))
}
