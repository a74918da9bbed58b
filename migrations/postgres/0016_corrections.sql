-- Corrections of many events at once: what is to be rated again or taken back, what that would come to, and
-- how far it is. The commands themselves are in the log, and what they did in ledger and archive; nothing of
-- money is here.

CREATE TABLE corrections (
    tenant_id       uuid NOT NULL REFERENCES tenants,
    correction_id   uuid NOT NULL,
    kind            text COLLATE "C" NOT NULL CHECK (kind IN ('rate', 'void', 'simulate')),
    filter          jsonb NOT NULL,
    reason          text NOT NULL,
    document        text,
    catalog_version bigint NOT NULL,
    state           text COLLATE "C" NOT NULL
        CHECK (state IN ('previewing', 'previewed', 'posting', 'confirming', 'posted', 'failed', 'cancelled')),
    archived_to     bigint[] NOT NULL,
    cursor          bigint[] NOT NULL DEFAULT '{}',
    events          bigint NOT NULL DEFAULT 0,
    changes         bigint NOT NULL DEFAULT 0,
    rejected        bigint NOT NULL DEFAULT 0,
    applied         bigint NOT NULL DEFAULT 0,
    error           text,
    created_by      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    previewed_at    timestamptz,
    posting_at      timestamptz,
    ended_at        timestamptz,
    lease           uuid,
    leased_until    timestamptz,
    PRIMARY KEY (tenant_id, correction_id),
    CHECK ((kind = 'simulate') = (document IS NOT NULL)),
    CHECK (kind <> 'simulate' OR state NOT IN ('posting', 'confirming', 'posted'))
);
COMMENT ON TABLE corrections IS 'Corrections of many events: previewed first, then posted by commands in the log.';
COMMENT ON COLUMN corrections.document IS 'Of a simulation: the catalog that events are rated by instead.';
COMMENT ON COLUMN corrections.catalog_version IS 'The catalog of the preview: with another one nothing is posted.';
COMMENT ON COLUMN corrections.archived_to IS 'By partition, the position of the archive up to which events are looked at.';
COMMENT ON COLUMN corrections.cursor IS 'Partition, position and index of the last event whose command is in the log.';
COMMENT ON COLUMN corrections.events IS 'Events that were looked at in this state, or of the last pass all.';
COMMENT ON COLUMN corrections.lease IS 'The process at work on it, until leased_until.';
CREATE INDEX corrections_at_work ON corrections (created_at) WHERE state IN ('previewing', 'posting', 'confirming');

CREATE TABLE correction_deltas (
    tenant_id     uuid NOT NULL,
    correction_id uuid NOT NULL,
    posted        boolean NOT NULL,
    team          text COLLATE "C" NOT NULL,
    meter         text COLLATE "C" NOT NULL,
    currency      text COLLATE "C" NOT NULL,
    cost_currency text COLLATE "C" NOT NULL,
    quantity      numeric(38, 12) NOT NULL,
    charge        numeric(38, 12) NOT NULL,
    cost          numeric(38, 12) NOT NULL,
    PRIMARY KEY (tenant_id, correction_id, posted, team, meter, currency, cost_currency),
    FOREIGN KEY (tenant_id, correction_id) REFERENCES corrections
);
COMMENT ON TABLE correction_deltas IS 'What a correction changes: as previewed, and as the archive confirms it.';

CREATE TABLE correction_blocks (
    tenant_id     uuid NOT NULL,
    correction_id uuid NOT NULL,
    partition     integer NOT NULL,
    position      bigint NOT NULL,
    commands      integer NOT NULL CHECK (commands > 0),
    appended_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, correction_id, partition, position),
    FOREIGN KEY (tenant_id, correction_id) REFERENCES corrections
);
COMMENT ON TABLE correction_blocks IS 'The run log: blocks of commands that were appended.';

GRANT SELECT ON corrections, correction_deltas, correction_blocks TO weir_api, weir_reader;
GRANT INSERT ON corrections, correction_deltas, correction_blocks TO weir_api;
GRANT UPDATE (state, archived_to, cursor, events, changes, rejected, applied, error, previewed_at, posting_at, ended_at, lease, leased_until)
    ON corrections TO weir_api;
GRANT DELETE ON correction_deltas TO weir_api;
GRANT ALL ON corrections, correction_deltas, correction_blocks TO weir_migrate;

ALTER TABLE corrections ENABLE ROW LEVEL SECURITY;
ALTER TABLE corrections FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON corrections TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON corrections TO weir_reader, weir_migrate USING (true) WITH CHECK (true);

ALTER TABLE correction_deltas ENABLE ROW LEVEL SECURITY;
ALTER TABLE correction_deltas FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON correction_deltas TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON correction_deltas TO weir_reader, weir_migrate USING (true) WITH CHECK (true);

ALTER TABLE correction_blocks ENABLE ROW LEVEL SECURITY;
ALTER TABLE correction_blocks FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON correction_blocks TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON correction_blocks TO weir_reader, weir_migrate USING (true) WITH CHECK (true);
