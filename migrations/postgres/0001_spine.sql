-- The tables of the spine. Every table with a tenant_id has row-level security, forced; every unique
-- key of such a table begins with tenant_id. Roles: deploy/postgres/roles.sql. Keys of the hot path are
-- COLLATE "C": compared as bytes, whatever the database's locale is.

-- The installation: one row. The identity key and the number of partitions never change.
CREATE TABLE installation (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    identity_key    bytea NOT NULL CHECK (length(identity_key) = 16),
    audit_key_id    text NOT NULL,
    partitions      integer NOT NULL CHECK (partitions > 0),
    log_name        text NOT NULL,
    catalog_version bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON COLUMN installation.log_name IS 'Which log belongs to this database; another one is refused.';
COMMENT ON COLUMN installation.catalog_version IS 'The newest catalog version of any tenant; publishing counts it up.';

CREATE TABLE tenants (
    tenant_id    uuid PRIMARY KEY,
    key          text NOT NULL UNIQUE,
    name         text NOT NULL DEFAULT '',
    external_key text UNIQUE,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE apps (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    app        text NOT NULL,
    name       text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, app)
);

CREATE TABLE api_keys (
    tenant_id   uuid NOT NULL REFERENCES tenants,
    key_id      text NOT NULL,
    secret_hash bytea NOT NULL CHECK (length(secret_hash) = 32),
    app         text,
    name        text NOT NULL DEFAULT '',
    scopes      text[] NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz,
    revoked_at  timestamptz,
    PRIMARY KEY (tenant_id, key_id),
    FOREIGN KEY (tenant_id, app) REFERENCES apps
);
CREATE INDEX api_keys_by_key_id ON api_keys (key_id);

CREATE TABLE teams (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    team       text COLLATE "C" NOT NULL,
    name       text NOT NULL DEFAULT '',
    origin     text NOT NULL CHECK (origin IN ('registered', 'usage')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, team)
);

CREATE TABLE team_aliases (
    tenant_id    uuid NOT NULL,
    alias        text COLLATE "C" NOT NULL,
    team         text COLLATE "C" NOT NULL,
    effective_at timestamptz NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, alias),
    FOREIGN KEY (tenant_id, team) REFERENCES teams
);
COMMENT ON COLUMN team_aliases.effective_at IS 'Later than every running ingest process needs to load it; one that cannot refresh answers 503 before then.';

-- Catalogs: numbered over all tenants, never changed. The text is hashed as it stands.
CREATE TABLE catalog_versions (
    tenant_id       uuid NOT NULL REFERENCES tenants,
    catalog_version bigint NOT NULL,
    document        text NOT NULL,
    document_hash   bytea NOT NULL CHECK (length(document_hash) = 32),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, catalog_version)
);
CREATE INDEX catalog_versions_by_number ON catalog_versions (catalog_version);

-- Markers that still have to be appended to every partition of [usage], in order of their numbers.
CREATE TABLE catalog_outbox (
    tenant_id       uuid NOT NULL,
    catalog_version bigint NOT NULL,
    document_hash   bytea NOT NULL,
    appended_at     timestamptz,
    PRIMARY KEY (tenant_id, catalog_version),
    FOREIGN KEY (tenant_id, catalog_version) REFERENCES catalog_versions
);
CREATE INDEX catalog_outbox_waiting ON catalog_outbox (catalog_version) WHERE appended_at IS NULL;

-- Answers to mutating calls, in the transaction of their effect.
CREATE TABLE idempotency (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    route        text NOT NULL,
    key          text NOT NULL,
    request_hash bytea NOT NULL,
    status       integer NOT NULL,
    answer       text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, route, key)
);

-- (X, R, C) of the ledger per partition. Changed by compare-and-set only, with the effects.
CREATE TABLE partitions (
    partition       integer PRIMARY KEY,
    x               bigint NOT NULL,
    r               bigint NOT NULL,
    c               bytea NOT NULL CHECK (length(c) = 32),
    catalog_version bigint NOT NULL DEFAULT 0,
    epoch           bigint NOT NULL DEFAULT 0,
    settle_seq      bigint NOT NULL DEFAULT 0,
    ignored_batches bigint NOT NULL DEFAULT 0
);

-- The conservation statement: everything up to X, per partition and tenant.
CREATE TABLE partition_counts (
    tenant_id  uuid NOT NULL,
    partition  integer NOT NULL REFERENCES partitions,
    accepted   bigint NOT NULL DEFAULT 0,
    copies     bigint NOT NULL DEFAULT 0,
    rated      bigint NOT NULL DEFAULT 0,
    unmetered  bigint NOT NULL DEFAULT 0,
    unpriced   bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    conflicts  bigint NOT NULL DEFAULT 0,
    rejected   bigint NOT NULL DEFAULT 0,
    forwarded  bigint NOT NULL DEFAULT 0,
    lost       bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, partition),
    CHECK (accepted + copies = rated + unmetered + unpriced + duplicates + conflicts + rejected + forwarded)
);

