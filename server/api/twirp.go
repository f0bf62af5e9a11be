package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/livekit/protocol/livekit"
	"github.com/twitchtv/twirp"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/problem"
)

// Services of LiveKit that Parlor does not have.
const (
	egressPath  = "/twirp/livekit.Egress/"
	ingressPath = "/twirp/livekit.Ingress/"
	sipPath     = "/twirp/livekit.SIP/"
	otherPath   = "/twirp/" // connectors, phone numbers and what else LiveKit's cloud has
)

// Twirp returns the handlers of LiveKit's services by path prefix. They need the token's
// claims in the context: see [access.Verifier.Middleware].
func Twirp(c Config) map[string]http.Handler {
	impl := &roomService{c: c, log: c.Log}
	service := livekit.NewRoomServiceServer(impl, twirp.WithServerInterceptors(impl.audit))
	dispatches := livekit.NewAgentDispatchServiceServer(&dispatchService{impl}, twirp.WithServerInterceptors(impl.audit))
	return map[string]http.Handler{
		service.PathPrefix():    admitted(idempotent(withWriter(service), &c), &c, service.PathPrefix(), methods()),
		dispatches.PathPrefix(): admitted(idempotent(withWriter(dispatches), &c), &c, dispatches.PathPrefix(), dispatchMethods()),
		egressPath:              absent("Parlor does not record or stream out: there is no egress service"),
		ingressPath:             absent("there is no ingress service"),
		sipPath:                 absent("there is no SIP service"),
		otherPath:               absent("there is no service of this name"),
	}
}

type writerKey struct{}

// withWriter puts the response writer and the caller's address into the context, which is
// all that the methods get.
func withWriter(service http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		service.ServeHTTP(w, r.WithContext(context.WithValue(
			context.WithValue(r.Context(), writerKey{}, w), addressKey{}, r.RemoteAddr)))
	})
}

// idempotent makes a call with an Idempotency-Key happen once.
func idempotent(service http.Handler, c *Config) http.Handler {
	calls := newReplies(c.Replies)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Idempotency-Key")
		if key == "" || access.FromContext(r.Context()) == nil {
			service.ServeHTTP(w, r)
			return
		}
		err := calls.once(w, r, key, false, c.Log, func(w http.ResponseWriter, r *http.Request) error {
			service.ServeHTTP(w, r)
			return nil
		})
		if err != nil {
			_ = twirp.WriteError(w, onceError(asProblem(r, c.Log, err))) // the client may be gone
		}
	})
}

// onceError is the Twirp error for a problem of a call that was not done.
func onceError(p *problem.Problem) twirp.Error {
	code := twirp.InvalidArgument
	switch p.Status {
	case http.StatusConflict:
		code = twirp.Aborted
	case http.StatusUnprocessableEntity:
		code = twirp.FailedPrecondition
	case http.StatusServiceUnavailable:
		code = twirp.Unavailable
	case http.StatusInternalServerError:
		code = twirp.Internal
	}
	return twirp.NewError(code, p.Detail)
}

// TwirpTooOften answers a call that exceeds a rate limit.
func TwirpTooOften(w http.ResponseWriter, _ *http.Request) {
	_ = twirp.WriteError(w, twirp.NewError(twirp.ResourceExhausted, "too many requests, try again later")) // the client may be gone
}

// absent answers calls to a service that Parlor does not have.
func absent(msg string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := twirp.NewError(twirp.Unimplemented, msg)
		if access.FromContext(r.Context()) == nil {
			err = twirpError(access.ErrDenied)
		}
		_ = twirp.WriteError(w, err) // the client may be gone
	})
}

// roomService is livekit.RoomService. It checks grants first, so that a caller without
// them learns nothing else.
type roomService struct {
	c   Config
	log *slog.Logger
}

var _ livekit.RoomService = (*roomService)(nil)

func (s *roomService) CreateRoom(ctx context.Context, req *livekit.CreateRoomRequest) (*livekit.Room, error) {
	return call(ctx, s, "CreateRoom", access.EnsureCreate(ctx), func() (*livekit.Room, error) {
		if req.Egress != nil {
			return nil, twirp.NewError(twirp.Unimplemented, "Parlor does not record: a room cannot be created with egress")
		}
		if err := s.c.withPreset(req); err != nil {
			return nil, err
		}
		out, err := s.c.Rooms.Create(ctx, req)
		return out.Room.Info(), err
	})
}

