-- Links that let people into a room without an application that makes tokens. They are for
-- whatever room bears the name. The secret of one is in its link alone.
CREATE TABLE invitation (
	id          TEXT    NOT NULL PRIMARY KEY, -- IN_…, in the order of their making
	secret_hash BLOB    NOT NULL, -- SHA-256
	room_name   TEXT    NOT NULL,
	role        TEXT    NOT NULL, -- host or guest
	name        TEXT    NOT NULL, -- whom it is for; '' = anybody
	api_key     TEXT    NOT NULL, -- signs the tokens that it is exchanged for
	created_by  TEXT    NOT NULL, -- the identity of the host who made it; '' = the API key
	created_ms  INTEGER NOT NULL,
	uses        INTEGER NOT NULL, -- how often it can be used; 0 = no limit
	used        INTEGER NOT NULL DEFAULT 0,
	used_ms     INTEGER NOT NULL DEFAULT 0, -- the last time; 0 = never
	expires_ms  INTEGER NOT NULL, -- 0 = never
	revoked_ms  INTEGER NOT NULL DEFAULT 0, -- 0 = it is not
	over_ms     INTEGER NOT NULL -- from when on it cannot be used; 0 = it always can
) STRICT, WITHOUT ROWID;

CREATE INDEX invitation_of_room ON invitation (room_name, id);
CREATE INDEX invitation_over ON invitation (over_ms) WHERE over_ms > 0;
