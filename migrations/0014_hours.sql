-- What happened in each hour, so that months can be looked at without reading their rows,
-- and after those are deleted.
CREATE TABLE hour (
	from_ms        INTEGER PRIMARY KEY, -- when it begins: hours of UTC
	opened         INTEGER NOT NULL DEFAULT 0, -- rooms
	ended          INTEGER NOT NULL DEFAULT 0,
	joined         INTEGER NOT NULL DEFAULT 0, -- participant_joined events
	peak           INTEGER NOT NULL DEFAULT 0, -- the most participants of all rooms at one time
	participant_ms INTEGER NOT NULL DEFAULT 0,
	refused        INTEGER NOT NULL DEFAULT 0, -- joins, calls and tries to sign in
	bytes_in       INTEGER NOT NULL DEFAULT 0, -- of media
	bytes_out      INTEGER NOT NULL DEFAULT 0,
	packets_out    INTEGER NOT NULL DEFAULT 0, -- of media
	lost_out       INTEGER NOT NULL DEFAULT 0,
	scores         INTEGER NOT NULL DEFAULT 0, -- how often the quality of a connection was judged
	score_sum      REAL    NOT NULL DEFAULT 0
) STRICT;

-- The sum of num_participants over all open rooms.
ALTER TABLE meta ADD COLUMN people INTEGER NOT NULL DEFAULT 0;
UPDATE meta SET people = (SELECT coalesce(sum(num_participants), 0) FROM room WHERE ended_ms = 0);

-- Of the hours before: what the rooms and sessions tell that are still stored. Agents and
-- recorders are counted as participants there. What is older than 400 days is left out, as
-- hours are deleted then: a machine without a clock of its own begins in 1970.
INSERT INTO hour (from_ms, opened, ended, joined)
SELECT from_ms, sum(opened), sum(ended), sum(joined) FROM (
	SELECT created_ms - created_ms % 3600000 AS from_ms, 1 AS opened, 0 AS ended, 0 AS joined FROM room
	UNION ALL
	SELECT ended_ms - ended_ms % 3600000, 0, 1, 0 FROM room WHERE ended_ms > 0
	UNION ALL
	SELECT active_ms - active_ms % 3600000, 0, 0, 1 FROM session WHERE active_ms > 0
) WHERE from_ms > unixepoch() * 1000 - 34560000000 GROUP BY from_ms;

-- Those who are still there were there when the newest event was written. A stay of more
-- than 400 days is none: the clock was set meanwhile, and each of its hours would be a row.
INSERT INTO hour (from_ms, peak, participant_ms)
WITH RECURSIVE
	entry (began, ended) AS (
		SELECT joined_ms, CASE left_ms WHEN 0 THEN max(joined_ms, coalesce((SELECT created_ms FROM event ORDER BY seq DESC LIMIT 1), 0)) ELSE left_ms END
		FROM session),
	stay (began, ended) AS (
		SELECT began, ended FROM entry
		WHERE ended > began AND ended - began <= 34560000000 AND ended > unixepoch() * 1000 - 34560000000),
	part (from_ms, began, ended) AS (
		SELECT began - began % 3600000, began, ended FROM stay
		UNION ALL
		SELECT from_ms + 3600000, began, ended FROM part WHERE from_ms + 3600000 < ended),
	point (at, step) AS (
		SELECT began, 1 FROM stay
		UNION ALL
		SELECT ended, -1 FROM stay
		UNION ALL
		SELECT DISTINCT from_ms, 0 FROM part),
	present (at, people) AS (SELECT at, sum(step) OVER (ORDER BY at, step ROWS UNBOUNDED PRECEDING) FROM point),
	peak (from_ms, people) AS (SELECT at - at % 3600000, max(people) FROM present GROUP BY 1),
	total (from_ms, ms) AS (SELECT from_ms, sum(min(ended, from_ms + 3600000) - max(began, from_ms)) FROM part GROUP BY from_ms)
SELECT total.from_ms, peak.people, total.ms FROM total JOIN peak ON peak.from_ms = total.from_ms WHERE true
ON CONFLICT (from_ms) DO UPDATE SET peak = excluded.peak, participant_ms = excluded.participant_ms;
