package rooms

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"

	"parlor/rooms/guid"
)

// A room can be divided: its people are sent to breakout rooms for a while, and called back.
// A breakout room is a room of its own, whose name nobody can guess and whose settings tell
// which room it is part of. The division belongs to the main room's row, and ends with it.
//
// Calling people back is a state and not an act: the division is closed first, so that nobody
// goes out any more, and then everybody is moved again and again until nobody is out, those
// who are expected back after a restart included. Until then no deadline of the main room
// runs, and its empty time starts over. One look at the row and at the rooms does it all; it
// is repeated every few seconds while people may be out, so that no move that fails, no
// restart and no late arrival is lost.

// The bounds of a division.
const (
	MostBreakouts    = 50
	MostAssigned     = 500 // identities, of all breakout rooms together
	LongestBreakouts = 24 * time.Hour

	longestTitle    = 100      // bytes
	longestDivision = 64 << 10 // bytes, in the main room's row
)

// The timeouts of a breakout room, in seconds. Who was alone in it and lost the network for
// some minutes finds it again.
const (
	breakoutEmpty     = 900
	breakoutDeparture = 900
)

// BreakoutTopic is the topic of the data by which clients are told that the division of
// their room has changed.
const BreakoutTopic = "parlor.breakout"

// breakoutPrefix begins the names of breakout rooms.
const breakoutPrefix = "breakout-"

// newBreakoutName is a name that nobody can guess. It ends with a checksum, so that an app
// gives none of its own rooms such a name by chance.
func newBreakoutName() string {
	id := guid.New("")
	return breakoutPrefix + id + "-" + checksum(id)
}

func checksum(id string) string { return fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(id))) }

// mayBeBreakout reports whether a room of that name may be a breakout room: no other room need
// be read. The names of those that earlier versions opened have no checksum.
func mayBeBreakout(name string) bool { return strings.HasPrefix(name, breakoutPrefix) }

// isBreakoutName reports whether a name is as those of breakout rooms: only the division opens
// a room of such a name for people.
func isBreakoutName(name string) bool {
	id, is := strings.CutPrefix(name, breakoutPrefix)
	id, sum, whole := strings.Cut(id, "-")
	return is && whole && len(id) == guid.Length && sum == checksum(id)
}

// Division is how a room is divided. It does not change once made.
type Division struct {
	Breakouts []Breakout `json:"breakouts"`
	OpenMs    int64      `json:"open_ms,omitempty"`  // since when people are sent out; 0 = they are not
	FromMs    int64      `json:"from_ms,omitempty"`  // when UntilMs was set, by the steady clock, see [Instant]
	UntilMs   int64      `json:"until_ms,omitempty"` // when they are called back, by the same
	Limited   bool       `json:"limited,omitempty"`  // UntilMs was asked for, and not LongestBreakouts
	Back      bool       `json:"back,omitempty"`     // they were called back, and some may still be out
	Dropped   []string   `json:"dropped,omitempty"`  // rooms that are no breakout rooms any more, and where some may still be
}

// Breakout is a breakout room of a division.
type Breakout struct {
	Name     string   `json:"name"` // of the room
	Title    string   `json:"title"`
	Assigned []string `json:"assigned,omitempty"` // identities
}

// MainRoom is the room that a breakout room is part of.
type MainRoom struct {
	Name string `json:"name"`
	SID  string `json:"sid"`
}

// division is the room that r is a breakout room of, or r if it is divided; zero if it is
// neither.
func (r *Room) division() MainRoom {
	switch c := &r.rec.Config; {
	case c.Main != nil:
		return *c.Main
	case c.Division != nil:
		return MainRoom{r.name, r.rec.SID}
	}
	return MainRoom{}
}

// isPartOf reports whether the open room is a breakout room of main.
func (r *Record) isPartOf(main MainRoom) bool { return r.Config.Main != nil && *r.Config.Main == main }

// Open reports whether people are sent out. It may be called on nil.
func (d *Division) Open() bool { return d != nil && d.OpenMs != 0 }

// left is how long it is until people are called back.
func (d *Division) left(now Instant) time.Duration {
	return time.Duration(d.UntilMs-now.For(d.FromMs)) * time.Millisecond
}

// Limit is when people are called back by the wall clock, as it is set now, and how long it is
// until then; 0 without a limit. It may be called on nil.
func (d *Division) Limit(now Instant) (wallMs int64, left time.Duration) {
	if !d.Open() || !d.Limited {
		return 0, 0
	}
	return now.Shown(d.FromMs, d.UntilMs), d.left(now)
}

// someOut reports whether some may be out, so that the main room waits for them. It may be
// called on nil.
func (d *Division) someOut() bool { return d != nil && (d.OpenMs != 0 || d.Back || len(d.Dropped) > 0) }

func (d *Division) breakouts() []Breakout {
	if d == nil {
		return nil
	}
	return d.Breakouts
}

