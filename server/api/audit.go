package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/twitchtv/twirp"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/server/access"
	"parlor/server/admin"
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
		if c.Session != "" {
			all = append(all, "session", c.Session, "role", c.Role.String())
		}
	}
	return append(all, "address", access.Address(address))
}

// note keeps a line of the audit, soon: it goes to the disk with what is written next.
func (c *Config) note(d log.Deed) {
	if c.Dashboard.Audit == nil {
		return
	}
	const most = 512 // bytes of a text
	d.AtMs = rooms.NowMs(time.Now())
	for _, text := range []*string{&d.Identity, &d.Path, &d.Room, &d.Participant} {
		*text = admin.Clip(*text, most)
	}
	c.Dashboard.Audit.NoteDeed(d, func(err error) {
		if err != nil {
			c.Log.Error("cannot write the audit", "call", d.Call, "key", d.APIKey, "error", err)
		}
	})
}

// deedOf is a deed of the caller.
func deedOf(ctx context.Context, address string) log.Deed {
	d := log.Deed{Address: access.Address(address)}
	if c := access.FromContext(ctx); c != nil {
		d.APIKey, d.Identity, d.Session = c.APIKey, c.Grants.Identity, c.Session
		if c.Session != "" {
			d.Role = c.Role.String()
		}
	}
	return d
}

// done writes down what a request of REST has done.
func (s *rest) done(op *operation, r *http.Request) {
	d := deedOf(r.Context(), r.RemoteAddr)
	if d.APIKey == "" || op.method == http.MethodGet || op.quiet() && d.Session == "" {
		return
	}
	d.Call, d.Path = op.id, r.Method+" "+r.URL.Path
	d.Room, _ = pathValue(r, "name") // checked before
	d.Participant, _ = pathValue(r, "identity")
	if of, ok := r.Context().Value(subjectKey{}).(*subject); ok && d.Room == "" {
		d.Room, d.Participant = of.room, of.participant
	}
	s.note(d)
}

// subject is what a request is about whose path does not say it.
type subject struct{ room, participant string }

type subjectKey struct{}

// about tells the audit what a request is about.
func about(ctx context.Context, room, participant string) {
	if of, ok := ctx.Value(subjectKey{}).(*subject); ok {
		of.room, of.participant = room, participant
	}
}

// refusedCall keeps what is known of a call that was refused.
func (c *Config) refusedCall(ctx context.Context, one admin.Refusal) {
	one.What = "call"
	if claims := access.FromContext(ctx); claims != nil {
		one.APIKey, one.Identity = claims.APIKey, claims.Grants.Identity
	}
	c.Dashboard.Refusals.Add(one)
}

// tellDone logs a call that changed something, and a call that was refused for lack of a
// right.
func (s *rest) tellDone(op *operation, r *http.Request, p *problem.Problem) {
	attrs := append([]any{"method", op.method, "path", r.URL.Path}, by(r.Context(), r.RemoteAddr)...)
	if p == nil {
		s.done(op, r)
	}
	switch {
	case p == nil && op.method != http.MethodGet && !op.quiet():
		s.Log.Info("API call", attrs...)
	case p != nil && (p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden):
		if op.open || op.grant.doc == toSession.doc {
			return // signing in has told, and asking whether one is signed in is no news
		}
		s.Log.Info("API call refused", append(attrs, "status", p.Status, "why", p.Detail)...)
		s.refusedCall(r.Context(), admin.Refusal{
			Call: op.method + " " + r.URL.Path, Status: p.Status, Address: access.Address(r.RemoteAddr), Agent: r.UserAgent(), Why: p.Detail,
		})
	}
}

// quiet reports whether an operation changes nothing that lasts.
func (op *operation) quiet() bool {
	return slices.Contains([]string{"createToken", "sendData", "callParticipant", "subscribe", "unsubscribe", "redeemInvitation", "getInvitationLobby"}, op.id)
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
		attrs, room, participant := []any{"method", method}, "", ""
		if m, ok := req.(interface{ GetRoom() string }); ok {
			room = m.GetRoom()
			attrs = append(attrs, "room", room)
		} else if m, ok := req.(interface{ GetName() string }); ok {
			room = m.GetName()
			attrs = append(attrs, "room", room)
		}
		if m, ok := req.(interface{ GetIdentity() string }); ok {
			participant = m.GetIdentity()
			attrs = append(attrs, "participant", participant)
		}
		attrs = append(attrs, by(ctx, address)...)
		if err == nil {
			if !quietMethods(method) {
				s.log.Info("API call", attrs...)
				d := deedOf(ctx, address)
				d.Call, d.Room, d.Participant = method, room, participant
				s.c.note(d)
			}
		} else if e, ok := err.(twirp.Error); ok && denied(e) {
			s.log.Info("API call refused", append(attrs, "why", e.Msg())...)
			s.c.refusedCall(ctx, admin.Refusal{
				Call: method, Status: twirp.ServerHTTPStatusFromErrorCode(e.Code()), Room: room, Address: access.Address(address), Why: e.Msg(),
			})
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