func (s *roomService) ListRooms(ctx context.Context, req *livekit.ListRoomsRequest) (*livekit.ListRoomsResponse, error) {
	return call(ctx, s, "ListRooms", access.EnsureList(ctx), func() (*livekit.ListRoomsResponse, error) {
		list, err := s.c.Rooms.List(ctx, req.Names)
		return &livekit.ListRoomsResponse{Rooms: list}, err
	})
}

func (s *roomService) DeleteRoom(ctx context.Context, req *livekit.DeleteRoomRequest) (*livekit.DeleteRoomResponse, error) {
	return call(ctx, s, "DeleteRoom", access.EnsureCreate(ctx), func() (*livekit.DeleteRoomResponse, error) {
		return &livekit.DeleteRoomResponse{}, s.c.Rooms.Delete(ctx, req.Room, nil)
	})
}

func (s *roomService) ListParticipants(ctx context.Context, req *livekit.ListParticipantsRequest) (*livekit.ListParticipantsResponse, error) {
	return call(ctx, s, "ListParticipants", access.EnsureAdmin(ctx, req.Room), func() (*livekit.ListParticipantsResponse, error) {
		list, err := s.c.Rooms.Participants(ctx, req.Room)
		return &livekit.ListParticipantsResponse{Participants: list}, err
	})
}

func (s *roomService) GetParticipant(ctx context.Context, req *livekit.RoomParticipantIdentity) (*livekit.ParticipantInfo, error) {
	return call(ctx, s, "GetParticipant", access.EnsureAdmin(ctx, req.Room), func() (*livekit.ParticipantInfo, error) {
		return s.c.Rooms.Participant(ctx, req.Room, req.Identity)
	})
}

func (s *roomService) RemoveParticipant(ctx context.Context, req *livekit.RoomParticipantIdentity) (*livekit.RemoveParticipantResponse, error) {
	return call(ctx, s, "RemoveParticipant", access.EnsureAdmin(ctx, req.Room), func() (*livekit.RemoveParticipantResponse, error) {
		return &livekit.RemoveParticipantResponse{}, s.c.Rooms.Remove(ctx, req)
	})
}

func (s *roomService) MutePublishedTrack(ctx context.Context, req *livekit.MuteRoomTrackRequest) (*livekit.MuteRoomTrackResponse, error) {
	return call(ctx, s, "MutePublishedTrack", access.EnsureAdmin(ctx, req.Room), func() (*livekit.MuteRoomTrackResponse, error) {
		track, err := s.c.Rooms.MuteTrack(ctx, req)
		return &livekit.MuteRoomTrackResponse{Track: track}, err
	})
}

func (s *roomService) UpdateParticipant(ctx context.Context, req *livekit.UpdateParticipantRequest) (*livekit.ParticipantInfo, error) {
	return call(ctx, s, "UpdateParticipant", access.EnsureAdmin(ctx, req.Room), func() (*livekit.ParticipantInfo, error) {
		e := rooms.ParticipantEdit{Name: req.Name, Metadata: req.Metadata, Attributes: req.Attributes}
		if may := req.Permission; may != nil { // it replaces the whole permission
			if len(may.CanPublishSources) > rooms.MaxSources {
				return nil, rooms.Errorf(rooms.Invalid, "more than %d track sources are given", rooms.MaxSources)
			}
			e.Permit = func(p *livekit.ParticipantPermission) { proto.Reset(p); proto.Merge(p, may) }
		}
		m, err := s.c.Rooms.EditParticipant(ctx, req.Room, req.Identity, e)
		return m.Info, err
	})
}

func (s *roomService) UpdateSubscriptions(ctx context.Context, req *livekit.UpdateSubscriptionsRequest) (*livekit.UpdateSubscriptionsResponse, error) {
	return call(ctx, s, "UpdateSubscriptions", access.EnsureAdmin(ctx, req.Room), func() (*livekit.UpdateSubscriptionsResponse, error) {
		return &livekit.UpdateSubscriptionsResponse{}, s.c.Rooms.UpdateSubscriptions(ctx, req)
	})
}

func (s *roomService) SendData(ctx context.Context, req *livekit.SendDataRequest) (*livekit.SendDataResponse, error) {
	return call(ctx, s, "SendData", access.EnsureAdmin(ctx, req.Room), func() (*livekit.SendDataResponse, error) {
		return &livekit.SendDataResponse{}, s.c.Rooms.SendData(ctx, req)
	})
}

