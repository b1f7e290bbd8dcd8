-- Grants to those roles that are there; running it again changes nothing.
DO $grants$
DECLARE
    writer text := quote_ident('@schema@_writer');
    reader text := quote_ident('@schema@_reader');
    retention text := quote_ident('@schema@_retention');
    privacy text := quote_ident('@schema@_privacy');
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY[writer, reader, retention, privacy] LOOP
        IF to_regrole(role) IS NOT NULL THEN
            EXECUTE 'GRANT USAGE ON SCHEMA "@schema@" TO ' || role;
            EXECUTE 'GRANT SELECT ON "@schema@".versions TO ' || role;
        END IF;
    END LOOP;
    IF to_regclass('"@schema@".entries') IS NOT NULL THEN
        FOREACH role IN ARRAY ARRAY[writer, reader, retention] LOOP
            IF to_regrole(role) IS NOT NULL THEN
                EXECUTE 'GRANT SELECT ON "@schema@".head, "@schema@".entries, "@schema@".hashes, "@schema@".days,'
                    ' "@schema@".kept, "@schema@".tokens, "@schema@".ends TO ' || role;
            END IF;
        END LOOP;
        IF to_regrole(writer) IS NOT NULL THEN
            EXECUTE 'GRANT INSERT ON "@schema@".entries, "@schema@".hashes, "@schema@".days, "@schema@".kept,'
                ' "@schema@".tokens, "@schema@".ends TO ' || writer;
            EXECUTE 'GRANT UPDATE (size, note, published, day, bytes) ON "@schema@".head TO ' || writer;
            EXECUTE 'GRANT EXECUTE ON FUNCTION "@schema@".make_room(bigint) TO ' || writer;
        END IF;
        IF to_regrole(retention) IS NOT NULL THEN
            EXECUTE 'GRANT UPDATE (line) ON "@schema@".entries TO ' || retention;
            EXECUTE 'GRANT UPDATE (grown) ON "@schema@".days TO ' || retention;
            EXECUTE 'GRANT SELECT, INSERT, DELETE ON "@schema@".purging TO ' || retention;
        END IF;
    END IF;
    IF to_regclass('"@schema@".subjects') IS NOT NULL THEN
        FOREACH role IN ARRAY ARRAY[writer, privacy] LOOP
            IF to_regrole(role) IS NOT NULL THEN
                EXECUTE 'GRANT SELECT ON "@schema@".subjects, "@schema@".erased, "@schema@".erasures TO ' || role;
            END IF;
        END LOOP;
        IF to_regrole(writer) IS NOT NULL THEN
            EXECUTE 'GRANT INSERT ON "@schema@".subjects TO ' || writer;
        END IF;
        IF to_regrole(privacy) IS NOT NULL THEN
            EXECUTE 'GRANT DELETE ON "@schema@".subjects TO ' || privacy;
            EXECUTE 'GRANT INSERT ON "@schema@".erased TO ' || privacy;
            EXECUTE 'GRANT UPDATE (clean) ON "@schema@".erased TO ' || privacy;
            EXECUTE 'GRANT UPDATE (count) ON "@schema@".erasures TO ' || privacy;
            IF current_setting('server_version_num')::int >= 170000 THEN
                EXECUTE 'GRANT MAINTAIN ON "@schema@".subjects TO ' || privacy;
            END IF;
        END IF;
    END IF;
END
$grants$;
