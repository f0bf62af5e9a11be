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
	"parlor/server/authorize"
	"parlor/server/permission"
)

// admit is what a join of req's kind asks for now, with the changes that the
// authorization hook wants; or why it would not be let in. The hook is asked only about
// joins that the domain would let in.
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
	// Nobody was asked whether it may open a room that is there.
	j.MustExist = sid != ""
	return j, nil
}

// commit joins, once it is admitted; complete adds the ways to the client.
func (h *Handler) commit(ctx context.Context, req *request, complete func(*rooms.JoinRequest)) (*rooms.Participant, *livekit.ParticipantInfo, error) {
	const most = 3 // a room that ends between question and join, again and again, is somebody's mischief
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

// mayResume asks about a client that comes back to its session. A client that is
// not let back is sent away, since its media has gone on meanwhile; but only by a
// token that was given in that session: others may be anybody's.
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
	// A session's own token has its SID for an id.
	err = h.cfg.Rooms.RemoveSession(ctx, req.room, req.info.Identity, req.claims.ID)
	if err != nil && rooms.ErrorCode(err) != rooms.NotFound {
		return err
	}
	return refuse(http.StatusForbidden, answer.Message)
}

// question is what the hook is asked about req; roomSID is that of the open room.
func (req *request) question(roomSID string) *authorize.Question {
	info, c := req.info, req.opts.client
	grants, _ := json.Marshal(req.claims.Grants.Video) // read from JSON a moment ago
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
