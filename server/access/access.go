// Package access decides what a caller may do. It verifies and mints LiveKit's access
// tokens (JWT, RFC 7519, signed with HS256 and nothing else), puts a token's grants into
// the request's context, and checks them there.
//
// [Verifier.Middleware] verifies a token once, before the handlers. It lets a request
// without a token through: the handlers decide with the Ensure functions whether they
// need one.
package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/livekit/protocol/auth"

	"parlor/server/unpack"
)

// The failures of a request's credentials. All of them are answered with 401 and the
// error's text, which never repeats a token or a secret.
var (
	// ErrHeader: the scheme of the Authorization header is not accepted.
	ErrHeader = errors.New("invalid authorization header. Must start with Bearer ")
	// ErrToken: the token is not a JWT signed with HS256.
	ErrToken = errors.New("invalid authorization token")
	// ErrBasic: the HTTP Basic credentials are not a key and its secret.
	ErrBasic = errors.New("invalid API key or secret")
)

// leeway is how far a token's times may be off, because clocks differ. LiveKit's verifier
// applies the same value.
const leeway = time.Minute

// Claims are the rights of a verified token, or of a key and its secret.
type Claims struct {
	APIKey string
	Grants *auth.ClaimGrants // never nil; must not be changed
	// NotBefore is from when the token is valid, to the millisecond, or else when it was
	// issued; zero if it tells neither.
	NotBefore time.Time
	HostOf    string    // the room whose host roomAdmin makes its bearer; "" = its room; see [Session]
	Expires   time.Time // zero for a key and its secret
	// ID is the token's jti; "" if it has none. In a token that the server gave a client
	// in a session it is that session's SID.
	ID string
	// Digest is the token's SHA-256. It identifies the token and cannot be used in its
	// place.
	Digest [sha256.Size]byte

	// Server tells that the request showed the secret itself (HTTP Basic), so that it may
	// create, list and administer every room.
	Server bool

	// Session is the id of the session of the dashboard that the request is of, "" for
	// all others, and Role what that one may do.
	Session string
	Role    Role
}

// IssuedMs is NotBefore in Unix milliseconds; 0 if the token tells no time.
func (c *Claims) IssuedMs() int64 {
	if c.NotBefore.IsZero() {
		return 0
	}
	return c.NotBefore.UnixMilli()
}

// Expired reports whether the token is refused at that time, the leeway included. A key
// with its secret never expires.
func (c *Claims) Expired(now time.Time) bool {
	return !c.Expires.IsZero() && !now.Before(c.Expires.Add(leeway))
}

// Verifier checks and signs tokens with a fixed set of keys. It may be used
// concurrently.
type Verifier struct {
	// Guard counts the tokens that are refused before they are decoded; nil counts
	// nothing. It must be set before the first request.
	Guard *unpack.Guard

	secrets map[string]string // API key → secret; never changed
}

// NewVerifier makes a verifier for those API keys and their secrets.
func NewVerifier(keys map[string]string) *Verifier {
	return &Verifier{secrets: maps.Clone(keys)}
}

// Verify checks a token's signature and times, and returns its claims. The error's text
// may be shown to the client.
func (v *Verifier) Verify(token string) (*Claims, error) {
	if err := measure(token); err != nil {
		return nil, v.Guard.Refused("token", err)
	}
	t, err := auth.ParseAPIToken(token)
	if err != nil {
		return nil, ErrToken
	}
	secret, ok := v.secrets[t.APIKey()]
	if !ok || secret == "" {
		return nil, fmt.Errorf("invalid API key: %s", printable(t.APIKey()))
	}
	registered, grants, err := t.Verify(secret)
	if err != nil {
		// The library names the claim that is wrong; it does not repeat the token.
		return nil, fmt.Errorf("invalid token, error: %w", err)
	}
	c := &Claims{
		APIKey: t.APIKey(), Grants: grants, Expires: registered.ExpiresAt.Time,
		ID: registered.ID, Digest: sha256.Sum256([]byte(token)),
	}
	more := moreOf(token)
	switch {
	case registered.NotBefore != nil:
		c.NotBefore = registered.NotBefore.Add(fraction(more.NotBefore))
	case registered.IssuedAt != nil && !strings.HasPrefix(c.ID, "PA_"):
		// A token of a session is issued again and again, and is as old as the one that its
		// client came with.
		c.NotBefore = registered.IssuedAt.Add(fraction(more.IssuedAt))
	}
	if more.Appointed && grants.Video != nil {
		grants.Video.RoomAdmin = false
	}
	c.HostOf = more.HostOf
	return c, nil
}

