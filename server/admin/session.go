package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"parlor/rooms/guid"
	"parlor/server/access"
	"parlor/server/ratelimit"
)

const (
	// idle is how long a session lasts that nobody uses, and longest how long one lasts.
	idle    = time.Hour
	longest = 12 * time.Hour
	// rotation is how old a secret grows, and grace how long the one before it is taken
	// yet, for requests that were on their way.
	rotation = 10 * time.Minute
	grace    = time.Minute
	// LinkLife is how long a link can be used if nothing is said, and MaxLinkLife at most.
	LinkLife    = 10 * time.Minute
	MaxLinkLife = time.Hour

	maxSessions = 256 // of one API key; the one that was idle longest gives way
	maxLinks    = 64  // of one API key; the oldest gives way
	maxAgent    = 256 // bytes that are kept of a user agent
)

// Header has to be in a request that the cookie is to be believed in. A page of another
// origin cannot send it without a preflight (Fetch standard, section 3.2), and no preflight
// is answered that would let it send the cookie, too.
const Header = "Parlor-Admin"

// The failures of signing in.
var (
	// ErrCredentials: no API key has that secret, or the link was used or has run out.
	ErrCredentials = errors.New("the API key and its secret are wrong, or the link was used or has run out")
	// ErrForeign: the request does not come from the dashboard's own page.
	ErrForeign = errors.New("this is for the dashboard's own page: the header " + Header + " is missing, or the request is of another origin")
	// ErrClosed: there is no dashboard where the request came in.
	ErrClosed = errors.New("there is no dashboard here")
)

// TooOftenError: an address tries to sign in too often.
type TooOftenError struct{ Wait time.Duration }

func (e *TooOftenError) Error() string { return "too many tries to sign in, try again later" }

// Session is a browser in which somebody has signed in, as others may see it.
type Session struct {
	ID      string // AS_…, which is worth nothing
	APIKey  string
	Role    access.Role
	By      string // key or link
	Address string
	Agent   string // the browser's, as it says
	Created time.Time
	Used    time.Time
	Expires time.Time // if it is used until then
}

type secret = [sha256.Size]byte

// session is guarded by Sessions.mu.
type session struct {
	Session
	now, before secret // hashes of what the cookie holds
	changed     time.Time
	seen        bool // its browser has used now
	// lost are secrets that were replaced before they were used, because the answer with
	// them seems to have been lost. If one is used after all, two browsers have the session.
	lost []secret
}

// mostLost bounds the secrets of a session that are lost.
const mostLost = 8

type link struct {
	apiKey  string
	role    access.Role
	expires time.Time
}

// Sessions are those who are signed in. Its methods may be called concurrently.
type Sessions struct {
	verifier *access.Verifier
	limits   *ratelimit.Limits // of signing in; nil = no bound
	log      *slog.Logger
	tls      bool // cookies are for TLS alone, whatever a request says

	mu       sync.Mutex // guards the following
	byID     map[string]*session
	bySecret map[secret]*session // by all secrets of each
	links    map[secret]link
}

// NewSessions makes sessions for the API keys that verifier knows. tls tells that all clients
// speak TLS.
func NewSessions(verifier *access.Verifier, limits *ratelimit.Limits, tls bool, log *slog.Logger) *Sessions {
	return &Sessions{
		verifier: verifier, limits: limits, tls: tls, log: log,
		byID: map[string]*session{}, bySecret: map[secret]*session{}, links: map[secret]link{},
	}
}

// newSecret is 256 bits for a cookie or a link, and their hash.
func newSecret() (string, secret) {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	text := base64.RawURLEncoding.EncodeToString(b)
	return text, sha256.Sum256([]byte(text))
}

type doorKey struct{}

