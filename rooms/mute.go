package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

// Hold keeps tracks muted, those published later too, until it is released. It is part of
// the room's stored state and must not be changed once set.
type Hold struct {
	Sources []livekit.TrackSource `json:"sources,omitempty"` // empty = every audio track
	Except  []string              `json:"except,omitempty"`  // identities
}

// MaxSources bounds a list of track sources: there are five.
const MaxSources = 16

func checkSources(list []livekit.TrackSource) error {
	if len(list) > MaxSources {
		return Errorf(Invalid, "more than %d track sources are given", MaxSources)
	}
	return nil
}

// checkHold bounds a hold, because it is written with every change of the room.
func (rs *Rooms) checkHold(h *Hold) error {
	size := 0
	for _, identity := range h.Except {
		if err := rs.checkIdentity(identity); err != nil {
			return err
		}
		size += len(identity)
	}
	if most := rs.cfg.Limits.MaxAttributes; most > 0 && size > most {
		return Errorf(Invalid, "the identities that are left alone are longer than %d bytes together", most)
	}
	return checkSources(h.Sources)
}

// covers reports whether h applies to a track of that identity.
func (h *Hold) covers(identity string, t *livekit.TrackInfo) bool {
	if slices.Contains(h.Except, identity) {
		return false
	}
	if len(h.Sources) == 0 {
		return t.Type == livekit.TrackType_AUDIO
	}
	return slices.Contains(h.Sources, sourceOf(t.Source, t.Type))
}

// sourceOf is the source of a track for restrictions. The client chooses the source that it
// announces: a track without one counts as microphone or camera, and one whose source does
// not belong to its kind counts as what it would be of that kind.
func sourceOf(src livekit.TrackSource, kind livekit.TrackType) livekit.TrackSource {
	screen := src == livekit.TrackSource_SCREEN_SHARE || src == livekit.TrackSource_SCREEN_SHARE_AUDIO
	switch audio := kind == livekit.TrackType_AUDIO; {
	case audio && screen:
		return livekit.TrackSource_SCREEN_SHARE_AUDIO
	case audio:
		return livekit.TrackSource_MICROPHONE
	case screen:
		return livekit.TrackSource_SCREEN_SHARE
	}
	return livekit.TrackSource_CAMERA
}

// MutedTrack is a track that [Rooms.MuteAll] muted, with its publisher's identity.
type MutedTrack struct {
	Identity string
	Track    *livekit.TrackInfo
}

// MuteAll mutes the published tracks that the hold covers, and returns those that
// were not muted before. With hold it keeps them and later ones muted, through
// restarts, until [Rooms.Release]; it takes the place of an earlier hold.
func (rs *Rooms) MuteAll(ctx context.Context, room string, which Hold, hold bool) ([]MutedTrack, error) {
	if err := rs.checkHold(&which); err != nil {
		return nil, err
	}
	if hold {
		// The hold is set first, so that it covers tracks that are published meanwhile.
		if _, err := rs.edit(ctx, room, nil, func(rec *Record) {
			rec.Config.Hold = &which
			rec.Config.Readable()
		}); err != nil {
			return nil, err
		}
	}
	return askName(ctx, rs, room, func(r *Room, reply answer[[]MutedTrack]) {
		if err := r.found(); err != nil {
			reply(nil, err)
			return
		}
		var muted []MutedTrack
		for _, t := range r.tracks {
			if p := t.publisher; !t.info.Muted && !p.shadow() && which.covers(p.identity, t.info) {
				r.muteRemotely(t, true)
				muted = append(muted, MutedTrack{p.identity, t.info})
			}
		}
		slices.SortFunc(muted, func(a, b MutedTrack) int {
			return cmp.Or(cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Track.Sid, b.Track.Sid))
		})
		r.afterWrites(func(err error) { reply(muted, err) })
	})
}

// Release ends the room's hold. Muted tracks stay muted until their publishers unmute
// them.
func (rs *Rooms) Release(ctx context.Context, room string) error {
	_, err := rs.edit(ctx, room, nil, func(rec *Record) { rec.Config.Hold = nil })
	return err
}

// held reports whether a track of p must be muted.
func (r *Room) held(p *Participant, t *livekit.TrackInfo) bool {
	h := r.rec.Config.Hold
	return h != nil && !p.shadow() && h.covers(p.identity, t)
}

// HoldTopic is the topic of the data packets by which the server tells a client
// which of its sources a hold keeps muted: {"held":["microphone"]}, an empty list
// when nothing is kept muted any more. LiveKit has no message for it.
const HoldTopic = "parlor.hold"

// heldSources are the sources of p that the hold keeps muted, in lower case.
func (r *Room) heldSources(p *Participant) []string {
	held := []string{}
	for _, t := range []*livekit.TrackInfo{
		{Type: livekit.TrackType_AUDIO, Source: livekit.TrackSource_MICROPHONE},
		{Type: livekit.TrackType_VIDEO, Source: livekit.TrackSource_CAMERA},
		{Type: livekit.TrackType_VIDEO, Source: livekit.TrackSource_SCREEN_SHARE},
		{Type: livekit.TrackType_AUDIO, Source: livekit.TrackSource_SCREEN_SHARE_AUDIO},
	} {
		if r.held(p, t) {
			held = append(held, strings.ToLower(t.Source.String()))
		}
	}
	return held
}

// tellHeld tells p's client which sources the hold keeps muted.
func (r *Room) tellHeld(p *Participant) {
	if p.peer == nil || p.shadow() {
		return
	}
	topic := HoldTopic
	payload, _ := json.Marshal(map[string][]string{"held": r.heldSources(p)}) // strings can always be marshalled
	packet, _ := proto.Marshal(&livekit.DataPacket{                           // our own message, valid by construction
		Value: &livekit.DataPacket_User{User: &livekit.UserPacket{Payload: payload, Topic: &topic}},
	})
	p.peer.SendData(nil, livekit.DataPacket_RELIABLE, packet)
}

// muteRemotely mutes or unmutes t on another's behalf, and tells the publisher's client.
func (r *Room) muteRemotely(t *track, muted bool) {
	t.publisher.tellMuted(t.info.Sid, muted)
	t.mutedByOther = true
	r.mute(t, muted)
}

func (c *Client) tellMuted(sid string, muted bool) {
	c.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_Mute{
		Mute: &livekit.MuteTrackRequest{Sid: sid, Muted: muted},
	}}))
}

// mutesByOthers returns the mutes and unmutes of p's tracks that others decided and that
// p's client may not know.
func (r *Room) mutesByOthers(p *Participant) (mutes []*livekit.MuteTrackRequest) {
	for sid, t := range r.tracks {
		if t.publisher == p && t.mutedByOther {
			mutes = append(mutes, &livekit.MuteTrackRequest{Sid: sid, Muted: t.info.Muted})
		}
	}
	for sid, muted := range p.mutedEarly {
		mutes = append(mutes, &livekit.MuteTrackRequest{Sid: sid, Muted: muted})
	}
	return mutes
}

// shadow reports whether p shows a participant of another room: its tracks are muted
// there.
func (p *Participant) shadow() bool {
	_, yes := p.outlet.(nowhere)
	return yes
}