// measure refuses a token whose parts would unpack to much more than their text. They are
// decoded before the signature can be checked, because one of them names the key.
func measure(token string) error {
	const (
		headerCost  = 16 << 10  // besides twice its length: a few values
		payloadCost = 256 << 10 // besides twice its length: some thousand
	)
	header, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	for _, part := range []struct {
		text string
		free int64
	}{{header, headerCost}, {payload, payloadCost}} {
		b, err := base64.RawURLEncoding.DecodeString(part.text)
		if err != nil {
			return ErrToken
		}
		if _, err := unpack.JSON(b, 2*int64(len(b))+part.free); err != nil {
			return fmt.Errorf("%w: %w", ErrToken, err)
		}
	}
	return nil
}

// more is what the library leaves out of a verified token.
type more struct {
	NotBefore json.Number `json:"nbf"`
	IssuedAt  json.Number `json:"iat"`
	// Appointed tells that roomAdmin is in the token for its bearer to read: it was made host
	// in the call, and the room itself is asked whether it still is.
	Appointed bool `json:"parlorAppointed,omitempty"`
	// HostOf tells whose roomAdmin it is; see [Session].
	HostOf string `json:"parlorHostOf,omitempty"`
}

func moreOf(token string) (m more) {
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil || json.Unmarshal(payload, &m) != nil {
		return more{}
	}
	return m
}

// fraction is the fraction of a second in a time, which the library cuts off (NumericDate
// of RFC 7519, section 2). It tells that a token is newer than a change of its bearer's
// permissions in the same second.
func fraction(date json.Number) time.Duration {
	at, err := date.Float64()
	if err != nil {
		return 0
	}
	_, part := math.Modf(at)
	return time.Duration(min(math.Round(part*1000), 999)) * time.Millisecond
}

// Knows reports whether apiKey is one of the keys.
func (v *Verifier) Knows(apiKey string) bool { return v.secrets[apiKey] != "" }

// VerifySecret checks a key and its secret from HTTP Basic, in constant time, and returns
// claims to everything.
func (v *Verifier) VerifySecret(apiKey, secret string) (*Claims, error) {
	// The secret is compared for an unknown key too, so that the time does not show which
	// keys exist.
	want, known := v.secrets[apiKey]
	a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(secret))
	same := subtle.ConstantTimeCompare(a[:], b[:]) == 1
	if !same || !known || want == "" {
		return nil, ErrBasic
	}
	return &Claims{
		APIKey: apiKey,
		Server: true,
		Grants: &auth.ClaimGrants{Video: &auth.VideoGrant{RoomCreate: true, RoomList: true, RoomAdmin: true, RoomRecord: true}},
	}, nil
}

// Mint signs a token with the grants g, valid from now for ttl.
func (v *Verifier) Mint(apiKey string, g *auth.ClaimGrants, ttl time.Duration) (string, error) {
	return v.MintFor(apiKey, Session{}, g, time.Now(), ttl)
}

// Session is what a token that the server gives a client tells of its session.
type Session struct {
	ID string // becomes the token's jti; "" = none
	// Appointed: the client was made host in the call. Its token has roomAdmin, so that the
	// client knows, but [Verifier.Verify] does not take that for a grant.
	Appointed bool
	// HostOf is the room that the client is host of by its first token, if the token is for
	// another: for a breakout room of it. "" = the token's room.
	HostOf string
}

// MintFor is [Verifier.Mint] for the client of a session. notBefore is taken from the token
// that this one replaces, so that a revocation of that one covers this one too; zero =
// none.
func (v *Verifier) MintFor(apiKey string, session Session, g *auth.ClaimGrants, notBefore time.Time, ttl time.Duration) (string, error) {
	secret, ok := v.secrets[apiKey]
	if !ok || secret == "" {
		return "", fmt.Errorf("mint token: no secret for API key %s", printable(apiKey))
	}
	// Credentials in a room configuration are passed on: the reader of this token brought
	// them, or holds the secret.
	now := time.Now()
	var nbf *jwt.NumericDate
	if !notBefore.IsZero() {
		nbf = jwt.NewNumericDate(notBefore)
	}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, struct {
		jwt.RegisteredClaims
		*auth.ClaimGrants
		Appointed bool   `json:"parlorAppointed,omitempty"`
		HostOf    string `json:"parlorHostOf,omitempty"`
	}{
		jwt.RegisteredClaims{
			Issuer: apiKey, Subject: g.Identity, ID: session.ID,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: nbf, ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		}, g, session.Appointed, session.HostOf,
	}).SignedString([]byte(secret))
	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	return signed, nil
}

// printable is s if it is short plain ASCII, so that it may be repeated to its sender.
func printable(s string) string {
	if len(s) > 64 {
		return "(too long)"
	}
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return "(not printable)"
		}
	}
	return s
}

type contextKey struct{}

// WithClaims returns a context that carries c.
func WithClaims(ctx context.Context, c *Claims) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// FromContext returns the claims of the request's token; nil if it had none.
func FromContext(ctx context.Context) *Claims {
	c, _ := ctx.Value(contextKey{}).(*Claims)
	return c
}
