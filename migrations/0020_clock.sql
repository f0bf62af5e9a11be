-- Where the steady clock stands, by which deadlines are judged: rooms.ClockState. From now on
-- room.empty_since_ms and expires_ms of open rooms, job.due_ms, and from_ms and until_ms of a
-- division are times of it. Until the wall clock is set it shows the same.
CREATE TABLE clock (
	id           INTEGER PRIMARY KEY CHECK (id = 1),
	boot         TEXT    NOT NULL,
	elapsed_ns   INTEGER NOT NULL,
	base_ns      INTEGER NOT NULL,
	ahead_ns     INTEGER NOT NULL,
	since_ms     INTEGER NOT NULL,
	old_ahead_ns INTEGER NOT NULL
) STRICT;

-- Since when a room counts tells which clock its deadline goes by.
DROP INDEX room_expires;
CREATE INDEX room_expires ON room (expires_ms, empty_since_ms) WHERE expires_ms > 0 AND ended_ms = 0;
