package webhooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/livekit/protocol/auth"
)

const (
	secretPrefix  = "whsec_"
	tokenValidity = 5 * time.Minute // as in LiveKit
)

// DeriveSecret is the Standard Webhooks secret for an API secret without a configured
// one: "whsec_" and the base64 of HMAC-SHA256(API secret, "parlor webhook signing"). It
// differs from the API secret, so that a signature of one scheme is useless in the other.
func DeriveSecret(apiSecret string) string {
	m := hmac.New(sha256.New, []byte(apiSecret))
	m.Write([]byte("parlor webhook signing"))
	return secretPrefix + base64.StdEncoding.EncodeToString(m.Sum(nil))
}

func parseSecret(s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, secretPrefix))
	if err != nil || len(b) < 24 || len(b) > 64 {
		return nil, errors.New("a signing secret is whsec_ and the base64 of 24 to 64 bytes")
	}
	return b, nil
}

// liveKitToken signs body as LiveKit does: a JWT with the body's hash.
func liveKitToken(key, secret string, body []byte) (string, error) {
	sum := sha256.Sum256(body)
	return auth.NewAccessToken(key, secret).
		SetValidFor(tokenValidity).
		SetSha256(base64.StdEncoding.EncodeToString(sum[:])).
		ToJWT()
}

// Signer signs requests as webhooks are signed, so that a receiver can verify both with
// the same code. It may be used concurrently.
type Signer struct {
	key, secret string   // of LiveKit's signature
	signing     [][]byte // of Standard Webhooks, the current one first
}

// NewSigner makes a signer for an API key, with the Standard Webhooks secret that is
// derived from the key's secret.
func NewSigner(key, secret string) (*Signer, error) {
	b, err := parseSecret(DeriveSecret(secret))
	if err != nil {
		return nil, err
	}
	return &Signer{key, secret, [][]byte{b}}, nil
}

// Sign sets the headers that sign body now: LiveKit's Authorization, and those of
// Standard Webhooks with id.
func (s *Signer) Sign(h http.Header, id string, body []byte) error {
	token, err := liveKitToken(s.key, s.secret, body)
	if err != nil {
		return err
	}
	now := time.Now().Unix()
	h.Set("Authorization", token)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", strconv.FormatInt(now, 10))
	h.Set("Webhook-Signature", signatures(s.signing, id, now, body))
	return nil
}

// signatures is the webhook-signature header of Standard Webhooks 1.0: a signature of
// "id.timestamp.body" for each secret.
func signatures(secrets [][]byte, id string, timestamp int64, body []byte) string {
	signed := []byte(id + "." + strconv.FormatInt(timestamp, 10) + ".")
	var b strings.Builder
	for i, s := range secrets {
		if i > 0 {
			b.WriteByte(' ')
		}
		m := hmac.New(sha256.New, s)
		m.Write(signed)
		m.Write(body)
		b.WriteString("v1,")
		b.WriteString(base64.StdEncoding.EncodeToString(m.Sum(nil)))
	}
	return b.String()
}
