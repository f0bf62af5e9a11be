package api

import (
	"strings"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
	"parlor/server/permission"
)

// participant is a participant of a room in REST.
type participant struct {
	SID         string                 `json:"sid"`
	Identity    string                 `json:"identity"`
	Name        string                 `json:"name"`
	State       string                 `json:"state" enum:"joining,joined,active,disconnected"`
	Kind        string                 `json:"kind" doc:"standard, agent, egress, ingress, sip …"`
	Metadata    string                 `json:"metadata"`
	Attributes  map[string]string      `json:"attributes"`
	JoinedAt    *timestamp             `json:"joined_at"`
	IsPublisher bool                   `json:"is_publisher"`
	Permissions permission.Permissions `json:"permissions"`
	Tracks      []track                `json:"tracks"`
}

// track is a published track in REST.
type track struct {
	SID       string `json:"sid"`
	Name      string `json:"name"`
	Type      string `json:"type" enum:"audio,video,data"`
	Source    string `json:"source" enum:"unknown,camera,microphone,screen_share,screen_share_audio"`
	Muted     bool   `json:"muted"`
	MimeType  string `json:"mime_type"`
	Width     uint32 `json:"width,omitempty"`
	Height    uint32 `json:"height,omitempty"`
	Simulcast bool   `json:"simulcast"`
	Encrypted bool   `json:"encrypted" doc:"End to end: the server cannot see it."`
}

// session is one stay of a participant in a room.
type session struct {
	SID      string     `json:"sid"`
	Identity string     `json:"identity"`
	Name     string     `json:"name"`
	Kind     string     `json:"kind"`
	JoinedAt *timestamp `json:"joined_at"`
	ActiveAt *timestamp `json:"active_at" doc:"When its media was connected; null if it never was."`
	LeftAt   *timestamp `json:"left_at" doc:"Null while in the room."`
	Reason   string     `json:"reason,omitempty" doc:"Why it left."`
}

func lower(name string) string { return strings.ToLower(name) }

func showParticipant(p *livekit.ParticipantInfo) participant {
	joined := p.JoinedAtMs
	if joined == 0 {
		joined = p.JoinedAt * 1000
	}
	out := participant{
		SID: p.Sid, Identity: p.Identity, Name: p.Name, State: lower(p.State.String()), Kind: lower(p.Kind.String()),
		Metadata: p.Metadata, Attributes: p.Attributes, JoinedAt: at(joined), IsPublisher: p.IsPublisher,
		Permissions: permission.Of(p.Permission), Tracks: showTracks(p.Tracks),
	}
	if out.Attributes == nil {
		out.Attributes = map[string]string{}
	}
	return out
}

func showTracks(list []*livekit.TrackInfo) []track {
	out := make([]track, 0, len(list))
	for _, t := range list {
		out = append(out, showTrack(t))
	}
	return out
}

func showTrack(t *livekit.TrackInfo) track {
	return track{
		SID: t.Sid, Name: t.Name, Type: lower(t.Type.String()), Source: lower(t.Source.String()), Muted: t.Muted,
		MimeType: t.MimeType, Width: t.Width, Height: t.Height, Simulcast: len(t.Layers) > 1,
		Encrypted: t.Encryption != livekit.Encryption_NONE,
	}
}

func showSession(s *rooms.Session) session {
	out := session{
		SID: s.SID, Identity: s.Identity, Name: s.Info.GetName(), Kind: lower(s.Info.GetKind().String()),
		JoinedAt: at(s.JoinedMs), ActiveAt: at(s.ActiveMs), LeftAt: at(s.LeftMs),
	}
	if s.LeftMs != 0 {
		out.Reason = lower(s.Reason.String())
	}
	return out
}
