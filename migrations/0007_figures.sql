-- Statistics of a room: how many participants have joined, and the most that were in
-- it at one time.
ALTER TABLE room ADD COLUMN num_joined INTEGER NOT NULL DEFAULT 0; -- its participant_joined events, also when those are pruned
ALTER TABLE room ADD COLUMN peak_participants INTEGER NOT NULL DEFAULT 0; -- of num_participants

-- For existing rooms, computed from the sessions that are still stored.
UPDATE room SET
	num_joined = (SELECT count(*) FROM session WHERE room_sid = room.sid AND active_ms > 0),
	peak_participants = coalesce((SELECT max(present) FROM (
		SELECT sum(step) OVER (ORDER BY at, step) AS present FROM (
			SELECT joined_ms AS at, 1 AS step FROM session WHERE room_sid = room.sid
			UNION ALL
			SELECT left_ms, -1 FROM session WHERE room_sid = room.sid AND left_ms > 0))), 0);
