-- Statistics of a session's media at the last write of its row: rooms.MediaSummary as
-- JSON; '' if unknown.
ALTER TABLE session ADD COLUMN media TEXT NOT NULL DEFAULT '';
