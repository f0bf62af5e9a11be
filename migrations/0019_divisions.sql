-- Open rooms that are divided into breakout rooms: a start looks after them, among a million
-- others.
CREATE INDEX room_divided ON room (sid) WHERE ended_ms = 0 AND instr(config, '"division":') > 0;
