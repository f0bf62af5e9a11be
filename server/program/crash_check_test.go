package program

import (
	"cmp"
	"database/sql"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/rooms/log"
)

// history is the content of the event log so far.
type history struct {
	seq   int64
	rooms map[string]*roomEvents    // by SID
	stays map[string]*sessionEvents // by SID
	ids   map[string][]string       // of events that webhooks get by default, by room SID, in order
}

type roomEvents struct {
	started, finished int
	seq               int64
}

type sessionEvents struct{ joined, aborted, left int }

func newHistory() history {
	return history{rooms: map[string]*roomEvents{}, stays: map[string]*sessionEvents{}, ids: map[string][]string{}}
}

// roomRow and sessionRow are the columns that the checks read.
type roomRow struct {
	sid, name, metadata string
	ended               bool
	present             uint32 // the count in the row
	seq                 int64
	people              []*sessionRow // those present
}

type sessionRow struct {
	sid, room, identity string
	active, left        bool
	info                *livekit.ParticipantInfo // of participants that are present
}

// record is the database that a killed process left.
type record struct {
	rooms    map[string]*roomRow // by SID
	open     map[string]*roomRow // by name
	sessions []*sessionRow
}

// snapshot copies the database. Opening it in place would recover it, which is the task
// of the process under test.
func (c *crashes) snapshot() *sql.DB {
	dir, err := os.MkdirTemp(c.dir, "copy")
	require.NoError(c, err)
	for _, suffix := range []string{"", "-wal"} {
		from, err := os.Open(c.path("parlor.db" + suffix))
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(c, err)
		to, err := os.Create(filepath.Join(dir, "parlor.db"+suffix))
		require.NoError(c, err)
		_, err = io.Copy(to, from)
		require.NoError(c, err)
		require.NoError(c, from.Close())
		require.NoError(c, to.Close())
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "parlor.db"))
	require.NoError(c, err)
	c.Cleanup(func() { db.Close() }) // in case a check fails before
	return db
}

// check compares the database of the killed process with itself and with the clients'
// knowledge.
func (c *crashes) check() {
	c.Helper()
	if c.Failed() {
		c.FailNow() // a client has detected an error
	}
	db := c.snapshot()
	var tables int
	require.NoError(c, db.QueryRow(`SELECT count(*) FROM sqlite_schema WHERE name = 'revocation'`).Scan(&tables))
	if tables == 0 { // killed before the end of its first start
		require.Zero(c, c.tally.Acknowledged)
		require.NoError(c, db.Close())
		return
	}
	var verdict string
	require.NoError(c, db.QueryRow(`PRAGMA integrity_check`).Scan(&verdict))
	require.Equal(c, "ok", verdict)
	c.readEvents(db)
	r := c.readRecord(db)
	c.checkCounters(db, r)
	require.NoError(c, db.Close())
	c.checkRooms(r)
	c.checkSessions(r)
	for _, o := range c.owners {
		o.check(r)
	}
	c.crowd.check(c, r)
	copies, err := filepath.Glob(c.path("copy*"))
	require.NoError(c, err)
	for _, dir := range copies {
		require.NoError(c, os.RemoveAll(dir))
	}
}

// readEvents reads the events since the last check.
func (c *crashes) readEvents(db *sql.DB) {
	h := &c.seen
	rows, err := db.Query(`SELECT seq, id, type, room_sid, room_seq, body FROM event WHERE seq > ? ORDER BY seq`, h.seq)
	require.NoError(c, err)
	defer rows.Close()
	for rows.Next() {
		var seq, roomSeq int64
		var id, typ, room string
		var body []byte
		require.NoError(c, rows.Scan(&seq, &id, &typ, &room, &roomSeq, &body))
		require.Equal(c, h.seq+1, seq, "the log has no gap")
		h.seq = seq
		r := h.rooms[room]
		if r == nil {
			r = &roomEvents{}
			h.rooms[room] = r
		}
		require.Equal(c, r.seq+1, roomSeq, "the log of a room has no gap")
		require.Zero(c, r.finished, "nothing follows a room's end")
		r.seq = roomSeq
		if isLiveKits(typ) {
			h.ids[room] = append(h.ids[room], id)
		}
		var told struct {
			ID          string
			Participant struct{ Sid string }
		}
		require.NoError(c, json.Unmarshal(body, &told))
		require.Equal(c, id, told.ID)
		stay := h.stays[told.Participant.Sid]
		if stay == nil {
			stay = &sessionEvents{}
			h.stays[told.Participant.Sid] = stay
		}
		switch typ {
		case log.RoomStarted:
			require.EqualValues(c, 1, roomSeq)
			r.started++
		case log.RoomFinished:
			r.finished++
		case log.ParticipantJoined:
			stay.joined++
		case log.ParticipantAborted:
			stay.aborted++
		case log.ParticipantLeft:
			require.Equal(c, 1, stay.joined, "who leaves has joined")
			stay.left++
		}
	}
	require.NoError(c, rows.Err())
	c.tally.Events = int(h.seq)
}

// isLiveKits reports whether LiveKit has events of the type. Others are delivered only to
// endpoints that name them.
func isLiveKits(typ string) bool {
	switch typ {
	case log.RoomStarted, log.RoomFinished, log.ParticipantJoined, log.ParticipantLeft,
		log.ParticipantAborted, log.TrackPublished, log.TrackUnpublished:
		return true
	}
	return false
}

