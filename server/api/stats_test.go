package api_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/media"
	"parlor/media/downlink"
	"parlor/media/forward"
	"parlor/rooms"
)

// measuredMedia is a guest's peer with statistics.
type measuredMedia struct {
	noMedia
	stats media.PeerStats
	err   error
}

func (m measuredMedia) Stats(context.Context) (media.PeerStats, error) { return m.stats, m.err }

type statsPage struct {
	SID, Name    string
	At           time.Time
	Participants []struct {
		Identity, Quality, Up, Down string
		Score                       *float64
		Tracks                      []struct {
			SID, Type, Source string
			Layers            []map[string]any
		}
		UpEstimate    *int64 `json:"up_estimate"`
		Downlink      map[string]any
		Subscriptions []map[string]any
	}
	NextCursor string `json:"next_cursor"`
}

func TestRoomStats(t *testing.T) {
	h := open(t)
	ada := h.mustJoin("board", "ada")
	sid := ada.publish()
	h.mustJoin("board", "bob")
	h.mustJoin("board", "eve")
	peer := measuredMedia{noMedia: noMedia{ada}, stats: media.PeerStats{
		Quality: livekit.ConnectionQuality_GOOD, Score: 3.5, Up: "udp", Down: "tcp", Uplink: 1_200_000.9,
		Published: []media.PublishedStats{{SID: sid, Layers: []forward.LayerStats{{
			MimeType: "audio/opus", Quality: livekit.VideoQuality_HIGH, Live: true, Bitrate: 32_000, Loss: 0.25,
			Jitter: 1500 * time.Microsecond, NACKs: 3,
		}}}},
		Downlink: downlink.Stats{Connected: true, Estimate: 600_000, Cause: "delay", RTT: 40 * time.Millisecond, Limited: true},
		Subscriptions: []media.SubscriptionStats{
			{SID: "TR_x", PublisherSID: "PA_x", Negotiated: true, Forwarded: forward.ForwarderStats{
				Wanted: livekit.VideoQuality_HIGH, Current: livekit.VideoQuality_LOW, Shortfall: forward.Bandwidth, KeyRequests: 2, Retransmitted: 7,
			}},
			{SID: "TR_y", PublisherSID: "PA_x"},
		},
	}}
	require.NoError(t, ada.Enter(peer, func(*rooms.Participant, rooms.Snapshot) {}))
	ada.Sync()

	token := h.token(admin("board"))
	resp, body := h.ask("GET", "/v1/rooms/board/stats", token, "", "")
	require.Equal(t, 200, resp.StatusCode, body)
	page := read[statsPage](t, body)
	require.Equal(t, "board", page.Name)
	require.WithinDuration(t, time.Now(), page.At, time.Minute)
	require.Len(t, page.Participants, 3)
	p := page.Participants[0]
	require.Equal(t, "ada", p.Identity)
	require.Equal(t, []string{"good", "udp", "tcp"}, []string{p.Quality, p.Up, p.Down})
	require.InDelta(t, 3.5, *p.Score, 0.001)
	require.Equal(t, int64(1_200_000), *p.UpEstimate)
	require.Nil(t, page.Participants[1].UpEstimate, "it was told none")
	require.Equal(t, []string{sid, "audio", "microphone"}, []string{p.Tracks[0].SID, p.Tracks[0].Type, p.Tracks[0].Source})
	require.Subset(t, p.Tracks[0].Layers[0], map[string]any{
		"mime_type": "audio/opus", "live": true, "bitrate": 32_000.0, "loss": 0.25, "jitter_ms": 1.5, "rtt_ms": nil, "nacks": 3.0,
	})
	require.Subset(t, p.Downlink, map[string]any{"estimate": 600_000.0, "cause": "delay", "rtt_ms": 40.0, "acknowledged": nil, "limited": true})
	require.Subset(t, p.Subscriptions[0], map[string]any{
		"sid": "TR_x", "publisher_sid": "PA_x", "wanted": "high", "forwarded": "low", "shortfall": "bandwidth", "key_frame_requests": 2.0, "repeats": 7.0,
	})
	require.Subset(t, p.Subscriptions[1], map[string]any{"shortfall": "not_negotiated", "forwarded": "off"})
	require.Equal(t, "unknown", page.Participants[1].Quality, "it has no media that tells")
	require.Nil(t, page.Participants[1].Downlink)

	var seen []string
	cursor := ""
	for range 3 {
		_, body = h.ask("GET", "/v1/rooms/board/stats?limit=1&cursor="+cursor, token, "", "")
		page = read[statsPage](t, body)
		require.Len(t, page.Participants, 1)
		seen = append(seen, page.Participants[0].Identity)
		cursor = page.NextCursor
	}
	require.Equal(t, []string{"ada", "bob", "eve"}, seen)
	require.Empty(t, cursor)
	_, body = h.ask("GET", "/v1/rooms/board/stats?identity=bob", token, "", "")
	require.Equal(t, "bob", read[statsPage](t, body).Participants[0].Identity)

	for path, status := range map[string]int{"/v1/rooms/none/stats": 404, "/v1/rooms/board/stats?limit=0": 400} {
		resp, body = h.server("GET", path, "")
		require.Equal(t, status, resp.StatusCode, body)
	}
	resp, _ = h.ask("GET", "/v1/rooms/board/stats", h.token(&auth.VideoGrant{RoomList: true}), "", "")
	require.Equal(t, 403, resp.StatusCode, "who may list rooms does not see who is in them")
}

