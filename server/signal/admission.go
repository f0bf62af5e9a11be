package signal

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/authorize"
	"parlor/server/permission"
)

// join handles the join of a new participant. The connection is upgraded only after the join
// is on disk, so that a refusal is an HTTP response, for which the error is. Then the
// participant enters the room.
func (h *Handler) join(w http.ResponseWriter, r *http.Request, req *request) error {
	out := &outlet{metrics: h.metrics}
	s := &session{h: h, outlet: out, claims: req.claims, opts: req.opts}
	p, self, err := h.commit(r.Context(), req, func(j *rooms.JoinRequest) {
		j.Outlet, j.OnChange, j.Token, j.Client = out, s.refresh, s.moved, clientAttrs(r, req.opts.client)
	})
	if err != nil {
		return err
	}
	s.client = p.Client
	return s.enter(w, r, p, self)
}

// clientAttrs are the attributes of the client in log lines.
func clientAttrs(r *http.Request, c *livekit.ClientInfo) []any {
	return []any{"address", access.Address(r.RemoteAddr), "sdk", strings.ToLower(c.GetSdk().String()), "version", c.GetVersion()}
}

// join is the domain's form of the request, without the functions that reach the client.
func (req *request) join() *rooms.JoinRequest {
	j := &rooms.JoinRequest{
		Room:          req.room,
		Info:          req.info,
		Host:          req.claims.Grants.Video.RoomAdmin,
		HostOf:        req.claims.HostOf,
		MayCreate:     req.claims.Grants.Video.RoomCreate,
		Create:        req.create,
		IssuedMs:      req.claims.IssuedMs(),
		Protocol:      req.opts.protocol,
		AutoSubscribe: req.opts.autoSubscribe,
		AutoData:      req.opts.autoData,
	}
	j.Session = req.tokenSession()
	if strings.HasPrefix(req.claims.ID, "AJ_") {
		j.Job = req.claims.ID
	}
	return j
}

// tokenSession is the SID of the session in which the client's token was issued; "" if it
// was not issued by a session.
func (req *request) tokenSession() string {
	if strings.HasPrefix(req.claims.ID, "PA_") {
		return req.claims.ID
	}
	return ""
}

// admit builds the domain's request for a join, with the changes of the authorization
// hook; or returns the reason why the join is refused. It asks the hook only about joins
// that the domain would accept.
func (h *Handler) admit(ctx context.Context, req *request) (*rooms.JoinRequest, error) {
	j := req.join()
	sid, err := h.cfg.Rooms.CanJoin(ctx, j)
	if err != nil || h.cfg.Authorize == nil {
		return j, err
	}
	answer, err := h.cfg.Authorize.Ask(ctx, req.claims.Digest, req.question(sid))
	switch {
	case err != nil:
		return nil, err
	case !*answer.Allow:
		return nil, refuse(http.StatusForbidden, answer.Message)
	}
	j.Info = answer.Amend(j.Info)
	if sid == "" {
		j.Create = answer.AmendRoom(j.Create)
	}
	// The hook was asked about a room that exists, so it has not allowed the client to
	// open one.
	j.MustExist = sid != ""
	return j, nil
}

// commit joins after admission. complete adds the functions by which the room reaches the
// client.
func (h *Handler) commit(ctx context.Context, req *request, complete func(*rooms.JoinRequest)) (*rooms.Participant, *livekit.ParticipantInfo, error) {
	const most = 3 // a room that repeatedly ends between question and join is the work of an abuser
	for try := 1; ; try++ {
		j, err := req.join(), error(nil)
		if h.cfg.Authorize != nil {
			if j, err = h.admit(ctx, req); err != nil {
				return nil, nil, err
			}
		}
		complete(j)
		p, info, err := h.cfg.Rooms.Join(ctx, *j)
		if !j.MustExist || !errors.Is(err, rooms.ErrNoRoom) || try == most {
			return p, info, err
		}
	}
}

// mayResume decides about a client that returns to its session. If the hook refuses the
// client, its participant is removed too, because its media has continued meanwhile. But
// only a token that was issued in that session permits this: another token may be
// anybody's.
func (h *Handler) mayResume(ctx context.Context, req *request) error {
	if err := h.cfg.Rooms.CanResume(ctx, req.join()); err != nil || h.cfg.Authorize == nil {
		return err
	}
	q := req.question("")
	q.Create, q.Reconnect = false, true
	answer, err := h.cfg.Authorize.Ask(ctx, req.claims.Digest, q)
	if err != nil || *answer.Allow {
		return err
	}
	// The id of a session's own token is the session's SID.
	err = h.cfg.Rooms.RemoveSession(ctx, req.room, req.info.Identity, req.claims.ID)
	if err != nil && rooms.ErrorCode(err) != rooms.NotFound {
		return err
	}
	return refuse(http.StatusForbidden, answer.Message)
}

// question is the question to the hook about req. roomSID is the SID of the open room; ""
// if there is none.
func (req *request) question(roomSID string) *authorize.Question {
	info, c := req.info, req.opts.client
	grants, _ := json.Marshal(req.claims.Grants.Video) // it was decoded from JSON before, so it can be encoded
	q := &authorize.Question{
		Room: req.room, RoomSID: roomSID, Create: roomSID == "",
		APIKey: req.claims.APIKey, TokenID: req.claims.ID, Grants: grants,
		Participant: authorize.Participant{
			Identity: info.Identity, Name: info.Name, Kind: strings.ToLower(info.Kind.String()),
			Metadata: info.Metadata, Attributes: info.Attributes, Permissions: permission.Of(info.Permission),
		},
		Client: authorize.Client{
			SDK: strings.ToLower(c.GetSdk().String()), Version: c.GetVersion(), Protocol: c.GetProtocol(),
			OS: c.GetOs(), OSVersion: c.GetOsVersion(), Browser: c.GetBrowser(), BrowserVersion: c.GetBrowserVersion(),
			DeviceModel: c.GetDeviceModel(), Network: c.GetNetwork(), Address: c.GetAddress(),
		},
	}
	if q.TokenID == "" {
		q.TokenID = hex.EncodeToString(req.claims.Digest[:16])
	}
	if q.Participant.Attributes == nil {
		q.Participant.Attributes = map[string]string{}
	}
	return q
}
