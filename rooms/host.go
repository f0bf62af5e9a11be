package rooms

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/log"
)

// Who is host of a room, and may run it through the API, is told by tokens (roomAdmin)
// until somebody decides otherwise. A decision is about an identity, belongs to the room,
// and ends with it: until then no token undoes it. Breakout rooms have none of their own:
// there the decisions of the main room hold, and the tokens of its hosts.

// MostHostDecisions bounds the decisions that a room keeps.
const MostHostDecisions = 200

// HostDecision is the row of a decision on whether an identity is host of its room. It ends
// with the room.
type HostDecision struct {
	Identity string
	Host     bool
}

// SetHost decides whether an identity is host of the open room of that name. The identity
// must be in the room, be expected back, or have been in it lately. A decision in a breakout
// room is one of its main room, and holds in all rooms of the division.
func (rs *Rooms) SetHost(ctx context.Context, room, identity string, host bool) error {
	defer rs.turns.of(identity)()
	names, err := rs.meeting(ctx, room)
	if err != nil {
		return err
	}
	var there *livekit.ParticipantInfo // in the breakout room
	if names[0] != room {
		if there, err = rs.Participant(ctx, room, identity); err != nil && !errors.Is(err, ErrNoParticipant) {
			return err
		}
	}
	_, err = askName(ctx, rs, names[0], func(r *Room, reply answer[struct{}]) {
		r.setHost(identity, host, there, func(err error) { reply(struct{}{}, err) })
	})
	if err != nil {
		return err
	}
	for _, name := range names[1:] {
		if rs.peek(name) == nil {
			continue // nobody is in it
		}
		_, err = askName(ctx, rs, name, func(r *Room, reply answer[struct{}]) {
			r.decidedInMain(MainRoom{Name: names[0]}, identity, host)
			reply(struct{}{}, nil)
		})
		if err != nil { // a join reads what was decided
			rs.log.Warn("a breakout room was not told who is host", "room", name, "error", err)
		}
	}
	return nil
}

// decidedInMain applies a decision that the main room has on disk.
func (r *Room) decidedInMain(main MainRoom, identity string, host bool) {
	if m := r.rec.Config.Main; m == nil || m.Name != main.Name {
		return
	}
	r.hostDecided(identity, host)
	if p := r.participants[identity]; p != nil && p.admitted {
		r.fact([]Session{p.session(r.rec.SID)}, nil)
	} else if s := r.expected[identity]; s != nil {
		r.fact([]Session{*s}, nil)
	}
}

// setHost is SetHost in one room; there is the participant in a breakout room of it, nil = none.
func (r *Room) setHost(identity string, host bool, there *livekit.ParticipantInfo, done func(error)) {
	if err := r.found(); err != nil {
		done(err)
		return
	}
	s := r.sessionOf(identity)
	was, decided := r.hostsAhead[identity]
	switch {
	case s == nil && there == nil && !decided:
		done(ErrNoParticipant)
		return
	case decided && was == host:
		r.afterWrites(done)
		return
	case !decided && len(r.hostsAhead) >= MostHostDecisions:
		done(Errorf(Exhausted, "who is host has been decided of %d identities of the room, which are as many as can be", MostHostDecisions))
		return
	case r.unwritable():
		done(ErrHeld)
		return
	}
	c := &Change{Kind: ChangeUpdate, Hosts: []HostDecision{{identity, host}}}
	info := &livekit.ParticipantInfo{Identity: identity}
	if there != nil {
		info = there
	} else if s != nil {
		info = s.Info
	}
	if s != nil && s.LeftMs == 0 {
		s.Host = host
		c.Sessions = []Session{*s}
	}
	typ := log.HostRemoved
	if host {
		typ = log.HostAdded
	}
	c.Events = []log.Event{r.hostEvent(typ, info, time.Now())}
	// What is decided later comes after this on the disk too, and fails with it.
	r.hostsAhead = maps.Clone(r.hostsAhead)
	if r.hostsAhead == nil {
		r.hostsAhead = make(map[string]bool, 1)
	}
	r.hostsAhead[identity] = host
	r.requestChange(c, func(_ Outcome, err error) {
		if err != nil {
			r.hostsAhead = maps.Clone(r.hosts)
			done(err)
			return
		}
		if r.hosts == nil {
			r.hosts = make(map[string]bool, 1)
		}
		r.hosts[identity] = host
		r.hostDecided(identity, host)
		done(nil)
	})
}

// sessionOf is the session of that identity that is in the room or expected back, or else
// the newest of those that left lately; nil if there is none. It is the caller's.
func (r *Room) sessionOf(identity string) *Session {
	if p := r.participants[identity]; p != nil {
		s := p.session(r.rec.SID)
		return &s
	}
	s := r.expected[identity]
	if s == nil {
		s = r.lately(identity)
	}
	if s == nil {
		return nil
	}
	own := *s
	return &own
}

// hostDecided applies a decision that is on disk.
func (r *Room) hostDecided(identity string, host bool) {
	r.log.Info("it was decided who is host", "participant", identity, "host", host)
	if s := r.expected[identity]; s != nil {
		changed := *s
		changed.Host = host
		r.expected[identity] = &changed
	}
	if p := r.participants[identity]; p != nil {
		p.host = host
		if p.onChange != nil && p.admitted {
			p.onChange(p.snapshot(), host)
		}
	}
}

// hostByToken reports whether the client's tokens make it host here. Those for the main room
// of a division do so in its breakout rooms, too, and not the other way round.
func (r *Room) hostByToken(c *Client) bool { return r.isTokenOf(c.hostOf) }

// isTokenOf reports whether a token that makes its bearer host of that room does so here.
func (r *Room) isTokenOf(room string) bool {
	main := r.rec.Config.Main
	return room != "" && (room == r.name || main != nil && room == main.Name)
}

// isHost reports whether an identity is host, with a token that says so or not.
func (r *Room) isHost(identity string, byToken bool) bool {
	if host, decided := r.hosts[identity]; decided {
		return host
	}
	return byToken
}

// HostDecided tells what was decided of an identity in the open room of that name; in a
// breakout room, what its main room has decided.
func (rs *Rooms) HostDecided(ctx context.Context, room, identity string) (host, decided bool, err error) {
	if room, err = rs.Governing(ctx, room); err != nil {
		return false, false, err
	}
	return rs.cfg.Store.HostDecided(ctx, room, identity)
}

// loadHosts reads what was decided in the open room, whose sessions that have not left are
// given.
func (r *Room) loadHosts(ctx context.Context, roomSID string, present []Session) error {
	decisions, err := r.rooms.cfg.Store.HostDecisions(ctx, roomSID)
	if err != nil {
		return err
	}
	r.hosts = make(map[string]bool, len(decisions))
	for _, d := range decisions {
		r.hosts[d.Identity] = d.Host
	}
	r.hostsAhead = maps.Clone(r.hosts)
	for i := range present { // what was written of one while it was decided about it may be older
		present[i].Host = r.isHost(present[i].Identity, present[i].Host)
	}
	return nil
}

func (r *Room) hostEvent(typ string, info *livekit.ParticipantInfo, now time.Time) log.Event {
	return log.New(&livekit.WebhookEvent{
		Event: typ, Room: &livekit.Room{Sid: r.rec.SID, Name: r.rec.Name},
		Participant: &livekit.ParticipantInfo{Sid: info.GetSid(), Identity: info.GetIdentity()},
	}, now)
}
