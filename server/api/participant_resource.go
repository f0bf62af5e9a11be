package api

import (
	"math"
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
	Host        bool                   `json:"host" doc:"It runs the room: by its token (roomAdmin), or because it was made host."`
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
	Host     bool       `json:"host" doc:"It runs the room, or did so when it left."`
	JoinedAt *timestamp `json:"joined_at"`
	ActiveAt *timestamp `json:"active_at" doc:"When its media was connected; null if it never was."`
	LeftAt   *timestamp `json:"left_at" doc:"Null while in the room."`
	Reason   string     `json:"reason,omitempty" doc:"Why it left."`
	Media    *summary   `json:"media" doc:"How its media fared: while it is in the room as of the last minute or so, and so after a crash. Null if it never had any."`
}

// summary is how a session's media fared.
type summary struct {
	ConnectedSeconds float64      `json:"connected_seconds"`
	TCPShare         float64      `json:"tcp_share" doc:"Of that time the share in which its media went over TCP, 0 to 1."`
	RTTMs            *float64     `json:"rtt_ms" doc:"The mean round trip; null if it was never known."`
	Up               flow         `json:"up" doc:"What it published."`
	Down             flow         `json:"down" doc:"What was forwarded to it."`
	Layers           *layerShares `json:"layers" doc:"In which quality video was forwarded to it: shares of the time for which video was asked for and sent by its publisher, over all tracks, 0 to 1. Null if none was."`
	WorstMinute      *mediaMinute `json:"worst_minute" doc:"The minute of the worst score, or all of a shorter session."`
}

// flow is what went in one direction.
type flow struct {
	Bitrate          int64   `json:"bitrate" doc:"Bits a second, with repeats, of the time in which something went."`
	Bytes            int64   `json:"bytes"`
	Packets          int64   `json:"packets" doc:"That were sent."`
	Loss             float64 `json:"loss" doc:"Share of the packets that was lost, 0 to 1."`
	NACKs            int64   `json:"nacks" doc:"Packets that the receiver asked for again."`
	KeyFrameRequests int64   `json:"key_frame_requests" doc:"Key frames that the receiver asked for: a decoder does so that cannot go on, as it does when it begins."`
}

// layerShares are how long video was forwarded in each quality.
type layerShares struct {
	Off    float64 `json:"off" doc:"Not at all, for want of bandwidth or of a key frame."`
	Low    float64 `json:"low"`
	Medium float64 `json:"medium"`
	High   float64 `json:"high"`
}

// mediaMinute is how media fared for a minute.
type mediaMinute struct {
	From        *timestamp `json:"from"`
	To          *timestamp `json:"to"`
	Score       float64    `json:"score" doc:"The mean of the connection's score, from 0 to 5, the best."`
	RTTMs       *float64   `json:"rtt_ms" doc:"Null while unknown."`
	UpLoss      float64    `json:"up_loss" doc:"Share of packets lost, 0 to 1."`
	DownLoss    float64    `json:"down_loss" doc:"Share of packets lost, 0 to 1."`
	UpBitrate   int64      `json:"up_bitrate" doc:"Bits a second."`
	DownBitrate int64      `json:"down_bitrate" doc:"Bits a second."`
}

func lower(name string) string { return strings.ToLower(name) }

func showParticipant(p *livekit.ParticipantInfo, host bool) participant {
	joined := p.JoinedAtMs
	if joined == 0 {
		joined = p.JoinedAt * 1000
	}
	out := participant{
		SID: p.Sid, Identity: p.Identity, Name: p.Name, State: lower(p.State.String()), Kind: lower(p.Kind.String()),
		Metadata: p.Metadata, Attributes: p.Attributes, JoinedAt: at(joined), IsPublisher: p.IsPublisher,
		Host: host, Permissions: permission.Of(p.Permission), Tracks: showTracks(p.Tracks),
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
		Host: s.Host, JoinedAt: at(s.JoinedMs), ActiveAt: at(s.ActiveMs), LeftAt: at(s.LeftMs),
	}
	if s.LeftMs != 0 {
		out.Reason = lower(s.Reason.String())
	}
	if s.Media != nil {
		out.Media = showSummary(s.Media)
	}
	return out
}

func showSummary(m *rooms.MediaSummary) *summary {
	out := &summary{
		ConnectedSeconds: float64(m.ConnectedMs) / 1000, Up: showFlow(&m.Up), Down: showFlow(&m.Down),
		TCPShare: share(m.TCPMs, m.ConnectedMs),
	}
	if m.RTTKnownMs > 0 {
		out.RTTMs = rounded(m.RTTMs)
	}
	var shown int64
	for _, ms := range m.LayerMs {
		shown += ms
	}
	if l := m.LayerMs; shown > 0 {
		out.Layers = &layerShares{share(l[0], shown), share(l[1], shown), share(l[2], shown), share(l[3], shown)}
	}
	if w := &m.Worst; w.ToMs != 0 {
		out.WorstMinute = &mediaMinute{
			From: at(w.FromMs), To: at(w.ToMs), Score: w.Score, UpLoss: w.UpLoss, DownLoss: w.DownLoss,
			UpBitrate: int64(w.UpBitrate), DownBitrate: int64(w.DownBitrate),
		}
		if w.RTTMs > 0 {
			out.WorstMinute.RTTMs = rounded(w.RTTMs)
		}
	}
	return out
}

func showFlow(f *rooms.MediaFlow) flow {
	return flow{
		Bitrate: int64(f.Bitrate()), Bytes: int64(f.Bytes), Packets: int64(f.Packets), Loss: f.Loss(),
		NACKs: int64(f.NACKs), KeyFrameRequests: int64(f.KeyRequests),
	}
}

func share(part, of int64) float64 {
	if of == 0 {
		return 0
	}
	return float64(part) / float64(of)
}

// rounded is a time in milliseconds to their hundredth.
func rounded(ms float64) *float64 {
	ms = math.Round(ms*100) / 100
	return &ms
}