func (s *roomService) UpdateRoomMetadata(ctx context.Context, req *livekit.UpdateRoomMetadataRequest) (*livekit.Room, error) {
	return call(ctx, s, "UpdateRoomMetadata", access.EnsureAdmin(ctx, req.Room), func() (*livekit.Room, error) {
		rec, err := s.c.Rooms.Edit(ctx, req.Room, rooms.RoomEdit{Metadata: &req.Metadata})
		return rec.Info(), err
	})
}

func (s *roomService) PerformRpc(ctx context.Context, req *livekit.PerformRpcRequest) (*livekit.PerformRpcResponse, error) {
	return call(ctx, s, "PerformRpc", access.EnsureAdmin(ctx, req.Room), func() (*livekit.PerformRpcResponse, error) {
		if w, ok := ctx.Value(writerKey{}).(http.ResponseWriter); ok {
			unhurried(w)
		}
		return s.c.Rooms.PerformRPC(ctx, req)
	})
}

func (s *roomService) ForwardParticipant(ctx context.Context, req *livekit.ForwardParticipantRequest) (*livekit.ForwardParticipantResponse, error) {
	return call(ctx, s, "ForwardParticipant", access.EnsureDestRoom(ctx, req.Room, req.DestinationRoom), func() (*livekit.ForwardParticipantResponse, error) {
		if req.Room == req.DestinationRoom {
			return nil, errSameRoom
		}
		if err := s.c.admissibleIn(ctx, req.DestinationRoom); err != nil {
			return nil, err
		}
		return &livekit.ForwardParticipantResponse{}, s.c.Rooms.Forward(ctx, req)
	})
}

func (s *roomService) MoveParticipant(ctx context.Context, req *livekit.MoveParticipantRequest) (*livekit.MoveParticipantResponse, error) {
	return call(ctx, s, "MoveParticipant", access.EnsureDestRoom(ctx, req.Room, req.DestinationRoom), func() (*livekit.MoveParticipantResponse, error) {
		if req.Room == req.DestinationRoom {
			return nil, errSameRoom
		}
		if err := s.c.admissibleIn(ctx, req.DestinationRoom); err != nil {
			return nil, err
		}
		return &livekit.MoveParticipantResponse{}, s.c.Rooms.Move(ctx, req)
	})
}

// errSameRoom has LiveKit's text; the domain's text differs.
var errSameRoom = &rooms.Error{Code: rooms.Invalid, Msg: "destination room cannot be the same as source room"}

// call runs f unless denied, and maps its errors to Twirp's. [admitted] has checked
// already that the token is still good.
func call[T any](ctx context.Context, s *roomService, method string, denied error, f func() (*T, error)) (*T, error) {
	decoded(ctx)
	if denied != nil {
		return nil, twirpError(denied)
	}
	res, err := f()
	if err == nil {
		return res, nil
	}
	return nil, asTwirp(ctx, s.log, method, err)
}

// asTwirp maps an error to Twirp's, and logs the error if the caller may not see it.
func asTwirp(ctx context.Context, log *slog.Logger, method string, err error) twirp.Error {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return twirp.NewError(twirp.PermissionDenied, p.Detail).WithMeta("reason", p.Code)
	}
	if e, ok := errors.AsType[twirp.Error](err); ok {
		return e
	}
	seen := tell(ctx, log, method, err)
	if seen.Code == rooms.Unavailable {
		// it fails only for an invalid header name
		_ = twirp.SetHTTPResponseHeader(ctx, "Retry-After", problem.RetryAfter)
	}
	return twirpError(seen)
}

// twirpError is the one place that maps the domain's errors to Twirp's. A missing grant
// is unauthenticated (401) and not permission_denied, as in LiveKit.
func twirpError(err error) twirp.Error {
	e, ok := errors.AsType[*rooms.Error](err)
	if !ok {
		return twirp.NewError(twirp.Unauthenticated, err.Error()) // access.ErrDenied
	}
	code := twirp.Internal
	switch e.Code {
	case rooms.NotFound:
		code = twirp.NotFound
	case rooms.Exists:
		code = twirp.AlreadyExists
	case rooms.Invalid:
		code = twirp.InvalidArgument
	case rooms.Denied:
		code = twirp.PermissionDenied
	case rooms.Precondition:
		code = twirp.FailedPrecondition
	case rooms.Exhausted:
		code = twirp.ResourceExhausted
	case rooms.Unavailable:
		code = twirp.Unavailable
	case rooms.Internal:
	}
	return twirp.NewError(code, e.Msg)
}