-- The chart of accounts. `team` is empty for accounts of the tenant itself.
CREATE TABLE accounts (
    account_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id  uuid NOT NULL REFERENCES tenants,
    kind       text COLLATE "C" NOT NULL CHECK (kind IN ('receivable', 'wallet', 'revenue', 'cost_of_sales', 'provider_payable',
                                             'breakage', 'rounding', 'payments_in_transit')),
    team       text COLLATE "C" NOT NULL DEFAULT '',
    currency   text COLLATE "C" NOT NULL,
    UNIQUE (tenant_id, kind, team, currency),
    -- Only for foreign keys. It leads with the id, so that no plan takes it for a way to find by name.
    UNIQUE (account_id, tenant_id, currency),
    CHECK ((kind IN ('receivable', 'wallet')) = (team <> ''))
);

-- What a team owes, kept by the partition's ledger-writer alone. The book is `transfers`.
-- Half of each page is free, so that updating all rows of it in one window stays within it (HOT).
CREATE TABLE receivables (
    tenant_id  uuid NOT NULL,
    account_id bigint NOT NULL,
    team       text COLLATE "C" NOT NULL,
    currency   text COLLATE "C" NOT NULL,
    partition  integer NOT NULL REFERENCES partitions,
    balance    numeric(38, 12) NOT NULL,
    sequence   bigint NOT NULL CHECK (sequence > 0),
    PRIMARY KEY (tenant_id, team, currency),
    FOREIGN KEY (tenant_id, account_id, currency) REFERENCES accounts (tenant_id, account_id, currency)
) WITH (fillfactor = 50);

-- Transfers that belong together.
CREATE TABLE journals (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    journal_id    uuid NOT NULL,
    reason        text NOT NULL,
    reference     text NOT NULL,
    partition     integer,
    position_from bigint,
    position_to   bigint,
    posted_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, journal_id),
    UNIQUE (tenant_id, reason, reference)
);
CREATE INDEX journals_by_position ON journals (tenant_id, partition, position_to);

-- One row is one transfer: unbalanced cannot be written. Never updated, never deleted.
CREATE TABLE transfers (
    tenant_id      uuid NOT NULL,
    journal_id     uuid NOT NULL,
    ordinal        integer NOT NULL,
    debit_account  bigint NOT NULL,
    credit_account bigint NOT NULL,
    amount         numeric(38, 12) NOT NULL CHECK (amount > 0),
    currency       text COLLATE "C" NOT NULL,
    reason         text NOT NULL,
    team           text COLLATE "C" NOT NULL DEFAULT '',
    meter          text COLLATE "C" NOT NULL DEFAULT '',
    card           text COLLATE "C" NOT NULL DEFAULT '',
    card_version   integer NOT NULL DEFAULT 0,
    quantity       numeric(38, 12) NOT NULL DEFAULT 0,
    events         bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, journal_id, ordinal),
    CHECK (debit_account <> credit_account)
);
-- Foreign keys of transfers, set-wise: three keys checked row by row cost more than the posting itself
-- (18 us a row, against 2). Accounts and journals are never deleted and never change currency.
CREATE FUNCTION check_transfers() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM (SELECT DISTINCT tenant_id, journal_id FROM added) t WHERE NOT EXISTS (SELECT FROM journals j
            WHERE j.tenant_id = t.tenant_id AND j.journal_id = t.journal_id)) THEN
        RAISE foreign_key_violation USING MESSAGE = 'a transfer without its journal', CONSTRAINT = 'transfers_journal';
    END IF;
    IF EXISTS (SELECT FROM (SELECT tenant_id, debit_account AS account_id, currency FROM added
            UNION SELECT tenant_id, credit_account, currency FROM added) t
            WHERE NOT EXISTS (SELECT FROM accounts a WHERE a.tenant_id = t.tenant_id AND a.account_id = t.account_id
                AND a.currency = t.currency)) THEN
        RAISE foreign_key_violation USING MESSAGE = 'a transfer without its account', CONSTRAINT = 'transfers_account';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER check_transfers AFTER INSERT ON transfers REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION check_transfers();
REVOKE ALL ON FUNCTION check_transfers() FROM PUBLIC;
CREATE INDEX transfers_by_team ON transfers (tenant_id, team, journal_id, ordinal) WHERE team <> '';

