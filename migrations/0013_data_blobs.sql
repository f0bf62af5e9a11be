-- What participants have stored for others to fetch, for as long as their sessions last.
CREATE TABLE data_blob (
	session_sid TEXT NOT NULL,
	key         BLOB NOT NULL, -- livekit.DataBlobKey as protobuf
	contents    BLOB NOT NULL,
	PRIMARY KEY (session_sid, key)
) STRICT;
