-- What each posting did to what a team owes, and which rejected events were sent again.

-- One row per journal, team and currency, written by the posting with its journal: the team's postings
-- are numbered without a gap, and each says what was owed after it. Never updated, never deleted.
-- There is no foreign key: the journal is written by the same transaction and never deleted, and
-- checking one row at a time costs more than the row (see check_transfers).
CREATE TABLE receivable_entries (
    tenant_id     uuid NOT NULL,
    journal_id    uuid NOT NULL,
    team          text COLLATE "C" NOT NULL,
    currency      text COLLATE "C" NOT NULL,
    amount        numeric(38, 12) NOT NULL,
    balance_after numeric(38, 12) NOT NULL,
    sequence      bigint NOT NULL CHECK (sequence > 0),
    PRIMARY KEY (tenant_id, journal_id, team, currency)
);
COMMENT ON TABLE receivable_entries IS 'Postings from this migration on; older ones have no row.';
COMMENT ON COLUMN receivable_entries.amount IS 'Sum of the team''s transfers of the journal; positive is debt.';

-- Rejected events that were sent again. The rejection itself is in the archive and stays as it is.
CREATE TABLE reinjections (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    partition     integer NOT NULL,
    position      bigint NOT NULL,
    index         integer NOT NULL,
    receipt       text NOT NULL,
    corrected     boolean NOT NULL,
    reinjected_by text NOT NULL,
    reinjected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, partition, position, index)
);
COMMENT ON COLUMN reinjections.receipt IS 'Place of the event that was sent again: partition:position:index.';
COMMENT ON COLUMN reinjections.reinjected_by IS 'Who sent it: the public id of the API key, or the app of a signed token.';

GRANT SELECT ON receivable_entries, reinjections TO weir_reader;
GRANT SELECT ON receivable_entries TO weir_api;
GRANT SELECT, INSERT ON reinjections TO weir_api;
GRANT INSERT ON receivable_entries TO weir_writer;
GRANT ALL ON receivable_entries, reinjections TO weir_migrate;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['receivable_entries', 'reinjections'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON %I TO weir_api USING (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)
            WITH CHECK (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)', name);
        EXECUTE format('CREATE POLICY pipeline ON %I TO weir_writer, weir_reader, weir_archiver, weir_migrate USING (true) WITH CHECK (true)', name);
    END LOOP;
END $$;