// Middleware takes the cookie of a session in place of a token, and lets sign in.
// A request with an Authorization header of its own is left alone.
func (s *Sessions) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), doorKey{}, true)
		if r.Header.Get("Authorization") == "" && !r.URL.Query().Has("access_token") && own(r) == nil {
			if c := s.claims(w, r); c != nil {
				ctx = access.WithClaims(ctx, c)
			}
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// open tells whether r came in where there is a dashboard.
func open(r *http.Request) bool { return r.Context().Value(doorKey{}) != nil }

// own is why r is not of the dashboard's own page.
func own(r *http.Request) error {
	if r.Header.Get(Header) == "" {
		return ErrForeign
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" { // the browser knows best
		if site != "same-origin" {
			return ErrForeign
		}
		return nil
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil // no browser, or one that was asked for nothing but a GET of its own origin
	}
	if u, err := url.Parse(origin); err != nil || u.Host == "" || u.Host != r.Host {
		return ErrForeign
	}
	return nil
}

// claims is what the cookie of r entitles to; nil if it has none that is good.
func (s *Sessions) claims(w http.ResponseWriter, r *http.Request) *access.Claims {
	cookie, err := r.Cookie(s.cookieName(r))
	if err != nil {
		return nil
	}
	hash, now := sha256.Sum256([]byte(cookie.Value)), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.bySecret[hash]
	if one == nil {
		return nil
	}
	if one.over(now) {
		s.forget(one)
		return nil
	}
	late := now.Sub(one.changed) > grace
	switch {
	case hash == one.now:
		one.seen = true
		if now.Sub(one.changed) > rotation {
			s.rotate(w, r, one, now)
		}
	case hash == one.before && !late:
	case hash == one.before && !one.seen && len(one.lost) < mostLost:
		// The answer with the newer one did not arrive: the browser gets another.
		one.lost = append(one.lost, one.now)
		s.renew(w, r, one, now)
	default:
		// Two browsers use the session: somebody else has the cookie, or had.
		s.log.Warn("a cookie of the dashboard was used that has been replaced: its session is ended",
			"session", one.ID, "key", one.APIKey, "address", access.Address(r.RemoteAddr))
		s.forget(one)
		return nil
	}
	one.Used = now
	return access.OfRole(one.APIKey, one.ID, one.Role)
}

func (one *session) over(now time.Time) bool {
	return now.After(one.Expires) || now.Sub(one.Used) > idle
}

// forget is called with mu held.
func (s *Sessions) forget(one *session) {
	delete(s.byID, one.ID)
	delete(s.bySecret, one.now)
	delete(s.bySecret, one.before)
	for _, hash := range one.lost {
		delete(s.bySecret, hash)
	}
}

// rotate gives the session a new secret. It is called with mu held.
func (s *Sessions) rotate(w http.ResponseWriter, r *http.Request, one *session, now time.Time) {
	if one.before != one.now { // else it is the session's first
		delete(s.bySecret, one.before)
	}
	one.before = one.now
	s.renew(w, r, one, now)
}

// renew replaces the session's newest secret. It is called with mu held.
func (s *Sessions) renew(w http.ResponseWriter, r *http.Request, one *session, now time.Time) {
	text, hash := newSecret()
	one.now, one.changed, one.seen = hash, now, false
	s.bySecret[hash] = one
	s.setCookie(w, r, text, one.Expires.Sub(now))
}

// secure tells whether r came over TLS. The header is a trusted proxy's: it was taken away
// from others.
func (s *Sessions) secure(r *http.Request) bool {
	return s.tls || r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// cookieName has, over TLS, the prefix by which browsers let no other host and no plain
// HTTP set the cookie (RFC 6265bis, section 4.1.3.2).
func (s *Sessions) cookieName(r *http.Request) string {
	if s.secure(r) {
		return "__Host-parlor-admin"
	}
	return "parlor-admin"
}

// setCookie sets the cookie for that long; 0 deletes it.
func (s *Sessions) setCookie(w http.ResponseWriter, r *http.Request, value string, life time.Duration) {
	age := int(life / time.Second)
	if age <= 0 {
		age = -1
	}
	http.SetCookie(w, &http.Cookie{
		Name: s.cookieName(r), Value: value, Path: "/", MaxAge: age,
		HttpOnly: true, Secure: s.secure(r), SameSite: http.SameSiteStrictMode,
	})
}

// Credentials are what somebody signs in with: an API key and its secret, or a link.
type Credentials struct {
	APIKey, Secret string
	Link           string
	Role           access.Role // at most this one; NoRole = all that the credentials allow
}

// SignIn begins a session and sets its cookie, whatever cookie the browser had before.
// It fails with [ErrCredentials], [ErrForeign], [ErrClosed] or a [*TooOftenError].
func (s *Sessions) SignIn(w http.ResponseWriter, r *http.Request, c Credentials) (Session, error) {
	if !open(r) {
		return Session{}, ErrClosed
	}
	if err := own(r); err != nil {
		return Session{}, err
	}
	if wait := s.limits.Take(r.RemoteAddr); wait > 0 {
		return Session{}, &TooOftenError{wait}
	}
	one, err := s.admit(&c)
	if err != nil {
		return Session{}, err
	}
	now := time.Now()
	one.ID, one.Created, one.Used, one.changed, one.Expires = guid.New("AS_"), now, now, now, now.Add(longest)
	one.Address, one.Agent = access.Address(r.RemoteAddr), Clip(r.UserAgent(), maxAgent)
	if c.Role != access.NoRole {
		one.Role = min(one.Role, c.Role)
	}
	text, hash := newSecret()
	one.now, one.before = hash, hash
	s.mu.Lock()
	s.room(one.APIKey, now)
	if old := s.ofCookie(r); old != nil {
		s.forget(old) // the browser has one session at a time
	}
	s.byID[one.ID], s.bySecret[hash] = one, one
	s.mu.Unlock()
	s.setCookie(w, r, text, longest)
	s.log.Info("signed in to the dashboard", "session", one.ID, "key", one.APIKey, "role", one.Role.String(), "with", one.By, "address", one.Address)
	return one.Session, nil
}

// ofCookie is the session of r's cookie. It is called with mu held.
func (s *Sessions) ofCookie(r *http.Request) *session {
	cookie, err := r.Cookie(s.cookieName(r))
	if err != nil {
		return nil
	}
	return s.bySecret[sha256.Sum256([]byte(cookie.Value))]
}

// admit checks credentials.
func (s *Sessions) admit(c *Credentials) (*session, error) {
	if c.Link == "" {
		claims, err := s.verifier.VerifySecret(c.APIKey, c.Secret)
		if err != nil {
			return nil, ErrCredentials
		}
		return &session{Session: Session{APIKey: claims.APIKey, Role: access.All, By: "key"}}, nil
	}
	hash := sha256.Sum256([]byte(c.Link))
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.links[hash]
	delete(s.links, hash)
	if !ok || time.Now().After(l.expires) {
		return nil, ErrCredentials
	}
	return &session{Session: Session{APIKey: l.apiKey, Role: l.role, By: "link"}}, nil
}

// room makes room for one more session of that API key. It is called with mu held.
func (s *Sessions) room(apiKey string, now time.Time) {
	var its []*session
	for _, one := range s.byID {
		if one.over(now) {
			s.forget(one)
		} else if one.APIKey == apiKey {
			its = append(its, one)
		}
	}
	if len(its) >= maxSessions {
		s.forget(slices.MinFunc(its, func(a, b *session) int { return a.Used.Compare(b.Used) }))
	}
}

// SignOut ends the session of r, if there is one, and has the browser forget its cookie.
func (s *Sessions) SignOut(w http.ResponseWriter, r *http.Request) {
	if c := access.FromContext(r.Context()); c != nil && c.Session != "" {
		s.Revoke(c.APIKey, c.Session)
	}
	s.setCookie(w, r, "", 0)
}

// Revoke ends a session of that API key; false if it has none of that id.
func (s *Sessions) Revoke(apiKey, id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.byID[id]
	if one == nil || one.APIKey != apiKey {
		return false
	}
	s.forget(one)
	s.log.Info("a session of the dashboard is ended", "session", id, "key", apiKey)
	return true
}

// Find is the session of that id; false if there is none, or no more. A stream that goes on
// for a session asks for it, and is use of it.
func (s *Sessions) Find(id string) (Session, bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.byID[id]
	if one == nil || one.over(now) {
		return Session{}, false
	}
	one.Used = now
	return one.Session, true
}

// List is the sessions of an API key, the newest first.
func (s *Sessions) List(apiKey string) []Session {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Session
	for _, one := range s.byID {
		if one.APIKey == apiKey && !one.over(now) {
			all = append(all, one.Session)
		}
	}
	slices.SortFunc(all, func(a, b Session) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.ID, b.ID))
	})
	return all
}

// NewLink makes a secret that signs in once, for an API key and with that role, until its
// time is over.
func (s *Sessions) NewLink(apiKey string, role access.Role, life time.Duration) (text string, expires time.Time) {
	now := time.Now()
	text, hash := newSecret()
	l := link{apiKey, role, now.Add(life)}
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest secret
	n := 0
	for h, other := range s.links {
		switch {
		case now.After(other.expires):
			delete(s.links, h)
		case other.apiKey == apiKey:
			if n++; n == 1 || other.expires.Before(s.links[oldest].expires) {
				oldest = h
			}
		}
	}
	if n >= maxLinks {
		delete(s.links, oldest)
	}
	s.links[hash] = l
	return text, l.expires
}
