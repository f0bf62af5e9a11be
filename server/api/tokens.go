package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/permission"
	"parlor/server/problem"
)

// defaultTTL is the lifetime of a token for which the request gives none.
const defaultTTL = 6 * time.Hour

// tokenRequest is the body of POST /v1/tokens.
type tokenRequest struct {
	Identity          string            `json:"identity,omitempty" doc:"Who joins; unique in the room. With it the token is for joining."`
	Name              string            `json:"name,omitempty"`
	Metadata          string            `json:"metadata,omitempty"`
	Attributes        map[string]string `json:"attributes,omitempty"`
	TTL               uint32            `json:"ttl,omitempty" doc:"Seconds that the token is valid; 21600 (6 h) without it."`
	Room              string            `json:"room,omitempty" doc:"Name of the room to join or administer."`
	CanPublish        *bool             `json:"can_publish,omitempty" doc:"true without it."`
	CanPublishSources []string          `json:"can_publish_sources,omitempty" enum:"camera,microphone,screen_share,screen_share_audio"`
	CanSubscribe      *bool             `json:"can_subscribe,omitempty" doc:"true without it."`
	CanPublishData    *bool             `json:"can_publish_data,omitempty" doc:"As can_publish without it."`
	CanUpdateMetadata *bool             `json:"can_update_own_metadata,omitempty"`
	Hidden            bool              `json:"hidden,omitempty"`
	Agent             bool              `json:"agent,omitempty"`
	Admin             bool              `json:"room_admin,omitempty" doc:"May administer the room by the API."`
	Create            bool              `json:"room_create,omitempty" doc:"May create and close rooms."`
	List              bool              `json:"room_list,omitempty" doc:"May list rooms."`
	DestinationRoom   string            `json:"destination_room,omitempty" doc:"Where participants may be moved to."`
	RoomPreset        string            `json:"room_preset,omitempty" doc:"A preset for the room that this join creates."`
	RoomConfig        *roomConfig       `json:"room_config,omitempty" doc:"What the room is to be like that this join creates."`
}

// roomConfig describes, in a token, the room that its bearer's join creates.
type roomConfig struct {
	EmptyTimeout     wireTimeout       `json:"empty_timeout,omitempty"`
	DepartureTimeout wireTimeout       `json:"departure_timeout,omitempty"`
	MaxParticipants  uint32            `json:"max_participants,omitempty"`
	Metadata         string            `json:"metadata,omitempty"`
	Tags             map[string]string `json:"tags,omitempty"`
}

// token is a minted token.
type token struct {
	Token     string     `json:"token"`
	Identity  string     `json:"identity,omitempty"`
	Room      string     `json:"room,omitempty"`
	ExpiresAt *timestamp `json:"expires_at"`
}

// mintToken signs a token with the caller's API key.
func (s *rest) mintToken(w http.ResponseWriter, r *http.Request) error {
	var body tokenRequest
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	if err := body.check(s.Config); err != nil {
		return err
	}
	about(r.Context(), body.Room, body.Identity)
	ttl := defaultTTL
	if body.TTL != 0 {
		ttl = time.Duration(body.TTL) * time.Second
	}
	expires := time.Now().Add(ttl)
	signed, err := s.Verifier.Mint(access.FromContext(r.Context()).APIKey, body.grants(), ttl)
	if err != nil {
		return err
	}
	return sendJSON(w, http.StatusCreated, token{
		Token: signed, Identity: body.Identity, Room: body.Room, ExpiresAt: at(expires.Unix() * 1000),
	})
}

func (t *tokenRequest) check(c Config) error {
	var wrong []problem.Field
	add := func(bad bool, path, detail string) {
		if bad {
			wrong = append(wrong, problem.Field{Path: path, Detail: detail})
		}
	}
	add(t.Identity == "" && !t.Admin && !t.Create && !t.List, "identity",
		"is missing: a token is for joining as somebody, or has room_admin, room_create or room_list")
	add((t.Identity != "" || t.Admin) && t.Room == "", "room", "is missing")
	add(strings.ContainsRune(t.Identity, 0), "identity", hasNUL)
	add(strings.ContainsRune(t.Name, 0), "name", hasNUL)
	add(strings.ContainsRune(t.Room, 0), "room", hasNUL)
	for _, source := range t.CanPublishSources {
		_, ok := permission.Source(source)
		add(!ok, "can_publish_sources", notASource)
	}
	for _, long := range t.tooLong(&c.Limits) {
		add(true, long.Path, long.Detail)
	}
	_, known := c.Presets[t.RoomPreset]
	add(t.RoomPreset != "" && !known, "room_preset", "is not a preset of the configuration")
	if wrong != nil {
		return problem.Fields(wrong...)
	}
	return nil
}

// tooLong lists the fields that a join, or the room that it opens, would refuse.
func (t *tokenRequest) tooLong(l *rooms.Limits) (wrong []problem.Field) {
	bound := func(path string, size, most int) {
		if most > 0 && size > most {
			wrong = append(wrong, problem.Field{Path: path, Detail: "must not be longer than " + strconv.Itoa(most) + " bytes"})
		}
	}
	all := func(m map[string]string) (size int) {
		for k, v := range m {
			size += len(k) + len(v)
		}
		return size
	}
	bound("identity", len(t.Identity), l.MaxIdentity)
	bound("name", len(t.Name), l.MaxParticipantName)
	bound("metadata", len(t.Metadata), l.MaxMetadata)
	bound("attributes", all(t.Attributes), l.MaxAttributes)
	bound("room", len(t.Room), l.MaxRoomName)
	bound("destination_room", len(t.DestinationRoom), l.MaxRoomName)
	if c := t.RoomConfig; c != nil {
		bound("room_config.metadata", len(c.Metadata), l.MaxMetadata)
		bound("room_config.tags", all(c.Tags), l.MaxAttributes)
	}
	return wrong
}

func (t *tokenRequest) grants() *auth.ClaimGrants {
	v := &auth.VideoGrant{
		Room: t.Room, RoomJoin: t.Identity != "", RoomAdmin: t.Admin, RoomCreate: t.Create, RoomList: t.List,
		CanPublish: t.CanPublish, CanPublishSources: t.CanPublishSources, CanSubscribe: t.CanSubscribe,
		CanPublishData: t.CanPublishData, CanUpdateOwnMetadata: t.CanUpdateMetadata,
		Hidden: t.Hidden, Agent: t.Agent, DestinationRoom: t.DestinationRoom,
	}
	g := &auth.ClaimGrants{
		Identity: t.Identity, Name: t.Name, Metadata: t.Metadata, Attributes: t.Attributes,
		Video: v, RoomPreset: t.RoomPreset,
	}
	if c := t.RoomConfig; c != nil {
		g.RoomConfig = (*auth.RoomConfiguration)(&livekit.RoomConfiguration{
			EmptyTimeout: uint32(c.EmptyTimeout), DepartureTimeout: uint32(c.DepartureTimeout),
			MaxParticipants: c.MaxParticipants, Metadata: c.Metadata, Tags: c.Tags,
		})
	}
	return g
}
