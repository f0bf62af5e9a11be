-- Agents: the dispatches of a room, and their jobs.

-- A dispatch: agents of a name are wanted in a room.
CREATE TABLE dispatch (
	id         TEXT    PRIMARY KEY,
	room_sid   TEXT    NOT NULL,
	agent_name TEXT    NOT NULL, -- '' = those that are for every room
	created_ms INTEGER NOT NULL,
	deleted_ms INTEGER NOT NULL, -- 0 while the room is open and nobody has deleted it
	info       BLOB    NOT NULL  -- livekit.AgentDispatch as protobuf, without its jobs
) STRICT, WITHOUT ROWID;

CREATE INDEX dispatch_room ON dispatch (room_sid);
-- The rooms that a worker of that name is wanted in.
CREATE INDEX dispatch_open ON dispatch (agent_name, room_sid) WHERE deleted_ms = 0;

-- A job: one worker's work for a dispatch. A failed job is followed by another.
CREATE TABLE job (
	id          TEXT    PRIMARY KEY,
	dispatch_id TEXT    NOT NULL, -- '' = simulated by its worker
	room_sid    TEXT    NOT NULL,
	agent_name  TEXT    NOT NULL,
	deployment  TEXT    NOT NULL,
	namespace   TEXT    NOT NULL,
	type        INTEGER NOT NULL, -- livekit.JobType
	status      INTEGER NOT NULL, -- livekit.JobStatus
	api_key     TEXT    NOT NULL, -- of the worker that has it
	created_ms  INTEGER NOT NULL,
	due_ms      INTEGER NOT NULL, -- when a worker may be asked
	ended_ms    INTEGER NOT NULL, -- 0 while it waits or runs
	info        BLOB    NOT NULL  -- livekit.Job as protobuf, without its room
) STRICT, WITHOUT ROWID;

CREATE INDEX job_room ON job (room_sid, created_ms, id);
CREATE INDEX job_open ON job (room_sid) WHERE ended_ms = 0;
CREATE INDEX job_running ON job (room_sid) WHERE ended_ms = 0 AND status = 1;
-- What waits for a worker of a kind.
CREATE INDEX job_due ON job (agent_name, deployment, namespace, type, due_ms) WHERE ended_ms = 0 AND status = 0;
