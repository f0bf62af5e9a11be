package signal

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"

	"parlor/media"
	"parlor/rooms"
	"parlor/rooms/goroutines"
	"parlor/server/access"
	"parlor/server/admin"
	"parlor/server/authorize"
	"parlor/server/config"
	"parlor/server/devices"
	"parlor/server/unpack"
)

const (
	// protocolVersion is the newest version of LiveKit's signalling that this server
	// supports.
	protocolVersion = 18
	// compatVersion is the LiveKit version whose behaviour clients may expect. Some
	// enable features by it.
	compatVersion = "1.13.11"

	clientPingInterval = 5  // seconds, sent to clients
	clientPingTimeout  = 15 // seconds, sent to clients
)

// Config configures a [Handler].
type Config struct {
	Rooms    *rooms.Rooms
	Media    *media.Engine
	Verifier *access.Verifier
	Log      *slog.Logger
	Metrics  prometheus.Registerer // may be nil
	Guard    *unpack.Guard         // bounds the concurrent unpacking; nil = no bound

	// Version is Parlor's own version, sent to clients as debug information.
	Version string
	NodeID  string
	Region  string
	// EnabledCodecs are the mime types that clients may publish, video first.
	EnabledCodecs []string
	// Presets are the room presets, by the name in a token's roomPreset.
	Presets map[string]config.Preset
	// Authorize is asked before a client is admitted; nil = no hook.
	Authorize Authorizer
	// AllowPause: video is paused when not even its lowest layer fits, for clients that
	// do not set this themselves.
	AllowPause bool
	// Refusals keeps the joins that were refused; may be nil.
	Refusals *admin.Refusals
	// MaxConnections bounds the open WebSockets; 0 = no bound.
	MaxConnections int
	// MaxMessage bounds a client's message in bytes, unpacked; 0 = no bound but that on
	// what it stands for.
	MaxMessage int64
	// Devices are what kinds of clients are not to do.
	Devices devices.Rules
}

// Authorizer decides whether the bearer of a token, given by its digest, is admitted. An
// [*authorize.Unavailable] error is answered with status 503.
type Authorizer interface {
	Ask(ctx context.Context, digest [sha256.Size]byte, q *authorize.Question) (*authorize.Answer, error)
}

// Handler answers the signalling routes. Its methods may be called concurrently.
type Handler struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	overTCP preferences // clients that get only candidates over TCP
	overTLS preferences // clients that get only TURN over TLS
	decoder *decoder

	open atomic.Int64 // open connections, of resumed sessions too

	mu       sync.Mutex       // guards the following
	waiting  bool             // Wait was called: no session may begin
	sessions goroutines.Group // the goroutines of all sessions; added to under mu
}

// New makes the handler.
func New(cfg Config) *Handler {
	return &Handler{cfg: cfg, log: cfg.Log, metrics: newMetrics(cfg.Metrics), decoder: newDecoder(cfg.Guard)}
}

// begin counts a new session. It returns false if none may begin.
func (h *Handler) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.waiting {
		h.sessions.Begin()
	}
	return !h.waiting
}

// Wait returns when every session has ended, or ctx. From the call on no session may
// begin.
func (h *Handler) Wait(ctx context.Context) error {
	h.mu.Lock()
	h.waiting = true
	h.mu.Unlock()
	return h.sessions.Wait(ctx)
}

// RTC answers /rtc, with either form of the request.
func (h *Handler) RTC() http.Handler { return h.connectHandler(false) }

// RTCv1 answers /rtc/v1, only with a join_request.
func (h *Handler) RTCv1() http.Handler { return h.connectHandler(true) }

// Validate answers /rtc/validate and, with v1, /rtc/v1/validate: whether a connect with
// the same query would be admitted.
func (h *Handler) Validate(v1 bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		req, err := h.request(r, v1, true)
		if err == nil {
			_, err = h.admit(r.Context(), req)
		}
		if err != nil {
			h.answer(w, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("success")) // the client may have closed the connection
	})
}

func (h *Handler) connectHandler(v1 bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		req, err := h.request(r, v1, false)
		if err != nil {
			h.refuse(w, r, err)
			return
		}
		defer h.open.Add(-1)
		if n := h.open.Add(1); h.cfg.MaxConnections > 0 && n > int64(h.cfg.MaxConnections) {
			h.refuse(w, r, errFull)
			return
		}
		if !h.begin() {
			h.refuse(w, r, rooms.ErrStopping)
			return
		}
		defer h.sessions.End()
		enter := h.join
		if req.opts.reconnect {
			enter = h.resume
		}
		if err := enter(w, r, req); err != nil {
			h.refuse(w, r, err)
		}
	})
}

// errFull: limit.max_connections is reached.
var errFull = rooms.Errorf(rooms.Unavailable, "the server has as many connections as it takes, try again")

// refuse answers a request that is not admitted, and logs it.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := h.answer(w, err)
	level := slog.LevelInfo
	if status >= http.StatusInternalServerError {
		level = slog.LevelWarn
	}
	attrs := []any{"status", status, "why", err.Error()}
	one := admin.Refusal{
		What: "join", Call: r.URL.Path, Status: status, Address: access.Address(r.RemoteAddr), Agent: r.UserAgent(), Why: err.Error(),
	}
	if c := access.FromContext(r.Context()); c != nil {
		if c.Grants.Video != nil {
			attrs = append(attrs, "room", c.Grants.Video.Room)
			one.Room = c.Grants.Video.Room
		}
		one.Identity, one.APIKey = c.Grants.Identity, c.APIKey
		attrs = append(attrs, "participant", c.Grants.Identity, "key", c.APIKey)
	}
	h.cfg.Refusals.Add(one)
	h.log.Log(r.Context(), level, "connect refused", append(attrs, "address", access.Address(r.RemoteAddr), "agent", r.UserAgent())...)
}

