package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/permission"
	"parlor/server/problem"
)

// Participants lists and changes the participants of rooms.
type Participants interface {
	Participants(ctx context.Context, room string) ([]*livekit.ParticipantInfo, error)
	Participant(ctx context.Context, room, identity string) (*livekit.ParticipantInfo, error)
	Members(ctx context.Context, room string) ([]rooms.Member, error)
	Member(ctx context.Context, room, identity string) (rooms.Member, error)
	EditParticipant(ctx context.Context, room, identity string, e rooms.ParticipantEdit) (rooms.Member, error)
	SetHost(ctx context.Context, room, identity string, host bool) error
	MuteTrack(ctx context.Context, req *livekit.MuteRoomTrackRequest) (*livekit.TrackInfo, error)
	UpdateSubscriptions(ctx context.Context, req *livekit.UpdateSubscriptionsRequest) error
	Remove(ctx context.Context, req *livekit.RoomParticipantIdentity) error
	Expel(ctx context.Context, room, identity string, notBeforeMs int64) error
	Move(ctx context.Context, req *livekit.MoveParticipantRequest) error
	Forward(ctx context.Context, req *livekit.ForwardParticipantRequest) error
}

// Messages sends the server's own messages to clients.
type Messages interface {
	SendData(ctx context.Context, req *livekit.SendDataRequest) error
	DeleteChat(ctx context.Context, room string, which rooms.ChatID) error
	PerformRPC(ctx context.Context, req *livekit.PerformRpcRequest) (*livekit.PerformRpcResponse, error)
}

// participantList is all participants of a room.
type participantList struct {
	Participants []participant `json:"participants"`
}

// listParticipants answers with the participants of an open room, also those that are
// expected back after a restart, in the order of joining.
func (s *rest) listParticipants(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	if _, err := s.Records.FindOpen(r.Context(), name); err != nil {
		return err
	}
	members, err := s.Rooms.Members(r.Context(), name)
	if err != nil {
		return err
	}
	slices.SortFunc(members, func(a, b rooms.Member) int {
		return cmp.Or(cmp.Compare(a.Info.JoinedAtMs, b.Info.JoinedAtMs), strings.Compare(a.Info.Identity, b.Info.Identity))
	})
	out := participantList{Participants: []participant{}}
	for _, m := range members {
		out.Participants = append(out.Participants, showParticipant(m.Info, m.Host))
	}
	return sendJSON(w, http.StatusOK, out)
}

// participantOf returns the participant that the path names.
func (s *rest) participantOf(r *http.Request) (rooms.Member, error) {
	at, err := pathValues(r, "name", "identity")
	if err != nil {
		return rooms.Member{}, err
	}
	return s.Rooms.Member(r.Context(), at[0], at[1])
}

func (s *rest) getParticipant(w http.ResponseWriter, r *http.Request) error {
	m, err := s.participantOf(r)
	if err != nil {
		return err
	}
	tag := participantTag(m)
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return sendJSON(w, http.StatusOK, showParticipant(m.Info, m.Host))
}

func participantTag(m rooms.Member) string { return entityTag(showParticipant(m.Info, m.Host)) }

// participantEdit is the body of PATCH …/participants/{identity}. Absent fields stay as
// they are.
type participantEdit struct {
	Name        string            `json:"name,omitempty" doc:"An empty one leaves the name as it is."`
	Metadata    string            `json:"metadata,omitempty" doc:"An empty one leaves the metadata as it is."`
	Attributes  map[string]string `json:"attributes,omitempty" doc:"Set one by one; an empty value deletes the attribute."`
	Permissions *permission.Edit  `json:"permissions,omitempty"`
}

// editParticipant changes the given fields.
func (s *rest) editParticipant(w http.ResponseWriter, r *http.Request) error {
	at, err := pathValues(r, "name", "identity")
	if err != nil {
		return err
	}
	unchanged, err := condition(r, participantTag)
	if err != nil {
		return err
	}
	var body participantEdit
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	e := rooms.ParticipantEdit{Name: body.Name, Metadata: body.Metadata, Attributes: body.Attributes, If: unchanged}
	if edit := body.Permissions; edit != nil {
		if _, err := sourcesOf("permissions.can_publish_sources", edit.CanPublishSources); err != nil {
			return err
		}
		e.Permit = edit.Apply // it is applied in the room, where the permissions are
	}
	m, err := s.Rooms.EditParticipant(r.Context(), at[0], at[1], e)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", participantTag(m))
	return sendJSON(w, http.StatusOK, showParticipant(m.Info, m.Host))
}

