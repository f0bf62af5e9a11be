package admin

import (
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// The bounds of what is kept of refusals.
const (
	maxRefusals = 500
	maxText     = 256 // bytes of each of their texts
)

// Refusal is a join, a call of the API, or a try to sign in that was refused.
type Refusal struct {
	At       time.Time
	What     string // join, call or sign-in
	Call     string // method and path, or Twirp's method; of calls
	Status   int    // of HTTP
	Room     string // "" = not known
	Identity string
	APIKey   string
	Address  string
	Agent    string // the client's, as it says
	Why      string
}

// Refusals keeps the newest refusals, in memory. Its methods may be called concurrently; a
// nil Refusals keeps nothing.
type Refusals struct {
	mu   sync.Mutex // guards the following
	ring []Refusal  // from next on the oldest, once it is full
	next int
	all  uint64
}

// Add keeps a refusal. What strangers have put into it is cut to what is worth reading.
func (r *Refusals) Add(one Refusal) {
	if r == nil {
		return
	}
	one.At = time.Now()
	for _, text := range []*string{&one.Call, &one.Room, &one.Identity, &one.APIKey, &one.Address, &one.Agent, &one.Why} {
		*text = Clip(*text, maxText)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all++
	if len(r.ring) < maxRefusals {
		r.ring = append(r.ring, one)
		return
	}
	r.ring[r.next] = one
	r.next = (r.next + 1) % maxRefusals
}

// List is what is kept, the newest first, and how many there were since the start.
func (r *Refusals) List() (newest []Refusal, all uint64) {
	if r == nil {
		return nil, 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	newest = make([]Refusal, 0, len(r.ring))
	for i := range r.ring {
		newest = append(newest, r.ring[(r.next+len(r.ring)-1-i)%len(r.ring)])
	}
	return newest, r.all
}

// Total is how many there were since the start.
func (r *Refusals) Total() uint64 {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

// Clip is s as Unicode, without more than most bytes.
func Clip(s string, most int) string {
	if len(s) > most {
		s = s[:most]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if len(s) > 0 && s[len(s)-1] >= utf8.RuneSelf {
			s = s[:len(s)-1]
		}
		return strings.ToValidUTF8(s, "\uFFFD") + "…"
	}
	return strings.ToValidUTF8(strings.Clone(s), "\uFFFD") // s may be a part of something long
}
