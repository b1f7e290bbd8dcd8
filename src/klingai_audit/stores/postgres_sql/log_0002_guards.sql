-- What was written stays: nobody updates, deletes or truncates, whatever was granted, but for two things. The head
-- moves forward; and the retention role puts the line of a purge (docs/format.md, section 2.3) in the place of a line.
-- These are guards against accidents and against a stolen writer's password. Who owns the tables can take them away:
-- that is what signatures, witnesses and `verify` are for.

-- Tells whether whoever asks may purge: a member of the role "@schema@_retention", or, while there is no such role, of
-- the owner of the schema. A superuser is a member of every role and therefore has to SET ROLE.
CREATE FUNCTION "@schema@".may_purge() RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $body$
    SELECT CASE
        WHEN current_user = k.name THEN true
        WHEN k.oid IS NULL THEN pg_has_role(current_user, n.nspowner, 'USAGE')
        ELSE pg_has_role(current_user, k.oid, 'USAGE')
            AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)
        END
    FROM pg_namespace n,
        (SELECT '@schema@_retention' AS name, to_regrole(quote_ident('@schema@_retention'))::oid AS oid) k
    WHERE n.nspname = '@schema@'
$body$;

CREATE FUNCTION "@schema@".refuse() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    RAISE EXCEPTION 'klingai-audit: % of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'A log is appended to, no more.';
END
$body$;

CREATE FUNCTION "@schema@".guard_entries() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF TG_OP = 'UPDATE' AND "@schema@".may_purge()
        AND NEW.seq = OLD.seq AND NEW.leaf = OLD.leaf AND NEW.batch IS NOT DISTINCT FROM OLD.batch
        AND encode(NEW.line, 'escape') ~
            ('^\{"purged":"' || encode(OLD.leaf, 'hex') || '","by":(0|[1-9][0-9]{0,15})\}$')
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'klingai-audit: % of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'A log is appended to, no more.';
END
$body$;

CREATE FUNCTION "@schema@".guard_head() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.size >= OLD.size AND NEW.bytes >= OLD.bytes AND NEW.room >= OLD.room
        AND (OLD.published IS NULL OR NEW.published IS NOT NULL)
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'klingai-audit: % of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'The head of a log only moves forward.';
END
$body$;

CREATE FUNCTION "@schema@".guard_days() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF TG_OP = 'UPDATE' AND "@schema@".may_purge()
        AND NEW.day = OLD.day AND NEW.begin_seq = OLD.begin_seq AND NEW.before = OLD.before
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'klingai-audit: % of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'A log is appended to, no more.';
END
$body$;

CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON "@schema@".entries
    FOR EACH ROW EXECUTE FUNCTION "@schema@".guard_entries();
CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON "@schema@".days
    FOR EACH ROW EXECUTE FUNCTION "@schema@".guard_days();
CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON "@schema@".head
    FOR EACH ROW EXECUTE FUNCTION "@schema@".guard_head();
CREATE TRIGGER whole BEFORE TRUNCATE ON "@schema@".entries EXECUTE FUNCTION "@schema@".refuse();
CREATE TRIGGER whole BEFORE TRUNCATE ON "@schema@".days EXECUTE FUNCTION "@schema@".refuse();
CREATE TRIGGER whole BEFORE TRUNCATE ON "@schema@".head EXECUTE FUNCTION "@schema@".refuse();
CREATE TRIGGER whole BEFORE UPDATE OR DELETE OR TRUNCATE ON "@schema@".hashes EXECUTE FUNCTION "@schema@".refuse();
CREATE TRIGGER whole BEFORE UPDATE OR DELETE OR TRUNCATE ON "@schema@".kept EXECUTE FUNCTION "@schema@".refuse();
CREATE TRIGGER whole BEFORE UPDATE OR DELETE OR TRUNCATE ON "@schema@".tokens EXECUTE FUNCTION "@schema@".refuse();
CREATE TRIGGER whole BEFORE UPDATE OR DELETE OR TRUNCATE ON "@schema@".ends EXECUTE FUNCTION "@schema@".refuse();

-- Makes the partitions for entries up to "wanted", a million entries each, and returns up to where there is room.
-- Writers may call it, who may not make tables. It runs in the transaction of a commit, under the lock of the head.
CREATE FUNCTION "@schema@".make_room(wanted bigint) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    entries bigint;
    there bigint;
    part text;
BEGIN
    SELECT h.size, h.room INTO entries, there FROM "@schema@".head h FOR UPDATE;
    IF wanted > entries + 5000000 THEN
        RAISE EXCEPTION 'klingai-audit: room is made for at most 5000000 entries ahead';
    END IF;
    WHILE there < wanted LOOP
        part := 'entries_' || lpad((there / 1000000)::text, 7, '0');
        EXECUTE format('CREATE TABLE "@schema@".%I (LIKE "@schema@".entries INCLUDING ALL)', part);
        EXECUTE format('ALTER TABLE "@schema@".%I ALTER COLUMN line SET STATISTICS 0', part);
        EXECUTE format('CREATE TRIGGER whole BEFORE TRUNCATE ON "@schema@".%I EXECUTE FUNCTION "@schema@".refuse()', part);
        EXECUTE format(
            'ALTER TABLE "@schema@".entries ATTACH PARTITION "@schema@".%I FOR VALUES FROM (%s) TO (%s)',
            part, there, there + 1000000
        );
        there := there + 1000000;
    END LOOP;
    UPDATE "@schema@".head h SET room = there WHERE h.room < there;
    RETURN there;
END
$body$;
REVOKE ALL ON FUNCTION "@schema@".make_room(bigint) FROM PUBLIC;

SELECT "@schema@".make_room(2000000);