// makeHost makes an identity host of its room: 204.
func (s *rest) makeHost(w http.ResponseWriter, r *http.Request) error { return s.setHost(w, r, true) }

// unmakeHost makes it host no more: 204.
func (s *rest) unmakeHost(w http.ResponseWriter, r *http.Request) error {
	return s.setHost(w, r, false)
}

func (s *rest) setHost(w http.ResponseWriter, r *http.Request, host bool) error {
	at, err := pathValues(r, "name", "identity")
	if err != nil {
		return err
	}
	if err := s.Rooms.SetHost(r.Context(), at[0], at[1], host); err != nil {
		return err
	}
	return sendNothing(w)
}

// removeParticipant sends a participant away: 204. With revoke=true the tokens that the
// identity has are revoked, and the answer is 204 also if it is not in the room.
func (s *rest) removeParticipant(w http.ResponseWriter, r *http.Request) error {
	at, err := pathValues(r, "name", "identity")
	if err != nil {
		return err
	}
	switch r.URL.Query().Get("revoke") {
	case "", "false":
		err = s.Rooms.Remove(r.Context(), &livekit.RoomParticipantIdentity{Room: at[0], Identity: at[1]})
	case "true":
		err = s.Rooms.Expel(r.Context(), at[0], at[1], rooms.NowMs(time.Now()))
		if errors.Is(err, rooms.ErrNoParticipant) { // the revocation is done, so it cannot come back
			err = nil
		}
	default:
		err = problem.Fields(problem.Field{Path: "revoke", Detail: "must be true or false"})
	}
	if err != nil {
		return err
	}
	return sendNothing(w)
}

// destination is the body of a move or forward.
type destination struct {
	Room string `json:"room" required:"true" doc:"Name of the other room, which is opened if need be."`
}

func (s *rest) moveParticipant(w http.ResponseWriter, r *http.Request) error {
	return s.toAnotherRoom(w, r, func(room, identity, to string) error {
		return s.Rooms.Move(r.Context(), &livekit.MoveParticipantRequest{Room: room, Identity: identity, DestinationRoom: to})
	})
}

func (s *rest) forwardParticipant(w http.ResponseWriter, r *http.Request) error {
	return s.toAnotherRoom(w, r, func(room, identity, to string) error {
		return s.Rooms.Forward(r.Context(), &livekit.ForwardParticipantRequest{Room: room, Identity: identity, DestinationRoom: to})
	})
}

func (s *rest) toAnotherRoom(w http.ResponseWriter, r *http.Request, do func(room, identity, to string) error) error {
	at, err := pathValues(r, "name", "identity")
	if err != nil {
		return err
	}
	var body destination
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	if body.Room == "" {
		return problem.Fields(problem.Field{Path: "room", Detail: "is missing"})
	}
	if err := access.EnsureDestRoom(r.Context(), at[0], body.Room); err != nil {
		return err
	}
	if err := s.admissibleIn(r.Context(), body.Room); err != nil {
		return err
	}
	if err := do(at[0], at[1], body.Room); err != nil {
		return err
	}
	return sendNothing(w)
}

// trackList is what a participant publishes.
type trackList struct {
	Tracks []track `json:"tracks"`
}

func (s *rest) listTracks(w http.ResponseWriter, r *http.Request) error {
	m, err := s.participantOf(r)
	if err != nil {
		return err
	}
	return sendJSON(w, http.StatusOK, trackList{showTracks(m.Info.Tracks)})
}

// trackEdit is the body of PATCH …/tracks/{sid}.
type trackEdit struct {
	Muted *bool `json:"muted" required:"true" doc:"Unmuting needs room.enable_remote_unmute in the configuration."`
}

