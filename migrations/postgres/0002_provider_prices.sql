-- What LLM providers charge, as imported price lists say: per tenant, never changed. A price that a
-- later import changes or withdraws gets a new version.
CREATE TABLE provider_price_imports (
    tenant_id   uuid NOT NULL REFERENCES tenants,
    import_id   uuid NOT NULL,
    source      text NOT NULL,
    source_date date NOT NULL,
    imported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, import_id)
);

CREATE TABLE provider_prices (
    tenant_id      uuid NOT NULL,
    provider       text COLLATE "C" NOT NULL,
    model          text COLLATE "C" NOT NULL,
    class          text COLLATE "C" NOT NULL,
    above          bigint NOT NULL CHECK (above >= 0),
    version        integer NOT NULL CHECK (version > 0),
    price          numeric(38, 12) CHECK (price >= 0),
    per            bigint NOT NULL CHECK (per > 0),
    currency       text COLLATE "C" NOT NULL,
    effective_from timestamptz NOT NULL,
    import_id      uuid NOT NULL,
    PRIMARY KEY (tenant_id, provider, model, class, above, version),
    FOREIGN KEY (tenant_id, import_id) REFERENCES provider_price_imports
);
COMMENT ON COLUMN provider_prices.above IS 'For prompts of more tokens than this; 0 for all.';
COMMENT ON COLUMN provider_prices.price IS 'NULL from when the provider no longer lists it.';

REVOKE ALL ON provider_price_imports, provider_prices FROM PUBLIC;
GRANT SELECT ON provider_price_imports, provider_prices TO weir_reader;
GRANT SELECT, INSERT ON provider_price_imports, provider_prices TO weir_api;
GRANT ALL ON provider_price_imports, provider_prices TO weir_migrate;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['provider_price_imports', 'provider_prices'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON %I TO weir_api USING (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)
            WITH CHECK (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)', name);
        EXECUTE format('CREATE POLICY pipeline ON %I TO weir_writer, weir_reader, weir_archiver, weir_migrate USING (true) WITH CHECK (true)', name);
    END LOOP;
END $$;
