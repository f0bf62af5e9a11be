-- The event log, and the queue of deliveries to webhook endpoints.

CREATE TABLE event (
	seq        INTEGER PRIMARY KEY, -- gapless; pruned from the front alone
	id         TEXT    NOT NULL UNIQUE,
	type       TEXT    NOT NULL,
	room_sid   TEXT    NOT NULL,
	room_name  TEXT    NOT NULL,
	room_seq   INTEGER NOT NULL,
	created_ms INTEGER NOT NULL,
	epoch      INTEGER NOT NULL,
	body       BLOB    NOT NULL
) STRICT;

CREATE INDEX event_room ON event (room_name); -- and seq, which every index ends with

CREATE TABLE endpoint (
	id              INTEGER PRIMARY KEY,
	url             TEXT    NOT NULL UNIQUE,
	key_id          TEXT    NOT NULL,
	include         TEXT    NOT NULL, -- JSON array of types
	exclude         TEXT    NOT NULL, -- JSON array of types
	relax_after     INTEGER NOT NULL,
	state           TEXT    NOT NULL, -- on, paused, disabled
	reason          TEXT    NOT NULL DEFAULT '',
	fail_since_ms   INTEGER NOT NULL DEFAULT 0,
	pending         INTEGER NOT NULL DEFAULT 0, -- deliveries, counted as they come and go
	dead            INTEGER NOT NULL DEFAULT 0,
	delivered       INTEGER NOT NULL DEFAULT 0, -- ever
	failures        INTEGER NOT NULL DEFAULT 0, -- failed attempts, ever
	last_ms         INTEGER NOT NULL DEFAULT 0,
	last_success_ms INTEGER NOT NULL DEFAULT 0,
	last_status     INTEGER NOT NULL DEFAULT 0,
	last_error      TEXT    NOT NULL DEFAULT ''
) STRICT;

-- An event on its way to an endpoint. The pending deliveries of a room to an
-- endpoint are a queue; next_ms is set for those that may be sent, and null for
-- those that wait behind an earlier one, so that finding what is due reads
-- nothing else.
CREATE TABLE delivery (
	endpoint_id INTEGER NOT NULL,
	event_seq   INTEGER NOT NULL,
	room_sid    TEXT    NOT NULL,
	state       INTEGER NOT NULL DEFAULT 0, -- 0 pending, 1 delivered, 2 dead
	attempts    INTEGER NOT NULL DEFAULT 0,
	next_ms     INTEGER,
	last_ms     INTEGER NOT NULL DEFAULT 0,
	last_status INTEGER NOT NULL DEFAULT 0,
	last_error  TEXT    NOT NULL DEFAULT '',
	PRIMARY KEY (endpoint_id, event_seq),
	CHECK (next_ms IS NULL OR state = 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX delivery_due ON delivery (endpoint_id, next_ms) WHERE next_ms IS NOT NULL;
CREATE INDEX delivery_queue ON delivery (endpoint_id, room_sid, event_seq) WHERE state = 0;
CREATE INDEX delivery_state ON delivery (endpoint_id, state, event_seq);
