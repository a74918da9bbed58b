-- Who changed what: one row per change through the api or the command line, in the transaction of the
-- change. Not to be confused with `audit`, the chain of seals over the ledger. Nobody updates or deletes.
CREATE TABLE privileged_changes (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    change_id  uuid NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor_kind text COLLATE "C" NOT NULL CHECK (actor_kind IN ('api_key', 'app_token', 'operator')),
    actor      text COLLATE "C" NOT NULL,
    actor_app  text,
    action     text COLLATE "C" NOT NULL,
    target     text COLLATE "C" NOT NULL,
    before     text,
    after      text NOT NULL,
    request_id text,
    PRIMARY KEY (tenant_id, change_id)
);
COMMENT ON COLUMN privileged_changes.actor IS 'Public id of the API key or app secret; the login name of an operator.';
COMMENT ON COLUMN privileged_changes.before IS 'JSON, where there was something. Never a secret.';
COMMENT ON COLUMN privileged_changes.after IS 'JSON: what the caller was answered, without secrets.';

REVOKE ALL ON privileged_changes FROM PUBLIC;
GRANT SELECT ON privileged_changes TO weir_reader;
GRANT SELECT, INSERT ON privileged_changes TO weir_api;
GRANT SELECT, INSERT ON privileged_changes TO weir_migrate;

ALTER TABLE privileged_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE privileged_changes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON privileged_changes TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON privileged_changes TO weir_writer, weir_reader, weir_archiver, weir_migrate USING (true) WITH CHECK (true);
