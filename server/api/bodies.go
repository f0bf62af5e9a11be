package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/livekit/protocol/livekit"
	"github.com/twitchtv/twirp"
	"google.golang.org/protobuf/reflect/protoreflect"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/problem"
	"parlor/server/unpack"
)

// Bounds of bodies in bytes, besides Config.MaxBody. Most requests name a room, an
// identity and a few settings. JSON may write one byte as the six of \u0000.
const (
	plainBody  = 64 << 10
	listBody   = 256 << 10 // lists of names and ids; or data, at most 65535 bytes, in base64
	jsonFactor = 6
)

// bodySize tells how long a request's body may be, by its content.
type bodySize struct {
	base                 int64 // besides metadata and attributes; 0 = plainBody
	metadata, attributes bool
}

// bytes is the bound; 0 = none, where a limit of the configuration is 0.
func (b bodySize) bytes(c *Config, json bool) int64 {
	factor := int64(1)
	if json {
		factor = jsonFactor
	}
	most := max(b.base, plainBody)
	for _, part := range []struct {
		has   bool
		limit int
	}{{b.metadata, c.Limits.MaxMetadata}, {b.attributes, c.Limits.MaxAttributes}} {
		switch {
		case !part.has:
		case part.limit <= 0:
			return c.MaxBody
		default:
			most += factor * int64(part.limit)
		}
	}
	if c.MaxBody > 0 {
		most = min(most, c.MaxBody)
	}
	return most
}

// budget is what a body of at most that many bytes may unpack to: twice its text, which
// decoding holds, and room for the values of an honest request.
func budget(body int64) int64 { return 2*body + 512<<10 }

// readBody reads r's whole body, of at most that many bytes; 0 = no bound.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	if err := limitBody(w, r, most); err != nil {
		return nil, err
	}
	return io.ReadAll(r.Body)
}

// limitBody bounds r's body; 0 = no bound. It returns an [http.MaxBytesError] at once if
// the request declares a longer body: its sender may wait for that before it sends the
// body (RFC 9110, section 10.1.1).
func limitBody(w http.ResponseWriter, r *http.Request, most int64) error {
	if most <= 0 {
		return nil
	}
	if r.ContentLength > most {
		return &http.MaxBytesError{Limit: most}
	}
	r.Body = http.MaxBytesReader(w, r.Body, most)
	return nil
}

// method is what is known of a call to a service before its body is read.
type method struct {
	grant func(context.Context) error // the part of the grant that does not depend on the body
	body  bodySize
	shape *unpack.Shape
}

// methods are the methods of RoomService by name.
func methods() map[string]*method {
	list := bodySize{base: listBody}
	all := map[string]*method{
		"CreateRoom":          {grant: access.EnsureCreate, body: bodySize{metadata: true, attributes: true}},
		"ListRooms":           {grant: access.EnsureList, body: list},
		"DeleteRoom":          {grant: access.EnsureCreate},
		"ListParticipants":    {grant: access.EnsureSomeAdmin},
		"GetParticipant":      {grant: access.EnsureSomeAdmin},
		"RemoveParticipant":   {grant: access.EnsureSomeAdmin},
		"MutePublishedTrack":  {grant: access.EnsureSomeAdmin},
		"UpdateParticipant":   {grant: access.EnsureSomeAdmin, body: bodySize{metadata: true, attributes: true}},
		"UpdateSubscriptions": {grant: access.EnsureSomeAdmin, body: list},
		"SendData":            {grant: access.EnsureSomeAdmin, body: list},
		"UpdateRoomMetadata":  {grant: access.EnsureSomeAdmin, body: bodySize{metadata: true}},
		"PerformRpc":          {grant: access.EnsureSomeAdmin, body: list},
		"ForwardParticipant":  {grant: access.EnsureSomeAdmin},
		"MoveParticipant":     {grant: access.EnsureSomeAdmin},
	}
	return shaped(all, livekit.File_livekit_room_proto.Services().ByName("RoomService"))
}

// shaped sets the shapes of the methods' requests.
func shaped(all map[string]*method, service protoreflect.ServiceDescriptor) map[string]*method {
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		if known := all[string(m.Name())]; known != nil {
			known.shape = unpack.NewShape(m.Input())
		}
	}
	return all
}

