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

// The bounds of bodies in bytes, beside Config.MaxBody. Most requests name a room, an
// identity and a few settings. JSON may write one byte as the six of \u0000.
const (
	plainBody  = 64 << 10
	listBody   = 256 << 10 // of names and ids; of data, which is at most 65535 bytes, in base64
	jsonFactor = 6
)

// bodySize says how long a request's body may be, by what stands in it.
type bodySize struct {
	base                 int64 // beside metadata and attributes; 0 = plainBody
	metadata, attributes bool
}

// bytes is the bound; 0 = none, as where the limits of the configuration are 0.
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

// budget is what a body of at most that many bytes may unpack to: its text, which is
// held twice while it is decoded, and the values that a person or program would write.
func budget(body int64) int64 { return 2*body + 512<<10 }

// readBody reads all of r's body, of at most that many bytes; 0 = no bound.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	if err := limitBody(w, r, most); err != nil {
		return nil, err
	}
	return io.ReadAll(r.Body)
}

// limitBody ends r's body after that many bytes; 0 = no bound. It returns an
// [http.MaxBytesError] at once where the request says itself that it is longer: the
// sender may wait for that before it sends it (RFC 9110, section 10.1.1).
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

// method is what is known of a call to RoomService before its body is read.
type method struct {
	grant func(context.Context) error // what of the grant does not depend on the body
	body  bodySize
	shape *unpack.Shape
}

// methods are those of RoomService by name.
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

// shaped gives the methods of a service the shapes of their requests.
func shaped(all map[string]*method, service protoreflect.ServiceDescriptor) map[string]*method {
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		if known := all[string(m.Name())]; known != nil {
			known.shape = unpack.NewShape(m.Input())
		}
	}
	return all
}

// admitted lets a call on only when its token is good for it as far as that can be
// told without the body, and when its body is not longer, nor unpacks to more, than
// the method can use. What a call costs before that is nothing.
func admitted(service http.Handler, c *Config, prefix string, known map[string]*method) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := known[strings.TrimPrefix(r.URL.Path, prefix)]
		kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";") // as the generated service reads it
		kind = strings.TrimSpace(strings.ToLower(kind))
		if m == nil || r.Method != http.MethodPost || (kind != "application/json" && kind != "application/protobuf") {
			service.ServeHTTP(w, r) // answers without its body that there is no such route
			return
		}
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

// decodedKey is the context's key of what is to be called when a body is decoded.
type decodedKey struct{}

// admit checks a call, and reads its body. leave gives back the place that the
// decoding of its body has.
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
		return func() {}, nil // the service says so in LiveKit's words
	case errors.Is(err, unpack.ErrTooMuch), errors.Is(err, unpack.ErrTooDeep):
		return nil, twirp.NewError(twirp.Malformed, "the body is refused: "+c.Guard.Refused("twirp", err).Error())
	case err != nil:
		return nil, twirp.NewError(twirp.Unavailable, c.Guard.Refused("twirp", err).Error())
	}
	return leave, nil
}

// decoded gives back the place that the decoding of a call's body had: the call may
// take longer than that.
func decoded(ctx context.Context) {
	if leave, ok := ctx.Value(decodedKey{}).(func()); ok {
		leave()
	}
}

// checkJSON refuses a body of REST that would unpack to too much, and waits for a
// place to decode it.
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
