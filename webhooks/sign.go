package webhooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/livekit/protocol/auth"
)

const (
	secretPrefix  = "whsec_"
	tokenValidity = 5 * time.Minute // as LiveKit's
)

// DeriveSecret is the Standard Webhooks secret of an API secret for which none is
// configured: "whsec_" and the base64 of HMAC-SHA256(API secret, "parlor webhook
// signing"). A key of its own, so that what one scheme signs is of no use in the
// other.
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

// signatures is the webhook-signature header of Standard Webhooks 1.0: one
// signature of "id.timestamp.body" for each secret.
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
