package authorize

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	"parlor/server/permission"
	"parlor/server/unpack"
)

// Question is what the hook asks.
type Question struct {
	Room        string          `json:"room"`
	RoomSID     string          `json:"room_sid,omitempty" doc:"Of the open room; absent if there is none."`
	Create      bool            `json:"create" doc:"No room of that name is open: this join would open it."`
	Reconnect   bool            `json:"reconnect" doc:"A client that is in the room, and lost its connection."`
	APIKey      string          `json:"api_key" doc:"That signed the token."`
	TokenID     string          `json:"token_id" doc:"The token's jti; without one the start of its SHA-256, as hex."`
	Participant Participant     `json:"participant"`
	Grants      json.RawMessage `json:"grants" doc:"The token's video grant."`
	Client      Client          `json:"client"`
}

// Participant describes the participant that joins, by its token and, where the token
// permits, its own wishes.
type Participant struct {
	Identity    string                 `json:"identity"`
	Name        string                 `json:"name"`
	Kind        string                 `json:"kind" doc:"standard, agent, egress, ingress, sip …"`
	Metadata    string                 `json:"metadata"`
	Attributes  map[string]string      `json:"attributes"`
	Permissions permission.Permissions `json:"permissions"`
}

// Client is what the client says of itself; the server adds the address.
type Client struct {
	SDK            string `json:"sdk"`
	Version        string `json:"version"`
	Protocol       int32  `json:"protocol"`
	OS             string `json:"os"`
	OSVersion      string `json:"os_version"`
	Browser        string `json:"browser"`
	BrowserVersion string `json:"browser_version"`
	DeviceModel    string `json:"device_model"`
	Network        string `json:"network"`
	Address        string `json:"address"`
}

// Answer is the hook's answer. Fields that are absent leave the token's values.
type Answer struct {
	Allow       *bool              `json:"allow" required:"true"`
	Message     string             `json:"message,omitempty" doc:"Told to a client that is not let in, with 403."`
	Participant *ParticipantChange `json:"participant,omitempty" doc:"What else it is to be; not applied on a reconnect."`
	Room        *RoomSettings      `json:"room,omitempty" doc:"What the room is to be if this join opens it."`
}

// ParticipantChange changes the participant that joins.
type ParticipantChange struct {
	Name        *string           `json:"name,omitempty"`
	Metadata    *string           `json:"metadata,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty" doc:"Set one by one; an empty value deletes the attribute."`
	Permissions *permission.Edit  `json:"permissions,omitempty"`
}

// RoomSettings are the settings of a room that the join opens.
type RoomSettings struct {
	EmptyTimeout     *Timeout          `json:"empty_timeout,omitempty"`
	DepartureTimeout *Timeout          `json:"departure_timeout,omitempty"`
	MaxParticipants  *uint32           `json:"max_participants,omitempty"`
	Metadata         *string           `json:"metadata,omitempty"`
	Tags             map[string]string `json:"tags,omitempty"`
}

// Timeout is whole seconds from 1, or "never", in the form of LiveKit's messages.
type Timeout uint32

// UnmarshalJSON refuses values that are no timeout.
func (t *Timeout) UnmarshalJSON(b []byte) error {
	if string(b) == `"never"` {
		*t = Timeout(rooms.WireNever)
		return nil
	}
	n, err := strconv.ParseUint(string(b), 10, 32)
	if err != nil || n == 0 || n == uint64(rooms.WireNever) {
		return errors.New(`a timeout must be whole seconds, at least 1, or "never"`)
	}
	*t = Timeout(n)
	return nil
}

// parse reads an answer: 204 means yes, 403 means no, 200 has a body.
func parse(status int, body []byte) (*Answer, error) {
	// Two MiB of one-byte values would unpack to a hundred times that.
	if _, err := unpack.JSON(body, 2*int64(len(body))+512<<10); err != nil {
		return nil, fmt.Errorf("the answer is refused: %w", err)
	}
	yes, no := true, false
	switch status {
	case http.StatusNoContent:
		return &Answer{Allow: &yes}, nil
	case http.StatusForbidden:
		var why struct{ Message string }
		_ = json.Unmarshal(body, &why) // the status says enough
		return &Answer{Allow: &no, Message: message(why.Message)}, nil
	case http.StatusOK:
	default:
		return nil, fmt.Errorf("the answer is %d %s", status, http.StatusText(status))
	}
	// Unknown fields are refused: a misspelt permission that is ignored could allow more
	// than was meant.
	a := &Answer{}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(a); err != nil {
		return nil, fmt.Errorf("the answer cannot be read: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("the answer is more than one JSON object")
	}
	if a.Allow == nil {
		return nil, errors.New("the answer does not say allow")
	}
	if a.Participant != nil && a.Participant.Permissions != nil {
		for _, s := range a.Participant.Permissions.CanPublishSources {
			if _, ok := permission.Source(s); !ok {
				return nil, fmt.Errorf("the answer names a source that does not exist: %q", s)
			}
		}
	}
	a.Message = message(a.Message)
	return a, nil
}

// message is s for a client: one line of bounded length.
func message(s string) string {
	const most = 500
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s), "")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	if s == "" {
		return "you are not let into this room"
	}
	return s
}

// Amend returns info with the answer's changes.
func (a *Answer) Amend(info *livekit.ParticipantInfo) *livekit.ParticipantInfo {
	c := a.Participant
	if c == nil {
		return info
	}
	info = proto.CloneOf(info)
	set(&info.Name, c.Name)
	set(&info.Metadata, c.Metadata)
	for k, v := range c.Attributes {
		if info.Attributes == nil {
			info.Attributes = map[string]string{}
		}
		if v == "" {
			delete(info.Attributes, k)
		} else {
			info.Attributes[k] = v
		}
	}
	if p := c.Permissions; p != nil {
		if info.Permission == nil {
			info.Permission = &livekit.ParticipantPermission{}
		}
		p.Apply(info.Permission)
	}
	return info
}

// AmendRoom returns the settings of a room to create, with the answer's changes; req may
// be nil.
func (a *Answer) AmendRoom(req *livekit.CreateRoomRequest) *livekit.CreateRoomRequest {
	s := a.Room
	if s == nil {
		return req
	}
	if req = proto.CloneOf(req); req == nil {
		req = &livekit.CreateRoomRequest{}
	}
	set(&req.EmptyTimeout, (*uint32)(s.EmptyTimeout))
	set(&req.DepartureTimeout, (*uint32)(s.DepartureTimeout))
	set(&req.MaxParticipants, s.MaxParticipants)
	set(&req.Metadata, s.Metadata)
	if s.Tags != nil {
		req.Tags = s.Tags
	}
	return req
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
