-- Periods of meters that do not add up (maximum, unique count and others): each is priced as a whole once it is
-- over, by events that close it, and again where something is observed of it later. The quantities themselves
-- are in the log; nothing of money is here.

CREATE TABLE meter_periods (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    meter        text COLLATE "C" NOT NULL,
    period_from  timestamptz NOT NULL,
    period_to    timestamptz NOT NULL CHECK (period_to > period_from),
    state        text COLLATE "C" NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed')),
    closings     integer NOT NULL DEFAULT 0,
    quantities   bigint NOT NULL DEFAULT 0,
    error        text,
    closed_at    timestamptz,
    lease        uuid,
    leased_until timestamptz,
    PRIMARY KEY (tenant_id, meter, period_from)
);
COMMENT ON TABLE meter_periods IS 'Periods of meters that do not add up, of which something was observed.';
COMMENT ON COLUMN meter_periods.closings IS 'How often it was closed: more than once where something was observed later.';
COMMENT ON COLUMN meter_periods.quantities IS 'Teams, times their combinations of dimensions, that it was closed with.';
COMMENT ON COLUMN meter_periods.lease IS 'The process that closes it, until leased_until.';
CREATE INDEX meter_periods_open ON meter_periods (period_to) WHERE state = 'open';

CREATE TABLE observed_positions (
    partition integer PRIMARY KEY,
    position  bigint NOT NULL
);
COMMENT ON TABLE observed_positions IS 'Up to where the archive was searched for what was observed.';

GRANT SELECT ON meter_periods, observed_positions TO weir_api, weir_reader;
GRANT INSERT ON meter_periods, observed_positions TO weir_api;
GRANT UPDATE (state, closings, quantities, error, closed_at, lease, leased_until) ON meter_periods TO weir_api;
GRANT UPDATE (position) ON observed_positions TO weir_api;
GRANT ALL ON meter_periods, observed_positions TO weir_migrate;

ALTER TABLE meter_periods ENABLE ROW LEVEL SECURITY;
ALTER TABLE meter_periods FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON meter_periods TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON meter_periods TO weir_reader, weir_migrate USING (true) WITH CHECK (true);