// names are those of all rooms in which some of the main room's people may be. It may be
// called on nil.
func (d *Division) names() []string {
	if d == nil {
		return nil
	}
	names := make([]string, 0, len(d.Breakouts)+len(d.Dropped))
	for i := range d.Breakouts {
		names = append(names, d.Breakouts[i].Name)
	}
	return append(names, d.Dropped...)
}

// Find returns the breakout room of that name; nil if there is none.
func (d *Division) Find(name string) *Breakout {
	if d == nil {
		return nil
	}
	for i := range d.Breakouts {
		if d.Breakouts[i].Name == name {
			return &d.Breakouts[i]
		}
	}
	return nil
}

// Of returns the breakout room that an identity is assigned to; nil if there is none.
func (d *Division) Of(identity string) *Breakout {
	if d == nil {
		return nil
	}
	for i := range d.Breakouts {
		if slices.Contains(d.Breakouts[i].Assigned, identity) {
			return &d.Breakouts[i]
		}
	}
	return nil
}

// callBack has everybody come back.
func (d *Division) callBack() {
	d.Back = d.someOut()
	d.OpenMs, d.FromMs, d.UntilMs, d.Limited = 0, 0, 0, false
}

// MainRoom returns the open room of that name, or the one that it is a breakout room of.
func (rs *Rooms) MainRoom(ctx context.Context, name string) (Record, error) {
	rec, err := rs.cfg.Store.FindOpen(ctx, name)
	if err != nil || rec.Config.Main == nil {
		return rec, err
	}
	main, err := rs.cfg.Store.FindOpen(ctx, rec.Config.Main.Name)
	if errors.Is(err, ErrNoRoom) || err == nil && main.SID != rec.Config.Main.SID {
		err = Errorf(NotFound, "the room that this one was part of has ended")
	}
	return main, err
}

// mainOf is the room that the open room of that name is a breakout room of; zero if it is none.
func (rs *Rooms) mainOf(ctx context.Context, name string) (MainRoom, error) {
	if !mayBeBreakout(name) {
		return MainRoom{}, nil
	}
	rec, err := rs.cfg.Store.FindOpen(ctx, name)
	if errors.Is(err, ErrNoRoom) || err == nil && rec.Config.Main == nil {
		return MainRoom{}, nil
	}
	if err != nil {
		return MainRoom{}, err
	}
	return *rec.Config.Main, nil
}

// Governing is the name of the room whose bans, revocations and decisions on hosts hold in the
// room of that name: of the main room for a breakout room, else the name itself.
func (rs *Rooms) Governing(ctx context.Context, name string) (string, error) {
	main, err := rs.mainOf(ctx, name)
	if err != nil || main.Name == "" {
		return name, err
	}
	return main.Name, nil
}

// meeting are the names of the governing room and of all rooms of its division.
func (rs *Rooms) meeting(ctx context.Context, name string) ([]string, error) {
	name, err := rs.Governing(ctx, name)
	if err != nil {
		return nil, err
	}
	rec, err := rs.cfg.Store.FindOpen(ctx, name)
	if err != nil && !errors.Is(err, ErrNoRoom) {
		return nil, err
	}
	return append([]string{name}, rec.Config.Division.names()...), nil
}

// standing is how an identity stands to a room of a division: whether it may go into it, and
// what was decided of it in the main room. It is zero for rooms that are no breakout rooms.
type standing struct {
	main          MainRoom
	open          bool // people are sent out to this room
	assigned      bool
	host, decided bool // in the main room
}

func (rs *Rooms) standing(ctx context.Context, room, identity string) (standing, error) {
	self, err := rs.mainOf(ctx, room)
	if err != nil || self.Name == "" {
		return standing{}, err
	}
	s := standing{main: self}
	main, err := rs.cfg.Store.FindOpen(ctx, self.Name)
	if errors.Is(err, ErrNoRoom) || err == nil && main.SID != self.SID {
		return s, nil // it has ended, and so will the breakout room
	}
	if err != nil {
		return s, err
	}
	if b := main.Config.Division.Find(room); b != nil {
		s.open, s.assigned = main.Config.Division.Open(), slices.Contains(b.Assigned, identity)
	}
	s.host, s.decided, err = rs.cfg.Store.HostDecided(ctx, self.Name, identity)
	return s, err
}

// refusal is why who stands so may not go into the breakout room; nil if it may, or if it is
// none. host tells whether it is host, unless the main room has decided that.
func (s *standing) refusal(host bool) error {
	if s.decided {
		host = s.host
	}
	switch {
	case s.main.Name == "":
	case !s.open:
		return Errorf(Precondition, "the breakout rooms are not open: join room %q", s.main.Name)
	case !s.assigned && !host:
		return Errorf(Denied, "you are not assigned to this breakout room: join room %q", s.main.Name)
	}
	return nil
}
