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
