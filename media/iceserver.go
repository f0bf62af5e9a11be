package media

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/livekit/protocol/livekit"
)

// ICEServer is a STUN or TURN server, other than the server's own, that clients are told of.
type ICEServer struct {
	URLs                 []string // RFC 7064, RFC 7065
	Username, Credential string   // fixed
	// Secret is shared with a TURN server. With it each participant gets credentials of its
	// own, which can be used for TTL: the user name is the time of their end in Unix seconds
	// and the participant's SID, the password the user name's HMAC
	// (draft-uberti-behave-turn-rest).
	Secret string
	TTL    time.Duration
}

// announce is what a participant is told of s at a time.
func (s *ICEServer) announce(participant string, now time.Time) *livekit.ICEServer {
	out := &livekit.ICEServer{Urls: s.URLs, Username: s.Username, Credential: s.Credential}
	if s.Secret != "" {
		out.Username = fmt.Sprintf("%d:%s", now.Add(s.TTL).Unix(), participant)
		mac := hmac.New(sha1.New, []byte(s.Secret)) // the draft's algorithm, which TURN servers know
		mac.Write([]byte(out.Username))
		out.Credential = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return out
}
