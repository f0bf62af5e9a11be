package rooms

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/livekit/protocol/livekit"
)

// Occupants are the people in a room, as somebody before it may be told of them. Hidden
// participants, agents and recorders are not among them.
type Occupants struct {
	Count       int
	Names       []string // of the first who came, without those who have none
	Recorded    bool     // somebody records the room
	WaitingRoom bool     // guests wait until a host lets them in
}

// Occupants tells of the room of that name, with as many names at most. It fails as the join
// as would fail now, and does not count its identity. anyway: its bearer may know of the room
// whether it would let in or not. A room that is not open has no occupants.
func (rs *Rooms) Occupants(ctx context.Context, as *JoinRequest, anyway bool, names int) (Occupants, error) {
	if err := rs.Accepts(); err != nil {
		return Occupants{}, err
	}
	if !anyway {
		if err := rs.checkJoin(ctx, as); err != nil {
			return Occupants{}, err
		}
	}
	return whereSpace(ctx, rs, as.Room, as.Info.GetIdentity(), func(r *Room, out bool, reply answer[Occupants]) {
		as.out = out
		err := r.refuses(as)
		if anyway {
			if err = r.found(); errors.Is(err, ErrNoRoom) {
				err = nil
			}
		}
		if err != nil {
			reply(Occupants{}, err)
			return
		}
		reply(r.occupants(as.Info.GetIdentity(), names), nil)
	})
}

// occupants are those of the room but for one identity.
func (r *Room) occupants(but string, names int) Occupants {
	out := Occupants{Recorded: r.rec.ActiveRecording, WaitingRoom: r.rec.Config.WaitingRoom}
	var named []*livekit.ParticipantInfo
	add := func(info *livekit.ParticipantInfo) {
		if info.GetIdentity() == but || dependent(info) || info.GetPermission().GetHidden() {
			return
		}
		out.Count++
		if names > 0 && info.GetName() != "" {
			named = append(named, info)
		}
	}
	for _, p := range r.participants {
		if p.admitted {
			add(p.info)
		}
	}
	for _, s := range r.expected {
		add(s.Info)
	}
	slices.SortFunc(named, func(a, b *livekit.ParticipantInfo) int {
		return cmp.Or(cmp.Compare(a.JoinedAtMs, b.JoinedAtMs), strings.Compare(a.Identity, b.Identity))
	})
	for _, info := range named[:min(names, len(named))] {
		out.Names = append(out.Names, info.Name)
	}
	return out
}
