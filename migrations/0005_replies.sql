-- The answers to requests with an Idempotency-Key, so that a retry after a restart
-- gets the same answer and is not executed again.

CREATE TABLE reply (
	id          INTEGER PRIMARY KEY, -- grows; the oldest are pruned
	key         BLOB    NOT NULL UNIQUE, -- SHA-256 of API key, path and Idempotency-Key
	fingerprint BLOB    NOT NULL, -- SHA-256 of the request
	created_ms  INTEGER NOT NULL,
	status      INTEGER NOT NULL,
	header      TEXT    NOT NULL, -- JSON
	body        BLOB    NOT NULL
) STRICT;

CREATE INDEX reply_created ON reply (created_ms);