// sampledMedia is a guest's peer that tells how its media fared.
type sampledMedia struct {
	noMedia
	samples []media.Sample
}

func (m sampledMedia) Samples() []media.Sample { return m.samples }

func TestHowAParticipantFared(t *testing.T) {
	h := open(t)
	ada := h.mustJoin("board", "ada")
	h.mustJoin("board", "bob")
	show := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000Z") }
	first := time.Now().Add(10 * time.Second)
	second := first.Add(10 * time.Second)
	peer := sampledMedia{noMedia{ada}, []media.Sample{
		{ToMs: time.Now().Add(-time.Minute).UnixMilli(), Up: 32_000}, // of a room that it was in before
		{ToMs: first.UnixMilli(), Up: 64_000, UpLoss: 0.25},
		{ToMs: second.UnixMilli(), Up: 64_000, Down: 500_000, Estimate: 900_000, DownLoss: 0.5, RTTMs: 40},
	}}
	require.NoError(t, ada.Enter(peer, func(*rooms.Participant, rooms.Snapshot) {}))
	ada.Sync()
	at := "/v1/rooms/board/participants/"
	resp, body := h.ask("GET", at+"ada/samples", h.token(admin("board")), "", "")
	require.Equal(t, 200, resp.StatusCode, body)
	require.JSONEq(t, `{"sid":"`+ada.SID()+`","identity":"ada","samples":[
		{"at":"`+show(first)+`","up":64000,"down":0,"estimate":null,"up_loss":0.25,"down_loss":0,"rtt_ms":null},
		{"at":"`+show(second)+`","up":64000,"down":500000,"estimate":900000,"up_loss":0,"down_loss":0.5,"rtt_ms":40}]}`, body)
	_, body = h.ask("GET", at+"bob/samples", h.token(admin("board")), "", "")
	require.Contains(t, body, `"samples":[]`, "it has no media that tells")
	resp, _ = h.ask("GET", at+"eve/samples", h.token(admin("board")), "", "")
	require.Equal(t, 404, resp.StatusCode)
	resp, _ = h.ask("GET", at+"ada/samples", h.token(admin("lobby")), "", "")
	require.Equal(t, 403, resp.StatusCode)
}

// A page with very many subscriptions ends early, and the statistics of sessions that
// have ended meanwhile are unknown.
func TestPagesOfStatsAreBounded(t *testing.T) {
	h := open(t)
	many := media.PeerStats{Subscriptions: make([]media.SubscriptionStats, 3000)}
	for i := range 4 {
		g := h.mustJoin("board", fmt.Sprintf("p%d", i))
		m := measuredMedia{noMedia: noMedia{g}, stats: many}
		if i == 3 {
			m.err = media.ErrPeerClosed
		}
		require.NoError(t, g.Enter(m, func(*rooms.Participant, rooms.Snapshot) {}))
		g.Sync()
	}
	_, body := h.ask("GET", "/v1/rooms/board/stats", h.token(admin("board")), "", "")
	page := read[statsPage](t, body)
	require.Len(t, page.Participants, 2)
	_, body = h.ask("GET", "/v1/rooms/board/stats?cursor="+page.NextCursor, h.token(admin("board")), "", "")
	page = read[statsPage](t, body)
	require.Len(t, page.Participants, 2)
	require.Equal(t, "unknown", page.Participants[1].Quality)
}
