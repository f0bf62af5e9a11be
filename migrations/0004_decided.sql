-- The times at which a moderator last changed a session's permission, and at which a
-- moderator or the participant last changed its name, metadata or attributes. A token
-- from before that time does not undo the change. 0 = never.
ALTER TABLE session RENAME COLUMN moderated TO permitted_ms;
ALTER TABLE session ADD COLUMN edited_ms INTEGER NOT NULL DEFAULT 0;

-- Of those present it was known that one of the two was done, not which nor when:
-- since they joined.
UPDATE session SET permitted_ms = joined_ms, edited_ms = joined_ms WHERE left_ms = 0 AND permitted_ms = 1;