func (c *crashes) readRecord(db *sql.DB) *record {
	r := &record{rooms: map[string]*roomRow{}, open: map[string]*roomRow{}}
	rows, err := db.Query(`SELECT sid, name, metadata, ended_ms > 0, num_participants, seq FROM room`)
	require.NoError(c, err)
	defer rows.Close()
	for rows.Next() {
		var row roomRow
		require.NoError(c, rows.Scan(&row.sid, &row.name, &row.metadata, &row.ended, &row.present, &row.seq))
		r.rooms[row.sid] = &row
		if !row.ended {
			require.NotContains(c, r.open, row.name, "one open room of a name")
			r.open[row.name] = &row
		}
	}
	require.NoError(c, rows.Err())

	rows, err = db.Query(`SELECT sid, room_sid, identity, active_ms > 0, left_ms > 0, CASE left_ms WHEN 0 THEN info END FROM session`)
	require.NoError(c, err)
	defer rows.Close()
	for rows.Next() {
		var row sessionRow
		var info []byte
		require.NoError(c, rows.Scan(&row.sid, &row.room, &row.identity, &row.active, &row.left, &info))
		if !row.left {
			row.info = &livekit.ParticipantInfo{}
			require.NoError(c, proto.Unmarshal(info, row.info))
			if room := r.rooms[row.room]; room != nil {
				room.people = append(room.people, &row)
			}
		}
		r.sessions = append(r.sessions, &row)
	}
	require.NoError(c, rows.Err())
	return r
}

// checkCounters compares the counters in the database with the rows.
func (c *crashes) checkCounters(db *sql.DB, r *record) {
	var seq, pruned, ended, pending, waiting int64
	var open int
	require.NoError(c, db.QueryRow(`SELECT event_seq, open_rooms, ended_rooms FROM meta`).Scan(&seq, &open, &ended))
	require.Equal(c, c.seen.seq, seq, "the newest event")
	require.Len(c, r.open, open)
	require.EqualValues(c, len(r.rooms)-len(r.open), ended)
	require.NoError(c, db.QueryRow(`SELECT coalesce(min(seq), 1) - 1 FROM event`).Scan(&pruned))
	require.Zero(c, pruned)
	require.NoError(c, db.QueryRow(`SELECT coalesce(sum(pending), 0) FROM endpoint`).Scan(&pending))
	require.NoError(c, db.QueryRow(`SELECT count(*) FROM delivery WHERE state = 0`).Scan(&waiting))
	require.Equal(c, waiting, pending, "deliveries that wait")
}

func (c *crashes) checkRooms(r *record) {
	require.Len(c, c.seen.rooms, len(r.rooms), "every room is in the log")
	c.tally.Closed = 0
	for sid, room := range r.rooms {
		told := c.seen.rooms[sid]
		require.NotNil(c, told, sid)
		require.Equal(c, 1, told.started)
		require.Equal(c, room.ended, told.finished == 1, "the end of %s", room.name)
		require.Equal(c, room.seq, told.seq)
		present := uint32(0)
		for _, p := range room.people {
			if kind := p.info.Kind; kind != livekit.ParticipantInfo_AGENT && kind != livekit.ParticipantInfo_EGRESS {
				present++
			}
		}
		require.Equal(c, present, room.present, "who is in %s", room.name)
		if room.ended {
			require.Empty(c, room.people, "nobody is in a room that has ended")
			c.tally.Closed++
		}
	}
}

func (c *crashes) checkSessions(r *record) {
	c.tally.Sessions, c.tally.Connected = len(r.sessions), 0
	present := map[[2]string]bool{}
	for _, s := range r.sessions {
		require.Contains(c, r.rooms, s.room)
		told := cmp.Or(c.seen.stays[s.sid], &sessionEvents{})
		want := sessionEvents{}
		if s.active {
			c.tally.Connected++
			want.joined = 1
		}
		switch {
		case s.left && s.active:
			want.left = 1
		case s.left:
			want.aborted = 1
		default:
			key := [2]string{s.room, s.identity}
			require.NotContains(c, present, key, "an identity is in a room once")
			present[key] = true
		}
		require.Equal(c, want, *told, "the events of session %s", s.sid)
	}
}

// awaitQuiet waits until no room is open and no delivery is pending. The process is
// running, so its committed state is read.
func (c *crashes) awaitQuiet(within time.Duration) {
	c.Helper()
	db, err := sql.Open("sqlite", "file:"+c.path("parlor.db")+"?mode=ro&_pragma=busy_timeout(5000)")
	require.NoError(c, err)
	defer db.Close()
	var open, waiting int
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		require.NoError(c, db.QueryRow(`SELECT (SELECT count(*) FROM room WHERE ended_ms = 0), (SELECT count(*) FROM delivery WHERE state = 0)`).Scan(&open, &waiting))
		if open == 0 && waiting == 0 {
			return
		}
	}
	c.Fatalf("after %v %d rooms are open and %d webhooks wait", within, open, waiting)
}

// checkWebhooks: the deliveries agree with the log, in the order of each room.
func (c *crashes) checkWebhooks() {
	c.Helper()
	c.hooks.mu.Lock()
	defer c.hooks.mu.Unlock()
	require.Empty(c, c.hooks.wrong)
	require.Len(c, c.hooks.order, len(c.seen.ids))
	for room, ids := range c.seen.ids {
		require.True(c, slices.Equal(ids, c.hooks.order[room]), "the log of %s: %v\nwhat came: %v", room, ids, c.hooks.order[room])
	}
	c.tally.Deliveries, c.tally.Duplicates = len(c.hooks.bodies)+c.hooks.twice, c.hooks.twice
}
