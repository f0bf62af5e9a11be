package rooms

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Data blobs are written to the disk and to the replica. [Limits] bounds what participants
// have stored; the rate bounds what they store again and again.
const (
	blobBurst     = 16       // minutes' worth that a participant may store at once
	blobsPerRoom  = 16       // participants at full rate are what a room may store
	blobOverhead  = 128      // bytes that a row costs beside its key and contents
	manyBlobs     = 16 << 20 // bytes that may come at once if nothing bounds a participant's blobs
	mostAtOnce    = 64 << 20 // bytes that may come at once, whatever bounds them
	rememberRates = 1024     // rates that are remembered before full ones are looked for
)

// blobRates are the bytes of data blobs that participants and rooms may store. They are kept
// by names, so that neither a new session nor a room that was empty begins with a new
// allowance. Its methods may be called concurrently.
type blobRates struct {
	mu    sync.Mutex // held for a map access, within a room's goroutine
	of    map[blobRate]*rate.Limiter
	sweep int // number of limiters at which those are forgotten that are full
}

// blobRate names an allowance: a participant's, or, without an identity, a room's.
type blobRate struct{ room, identity string }

// take reports whether a participant may store n bytes more now, and counts them if so.
func (b *blobRates) take(l *Limits, room, identity string, n int, now time.Time) bool {
	if l.BlobRate == 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	perSecond, burst := l.blobPace()
	one := b.limiter(blobRate{room, identity}, perSecond, burst, now)
	all := b.limiter(blobRate{room: room}, blobsPerRoom*perSecond, blobsPerRoom*burst, now)
	if one.TokensAt(now) < float64(n) || all.TokensAt(now) < float64(n) {
		return false
	}
	return one.AllowN(now, n) && all.AllowN(now, n)
}

// inherit is take for what the participant has stored already. The room's allowance does
// not count.
func (b *blobRates) inherit(l *Limits, room, identity string, n int, now time.Time) bool {
	if l.BlobRate == 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	perSecond, burst := l.blobPace()
	return b.limiter(blobRate{room, identity}, perSecond, burst, now).AllowN(now, n)
}

// blobPace is a participant's allowance: bytes a second in the long run, and at once.
func (l *Limits) blobPace() (perSecond rate.Limit, burst int) {
	burst = max(blobBurst*min(l.BlobRate, mostAtOnce/blobBurst), 2*min(l.MaxBlobs, mostAtOnce/2))
	if l.MaxBlobs == 0 {
		burst = max(burst, manyBlobs)
	}
	return rate.Limit(l.BlobRate) / 60, burst
}

func (b *blobRates) limiter(name blobRate, perSecond rate.Limit, burst int, now time.Time) *rate.Limiter {
	if b.of == nil {
		b.of, b.sweep = make(map[blobRate]*rate.Limiter), rememberRates
	}
	if len(b.of) >= b.sweep {
		for other, l := range b.of {
			if l.TokensAt(now) >= float64(l.Burst()) {
				delete(b.of, other)
			}
		}
		b.sweep = max(rememberRates, 2*len(b.of))
	}
	l := b.of[name]
	if l == nil {
		l = rate.NewLimiter(perSecond, burst)
		b.of[name] = l
	}
	return l
}