-- Running totals per 15-minute bucket of event time, changed by the ledger-writer alone.
CREATE TABLE usage_totals (
    tenant_id     uuid NOT NULL,
    team          text COLLATE "C" NOT NULL,
    meter         text COLLATE "C" NOT NULL,
    bucket        timestamptz NOT NULL,
    currency      text COLLATE "C" NOT NULL,
    cost_currency text COLLATE "C" NOT NULL,
    quantity      numeric(38, 12) NOT NULL,
    charge        numeric(38, 12) NOT NULL,
    cost          numeric(38, 12) NOT NULL,
    events        bigint NOT NULL,
    PRIMARY KEY (tenant_id, team, meter, bucket, currency, cost_currency)
) WITH (fillfactor = 50);
COMMENT ON COLUMN usage_totals.currency IS 'Empty for usage without a known price.';
COMMENT ON COLUMN usage_totals.cost_currency IS 'Empty for usage without a known cost.';

-- The audit chain of a partition: one row per posting window, keyed BLAKE3, chained.
CREATE TABLE audit (
    partition       integer NOT NULL REFERENCES partitions,
    position_to     bigint NOT NULL,
    position_from   bigint NOT NULL,
    r               bigint NOT NULL,
    c               bytea NOT NULL,
    catalog_version bigint NOT NULL,
    counts          text NOT NULL,
    transfers       integer NOT NULL,
    transfers_hash  bytea NOT NULL,
    previous_hash   bytea NOT NULL,
    hash            bytea NOT NULL,
    posted_at       timestamptz NOT NULL,
    PRIMARY KEY (partition, position_to),
    UNIQUE (partition, position_from)
);

-- Borders of the archiver's insert groups, fixed before the insert: a successor repeats the same ones.
CREATE TABLE archive_groups (
    partition  integer NOT NULL,
    from_x     bigint NOT NULL,
    to_x       bigint NOT NULL CHECK (to_x >= from_x),
    from_r     bigint NOT NULL,
    to_r       bigint NOT NULL CHECK (to_r >= from_r),
    c          bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (partition, from_x)
);

-- Who may do what. No role may update or delete a ledger row; none may do DDL.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO weir_api, weir_writer, weir_archiver, weir_reader;

GRANT SELECT ON ALL TABLES IN SCHEMA public TO weir_reader;
REVOKE SELECT ON idempotency FROM weir_reader;

GRANT SELECT ON installation, partitions, partition_counts, tenants, apps, api_keys, teams, team_aliases, catalog_versions,
    catalog_outbox, idempotency, accounts, receivables, journals, transfers, usage_totals TO weir_api;
GRANT INSERT ON apps, api_keys, teams, team_aliases, catalog_versions, catalog_outbox, idempotency TO weir_api;
GRANT UPDATE (catalog_version) ON installation TO weir_api;
GRANT UPDATE (revoked_at, expires_at) ON api_keys TO weir_api;
GRANT UPDATE (name) ON teams, apps TO weir_api;
GRANT UPDATE (appended_at) ON catalog_outbox TO weir_api;

GRANT SELECT ON installation, tenants, partitions, partition_counts, accounts, receivables, journals, transfers, usage_totals, audit, teams TO weir_writer;
GRANT INSERT ON partition_counts, accounts, receivables, journals, transfers, usage_totals, audit, teams TO weir_writer;
GRANT UPDATE ON partitions, partition_counts, receivables, usage_totals TO weir_writer;

GRANT SELECT, INSERT ON archive_groups TO weir_archiver;
GRANT SELECT ON partitions, installation TO weir_archiver;

-- Row-level security: the api sees one tenant at a time, set by the transaction; the others see all.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['tenants', 'apps', 'api_keys', 'teams', 'team_aliases', 'catalog_versions', 'catalog_outbox',
        'idempotency', 'partition_counts', 'accounts', 'receivables', 'journals', 'transfers', 'usage_totals'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON %I TO weir_api USING (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)
            WITH CHECK (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)', name);
        EXECUTE format('CREATE POLICY pipeline ON %I TO weir_writer, weir_reader, weir_archiver, weir_migrate USING (true) WITH CHECK (true)', name);
    END LOOP;
END $$;
GRANT ALL ON ALL TABLES IN SCHEMA public TO weir_migrate;
GRANT ALL ON SCHEMA public TO weir_migrate;

-- Authentication comes before a tenant is known: one key by its public id, nothing else.
CREATE FUNCTION find_api_key(wanted text)
RETURNS TABLE (tenant_id uuid, tenant_key text, external_key text, secret_hash bytea, app text, scopes text[], expires_at timestamptz, revoked_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT k.tenant_id, t.key, t.external_key, k.secret_hash, k.app, k.scopes, k.expires_at, k.revoked_at
    FROM api_keys k JOIN tenants t USING (tenant_id) WHERE k.key_id = wanted
$$;
REVOKE ALL ON FUNCTION find_api_key(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_api_key(text) TO weir_api;
