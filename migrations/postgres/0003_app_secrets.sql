-- Secrets with which apps sign tokens, and how fast a tenant or one of its credentials may report usage.

-- HS256 needs the secret in clear, so it is stored encrypted under a master key that is not in Postgres.
CREATE TABLE app_secrets (
    tenant_id     uuid NOT NULL,
    secret_id     text COLLATE "C" NOT NULL,
    app           text NOT NULL,
    name          text NOT NULL DEFAULT '',
    scopes        text[] NOT NULL,
    sealed        bytea NOT NULL,
    master_key_id text COLLATE "C" NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    PRIMARY KEY (tenant_id, secret_id),
    FOREIGN KEY (tenant_id, app) REFERENCES apps
);
COMMENT ON COLUMN app_secrets.sealed IS 'Nonce and ciphertext (AES-256-GCM), bound to tenant_id and secret_id.';
COMMENT ON COLUMN app_secrets.master_key_id IS 'Which master key it is encrypted under.';
CREATE INDEX app_secrets_by_secret_id ON app_secrets (secret_id);
CREATE INDEX app_secrets_by_app ON app_secrets (app);

CREATE TABLE ingest_limits (
    tenant_id         uuid NOT NULL REFERENCES tenants,
    credential        text COLLATE "C" NOT NULL,
    events_per_second bigint CHECK (events_per_second BETWEEN 1 AND 1000000000),
    burst             bigint CHECK (burst BETWEEN 1 AND 1000000000),
    changed_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, credential),
    CHECK ((events_per_second IS NULL) = (burst IS NULL))
);
COMMENT ON TABLE ingest_limits IS 'Without a row, or with nulls, nothing is limited.';
COMMENT ON COLUMN ingest_limits.credential IS 'Public id of an API key or app secret; empty for the tenant as a whole.';

REVOKE ALL ON app_secrets, ingest_limits FROM PUBLIC;
GRANT SELECT ON app_secrets, ingest_limits TO weir_reader;
GRANT SELECT, INSERT ON app_secrets, ingest_limits TO weir_api;
GRANT UPDATE (revoked_at, expires_at) ON app_secrets TO weir_api;
GRANT UPDATE (events_per_second, burst, changed_at) ON ingest_limits TO weir_api;
GRANT ALL ON app_secrets, ingest_limits TO weir_migrate;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['app_secrets', 'ingest_limits'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON %I TO weir_api USING (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)
            WITH CHECK (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)', name);
        EXECUTE format('CREATE POLICY pipeline ON %I TO weir_writer, weir_reader, weir_archiver, weir_migrate USING (true) WITH CHECK (true)', name);
    END LOOP;
END $$;

-- Authentication comes before a tenant is known: the secret that a token names, else those of the app
-- that it claims, whose signature then decides. One more than are tried, so that too many are noticed.
CREATE FUNCTION find_app_secrets(wanted_secret text, wanted_app text)
RETURNS TABLE (tenant_id uuid, secret_id text, app text, scopes text[], sealed bytea, master_key_id text, expires_at timestamptz, revoked_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT s.tenant_id, s.secret_id, s.app, s.scopes, s.sealed, s.master_key_id, s.expires_at, s.revoked_at FROM app_secrets s
    WHERE s.secret_id = wanted_secret
        OR (wanted_secret IS NULL AND s.app = wanted_app AND s.revoked_at IS NULL AND coalesce(s.expires_at > clock_timestamp(), true))
    ORDER BY s.created_at LIMIT 65
$$;
REVOKE ALL ON FUNCTION find_app_secrets(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_app_secrets(text, text) TO weir_api;