// answer answers a request that is not admitted with a text, and returns the status.
func (h *Handler) answer(w http.ResponseWriter, err error) int {
	status, text := http.StatusInternalServerError, "internal error"
	if ref, ok := asRefusal(err); ok {
		status, text = ref.status, ref.text
	} else if _, ok := errors.AsType[*authorize.Unavailable](err); ok {
		status, text = http.StatusServiceUnavailable, "the application cannot be asked whether to let you in, try again"
		w.Header().Set("Retry-After", "2")
	} else if e, ok := errors.AsType[*rooms.Error](err); ok {
		text = e.Msg
		switch e.Code {
		case rooms.NotFound:
			status = http.StatusNotFound
		case rooms.Invalid:
			status = http.StatusBadRequest
		case rooms.Denied:
			status = http.StatusUnauthorized
		case rooms.Unavailable:
			status = http.StatusServiceUnavailable
			w.Header().Set("Retry-After", "2")
		case rooms.Exists:
			status = http.StatusConflict
		case rooms.Precondition, rooms.Exhausted, rooms.Internal:
			// LiveKit answers a full room with 500, and its clients handle no better
			// status.
		}
	}
	h.metrics.joins.WithLabelValues(strconv.Itoa(status)).Inc()
	http.Error(w, text, status)
	return status
}

// request is a checked connect request.
type request struct {
	claims *access.Claims
	room   string
	opts   *options
	info   *livekit.ParticipantInfo
	create *livekit.CreateRoomRequest // the token's settings for a room that it creates; may be nil
}

// request checks a connect request, except for what depends on the room.
func (h *Handler) request(r *http.Request, v1, validate bool) (*request, error) {
	room, err := access.EnsureJoin(r.Context())
	if err != nil {
		return nil, refuse(http.StatusUnauthorized, err.Error())
	}
	claims := access.FromContext(r.Context())
	opts, err := h.decoder.parseOptions(r, v1, validate)
	if err != nil {
		return nil, err
	}
	switch {
	case room == "":
		return nil, refuse(http.StatusBadRequest, "no room name")
	case claims.Grants.Identity == "":
		return nil, refuse(http.StatusBadRequest, "identity cannot be empty")
	}
	info, err := participantInfo(claims.Grants, opts)
	if err != nil {
		return nil, err
	}
	create, err := h.createRequest(claims.Grants)
	if err != nil {
		return nil, err
	}
	return &request{claims: claims, room: room, opts: opts, info: info, create: create}, nil
}

// participantInfo is the joining participant according to its token and, where permitted,
// the client's own metadata and attributes.
func participantInfo(g *auth.ClaimGrants, o *options) (*livekit.ParticipantInfo, error) {
	if (o.metadata != "" || len(o.attributes) > 0) && !g.Video.GetCanUpdateOwnMetadata() {
		return nil, refuse(http.StatusUnauthorized, access.ErrNoAccess.Error())
	}
	info := &livekit.ParticipantInfo{
		Identity:       g.Identity,
		Name:           g.Name,
		Metadata:       g.Metadata,
		Attributes:     maps.Clone(g.Attributes),
		Kind:           g.GetParticipantKind(),
		KindDetails:    g.GetKindDetails(),
		Permission:     g.Video.ToPermission(),
		ClientProtocol: o.client.ClientProtocol,
		Capabilities:   o.client.Capabilities,
	}
	if o.metadata != "" {
		info.Metadata = o.metadata
	}
	if len(o.attributes) > 0 {
		if info.Attributes == nil {
			info.Attributes = make(map[string]string, len(o.attributes))
		}
		for key, value := range o.attributes {
			if value != "" { // an empty value deletes
				info.Attributes[key] = value
			}
		}
	}
	return info, nil
}

// createRequest is the token's settings for a room that its bearer creates: its room
// configuration, and for the rest its preset.
func (h *Handler) createRequest(g *auth.ClaimGrants) (*livekit.CreateRoomRequest, error) {
	c := g.GetRoomConfiguration()
	if c == nil && g.RoomPreset == "" {
		return nil, nil
	}
	req := &livekit.CreateRoomRequest{
		EmptyTimeout:     c.GetEmptyTimeout(),
		DepartureTimeout: c.GetDepartureTimeout(),
		MaxParticipants:  c.GetMaxParticipants(),
		Metadata:         c.GetMetadata(),
		MinPlayoutDelay:  c.GetMinPlayoutDelay(),
		MaxPlayoutDelay:  c.GetMaxPlayoutDelay(),
		SyncStreams:      c.GetSyncStreams(),
		Tags:             c.GetTags(),
		Agents:           c.GetAgents(),
	}
	if g.RoomPreset != "" {
		p, known := h.cfg.Presets[g.RoomPreset]
		if !known { // a room without the limits that the token's issuer meant would be worse
			return nil, refuse(http.StatusBadRequest, "unknown room preset "+strconv.Quote(g.RoomPreset))
		}
		p.Fill(req)
	}
	return req, nil
}
