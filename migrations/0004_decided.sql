-- When a moderator last decided what a session may do, and when it or its
-- participant last changed what it is (name, metadata, attributes): a token from
-- before that time does not undo it. 0 = never.
ALTER TABLE session RENAME COLUMN moderated TO permitted_ms;
ALTER TABLE session ADD COLUMN edited_ms INTEGER NOT NULL DEFAULT 0;

-- Of those present it was known that one of the two was done, not which nor when:
-- since they joined.
UPDATE session SET permitted_ms = joined_ms, edited_ms = joined_ms WHERE left_ms = 0 AND permitted_ms = 1;
