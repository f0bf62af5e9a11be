package media

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"parlor/media/srtpin"
	"parlor/media/srtpout"
)

// intake decrypts a transport's SRTP and SRTCP on the goroutine that reads the socket. On
// pion's path (mux, ICE agent, DTLS transport, session) each packet wakes four goroutines.
// Pion still gets the packets of streams whose section is not known yet (see source).
//
// The reader of the socket also takes packets itself if that is little work, because waking
// another goroutine would cost more. A packet that goes to many, or RTCP that may cause
// retransmissions or keyframes, would delay the packets of all others. Such packets wait in
// a queue for a goroutine, which runs while the queue is not empty.
type intake struct {
	in       *ingress
	buffers  *sync.Pool // of *parcel, of the whole engine
	counters *counters
	workers  *workers
	drains   func()                  // drain, and the end of work
	opener   atomic.Pointer[openers] // nil until connected

	work sync.WaitGroup // runs of drain and take

	// mu guards the following.
	mu      sync.Mutex
	busy    bool // a goroutine takes packets: no other may
	closed  bool
	waiting []*parcel // in the order in which they came
}

// openers decrypt packets. rtp is used by one goroutine at a time, which has set busy.
type openers struct {
	rtp  *srtpin.Opener
	rtcp *srtpin.RTCP
}

// parcel is a packet that waits, with room for RTCP to be decrypted into.
type parcel struct {
	n       int
	plain   bool // it is RTCP that is decrypted already
	arrival time.Time
	buf     [2 * mostTaken]byte
}

const (
	// mostTaken is the length of the longest packet that is taken, in bytes. Longer ones
	// go to pion.
	mostTaken = 2048
	// mostWaiting bounds the packets in the queue: a second of high-definition video.
	mostWaiting = 1024
	// mostHere is the length of the longest RTCP that the socket's reader takes itself: a
	// report of some twenty streams.
	mostHere = 512
	// fewForwarders is the largest number of forwarders of a stream whose packets the
	// socket's reader forwards itself.
	fewForwarders = 8
)

func newIntake(in *ingress, buffers *sync.Pool, w *workers, c *counters) *intake {
	k := &intake{in: in, buffers: buffers, counters: c, workers: w}
	k.drains = func() {
		defer k.work.Done()
		k.drain()
	}
	return k
}

// open begins to take packets. keys are those with which the client encrypts.
func (k *intake) open(keys srtpout.Keys) error {
	opener, err := srtpin.NewOpener(keys)
	if err != nil {
		return fmt.Errorf("open incoming SRTP: %w", err)
	}
	rtcp, err := srtpin.NewRTCP(keys.Profile, keys.Key, keys.Salt, &k.counters.excessFeedback)
	if err != nil {
		return err
	}
	k.opener.Store(&openers{opener, rtcp})
	return nil
}

// opened reports whether packets are taken.
func (k *intake) opened() bool { return k.opener.Load() != nil }

// take is the icemux.Handler of the transport's sessions.
func (k *intake) take(packet []byte) bool {
	o := k.opener.Load()
	switch {
	case o == nil || len(packet) > mostTaken:
		return false
	case srtpin.IsRTCP(packet):
		feedback, err := o.rtcp.Take(packet, k.in.feedback, k.passPlain)
		if err != nil {
			k.counters.badSRTP.Add(1)
		}
		return feedback || o.rtcp.Knows(packet) && k.pass(nil, packet)
	case !srtpin.IsRTP(packet):
		return false
	}
	src := k.in.known(srtpin.SSRC(packet))
	return src != nil && src.mayOpen(packet) && k.pass(src, packet)
}

// pass takes a packet at once if it is little work, and else queues it. src is nil for RTCP.
// It returns true.
func (k *intake) pass(src *source, packet []byte) bool {
	here := src == nil && len(packet) <= mostHere || src != nil && !src.wide()
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return true
	}
	if k.busy || !here {
		k.queueLocked(packet, false)
		k.mu.Unlock()
		return true
	}
	k.busy = true
	k.work.Add(1)
	k.mu.Unlock()
	defer k.work.Done()
	if src != nil {
		k.takeRTP(src, packet, time.Now())
	} else {
		k.takeReports(packet)
	}
	k.mu.Lock()
	if k.busy = false; len(k.waiting) > 0 {
		k.beginLocked()
	}
	k.mu.Unlock()
	return true
}

// takeReports decrypts RTCP in place, and takes it if it is little work: what only says what
// arrived keeps nobody waiting. Other RTCP is queued, and so is that of a client which sends
// much, because all clients share the reader.
func (k *intake) takeReports(packet []byte) {
	o := k.opener.Load()
	plain, err := o.rtcp.Open(packet[:0], packet)
	switch {
	case err != nil:
		k.counters.badSRTP.Add(1)
	case onlyReports(plain) && o.rtcp.Affords():
		k.in.takeRTCP(plain)
	default:
		k.passPlain(plain)
	}
}

// passPlain queues RTCP that is decrypted already.
func (k *intake) passPlain(packet []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		k.queueLocked(packet, true)
	}
}

func (k *intake) queueLocked(packet []byte, plain bool) {
	if len(k.waiting) == mostWaiting {
		k.counters.intakeOverflow.Add(1)
		return
	}
	p, ok := k.buffers.Get().(*parcel)
	if !ok {
		p = &parcel{}
	}
	p.n, p.plain, p.arrival = copy(p.buf[:mostTaken], packet), plain, time.Now()
	k.waiting = append(k.waiting, p)
	if !k.busy {
		k.beginLocked()
	}
}

// beginLocked has a goroutine empty the queue.
func (k *intake) beginLocked() {
	if k.closed {
		return
	}
	k.busy = true
	k.work.Add(1)
	k.workers.run(k.drains)
}

// drain takes packets until the queue is empty.
func (k *intake) drain() {
	var batch []*parcel
	for {
		k.mu.Lock()
		batch, k.waiting = k.waiting, batch[:0]
		if len(batch) == 0 {
			k.busy = false
			k.mu.Unlock()
			return
		}
		k.mu.Unlock()
		for i, p := range batch {
			k.takeParcel(p)
			k.buffers.Put(p)
			batch[i] = nil
		}
	}
}

func (k *intake) takeParcel(p *parcel) {
	packet := p.buf[:p.n]
	switch {
	case p.plain:
		k.in.takeRTCP(packet)
		return
	case srtpin.IsRTCP(packet):
		if plain, err := k.opener.Load().rtcp.Open(p.buf[mostTaken:mostTaken], packet); err == nil {
			k.in.takeRTCP(plain)
		} else {
			k.counters.badSRTP.Add(1)
		}
		return
	}
	if src := k.in.known(srtpin.SSRC(packet)); src != nil {
		k.takeRTP(src, packet, p.arrival)
	}
}

// takeRTP decrypts a packet and gives it to its stream.
func (k *intake) takeRTP(src *source, packet []byte, arrival time.Time) {
	index, ok := src.fresh(packet)
	if !ok {
		return // a duplicate, or too old
	}
	plain, err := k.opener.Load().rtp.Open(packet, index)
	if err != nil {
		k.counters.badSRTP.Add(1)
		return
	}
	if !src.take(index) {
		return // pion has decrypted the same packet meanwhile
	}
	if s := src.stream.Load(); s != nil {
		s.take(plain, arrival)
		return
	}
	k.in.noteArrival(plain, arrival)
	src.comesAgain(arrival)
}

// close waits for packets that are being taken. No packet is taken after it.
func (k *intake) close() {
	k.mu.Lock()
	k.closed, k.waiting = true, nil
	k.mu.Unlock()
	k.work.Wait()
}
