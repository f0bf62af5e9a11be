package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/twitchtv/twirp"

	"parlor/server/access"
	"parlor/server/problem"
)

// by names the caller of a request for a log line: the API key, the token's identity if
// it has one, and the address. It never has the token or the query.
func by(ctx context.Context, address string) []any {
	var all []any
	if c := access.FromContext(ctx); c != nil {
		all = append(all, "key", c.APIKey)
		if c.Grants != nil && c.Grants.Identity != "" {
			all = append(all, "by", c.Grants.Identity)
		}
	}
	return append(all, "address", access.Address(address))
}

// tellDone logs a call that changed something, and a call that was refused for lack of a
// right.
func (s *rest) tellDone(op *operation, r *http.Request, p *problem.Problem) {
	attrs := append([]any{"method", op.method, "path", r.URL.Path}, by(r.Context(), r.RemoteAddr)...)
	switch {
	case p == nil && op.method != http.MethodGet && !op.quiet():
		s.Log.Info("API call", attrs...)
	case p != nil && (p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden):
		s.Log.Info("API call refused", append(attrs, "status", p.Status, "why", p.Detail)...)
	}
}

// quiet reports whether an operation changes nothing that lasts.
func (op *operation) quiet() bool {
	return slices.Contains([]string{"createToken", "sendData", "callParticipant", "subscribe", "unsubscribe"}, op.id)
}

// quietMethods reports the same of a method of LiveKit's services.
func quietMethods(method string) bool {
	return slices.Contains([]string{"ListRooms", "ListParticipants", "GetParticipant", "SendData", "PerformRpc", "UpdateSubscriptions", "ListDispatch"}, method)
}

// audit is tellDone for LiveKit's services.
func (s *roomService) audit(next twirp.Method) twirp.Method {
	return func(ctx context.Context, req any) (any, error) {
		res, err := next(ctx, req)
		method, _ := twirp.MethodName(ctx)
		address, _ := ctx.Value(addressKey{}).(string)
		attrs := []any{"method", method}
		if m, ok := req.(interface{ GetRoom() string }); ok {
			attrs = append(attrs, "room", m.GetRoom())
		} else if m, ok := req.(interface{ GetName() string }); ok {
			attrs = append(attrs, "room", m.GetName())
		}
		if m, ok := req.(interface{ GetIdentity() string }); ok {
			attrs = append(attrs, "participant", m.GetIdentity())
		}
		attrs = append(attrs, by(ctx, address)...)
		if err == nil {
			if !quietMethods(method) {
				s.log.Info("API call", attrs...)
			}
		} else if e, ok := err.(twirp.Error); ok && denied(e) {
			s.log.Info("API call refused", append(attrs, "why", e.Msg())...)
		}
		return res, err
	}
}

// denied reports whether a call was refused for lack of a right.
func denied(err twirp.Error) bool {
	return err.Code() == twirp.Unauthenticated || err.Code() == twirp.PermissionDenied
}

// addressKey is the context's key for the caller's address.
type addressKey struct{}