// admitted passes a call on if its token has the grant, as far as that is known without
// the body, and if the body is neither longer, nor unpacks to more, than the method can
// use. Until then a call costs next to nothing.
func admitted(service http.Handler, c *Config, prefix string, known map[string]*method) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := known[strings.TrimPrefix(r.URL.Path, prefix)]
		kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";") // as the generated service parses it
		kind = strings.TrimSpace(strings.ToLower(kind))
		if m == nil || r.Method != http.MethodPost || (kind != "application/json" && kind != "application/protobuf") {
			service.ServeHTTP(w, r) // answers, without the body, that there is no such route
			return
		}
		ctx, failed := c.asDecided(r.Context())
		if failed != nil {
			_ = twirp.WriteError(w, asTwirp(r.Context(), c.Log, r.URL.Path, failed)) // the client may be gone
			return
		}
		r = r.WithContext(ctx)
		leave, err := c.admit(w, r, m, kind == "application/json")
		if err != nil {
			if denied(err) {
				attrs := append([]any{"method", strings.TrimPrefix(r.URL.Path, prefix)}, by(r.Context(), r.RemoteAddr)...)
				c.Log.Info("API call refused", append(attrs, "why", err.Msg())...)
			}
			_ = twirp.WriteError(w, err) // the client may be gone
			return
		}
		defer leave()
		service.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), decodedKey{}, leave)))
	})
}

// decodedKey is the context's key for the function to call when the body is decoded.
type decodedKey struct{}

// admit checks a call and reads its body. leave gives up the place for decoding the body.
func (c *Config) admit(w http.ResponseWriter, r *http.Request, m *method, json bool) (leave func(), _ twirp.Error) {
	if err := m.grant(r.Context()); err != nil {
		return nil, twirpError(err)
	}
	if err := c.admissible(r.Context()); err != nil {
		return nil, asTwirp(r.Context(), c.Log, r.URL.Path, err)
	}
	most := m.body.bytes(c, json)
	body, err := readBody(w, r, most)
	if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
		_ = c.Guard.Refused("twirp", unpack.ErrTooLong) // it is answered below
		return nil, twirp.NewErrorf(twirp.Malformed, "the body must not be longer than %d bytes", big.Limit)
	} else if err != nil {
		return nil, twirp.NewError(twirp.Malformed, "the body ended early")
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	estimate := m.shape.Binary
	if json {
		estimate = m.shape.JSON
	}
	cost, err := estimate(body, budget(max(most, int64(len(body)))))
	if err == nil {
		leave, err = c.Guard.Enter(r.Context(), cost)
	}
	switch {
	case errors.Is(err, unpack.ErrMalformed):
		return func() {}, nil // the service answers this in LiveKit's words
	case errors.Is(err, unpack.ErrTooMuch), errors.Is(err, unpack.ErrTooDeep):
		return nil, twirp.NewError(twirp.Malformed, "the body is refused: "+c.Guard.Refused("twirp", err).Error())
	case err != nil:
		return nil, twirp.NewError(twirp.Unavailable, c.Guard.Refused("twirp", err).Error())
	}
	return leave, nil
}

// decoded gives up the place for decoding the call's body, because the call may take
// longer than its decoding.
func decoded(ctx context.Context) {
	if leave, ok := ctx.Value(decodedKey{}).(func()); ok {
		leave()
	}
}

// checkJSON refuses a REST body that would unpack to too much, and waits for a place to
// decode it.
func (c *Config) checkJSON(ctx context.Context, body []byte) (leave func(), err error) {
	cost, err := unpack.JSON(body, budget(int64(len(body))))
	if err == nil {
		leave, err = c.Guard.Enter(ctx, cost)
	}
	if err == nil {
		return leave, nil
	}
	p := problem.New(http.StatusRequestEntityTooLarge, "too_large", "the body is refused: %s", err)
	if errors.Is(err, unpack.ErrBusy) {
		p = problem.New(http.StatusServiceUnavailable, string(rooms.Unavailable), "%s", err)
	}
	return nil, &refused{p, err}
}
