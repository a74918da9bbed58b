-- Roles of Weir's processes. Run once per cluster by a superuser (or a role with CREATEROLE), before
-- `weir migrate`; safe to run again. `weir up` and the tests run this very file.
--
-- Each process works as one of these, the rater as two: weir_reader, and weir_lane for its slow lane.
-- Give every process a login of its own that is a member of just its roles (or set a password on the
-- role and let it log in); a process changes to its role when it connects. None of them owns a table,
-- so row-level security always holds for them.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['weir_api', 'weir_writer', 'weir_archiver', 'weir_reader', 'weir_lane', 'weir_migrate'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS', name);
        END IF;
    END LOOP;
END $$;
-- Waits are short for every role; the longest legitimate statement is a posting window.
ALTER ROLE weir_api SET statement_timeout = '10s';
ALTER ROLE weir_writer SET statement_timeout = '60s';
ALTER ROLE weir_archiver SET statement_timeout = '10s';
ALTER ROLE weir_reader SET statement_timeout = '60s';
ALTER ROLE weir_lane SET statement_timeout = '10s';
