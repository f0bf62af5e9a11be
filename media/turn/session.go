package turn

import (
	"crypto/sha256"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jxskiss/base62"
	pionturn "github.com/pion/turn/v5"
)

// Session is one participant's transports, whose credentials make relays. All methods may
// be called concurrently.
type Session struct {
	server *Server
	sid    string

	// The server's mu guards the following.
	relays map[*relay]struct{}
	over   bool
}

// Begin makes a session, without relays. End must be called. If a session with that id
// exists, its credentials then make relays of the new one.
func (s *Server) Begin(sid string) *Session {
	one := &Session{server: s, sid: sid, relays: map[*relay]struct{}{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		one.over = true
		return one
	}
	s.sessions[sid] = one
	return one
}

// End ends the session's relays and the connections over which they were made. Its
// credentials become invalid.
func (one *Session) End() {
	s := one.server
	s.mu.Lock()
	one.over = true
	if s.sessions[one.sid] == one {
		delete(s.sessions, one.sid)
	}
	relays := one.relays
	one.relays = map[*relay]struct{}{}
	var streams []*stream
	for r := range relays {
		if r.stream != nil {
			streams = append(streams, r.stream)
		}
	}
	s.mu.Unlock()
	for r := range relays {
		_ = r.Close() // it never fails
	}
	for _, c := range streams {
		_ = c.Close() // waiting packets are lost, as on any network
	}
}

// Credentials are a user name and a password for the session, made with an API key; false
// if there is no such key.
func (one *Session) Credentials(apiKey string) (username, password string, ok bool) {
	s := one.server
	expiry := time.Now().Add(s.cfg.TTL).Unix()
	password, ok = s.password(apiKey, one.sid, expiry)
	return base62.EncodeToString(fmt.Appendf(nil, "%s|%s|%d", apiKey, one.sid, expiry)), password, ok
}

func (s *Server) password(apiKey, sid string, expiry int64) (string, bool) {
	secret := s.cfg.Secret(apiKey)
	if secret == "" {
		return "", false
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s|%s|%d", secret, sid, expiry))
	return base62.EncodeToString(sum[:]), true
}

const (
	// methodAllocate is the method of the request that makes a relay (RFC 8656, section
	// 17).
	methodAllocate = 0x003
	// maxUsername is the longest user name, in bytes (RFC 8489, section 14.3).
	maxUsername = 508
)

// authenticate gives pion the session of a request, and the key for its message
// integrity.
func (s *Server) authenticate(ra *pionturn.RequestAttributes) (sid string, key []byte, ok bool) {
	if len(ra.Username) > maxUsername {
		s.counters.Credentials.Add(1)
		return "", nil, false
	}
	text, err := base62.DecodeString(ra.Username)
	parts := strings.Split(string(text), "|")
	if err != nil || len(parts) != 3 {
		s.counters.Credentials.Add(1)
		return "", nil, false
	}
	expiry, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		s.counters.Credentials.Add(1)
		return "", nil, false
	}
	password, ok := s.password(parts[0], parts[1], expiry)
	if !ok {
		s.counters.Credentials.Add(1)
		return "", nil, false
	}
	if ra.Method == methodAllocate && time.Now().Unix() > expiry {
		s.counters.Expired.Add(1)
		return "", nil, false
	}
	s.mu.Lock()
	_, live := s.sessions[parts[1]]
	s.mu.Unlock()
	if !live {
		s.counters.Session.Add(1)
		return "", nil, false
	}
	return parts[1], pionturn.GenerateAuthKey(ra.Username, Realm, password), true
}

// mayHaveAnother reports whether a session and a network may have one more relay.
func (s *Server) mayHaveAnother(sid, _ string, src net.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.sessions[sid]
	if one == nil {
		s.counters.Session.Add(1)
		return false
	}
	if s.cfg.PerNetwork > 0 && s.networks[networkOf(addrPort(src))] >= s.cfg.PerNetwork {
		s.counters.NetworkQuota.Add(1)
		return false
	}
	return s.roomLocked(one)
}

// roomLocked reports whether a session may have one more relay, apart from the bound of
// its network.
func (s *Server) roomLocked(one *Session) bool {
	switch {
	case s.cfg.PerSession > 0 && len(one.relays) >= s.cfg.PerSession:
		s.counters.SessionQuota.Add(1)
		return false
	case s.cfg.All > 0 && s.all >= s.cfg.All:
		s.counters.Quota.Add(1)
		return false
	}
	return true
}
