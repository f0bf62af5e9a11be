package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media"
	"parlor/media/downlink"
	"parlor/media/forward"
	"parlor/rooms"
	"parlor/server/problem"
)

// roomStats is a page of figures on the media of a room's participants.
type roomStats struct {
	SID          string             `json:"sid"`
	Name         string             `json:"name"`
	At           *timestamp         `json:"at"`
	Participants []participantStats `json:"participants"`
	NextCursor   string             `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

// participantStats are figures on one participant's media.
type participantStats struct {
	SID           string              `json:"sid"`
	Identity      string              `json:"identity"`
	Quality       string              `json:"quality" enum:"unknown,lost,poor,good,excellent" doc:"What LiveKit calls connection quality, of the last seconds."`
	Score         *float64            `json:"score" doc:"From 0 to 5, the best; null while unknown."`
	Client        *clientInfo         `json:"client" doc:"Null while its media is not set up."`
	Up            string              `json:"up" enum:"none,udp,tcp" doc:"How its media comes."`
	Down          string              `json:"down" enum:"none,udp,tcp" doc:"How media goes to it."`
	UpEstimate    *int64              `json:"up_estimate" doc:"Bits a second that the server told the participant it may send; null for one that estimates that itself, as those do that take feedback by packets."`
	Tracks        []publishedStats    `json:"tracks"`
	Downlink      *downlinkStats      `json:"downlink" doc:"The path to it; null while it is not connected."`
	Subscriptions []subscriptionStats `json:"subscriptions"`
}

// clientInfo is a participant's client, as it said when it joined, and where it came from.
type clientInfo struct {
	SDK     string `json:"sdk"`
	Version string `json:"version"`
	OS      string `json:"os"`
	Browser string `json:"browser"`
	Device  string `json:"device"`
	Network string `json:"network"`
	Address string `json:"address"`
}

func showClient(c *livekit.ClientInfo) *clientInfo {
	if c == nil {
		return nil
	}
	words := func(all ...string) string { return strings.TrimSpace(strings.Join(all, " ")) }
	return &clientInfo{
		SDK: lower(c.GetSdk().String()), Version: c.GetVersion(), OS: words(c.GetOs(), c.GetOsVersion()),
		Browser: words(c.GetBrowser(), c.GetBrowserVersion()), Device: c.GetDeviceModel(), Network: c.GetNetwork(), Address: c.GetAddress(),
	}
}

// publishedStats are figures on a published track.
type publishedStats struct {
	SID    string       `json:"sid"`
	Type   string       `json:"type" enum:"audio,video,data"`
	Source string       `json:"source" enum:"unknown,camera,microphone,screen_share,screen_share_audio"`
	Muted  bool         `json:"muted"`
	Layers []layerStats `json:"layers" doc:"One of sound; one of each quality and codec of video."`
}

// layerStats are figures on one layer, as it arrives.
type layerStats struct {
	MimeType         string   `json:"mime_type"`
	RID              string   `json:"rid,omitempty"`
	Quality          string   `json:"quality" enum:"low,medium,high"`
	Width            uint32   `json:"width,omitempty"`
	Height           uint32   `json:"height,omitempty"`
	Live             bool     `json:"live" doc:"Packets come now."`
	Bitrate          int64    `json:"bitrate" doc:"Bits a second, over the last second."`
	FPS              float64  `json:"fps" doc:"Frames a second, over the last second; of video."`
	Loss             float64  `json:"loss" doc:"Share of packets lost in the last seconds, 0 to 1."`
	JitterMs         float64  `json:"jitter_ms"`
	RTTMs            *float64 `json:"rtt_ms" doc:"Round trip to the publisher; null while unknown."`
	Packets          int64    `json:"packets"`
	Bytes            int64    `json:"bytes"`
	PacketsLost      int64    `json:"packets_lost"`
	NACKs            int64    `json:"nacks" doc:"Packets that the publisher was asked for again."`
	KeyFrames        int64    `json:"key_frames"`
	KeyFrameRequests int64    `json:"key_frame_requests" doc:"Key frames that the publisher was asked for."`
}

// downlinkStats are figures on the path to a participant.
type downlinkStats struct {
	Estimate     *int64   `json:"estimate" doc:"Bits a second that may be sent; null while no bound is known."`
	Cause        string   `json:"cause" enum:"start,delay,loss,probe,receiver" doc:"What the estimate is bounded by: start: nothing is known yet; delay: a queue that was seen; loss: losses that grow with what is sent; probe: what a probe found; receiver: the receiver's own estimate."`
	Sent         int64    `json:"sent" doc:"Bits a second, with repeats and padding, over the last half second or so."`
	Acknowledged *int64   `json:"acknowledged" doc:"Bits a second that arrived; null where the client does not report it."`
	Allocated    int64    `json:"allocated" doc:"Bits a second that the layers cost which are forwarded."`
	Wanted       int64    `json:"wanted" doc:"Bits a second that all would cost which is asked for."`
	Loss         float64  `json:"loss" doc:"Share of packets lost in the last seconds, 0 to 1."`
	RTTMs        *float64 `json:"rtt_ms" doc:"Round trip; null while unknown."`
	QueueMs      float64  `json:"queue_ms" doc:"How long packets wait on the way."`
	JitterMs     float64  `json:"jitter_ms"`
	Congested    bool     `json:"congested" doc:"The queue on the way grows, or is being emptied."`
	Limited      bool     `json:"limited" doc:"The estimate is near what the path was seen not to carry."`
	Waiting      int64    `json:"waiting_bytes" doc:"That wait here for their turn."`
	Paced        int64    `json:"paced_packets" doc:"Packets that had to wait for their turn."`
	Dropped      int64    `json:"dropped_packets" doc:"Of those the ones that became too old."`
	Padding      int64    `json:"padding_bytes" doc:"Sent to find out whether more fits."`
	Paused       int64    `json:"paused_tracks" doc:"Now, for want of bandwidth."`
}

// subscriptionStats are figures on a track as it is forwarded to a participant.
type subscriptionStats struct {
	SID              string   `json:"sid" doc:"Of the track."`
	PublisherSID     string   `json:"publisher_sid"`
	Wanted           string   `json:"wanted" enum:"off,low,medium,high" doc:"The quality that the subscriber asks for; of sound, high."`
	Forwarded        string   `json:"forwarded" enum:"off,low,medium,high" doc:"The quality that it gets; off: nothing."`
	Shortfall        string   `json:"shortfall" enum:"none,not_negotiated,muted,not_asked_for,paused,bandwidth,not_sent,key_frame,softer" doc:"Why it gets less than it asks for. paused: not even the lowest layer fits; bandwidth: more does not fit; not_sent: the publisher does not send it; key_frame: the publisher's next one is waited for; softer: others are louder, and audio.max_forwarded lets no more voices through."`
	Width            uint32   `json:"width,omitempty"`
	Height           uint32   `json:"height,omitempty"`
	Bitrate          int64    `json:"bitrate" doc:"Bits a second with repeats, over the last second."`
	FPS              float64  `json:"fps" doc:"Frames a second, over the last second; of video."`
	Loss             float64  `json:"loss" doc:"Share of packets lost, as last reported, 0 to 1."`
	JitterMs         float64  `json:"jitter_ms"`
	RTTMs            *float64 `json:"rtt_ms" doc:"Round trip; null while unknown."`
	Packets          int64    `json:"packets"`
	Bytes            int64    `json:"bytes"`
	PacketsLost      int64    `json:"packets_lost"`
	NACKs            int64    `json:"nacks" doc:"Packets that the subscriber asked for again."`
	Repeats          int64    `json:"repeats" doc:"Packets sent again."`
	Overdue          int64    `json:"overdue" doc:"Packets dropped since they waited too long for their turn."`
	KeyFrameRequests int64    `json:"key_frame_requests" doc:"Key frames that the subscriber asked for."`
	Switches         int64    `json:"switches" doc:"Of layers."`
	Pauses           int64    `json:"pauses" doc:"For want of bandwidth."`
}

// measured is a participant's media with figures.
type measured interface {
	Stats(ctx context.Context) (media.PeerStats, error)
}

// mostSubscriptions is the number of subscriptions at which a page of stats ends.
const mostSubscriptions = 5000

// getRoomStats answers with figures on the media of an open room, by identity.
func (s *rest) getRoomStats(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	params := r.URL.Query()
	limit, bad := pageSize(params)
	if bad != nil {
		return problem.Fields(*bad)
	}
	rec, err := s.Records.FindOpen(r.Context(), name)
	if err != nil {
		return err
	}
	members, err := s.Rooms.Members(r.Context(), name)
	if err != nil {
		return err
	}
	slices.SortFunc(members, func(a, b rooms.Member) int { return strings.Compare(a.Info.Identity, b.Info.Identity) })
	now := timestamp(time.Now().UTC())
	page := roomStats{SID: rec.SID, Name: rec.Name, At: &now, Participants: []participantStats{}}
	after, only, subscriptions := params.Get("cursor"), params.Get("identity"), 0
	for _, m := range members {
		if m.Info.Identity <= after || only != "" && m.Info.Identity != only {
			continue
		}
		if n := len(page.Participants); n == limit || n > 0 && subscriptions >= mostSubscriptions {
			page.NextCursor = page.Participants[n-1].Identity
			break
		}
		p, err := showParticipantStats(r.Context(), m)
		if err != nil {
			return err
		}
		subscriptions += len(p.Subscriptions)
		page.Participants = append(page.Participants, p)
	}
	return sendJSON(w, http.StatusOK, page)
}

// sampleList is how a participant's media fared lately.
type sampleList struct {
	SID      string        `json:"sid"`
	Identity string        `json:"identity"`
	Samples  []mediaSample `json:"samples" doc:"The oldest first."`
}

// mediaSample is how a participant's media fared for some seconds.
type mediaSample struct {
	At       *timestamp `json:"at" doc:"The end of the seconds."`
	Up       int64      `json:"up" doc:"Bits a second that came from it."`
	Down     int64      `json:"down" doc:"Bits a second of media that went to it."`
	Estimate *int64     `json:"estimate" doc:"Bits a second that may be sent to it, at the end; null while no bound is known."`
	UpLoss   float64    `json:"up_loss" doc:"Share of packets lost, 0 to 1."`
	DownLoss float64    `json:"down_loss"`
	RTTMs    *float64   `json:"rtt_ms" doc:"Round trip; null while unknown."`
}

// sampled is a participant's media with samples of how it fared.
type sampled interface{ Samples() []media.Sample }

// getSamples answers with how a participant's media fared in this room; with no samples while
// it has no media. What ended before it was moved here is of another room.
func (s *rest) getSamples(w http.ResponseWriter, r *http.Request) error {
	m, err := s.participantOf(r)
	if err != nil {
		return err
	}
	out := sampleList{SID: m.Info.Sid, Identity: m.Info.Identity, Samples: []mediaSample{}}
	if peer, ok := m.Peer.(sampled); ok {
		for _, one := range peer.Samples() {
			if one.ToMs <= m.Info.JoinedAtMs {
				continue
			}
			out.Samples = append(out.Samples, mediaSample{
				At: at(one.ToMs), Up: int64(one.Up), Down: int64(one.Down), Estimate: knownBitrate(float64(one.Estimate)),
				UpLoss: float64(one.UpLoss), DownLoss: float64(one.DownLoss),
				RTTMs: knownMilliseconds(time.Duration(float64(one.RTTMs) * float64(time.Millisecond))),
			})
		}
	}
	return sendJSON(w, http.StatusOK, out)
}

// showParticipantStats shows the figures on a member's media. Without media, or no longer
// with any, they are unknown.
func showParticipantStats(ctx context.Context, m rooms.Member) (participantStats, error) {
	out := participantStats{
		SID: m.Info.Sid, Identity: m.Info.Identity, Quality: "unknown", Up: "none", Down: "none",
		Tracks: []publishedStats{}, Subscriptions: []subscriptionStats{},
	}
	var s media.PeerStats
	peer, has := m.Peer.(measured)
	if has {
		var err error
		switch s, err = peer.Stats(ctx); {
		case errors.Is(err, media.ErrPeerClosed):
			has = false
		case err != nil:
			return out, err
		}
	}
	layers := map[string][]forward.LayerStats{}
	for _, t := range s.Published {
		layers[t.SID] = t.Layers
	}
	for _, t := range m.Info.Tracks {
		shown := publishedStats{
			SID: t.Sid, Type: lower(t.Type.String()), Source: lower(t.Source.String()), Muted: t.Muted, Layers: []layerStats{},
		}
		for i := range layers[t.Sid] {
			shown.Layers = append(shown.Layers, showLayer(&layers[t.Sid][i]))
		}
		out.Tracks = append(out.Tracks, shown)
	}
	if !has {
		return out, nil
	}
	score := float64(s.Score)
	out.Client = showClient(s.Client)
	out.Quality, out.Score = lower(s.Quality.String()), &score
	out.Up, out.Down = transportOf(s.Up), transportOf(s.Down)
	if s.Uplink > 0 {
		told := int64(s.Uplink)
		out.UpEstimate = &told
	}
	if s.Downlink.Connected {
		out.Downlink = showDownlink(&s.Downlink)
	}
	for i := range s.Subscriptions {
		out.Subscriptions = append(out.Subscriptions, showSubscription(&s.Subscriptions[i]))
	}
	return out, nil
}

func transportOf(protocol string) string {
	if protocol == "" {
		return "none"
	}
	return protocol
}

func showLayer(l *forward.LayerStats) layerStats {
	return layerStats{
		MimeType: l.MimeType, RID: l.RID, Quality: lower(l.Quality.String()), Width: l.Width, Height: l.Height, Live: l.Live,
		Bitrate: int64(l.Bitrate), FPS: l.FPS, Loss: l.Loss, JitterMs: milliseconds(l.Jitter), RTTMs: knownMilliseconds(l.RTT),
		Packets: int64(l.Packets), Bytes: int64(l.Bytes), PacketsLost: int64(l.Lost), NACKs: int64(l.NACKs),
		KeyFrames: int64(l.KeyFrames), KeyFrameRequests: int64(l.KeyRequests),
	}
}

func showDownlink(d *downlink.Stats) *downlinkStats {
	return &downlinkStats{
		Estimate: knownBitrate(d.Estimate), Cause: d.Cause, Sent: int64(d.Sent), Acknowledged: knownBitrate(d.Acknowledged),
		Allocated: int64(d.Allocated), Wanted: int64(d.Wanted), Loss: d.Loss, RTTMs: knownMilliseconds(d.RTT),
		QueueMs: milliseconds(d.Queue), JitterMs: milliseconds(d.Jitter), Congested: d.Congested, Limited: d.Limited,
		Waiting: int64(d.WaitingBytes), Paced: int64(d.Paced), Dropped: int64(d.Dropped), Padding: int64(d.Padding),
		Paused: int64(d.Paused),
	}
}

func showSubscription(t *media.SubscriptionStats) subscriptionStats {
	f := &t.Forwarded
	out := subscriptionStats{
		SID: t.SID, PublisherSID: t.PublisherSID, Wanted: "off", Forwarded: "off", Shortfall: "not_negotiated",
	}
	if !t.Negotiated {
		return out
	}
	out.Wanted, out.Forwarded, out.Shortfall = lower(f.Wanted.String()), lower(f.Current.String()), "none"
	if f.Shortfall != "" {
		out.Shortfall = string(f.Shortfall)
	}
	out.Width, out.Height, out.Bitrate, out.FPS = f.Width, f.Height, int64(f.Bitrate), f.FPS
	out.Loss, out.JitterMs, out.RTTMs = f.FractionLost, milliseconds(f.Jitter), knownMilliseconds(f.RTT)
	out.Packets, out.Bytes, out.PacketsLost = int64(f.Packets), int64(f.Bytes), int64(f.Lost)
	out.NACKs, out.Repeats, out.Overdue = int64(f.NACKs), int64(f.Retransmitted), int64(f.Overdue)
	out.KeyFrameRequests, out.Switches, out.Pauses = int64(f.KeyRequests), int64(f.Switches), int64(f.Pauses)
	return out
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// knownMilliseconds is d in ms; nil for 0, which means unknown.
func knownMilliseconds(d time.Duration) *float64 {
	if d == 0 {
		return nil
	}
	ms := milliseconds(d)
	return &ms
}

// knownBitrate is bitrate; nil if it is unknown.
func knownBitrate(bitrate float64) *int64 {
	if bitrate <= 0 {
		return nil
	}
	whole := int64(bitrate)
	return &whole
}
