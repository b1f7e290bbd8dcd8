-- Roles are of the whole server. None can log in: grant them to those that do.
DO $roles$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['owner', 'writer', 'reader', 'retention', 'privacy'] LOOP
        name := '@schema@_' || name;
        IF to_regrole(quote_ident(name)) IS NULL THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT %I TO CURRENT_USER', '@schema@_owner');
    END IF;
END
$roles$;
CREATE SCHEMA IF NOT EXISTS "@schema@" AUTHORIZATION "@schema@_owner";

-- A schema that was made without roles, by a login of its own, gets its owner now.
DO $owner$
DECLARE
    found record;
BEGIN
    IF (SELECT nspowner FROM pg_namespace WHERE nspname = '@schema@') <> '"@schema@_owner"'::regrole THEN
        ALTER SCHEMA "@schema@" OWNER TO "@schema@_owner";
        FOR found IN SELECT c.oid::regclass AS name FROM pg_class c
            WHERE c.relnamespace = '"@schema@"'::regnamespace AND c.relkind IN ('r', 'p')
        LOOP
            EXECUTE format('ALTER TABLE %s OWNER TO "@schema@_owner"', found.name);
        END LOOP;
        FOR found IN SELECT p.oid::regprocedure AS name FROM pg_proc p
            WHERE p.pronamespace = '"@schema@"'::regnamespace
        LOOP
            EXECUTE format('ALTER FUNCTION %s OWNER TO "@schema@_owner"', found.name);
        END LOOP;
    END IF;
END
$owner$;
