-- The kinds of workers whose agents are for every room, as they were last connected: a
-- room that opens before they are back after a restart has jobs for them, too.
CREATE TABLE agent_kind (
	deployment TEXT    NOT NULL,
	namespace  TEXT    NOT NULL,
	type       INTEGER NOT NULL, -- livekit.JobType
	PRIMARY KEY (deployment, namespace, type)
) STRICT, WITHOUT ROWID;
