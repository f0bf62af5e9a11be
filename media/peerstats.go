package media

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/livekit/protocol/livekit"

	"parlor/media/downlink"
	"parlor/media/forward"
)

// ErrPeerClosed is the error of a call on a peer that has ended.
var ErrPeerClosed = errors.New("the participant's media has ended")

// PeerStats are statistics of a participant's media.
type PeerStats struct {
	Quality livekit.ConnectionQuality // of the last seconds
	Score   float32                   // 0 to 5; 5 is the best

	// The protocol that carries media from and to the participant: "udp" or "tcp"; empty
	// while it is not connected.
	Up, Down string
	Client   *livekit.ClientInfo // as it said when it joined; must not be changed

	// Uplink is the bitrate that the participant was told it may send, in bits/s; 0: it was
	// told none, as it estimates that itself.
	Uplink        float64
	Published     []PublishedStats // by SID
	Downlink      downlink.Stats
	Subscriptions []SubscriptionStats // in the order subscribed
}

// PublishedStats are statistics of a track that the participant publishes.
type PublishedStats struct {
	SID    string
	Layers []forward.LayerStats // the lowest quality first
}

// SubscriptionStats are statistics of a track that is forwarded to the participant.
type SubscriptionStats struct {
	SID, PublisherSID string
	Negotiated        bool // media may flow; otherwise Forwarded is empty
	Forwarded         forward.ForwarderStats
}

// Stats returns statistics of the participant's media. It does not delay packets. The
// error is ErrPeerClosed or the context's.
func (p *Peer) Stats(ctx context.Context) (PeerStats, error) {
	answer := make(chan PeerStats, 1)
	p.post(func() { answer <- p.stats() })
	select {
	case s := <-answer:
		return s, nil
	case <-p.done:
		return PeerStats{}, ErrPeerClosed
	case <-ctx.Done():
		return PeerStats{}, ctx.Err()
	}
}

// stats runs on the loop.
func (p *Peer) stats() PeerStats {
	s := PeerStats{Up: p.pub.protocol(), Down: p.down().protocol(), Client: p.cfg.Client, Downlink: p.down().down.Stats()}
	s.Quality, s.Score = p.quality.judge()
	if estimate := p.pub.remb; estimate != nil && p.pub.twcc == nil {
		s.Uplink = estimate.Told()
	}
	for _, pub := range p.pubs {
		track := PublishedStats{SID: pub.sid}
		for _, part := range pub.parts() {
			for _, u := range part.streams {
				if u.layer != nil {
					track.Layers = append(track.Layers, u.layer.Stats())
				}
			}
		}
		slices.SortStableFunc(track.Layers, func(a, b forward.LayerStats) int {
			return cmp.Or(cmp.Compare(a.MimeType, b.MimeType), cmp.Compare(a.Quality, b.Quality))
		})
		s.Published = append(s.Published, track)
	}
	slices.SortFunc(s.Published, func(a, b PublishedStats) int { return cmp.Compare(a.SID, b.SID) })
	for _, sub := range p.subOrder {
		track := SubscriptionStats{SID: sub.sid, PublisherSID: sub.ask.PublisherSID}
		if sub.forwarder != nil {
			track.Negotiated, track.Forwarded = true, sub.forwarder.Stats()
		}
		s.Subscriptions = append(s.Subscriptions, track)
	}
	return s
}
