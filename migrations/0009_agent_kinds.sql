-- The kinds of workers whose agents join every room, as of their last connection: a
-- room that opens after a restart and before they reconnect has jobs for them too.
CREATE TABLE agent_kind (
	deployment TEXT    NOT NULL,
	namespace  TEXT    NOT NULL,
	type       INTEGER NOT NULL, -- livekit.JobType
	PRIMARY KEY (deployment, namespace, type)
) STRICT, WITHOUT ROWID;
