-- Backfills: history that is loaded as a unit. Its events have a source of their own, `backfill:KEY`, which ingest takes only
-- while the backfill is open; so all of them can be taken back together.

CREATE TABLE backfills (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    backfill      text COLLATE "C" NOT NULL,
    reason        text NOT NULL,
    state         text COLLATE "C" NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed')),
    correction_id uuid,
    created_by    text NOT NULL,
    opened_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at     timestamptz,
    PRIMARY KEY (tenant_id, backfill),
    FOREIGN KEY (tenant_id, correction_id) REFERENCES corrections,
    CHECK ((state = 'closed') = (closed_at IS NOT NULL))
);
COMMENT ON TABLE backfills IS 'History that is loaded as a unit, and can be taken back as one.';
COMMENT ON COLUMN backfills.correction_id IS 'The correction that takes it back, once that was asked for.';

GRANT SELECT ON backfills TO weir_api, weir_reader;
GRANT INSERT ON backfills TO weir_api;
GRANT UPDATE (state, closed_at, correction_id) ON backfills TO weir_api;
GRANT ALL ON backfills TO weir_migrate;

ALTER TABLE backfills ENABLE ROW LEVEL SECURITY;
ALTER TABLE backfills FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON backfills TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON backfills TO weir_reader, weir_migrate USING (true) WITH CHECK (true);
