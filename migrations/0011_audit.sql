-- Who had the API change what. Deeds of the dashboard are counted by themselves, so that
-- what programs do does not crowd out what people do.

CREATE TABLE deed (
	id          INTEGER PRIMARY KEY, -- grows
	dashboard   INTEGER NOT NULL, -- 1 = done there
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
