-- Drafts: changes of the catalog that are not published. And rates of exchange, for display: no amount that is stored or
-- posted is ever made of one.

CREATE TABLE catalog_drafts (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    draft        text COLLATE "C" NOT NULL,
    revision     bigint NOT NULL DEFAULT 1,
    base_version bigint NOT NULL,
    note         text NOT NULL,
    document     text NOT NULL,
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_by   text NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, draft),
    CHECK (revision > 0),
    CHECK (base_version >= 0)
);
COMMENT ON TABLE catalog_drafts IS 'Catalogs that are written and not published.';
COMMENT ON COLUMN catalog_drafts.base_version IS 'The version of the catalog that it was made from; 0 where there was none.';
COMMENT ON COLUMN catalog_drafts.document IS 'A whole catalog as it was sent, which may have faults.';

CREATE TABLE exchange_rates (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    from_currency text COLLATE "C" NOT NULL,
    to_currency   text COLLATE "C" NOT NULL CHECK (to_currency <> from_currency),
    effective_on  date NOT NULL,
    rate          numeric(32, 12) NOT NULL CHECK (rate > 0),
    source        text NOT NULL,
    stored_by     text NOT NULL,
    stored_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, from_currency, to_currency, effective_on)
);
COMMENT ON TABLE exchange_rates IS 'Dated rates of exchange for display.';
COMMENT ON COLUMN exchange_rates.rate IS 'What one of the first currency is in the second one, from this day on.';

GRANT SELECT ON catalog_drafts, exchange_rates TO weir_api, weir_reader;
GRANT INSERT ON catalog_drafts, exchange_rates TO weir_api;
GRANT UPDATE (revision, base_version, note, document, updated_by, updated_at) ON catalog_drafts TO weir_api;
GRANT UPDATE (rate, source, stored_by, stored_at) ON exchange_rates TO weir_api;
GRANT DELETE ON catalog_drafts, exchange_rates TO weir_api;
GRANT ALL ON catalog_drafts, exchange_rates TO weir_migrate;

ALTER TABLE catalog_drafts ENABLE ROW LEVEL SECURITY;
ALTER TABLE catalog_drafts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON catalog_drafts TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON catalog_drafts TO weir_reader, weir_migrate USING (true) WITH CHECK (true);

ALTER TABLE exchange_rates ENABLE ROW LEVEL SECURITY;
ALTER TABLE exchange_rates FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON exchange_rates TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON exchange_rates TO weir_reader, weir_migrate USING (true) WITH CHECK (true);
