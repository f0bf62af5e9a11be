-- Each start of the server on this database, so that one can see whether the run before
-- ended in order.
CREATE TABLE start (
	id         INTEGER PRIMARY KEY, -- grows; the oldest are deleted
	at_ms      INTEGER NOT NULL,
	version    TEXT    NOT NULL,
	ready_ms   INTEGER NOT NULL, -- how long until it served
	stopped_ms INTEGER NOT NULL DEFAULT 0, -- when it had stopped in order; 0 = it runs, or did not
	stop_ms    INTEGER NOT NULL DEFAULT 0  -- how long it took to stop
) STRICT;
