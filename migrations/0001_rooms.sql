-- Rooms and their sessions. Times are wall-clock Unix milliseconds; 0 is unset.

-- One row with the properties of this database.
CREATE TABLE meta (
	id          INTEGER PRIMARY KEY CHECK (id = 1),
	database_id TEXT    NOT NULL,
	created_ms  INTEGER NOT NULL,
	epoch       INTEGER NOT NULL DEFAULT 1, -- grows with each lease on a replica, never falls
	event_seq   INTEGER NOT NULL DEFAULT 0, -- of the newest event, also when that is pruned
	open_rooms  INTEGER NOT NULL DEFAULT 0, -- counted as they come and go
	ended_rooms INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Columns that may be long are last, so that reading the others reads no overflow pages.
CREATE TABLE room (
	id                   INTEGER PRIMARY KEY,
	sid                  TEXT    NOT NULL UNIQUE,
	name                 TEXT    NOT NULL,
	created_ms           INTEGER NOT NULL,
	empty_timeout_ms     INTEGER NOT NULL, -- -1 = never
	departure_timeout_ms INTEGER NOT NULL, -- -1 = never
	max_participants     INTEGER NOT NULL,
	joined_once          INTEGER NOT NULL,
	empty_since_ms       INTEGER NOT NULL,
	expires_ms           INTEGER NOT NULL,
	ended_ms             INTEGER NOT NULL DEFAULT 0,
	end_reason           TEXT    NOT NULL DEFAULT '',
	num_participants     INTEGER NOT NULL,
	num_publishers       INTEGER NOT NULL,
	active_recording     INTEGER NOT NULL,
	version              INTEGER NOT NULL,
	seq                  INTEGER NOT NULL, -- room_seq of the newest event
	turn_password        TEXT    NOT NULL,
	config               TEXT    NOT NULL, -- JSON
	metadata             TEXT    NOT NULL,
	CHECK ((ended_ms = 0) = (end_reason = ''))
) STRICT;

-- At most one open room has a name.
CREATE UNIQUE INDEX room_open_name ON room (name) WHERE ended_ms = 0;
-- Rooms that have a deadline.
CREATE INDEX room_expires ON room (expires_ms) WHERE expires_ms > 0 AND ended_ms = 0;
-- Pages of open rooms; pages of ended rooms, of all names and by name.
CREATE INDEX room_open ON room (created_ms, sid) WHERE ended_ms = 0;
CREATE INDEX room_ended ON room (created_ms, sid) WHERE ended_ms > 0;
CREATE INDEX room_ended_name ON room (name, created_ms, sid) WHERE ended_ms > 0;
-- Ended rooms that retention may delete.
CREATE INDEX room_ended_at ON room (ended_ms) WHERE ended_ms > 0;

CREATE TABLE session (
	id        INTEGER PRIMARY KEY,
	sid       TEXT    NOT NULL UNIQUE,
	room_sid  TEXT    NOT NULL,
	identity  TEXT    NOT NULL,
	joined_ms INTEGER NOT NULL,
	active_ms INTEGER NOT NULL,
	left_ms   INTEGER NOT NULL,
	reason    INTEGER NOT NULL, -- livekit.DisconnectReason
	moderated INTEGER NOT NULL,
	info      BLOB    NOT NULL  -- livekit.ParticipantInfo as protobuf
) STRICT;

-- Present or expected participants: an identity is at most once in a room.
CREATE UNIQUE INDEX session_present ON session (room_sid, identity) WHERE left_ms = 0;
-- A room's sessions, in the order of joining.
CREATE INDEX session_room ON session (room_sid, joined_ms, sid);
