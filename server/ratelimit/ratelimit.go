// Package ratelimit bounds the rate of requests of each client address and each API key
// with token buckets. A refused caller is told when to retry.
package ratelimit

import (
	"container/list"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"parlor/server/access"
)

// most is how many addresses, and how many keys, are remembered. Beyond it, those that
// have been quiet longest are forgotten, which is in their favour.
const most = 100_000

// Config configures a [Limits].
type Config struct {
	What       string        // names it in metrics
	PerAddress int           // requests a second of one client address; 0 = no limit
	PerKey     int           // requests a second with one API key; 0 = no limit
	Burst      time.Duration // the requests of that long may come at once
}

// Limits bounds one kind of request. Its methods may be called concurrently; a nil Limits
// bounds nothing.
type Limits struct {
	addresses, keys *buckets
	refused         *prometheus.CounterVec
}

// New makes a Limits.
func New(c Config) *Limits {
	return &Limits{
		addresses: newBuckets(c.PerAddress, c.Burst),
		keys:      newBuckets(c.PerKey, c.Burst),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name:        "parlor_rate_limited_total",
			Help:        "Requests refused because they came too often, by what they were and whose bound it was: address or key.",
			ConstLabels: prometheus.Labels{"what": c.What},
		}, []string{"by"}),
	}
}

// Describe implements [prometheus.Collector].
func (l *Limits) Describe(ch chan<- *prometheus.Desc) { l.refused.Describe(ch) }

// Collect implements [prometheus.Collector].
func (l *Limits) Collect(ch chan<- prometheus.Metric) { l.refused.Collect(ch) }

// Addresses bounds the requests of each client address, taken from RemoteAddr; an IPv6
// network of 64 bits counts as one address. refuse answers excess requests, with
// Retry-After set (RFC 6585, section 4).
func (l *Limits) Addresses(next, refuse http.Handler) http.Handler {
	if l == nil || l.addresses == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.pass(l.addresses, "address", Network(r.RemoteAddr), next, refuse, w, r)
	})
}

// Take counts a request of the client with that RemoteAddr, and returns how long it has
// to wait if it came too often; 0 if it may go on.
func (l *Limits) Take(remote string) time.Duration {
	if l == nil || l.addresses == nil {
		return 0
	}
	wait := l.addresses.take(Network(remote), time.Now())
	if wait > 0 {
		l.refused.WithLabelValues("address").Inc()
	}
	return max(wait, 0)
}

// Keys bounds the requests with each API key; requests without one pass.
func (l *Limits) Keys(next, refuse http.Handler) http.Handler {
	if l == nil || l.keys == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := access.FromContext(r.Context())
		if c == nil {
			next.ServeHTTP(w, r)
			return
		}
		l.pass(l.keys, "key", c.APIKey, next, refuse, w, r)
	})
}

func (l *Limits) pass(b *buckets, by, who string, next, refuse http.Handler, w http.ResponseWriter, r *http.Request) {
	wait := b.take(who, time.Now())
	if wait <= 0 {
		next.ServeHTTP(w, r)
		return
	}
	l.refused.WithLabelValues(by).Inc()
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	refuse.ServeHTTP(w, r)
}

// Network identifies the client with that RemoteAddr for bounds: by its address, or its IPv6
// network of 64 bits.
func Network(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	a := at.Addr().Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	p, _ := a.Prefix(64) // cannot fail for IPv6
	return p.String()
}

// buckets are token buckets by name.
type buckets struct {
	limit rate.Limit
	burst int
	full  time.Duration // the time after which an empty bucket is full again

	mu     sync.Mutex // guards the following
	byName map[string]*list.Element
	order  *list.List // of *bucket, the longest unused first
}

type bucket struct {
	name string
	rate *rate.Limiter
	used time.Time
}

func newBuckets(perSecond int, burst time.Duration) *buckets {
	if perSecond <= 0 {
		return nil
	}
	n := max(1, int(float64(perSecond)*burst.Seconds()))
	return &buckets{
		limit: rate.Limit(perSecond), burst: n, full: time.Duration(float64(n) / float64(perSecond) * float64(time.Second)),
		byName: map[string]*list.Element{}, order: list.New(),
	}
}

// take takes a token and returns 0, or returns the time until there is one.
func (b *buckets) take(name string, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	for e := b.order.Front(); e != nil; e = b.order.Front() {
		oldest := e.Value.(*bucket)
		if b.order.Len() <= most && now.Sub(oldest.used) < b.full {
			break
		}
		b.order.Remove(e)
		delete(b.byName, oldest.name)
	}
	e := b.byName[name]
	if e == nil {
		e = b.order.PushBack(&bucket{name: name, rate: rate.NewLimiter(b.limit, b.burst)})
		b.byName[name] = e
	}
	k := e.Value.(*bucket)
	k.used = now
	b.order.MoveToBack(e)
	if k.rate.AllowN(now, 1) {
		return 0
	}
	return time.Duration((1 - k.rate.TokensAt(now)) / float64(b.limit) * float64(time.Second))
}
