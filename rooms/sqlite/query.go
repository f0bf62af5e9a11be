package sqlite

import (
	"cmp"
	"context"
	"strings"

	"parlor/rooms"
)

// pageMax bounds a page, whatever limit a query has.
const pageMax = 1000

func pageLimit(n int) int { return max(0, min(n, pageMax)) }

// ListRooms returns a page of at most 1000 rooms.
func (s *Store) ListRooms(ctx context.Context, q rooms.RoomQuery) ([]rooms.Record, error) {
	q.Limit = pageLimit(q.Limit)
	if q.Name != "" && !strings.HasPrefix(q.Name, q.NamePrefix) {
		return nil, nil // the name does not begin with the prefix
	}
	if q.State != rooms.RoomsAll {
		return s.listRooms(ctx, q)
	}
	// Open and ended rooms have separate indexes, so their pages are merged.
	q.State = rooms.RoomsOpen
	open, err := s.listRooms(ctx, q)
	if err != nil {
		return nil, err
	}
	q.State = rooms.RoomsEnded
	ended, err := s.listRooms(ctx, q)
	if err != nil {
		return nil, err
	}
	all := make([]rooms.Record, 0, min(len(open)+len(ended), q.Limit))
	for len(all) < q.Limit && len(open)+len(ended) > 0 {
		from := &open
		if len(open) == 0 || len(ended) > 0 && before(&q, &ended[0], &open[0]) {
			from = &ended
		}
		// A room that ended between the two reads is in both pages: the first is kept.
		if n := len(all); n == 0 || all[n-1].SID != (*from)[0].SID {
			all = append(all, (*from)[0])
		}
		*from = (*from)[1:]
	}
	return all, nil
}

// before reports whether a stands before b in the pages of a query.
func before(q *rooms.RoomQuery, a, b *rooms.Record) bool {
	c := compareRooms(q, a, b)
	if q.Descending {
		c = -c
	}
	return c < 0
}

func compareRooms(q *rooms.RoomQuery, a, b *rooms.Record) int {
	byName := 0
	if q.Name != "" || q.NamePrefix != "" {
		byName = strings.Compare(a.Name, b.Name)
	}
	return cmp.Or(byName, cmp.Compare(a.CreatedMs, b.CreatedMs), strings.Compare(a.SID, b.SID))
}

func (s *Store) listRooms(ctx context.Context, q rooms.RoomQuery) ([]rooms.Record, error) {
	w := where{descending: q.Descending}
	w.add("ended_ms = 0")
	if q.State == rooms.RoomsEnded {
		w.terms[0] = "ended_ms > 0"
	}
	order := w.place(&q)
	w.created(&q)
	query := `SELECT ` + roomColumns + ` FROM room WHERE ` + w.condition() + ` ORDER BY ` + order + ` LIMIT +?`
	return s.records(ctx, query, append(w.args, q.Limit)...)
}

// where is the condition of a page, written so that one index serves both the condition
// and the order.
type where struct {
	descending bool
	terms      []string
	args       []any
}

func (w *where) add(term string, args ...any) {
	w.terms = append(w.terms, term)
	w.args = append(w.args, args...)
}

func (w *where) condition() string { return strings.Join(w.terms, " AND ") }

// place makes the page begin after q's cursor, and returns the order.
func (w *where) place(q *rooms.RoomQuery) (order string) {
	past, desc := ">", ""
	if w.descending {
		past, desc = "<", " DESC"
	}
	c, behind := q.After, q.After != rooms.RoomCursor{}
	byTime := "created_ms" + desc + ", sid" + desc
	switch {
	case q.Name != "":
		w.add("name = ?", q.Name)
		if behind {
			w.add("(created_ms, sid) "+past+" (?, ?)", c.CreatedMs, c.SID)
		}
		return byTime
	case q.NamePrefix == "":
		if behind {
			w.add("(created_ms, sid) "+past+" (?, ?)", c.CreatedMs, c.SID)
		}
		return byTime
	}
	w.prefix(q.NamePrefix, behind)
	if q.State == rooms.RoomsOpen { // names of open rooms are unique
		if behind {
			w.openName(past, c)
		}
		return "name" + desc
	}
	if behind {
		w.add("(name, created_ms, sid) "+past+" (?, ?, ?)", c.Name, c.CreatedMs, c.SID)
	}
	return "name" + desc + ", " + byTime
}

// openName makes a page of open rooms by name begin after c. c may be an ended room whose
// name an open room bears too.
func (w *where) openName(past string, c rooms.RoomCursor) {
	w.add("name "+past+"= ?", c.Name)
	w.add("(name "+past+" ? OR (created_ms, sid) "+past+" (?, ?))", c.Name, c.CreatedMs, c.SID)
}

// prefix bounds the names to those that begin with p. A bound that the cursor implies is
// left out, because SQLite enters an index at one place.
func (w *where) prefix(p string, behind bool) {
	if !behind || w.descending {
		w.add("name >= ?", p)
	}
	if end := prefixEnd(p); end != "" && (!behind || !w.descending) {
		w.add("name < ?", end)
	}
}

// prefixEnd is the first string, in the order of bytes, after all that begin with p; ""
// if there is none.
func prefixEnd(p string) string {
	b := []byte(p)
	for len(b) > 0 && b[len(b)-1] == 0xff {
		b = b[:len(b)-1]
	}
	if len(b) == 0 {
		return ""
	}
	b[len(b)-1]++
	return string(b)
}

// created bounds the time of creation, without the bounds that the cursor implies.
func (w *where) created(q *rooms.RoomQuery) {
	c, byName := q.After.CreatedMs, q.NamePrefix != "" && q.Name == ""
	if from := q.CreatedFromMs; from != 0 && (byName || w.descending || c < from) {
		w.add("created_ms >= ?", from)
	}
	if before := q.CreatedBeforeMs; before != 0 && (byName || !w.descending || c == 0 || c >= before) {
		w.add("created_ms < ?", before)
	}
}

// CountRooms returns how many rooms are open and how many are kept as history.
func (s *Store) CountRooms(ctx context.Context) (open, ended int64, err error) {
	err = s.one(ctx, []any{&open, &ended}, `SELECT open_rooms, ended_rooms FROM meta WHERE id = 1`)
	return open, ended, err
}

// ListSessions returns a page of at most 1000 of a room's sessions.
func (s *Store) ListSessions(ctx context.Context, q rooms.SessionQuery) ([]rooms.Session, error) {
	return s.sessions(ctx, `SELECT `+sessionColumns+` FROM session
		WHERE room_sid = ? AND (joined_ms, sid) > (?, ?) ORDER BY joined_ms, sid LIMIT +?`,
		q.RoomSID, q.AfterJoinedMs, q.AfterSID, pageLimit(q.Limit))
}

// ListPresent returns a page of at most 1000 of the participants of all open rooms.
func (s *Store) ListPresent(ctx context.Context, q rooms.PresenceQuery) ([]rooms.Session, error) {
	return s.sessions(ctx, `SELECT `+sessionColumns+` FROM session INDEXED BY session_present
		WHERE left_ms = 0 AND (room_sid, identity) > (?, ?) ORDER BY room_sid, identity LIMIT +?`,
		q.AfterRoomSID, q.AfterIdentity, pageLimit(q.Limit))
}
