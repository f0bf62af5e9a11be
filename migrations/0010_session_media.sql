-- How a session's media fared, as of when its row was last written: rooms.MediaSummary as
-- JSON; '' if that is not known.
ALTER TABLE session ADD COLUMN media TEXT NOT NULL DEFAULT '';
