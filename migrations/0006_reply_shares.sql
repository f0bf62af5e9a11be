-- The replies of each API key are counted separately, so that one key does not
-- displace the replies of others.
ALTER TABLE reply ADD COLUMN api_key TEXT NOT NULL DEFAULT '';
ALTER TABLE reply ADD COLUMN number INTEGER NOT NULL DEFAULT 0; -- of the key's replies: grows; the oldest are pruned
UPDATE reply SET number = id;
CREATE INDEX reply_number ON reply (api_key, number);
