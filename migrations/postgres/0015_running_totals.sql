-- What prices that depend on a period's usage so far depend on: docs/PRICING.md. Each rated batch carries
-- the totals that it changed, as it leaves them, and the ledger-writer writes them with its posting. A rater
-- that starts reads from here what it has not read from [rated].

CREATE TABLE running_totals (
    tenant_id uuid NOT NULL REFERENCES tenants,
    team      text COLLATE "C" NOT NULL,
    meter     text COLLATE "C" NOT NULL,
    scope     text COLLATE "C" NOT NULL,
    period    text COLLATE "C" NOT NULL CHECK (period IN ('day', 'week', 'month', 'quarter', 'year', 'ever')),
    starts_at timestamptz NOT NULL,
    quantity  numeric(38, 12) NOT NULL,
    PRIMARY KEY (tenant_id, team, meter, scope, period, starts_at),
    FOREIGN KEY (tenant_id, team) REFERENCES teams
) WITH (fillfactor = 50);
COMMENT ON TABLE running_totals IS 'Usage of a team in a period so far, for prices that depend on it; changed by the ledger-writer alone.';
COMMENT ON COLUMN running_totals.scope IS 'The dimensions of a row that has a total of its own; empty for the total of the meter.';
COMMENT ON COLUMN running_totals.starts_at IS '-infinity for a total that goes on for ever.';
COMMENT ON COLUMN running_totals.quantity IS 'In the units that are priced, which a row may have converted.';

GRANT SELECT ON running_totals TO weir_api, weir_reader, weir_writer;
GRANT INSERT, UPDATE ON running_totals TO weir_writer;
GRANT ALL ON running_totals TO weir_migrate;

ALTER TABLE running_totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE running_totals FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON running_totals TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON running_totals TO weir_writer, weir_reader, weir_archiver, weir_migrate USING (true) WITH CHECK (true);
