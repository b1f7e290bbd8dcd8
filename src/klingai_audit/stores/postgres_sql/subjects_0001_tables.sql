-- The table of the people behind pseudonyms. Source: docs/format.md, "Pseudonyms and commitments".

CREATE TABLE "@schema@".subjects (
    lookup bytea PRIMARY KEY CHECK (octet_length(lookup) = 32),
    pseudonym text NOT NULL UNIQUE,
    kind text NOT NULL,
    key bytea NOT NULL CHECK (octet_length(key) = 32),
    sealed bytea NOT NULL,
    reserved boolean NOT NULL
);

-- Who is erased must not live on in the planner's samples.
ALTER TABLE "@schema@".subjects
    ALTER COLUMN lookup SET STATISTICS 0,
    ALTER COLUMN pseudonym SET STATISTICS 0,
    ALTER COLUMN key SET STATISTICS 0,
    ALTER COLUMN sealed SET STATISTICS 0;

-- Who was erased: by which entry, when, on what basis; "clean" once "subjects" was written anew without the row.
CREATE TABLE "@schema@".erased (
    pseudonym text PRIMARY KEY,
    seq bigint NOT NULL,
    at text NOT NULL,
    basis text NOT NULL,
    clean boolean NOT NULL
);

-- Counts erasures, so that every process notices that what it remembers is out of date.
CREATE TABLE "@schema@".erasures (one boolean PRIMARY KEY DEFAULT true CHECK (one), count bigint NOT NULL DEFAULT 0);
INSERT INTO "@schema@".erasures DEFAULT VALUES;

-- A row is made once and goes with an erasure; nobody changes one, and the reserved ones stay.
CREATE FUNCTION "@schema@".guard_subjects() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF TG_OP = 'DELETE' AND NOT OLD.reserved THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'klingai-audit: % of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'A person is erased with the command `erase`.';
END
$body$;

CREATE FUNCTION "@schema@".refuse_all() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    RAISE EXCEPTION 'klingai-audit: % of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'A person is erased with the command `erase`.';
END
$body$;

CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON "@schema@".subjects
    FOR EACH ROW EXECUTE FUNCTION "@schema@".guard_subjects();
CREATE TRIGGER whole BEFORE TRUNCATE ON "@schema@".subjects EXECUTE FUNCTION "@schema@".refuse_all();
CREATE TRIGGER whole BEFORE DELETE OR TRUNCATE ON "@schema@".erased EXECUTE FUNCTION "@schema@".refuse_all();