func (s *rest) editTrack(w http.ResponseWriter, r *http.Request) error {
	at, err := pathValues(r, "name", "identity", "track")
	if err != nil {
		return err
	}
	var body trackEdit
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	if body.Muted == nil {
		return problem.Fields(problem.Field{Path: "muted", Detail: "is missing"})
	}
	info, err := s.Rooms.MuteTrack(r.Context(), &livekit.MuteRoomTrackRequest{
		Room: at[0], Identity: at[1], TrackSid: at[2], Muted: *body.Muted,
	})
	switch {
	case err != nil:
		return err
	case info == nil:
		return problem.New(http.StatusNotFound, "not_found", "the participant has no track %q", at[2])
	}
	return sendJSON(w, http.StatusOK, showTrack(info))
}

func (s *rest) subscribe(w http.ResponseWriter, r *http.Request) error   { return s.want(w, r, true) }
func (s *rest) unsubscribe(w http.ResponseWriter, r *http.Request) error { return s.want(w, r, false) }

func (s *rest) want(w http.ResponseWriter, r *http.Request, subscribe bool) error {
	at, err := pathValues(r, "name", "identity", "track")
	if err != nil {
		return err
	}
	err = s.Rooms.UpdateSubscriptions(r.Context(), &livekit.UpdateSubscriptionsRequest{
		Room: at[0], Identity: at[1], TrackSids: []string{at[2]}, Subscribe: subscribe,
	})
	if err != nil {
		return err
	}
	return sendNothing(w)
}

// dataRequest is the body of POST …/data.
type dataRequest struct {
	Text  string   `json:"text,omitempty" doc:"What to send, as text."`
	Data  string   `json:"data,omitempty" doc:"What to send, as base64; instead of text."`
	Topic string   `json:"topic,omitempty"`
	Lossy bool     `json:"lossy,omitempty" doc:"Over the channel that may lose packets."`
	To    []string `json:"to,omitempty" doc:"Identities; everybody if empty."`
}

func (s *rest) sendData(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	var body dataRequest
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	payload := []byte(body.Text)
	if body.Data != "" {
		if payload, err = base64.StdEncoding.DecodeString(body.Data); err != nil || body.Text != "" {
			return problem.Fields(problem.Field{Path: "data", Detail: "must be base64, and not be given with text"})
		}
	}
	req := &livekit.SendDataRequest{Room: name, Data: payload, DestinationIdentities: body.To}
	if body.Lossy {
		req.Kind = livekit.DataPacket_LOSSY
	}
	if body.Topic != "" {
		req.Topic = &body.Topic
	}
	if err := s.Rooms.SendData(r.Context(), req); err != nil {
		return err
	}
	return sendNothing(w)
}

// rpcRequest is the body of POST …/rpc.
type rpcRequest struct {
	Method  string `json:"method" required:"true"`
	Payload string `json:"payload,omitempty"`
	Timeout uint32 `json:"timeout,omitempty" doc:"Seconds to wait for the answer; 10 without it, 300 at most."`
}

// unhurried lifts the server's deadlines, because a call may take longer. Its body has been
// read: past the deadline for that, [http.Server] would take the caller for gone.
func unhurried(w http.ResponseWriter) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // a writer without deadlines needs none
	_ = control.SetWriteDeadline(time.Time{})
}

// rpcAnswer is the participant's answer.
type rpcAnswer struct {
	Payload string `json:"payload"`
}

func (s *rest) performRPC(w http.ResponseWriter, r *http.Request) error {
	at, err := pathValues(r, "name", "identity")
	if err != nil {
		return err
	}
	var body rpcRequest
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	var wrong []problem.Field
	if body.Method == "" {
		wrong = append(wrong, problem.Field{Path: "method", Detail: "is missing"})
	}
	if body.Timeout > 300 {
		wrong = append(wrong, problem.Field{Path: "timeout", Detail: "must be at most 300 seconds"})
	}
	if wrong != nil {
		return problem.Fields(wrong...)
	}
	unhurried(w)
	answer, err := s.Rooms.PerformRPC(r.Context(), &livekit.PerformRpcRequest{
		Room: at[0], DestinationIdentity: at[1], Method: body.Method, Payload: body.Payload,
		ResponseTimeoutMs: body.Timeout * 1000,
	})
	if err != nil {
		return err
	}
	return sendJSON(w, http.StatusOK, rpcAnswer{answer.Payload})
}
