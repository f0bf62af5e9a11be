-- Events of a type, however few, without reading those of others.
CREATE INDEX event_type ON event (type); -- and seq, which every index ends with
