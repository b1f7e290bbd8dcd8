-- The tables of one log. "@schema@" is the schema of the log. Source: docs/postgresql-schema.md.

-- The one row that every commit changes: its lock is what writers wait for.
CREATE TABLE "@schema@".head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    size bigint NOT NULL DEFAULT 0 CHECK (size >= 0),   -- entries of the log
    note bytea NOT NULL DEFAULT ''::bytea,              -- the signed checkpoint of the last commit
    published bytea,                                    -- the published checkpoint
    day date,                                           -- UTC day of the last entry
    bytes bigint NOT NULL DEFAULT 0,                    -- of all lines as they were written, an LF after each
    room bigint NOT NULL DEFAULT 0                      -- partitions are there for entries [0, room)
) WITH (fillfactor = 20);

-- One row an entry. "batch" stands in the first row of each commit and names it.
CREATE TABLE "@schema@".entries (
    seq bigint PRIMARY KEY CHECK (seq >= 0),
    leaf bytea NOT NULL CHECK (octet_length(leaf) = 32),
    line bytea NOT NULL,
    batch uuid
) PARTITION BY RANGE (seq);
-- What is purged must not live on in the planner's samples.
ALTER TABLE "@schema@".entries ALTER COLUMN line SET STATISTICS 0;

-- Hashes of complete subtrees at tile levels 1 and up (level 0 is entries.leaf).
CREATE TABLE "@schema@".hashes (
    level smallint NOT NULL CHECK (level BETWEEN 1 AND 7),
    place bigint NOT NULL CHECK (place >= 0),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (level, place)
);

-- The entries [begin_seq, next day's) were logged on that UTC day; "before" are the bytes of all lines before them,
-- "grown" is how many bytes a purge added to the day's lines (less than zero as a rule).
CREATE TABLE "@schema@".days (
    day date PRIMARY KEY,
    begin_seq bigint NOT NULL UNIQUE,
    before bigint NOT NULL,
    grown bigint NOT NULL DEFAULT 0
);

CREATE TABLE "@schema@".kept (size bigint PRIMARY KEY, note bytea NOT NULL);
CREATE TABLE "@schema@".tokens (size bigint PRIMARY KEY REFERENCES "@schema@".kept, token bytea NOT NULL);
CREATE TABLE "@schema@".ends (event_id text PRIMARY KEY, seq bigint NOT NULL);

-- Lines that are to take the places of others, between the two steps of a purge. Nothing in it is part of the log.
CREATE TABLE "@schema@".purging (seq bigint PRIMARY KEY, line bytea NOT NULL);

INSERT INTO "@schema@".head DEFAULT VALUES;
