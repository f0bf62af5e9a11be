package access_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/server/access"
	"parlor/server/unpack"
)

const (
	key    = "APIkey"
	secret = "a-secret-of-thirty-two-characters"
)

func verifier() *access.Verifier {
	return access.NewVerifier(map[string]string{key: secret, "empty": ""})
}

func sign(t *testing.T, method jwt.SigningMethod, with any, claims jwt.MapClaims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(method, claims).SignedString(with)
	require.NoError(t, err)
	return s
}

func TestMintedTokenVerifiesWithAllItsGrants(t *testing.T) {
	g := &auth.ClaimGrants{
		Identity:   "ada",
		Name:       "Ada",
		Metadata:   "m",
		Attributes: map[string]string{"a": "b"},
		Video:      &auth.VideoGrant{RoomJoin: true, Room: "r", CanPublishSources: []string{"camera"}},
		RoomConfig: (*auth.RoomConfiguration)(&livekit.RoomConfiguration{EmptyTimeout: 7}),
	}
	g.SetParticipantKind(livekit.ParticipantInfo_AGENT)
	before := time.Now().Truncate(time.Second)
	token, err := verifier().Mint(key, g, time.Hour)
	require.NoError(t, err)

	c, err := verifier().Verify(token)
	require.NoError(t, err)
	require.Equal(t, key, c.APIKey)
	require.Equal(t, "ada", c.Grants.Identity)
	require.Equal(t, g.Video, c.Grants.Video)
	require.Equal(t, g.Attributes, c.Grants.Attributes)
	require.Equal(t, livekit.ParticipantInfo_AGENT, c.Grants.GetParticipantKind())
	require.EqualValues(t, 7, c.Grants.GetRoomConfiguration().EmptyTimeout)
	require.False(t, c.NotBefore.Before(before), "nbf is the time of minting")
	require.WithinDuration(t, time.Now().Add(time.Hour), c.Expires, 2*time.Second)
	require.False(t, c.Server)

	_, err = verifier().Mint("nobody", g, time.Hour)
	require.Error(t, err)
}

