-- What the participants of an open room wrote that keeps its chat.
CREATE TABLE chat (
	room_sid  TEXT    NOT NULL,
	seq       INTEGER NOT NULL, -- in the room, in the order of coming
	size      INTEGER NOT NULL, -- bytes of what follows, but for times
	sent_ms   INTEGER NOT NULL,
	edited_ms INTEGER NOT NULL, -- 0 = never
	identity  TEXT    NOT NULL,
	id        TEXT    NOT NULL, -- as its sender gave it
	name      TEXT    NOT NULL,
	text      TEXT    NOT NULL,
	PRIMARY KEY (room_sid, seq)
) STRICT;
