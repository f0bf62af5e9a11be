package access

import (
	"net/http"
	"strings"
)

// Middleware verifies the token of a request, if there is one, and puts its [*Claims]
// into the context. The token is in the Authorization header (RFC 6750, section 2.1) or,
// for browsers, which cannot set headers on a WebSocket, in the query parameter
// access_token. It is never read from a form, because a body belongs to its handler.
//
// A bad token is answered with 401 and the reason as text. A request without a token is
// passed on.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return v.door(next, false, func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusUnauthorized)
	})
}

// MiddlewareRefusing is [Verifier.Middleware] with refuse answering requests with a bad
// token.
func (v *Verifier) MiddlewareRefusing(next http.Handler, refuse func(http.ResponseWriter, *http.Request, error)) http.Handler {
	return v.door(next, false, refuse)
}

// MiddlewareBasic is [Verifier.Middleware] that also accepts an API key and its secret as
// HTTP Basic (RFC 7617), for servers. refuse answers requests with bad credentials.
func (v *Verifier) MiddlewareBasic(next http.Handler, refuse func(http.ResponseWriter, *http.Request, error)) http.Handler {
	return v.door(next, true, refuse)
}

func (v *Verifier) door(next http.Handler, basic bool, refuse func(http.ResponseWriter, *http.Request, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := v.credentials(r, basic)
		if err != nil {
			refuse(w, r, err)
			return
		}
		if c != nil {
			r = r.WithContext(WithClaims(r.Context(), c))
		}
		next.ServeHTTP(w, r)
	})
}

// credentials returns the claims of r; nil, nil if it has no credentials.
func (v *Verifier) credentials(r *http.Request, basic bool) (*Claims, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		token := r.URL.Query().Get("access_token")
		if token == "" {
			return nil, nil
		}
		return v.Verify(token)
	}
	// The scheme's case does not matter (RFC 9110, section 11.1).
	if scheme, token, ok := strings.Cut(header, " "); ok && strings.EqualFold(scheme, "Bearer") {
		if token == "" {
			return nil, nil // as in LiveKit: an empty token counts as none
		}
		return v.Verify(token)
	}
	if key, secret, ok := r.BasicAuth(); ok && basic {
		return v.VerifySecret(key, secret)
	}
	return nil, ErrHeader
}
