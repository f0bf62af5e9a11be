-- The audit log: who changed what by the API. Entries of the dashboard, of tokens with an
-- identity, and of API keys are counted separately, so that none displaces the others'.

CREATE TABLE deed (
	id          INTEGER PRIMARY KEY, -- grows
	dashboard   INTEGER NOT NULL, -- 1 = done there, 2 = by a token with an identity, 0 = else
	number      INTEGER NOT NULL, -- among those of its kind: grows; the oldest are pruned
	at_ms       INTEGER NOT NULL,
	api_key     TEXT    NOT NULL,
	identity    TEXT    NOT NULL,
	session     TEXT    NOT NULL,
	role        TEXT    NOT NULL,
	address     TEXT    NOT NULL,
	call        TEXT    NOT NULL,
	path        TEXT    NOT NULL,
	room        TEXT    NOT NULL,
	participant TEXT    NOT NULL
) STRICT;

CREATE UNIQUE INDEX deed_number ON deed (dashboard, number);
CREATE INDEX deed_room ON deed (room, id);