func TestVerifyRefuses(t *testing.T) {
	now := time.Now()
	ok := func() jwt.MapClaims {
		return jwt.MapClaims{"iss": key, "sub": "ada", "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	}
	with := func(k string, v any) jwt.MapClaims { c := ok(); c[k] = v; return c }
	without := func(k string) jwt.MapClaims { c := ok(); delete(c, k); return c }
	hs := jwt.SigningMethodHS256

	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." +
		base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"APIkey","sub":"eve","exp":99999999999}`)) + "."
	for _, tc := range []struct{ name, token, want string }{
		{"garbage", "not.a.jwt", "invalid authorization token"},
		{"empty", "", "invalid authorization token"},
		{"foreign key", sign(t, hs, []byte(secret), with("iss", "other")), "invalid API key: other"},
		{"key with line break", sign(t, hs, []byte(secret), with("iss", "a\nb")), "invalid API key: (not printable)"},
		{"key without secret", sign(t, hs, []byte("x"), with("iss", "empty")), "invalid API key: empty"},
		{"wrong secret", sign(t, hs, []byte("wrong"), ok()), "signature is invalid"},
		{"HS384", sign(t, jwt.SigningMethodHS384, []byte(secret), ok()), "signing method HS384 is invalid"},
		{"alg none", none, "signing method none is invalid"},
		{"expired", sign(t, hs, []byte(secret), with("exp", now.Add(-2*time.Minute).Unix())), "token is expired"},
		{"not yet", sign(t, hs, []byte(secret), with("nbf", now.Add(2*time.Minute).Unix())), "token is not valid yet"},
		{"no expiry", sign(t, hs, []byte(secret), without("exp")), "exp claim is required"},
		{"video of a wrong type", sign(t, hs, []byte(secret), with("video", "all")), "invalid"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := verifier().Verify(tc.token)
			require.Nil(t, c)
			require.ErrorContains(t, err, tc.want)
			if tc.token != "" {
				require.NotContains(t, err.Error(), tc.token, "the token is never repeated")
			}
		})
	}
}

func TestIdentityFallsBackToTokenID(t *testing.T) {
	token := sign(t, jwt.SigningMethodHS256, []byte(secret),
		jwt.MapClaims{"iss": key, "jti": "ada", "exp": time.Now().Add(time.Hour).Unix()})
	c, err := verifier().Verify(token)
	require.NoError(t, err)
	require.Equal(t, "ada", c.Grants.Identity)
	require.True(t, c.NotBefore.IsZero())
}

// TestAFractionOfNotBefore is kept to the millisecond, so that a token tells its place in
// its second.
func TestAFractionOfNotBefore(t *testing.T) {
	second := time.Now().Truncate(time.Second).Add(-time.Second)
	for nbf, want := range map[string]time.Duration{
		"%d": 0, "%d.0": 0, "%d.25": 250 * time.Millisecond, "%d.0004": 0, "%d.9996": 999 * time.Millisecond,
	} {
		at := json.Number(fmt.Sprintf(nbf, second.Unix()))
		c, err := verifier().Verify(sign(t, jwt.SigningMethodHS256, []byte(secret),
			jwt.MapClaims{"iss": key, "sub": "ada", "nbf": at, "exp": time.Now().Add(time.Hour).Unix()}))
		require.NoError(t, err)
		require.Equal(t, second.Add(want).UnixMilli(), c.NotBefore.UnixMilli(), nbf)

		next, err := verifier().MintFor(key, access.Session{ID: "PA_1"}, c.Grants, c.NotBefore, time.Hour)
		require.NoError(t, err)
		follows, err := verifier().Verify(next)
		require.NoError(t, err)
		require.Equal(t, second.UnixMilli(), follows.NotBefore.UnixMilli(), "whole seconds, which no client reads wrongly")
	}
}

// TestATokenIsAsOldAsItsIssue, if it does not tell from when it is valid. What a session was
// given is as old as the token that its client came with.
func TestATokenIsAsOldAsItsIssue(t *testing.T) {
	issued := time.Now().Truncate(time.Second).Add(-time.Hour)
	claims := func(more jwt.MapClaims) *access.Claims {
		m := jwt.MapClaims{"iss": key, "sub": "ada", "exp": time.Now().Add(time.Hour).Unix()}
		maps.Copy(m, more)
		c, err := verifier().Verify(sign(t, jwt.SigningMethodHS256, []byte(secret), m))
		require.NoError(t, err)
		return c
	}
	old := claims(jwt.MapClaims{"iat": json.Number(fmt.Sprintf("%d.25", issued.Unix()))})
	require.Equal(t, issued.UnixMilli()+250, old.IssuedMs())
	require.Equal(t, issued.UnixMilli(), claims(jwt.MapClaims{"iat": issued.Add(time.Minute).Unix(), "nbf": issued.Unix()}).IssuedMs())
	require.Zero(t, claims(nil).IssuedMs())
	require.Zero(t, claims(jwt.MapClaims{"iat": issued.Unix(), "jti": "PA_1"}).IssuedMs())

	next, err := verifier().MintFor(key, access.Session{ID: "PA_1"}, old.Grants, old.NotBefore, time.Hour)
	require.NoError(t, err)
	follows, err := verifier().Verify(next)
	require.NoError(t, err)
	require.Equal(t, issued.UnixMilli(), follows.IssuedMs())
}

func TestLeewayIsOneMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token, err := verifier().Mint(key, &auth.ClaimGrants{Identity: "ada"}, 10*time.Minute)
		require.NoError(t, err)
		time.Sleep(10*time.Minute + 59*time.Second)
		_, err = verifier().Verify(token)
		require.NoError(t, err, "59 s after its end a token is still taken")
		time.Sleep(2 * time.Second)
		_, err = verifier().Verify(token)
		require.ErrorContains(t, err, "token is expired")
	})
}

func TestMiddleware(t *testing.T) {
	good, err := verifier().Mint(key, &auth.ClaimGrants{Identity: "ada"}, time.Hour)
	require.NoError(t, err)
	whoami := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := access.FromContext(r.Context())
		switch {
		case c == nil:
			io.WriteString(w, "nobody")
		case c.Server:
			io.WriteString(w, "server")
		default:
			io.WriteString(w, c.Grants.Identity)
		}
	})
	plain := verifier().Middleware(whoami)
	basic := verifier().MiddlewareBasic(whoami, func(w http.ResponseWriter, _ *http.Request, err error) {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, "refused: "+err.Error())
	})
	b64 := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }

	for _, tc := range []struct {
		name    string
		door    http.Handler
		query   string
		header  string
		status  int
		content string
	}{
		{"no token", plain, "", "", 200, "nobody"},
		{"header", plain, "", "Bearer " + good, 200, "ada"},
		{"query", plain, "?access_token=" + good, "", 200, "ada"},
		{"header before query", plain, "?access_token=bad", "Bearer " + good, 200, "ada"},
		{"empty bearer", plain, "", "Bearer ", 200, "nobody"},
		{"scheme in lower case", plain, "", "bearer " + good, 200, "ada"},
		{"scheme in capitals, basic door", basic, "", "BEARER " + good, 200, "ada"},
		{"no scheme", plain, "", good, 401, "invalid authorization header. Must start with Bearer \n"},
		{"bad token", plain, "", "Bearer x", 401, "invalid authorization token\n"},
		{"bad query token", plain, "?access_token=x", "", 401, "invalid authorization token\n"},
		{"basic is not taken", plain, "", b64(key + ":" + secret), 401, "invalid authorization header. Must start with Bearer \n"},
		{"basic", basic, "", b64(key + ":" + secret), 200, "server"},
		{"basic, wrong secret", basic, "", b64(key + ":x"), 401, "refused: invalid API key or secret"},
		{"basic, unknown key with empty secret", basic, "", b64("other:"), 401, "refused: invalid API key or secret"},
		{"basic, key without a secret", basic, "", b64("empty:"), 401, "refused: invalid API key or secret"},
		{"bearer at the basic door", basic, "", "Bearer " + good, 200, "ada"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/x"+tc.query, nil)
			if tc.header != "" {
				r.Header.Set("Authorization", tc.header)
			}
			w := httptest.NewRecorder()
			tc.door.ServeHTTP(w, r)
			require.Equal(t, tc.status, w.Code)
			require.Equal(t, tc.content, w.Body.String())
		})
	}
}

func TestFormBodyIsLeftToItsHandler(t *testing.T) {
	h := verifier().Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	r := httptest.NewRequest("POST", "/x", strings.NewReader("access_token=x"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, "access_token=x", w.Body.String())
}

func TestGrants(t *testing.T) {
	ctx := func(g *auth.VideoGrant) context.Context {
		return access.WithClaims(t.Context(), &access.Claims{Grants: &auth.ClaimGrants{Video: g}})
	}
	server, err := verifier().VerifySecret(key, secret)
	require.NoError(t, err)
	for _, tc := range []struct {
		name                             string
		ctx                              context.Context
		create, list, admin, other, dest bool
		join                             error
	}{
		{name: "no token", ctx: t.Context(), join: access.ErrNoAccess},
		{name: "no video grant", ctx: ctx(nil), join: access.ErrNoAccess},
		{name: "nothing", ctx: ctx(&auth.VideoGrant{}), join: access.ErrDenied},
		{name: "roomCreate", ctx: ctx(&auth.VideoGrant{RoomCreate: true}), create: true, join: access.ErrDenied},
		{name: "roomList", ctx: ctx(&auth.VideoGrant{RoomList: true}), list: true, join: access.ErrDenied},
		{name: "roomAdmin", ctx: ctx(&auth.VideoGrant{RoomAdmin: true, Room: "r"}), admin: true, join: access.ErrDenied},
		{name: "roomAdmin of no room", ctx: ctx(&auth.VideoGrant{RoomAdmin: true}), join: access.ErrDenied},
		{name: "room without roomAdmin", ctx: ctx(&auth.VideoGrant{Room: "r", DestinationRoom: "d"}), join: access.ErrDenied},
		{name: "destination", ctx: ctx(&auth.VideoGrant{RoomAdmin: true, Room: "r", DestinationRoom: "d"}), admin: true, dest: true, join: access.ErrDenied},
		{name: "roomJoin", ctx: ctx(&auth.VideoGrant{RoomJoin: true, Room: "r"})},
		{name: "key and secret", ctx: access.WithClaims(t.Context(), server), create: true, list: true, admin: true, other: true, dest: true, join: access.ErrDenied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			check := func(want bool, err error) {
				t.Helper()
				if want {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, access.ErrDenied)
				}
			}
			check(tc.create, access.EnsureCreate(tc.ctx))
			check(tc.list, access.EnsureList(tc.ctx))
			check(tc.admin, access.EnsureAdmin(tc.ctx, "r"))
			check(tc.other, access.EnsureAdmin(tc.ctx, "other"))
			check(tc.dest, access.EnsureDestRoom(tc.ctx, "r", "d"))
			room, err := access.EnsureJoin(tc.ctx)
			require.ErrorIs(t, err, tc.join)
			if tc.join == nil {
				require.Equal(t, "r", room)
			}
		})
	}
}

// TestDenseTokensCostLittle: they are read before it is known that nobody signed them.
func TestDenseTokensCostLittle(t *testing.T) {
	raw := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	const header, payload = `{"alg":"HS256","typ":"JWT"}`, `{"iss":"APIkey","sub":"eve","exp":99999999999}`
	var members strings.Builder
	for i := range 60_000 {
		fmt.Fprintf(&members, `,"%x":0`, i)
	}
	values := strings.Repeat(`,""`, 200_000)
	for name, token := range map[string]string{
		"members of the header": raw(`{"alg":"HS256"`+members.String()+`}`) + "." + raw(payload) + ".",
		"audiences":             raw(header) + "." + raw(`{"iss":"APIkey","aud":[""`+values+`]}`) + ".",
		"nothing of a header":   raw(`[0`+strings.Repeat(`,0`, 300_000)+`]`) + "." + raw(payload) + ".",
	} {
		t.Run(name, func(t *testing.T) {
			v := verifier()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := v.Verify(token)
			runtime.ReadMemStats(&after)
			require.ErrorIs(t, err, access.ErrToken)
			require.ErrorIs(t, err, unpack.ErrTooMuch)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(2*len(token)))
		})
	}

	attributes := map[string]string{}
	for i := range 500 {
		attributes[fmt.Sprint("attribute-", i)] = "value"
	}
	long, err := verifier().Mint(key, &auth.ClaimGrants{
		Identity: "ada", Metadata: strings.Repeat("\"", 256<<10), Attributes: attributes, Video: &auth.VideoGrant{RoomJoin: true, Room: "r"},
	}, time.Hour)
	require.NoError(t, err)
	_, err = verifier().Verify(long)
	require.NoError(t, err, "what an application puts into a token is taken")
}

func FuzzVerify(f *testing.F) {
	v := verifier()
	good, err := v.Mint(key, &auth.ClaimGrants{Identity: "ada", Video: &auth.VideoGrant{RoomJoin: true}}, time.Hour)
	require.NoError(f, err)
	f.Add(good)
	f.Add("")
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.eyJpc3MiOiJBUElrZXkifQ.")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := v.Verify(token)
		if err == nil && c.APIKey != key {
			t.Fatalf("a token that nobody signed was taken: %q", token)
		}
	})
}
