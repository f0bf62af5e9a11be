-- Who was made host of an open room, or is none any more, whatever tokens say.
CREATE TABLE host (
	room_sid TEXT    NOT NULL,
	identity TEXT    NOT NULL,
	host     INTEGER NOT NULL, -- 0 = it is not
	PRIMARY KEY (room_sid, identity)
) STRICT, WITHOUT ROWID;
-- Whether the participant is host, or was when it left.
ALTER TABLE session ADD COLUMN host INTEGER NOT NULL DEFAULT 0;
