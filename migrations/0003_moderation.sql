-- Bans and revocations. Both belong to a room's name, so they outlive the room that
-- was open when they were made.

CREATE TABLE ban (
	room_name  TEXT    NOT NULL,
	identity   TEXT    NOT NULL,
	until_ms   INTEGER NOT NULL, -- 0 = until lifted
	created_ms INTEGER NOT NULL,
	reason     TEXT    NOT NULL,
	PRIMARY KEY (room_name, identity)
) STRICT, WITHOUT ROWID;

CREATE INDEX ban_until ON ban (until_ms) WHERE until_ms > 0;

-- Tokens issued before not_before_ms are refused.
CREATE TABLE revocation (
	room_name     TEXT    NOT NULL,
	identity      TEXT    NOT NULL,
	not_before_ms INTEGER NOT NULL,
	PRIMARY KEY (room_name, identity)
) STRICT, WITHOUT ROWID;

CREATE INDEX revocation_time ON revocation (not_before_ms);
