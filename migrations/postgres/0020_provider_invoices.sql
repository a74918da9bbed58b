-- Invoices and usage exports of providers, to hold what they bill against what Weir counted. An invoice that is
-- replaced keeps its earlier revisions; nothing here changes a cost or a charge.

CREATE TABLE provider_invoices (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    invoice      text COLLATE "C" NOT NULL,
    revision     integer NOT NULL CHECK (revision > 0),
    provider     text COLLATE "C" NOT NULL,
    time_zone    text NOT NULL,
    period_from  date NOT NULL,
    period_to    date NOT NULL CHECK (period_to > period_from),
    models       jsonb NOT NULL,
    classes      jsonb NOT NULL,
    lines        integer NOT NULL CHECK (lines > 0),
    totals       jsonb NOT NULL,
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    imported_by  text NOT NULL,
    imported_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, invoice, revision)
);
COMMENT ON TABLE provider_invoices IS 'Invoices of providers; the revision with the largest number counts.';
COMMENT ON COLUMN provider_invoices.period_to IS 'The day after the last, in the time zone.';
COMMENT ON COLUMN provider_invoices.models IS 'What the importer said that its names of models are here.';
COMMENT ON COLUMN provider_invoices.content_hash IS 'The same content again is the same revision.';

CREATE TABLE provider_invoice_lines (
    tenant_id uuid NOT NULL,
    invoice   text COLLATE "C" NOT NULL,
    revision  integer NOT NULL,
    line      bigint NOT NULL CHECK (line > 0),
    day       date,
    model     text COLLATE "C",
    class     text COLLATE "C",
    quantity  numeric(38, 12),
    amount    numeric(38, 12) NOT NULL,
    currency  text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, invoice, revision, line),
    FOREIGN KEY (tenant_id, invoice, revision) REFERENCES provider_invoices
);
COMMENT ON TABLE provider_invoice_lines IS 'Rows of the files, as the providers wrote them.';

GRANT SELECT ON provider_invoices, provider_invoice_lines TO weir_api, weir_reader;
GRANT INSERT ON provider_invoices, provider_invoice_lines TO weir_api;
GRANT ALL ON provider_invoices, provider_invoice_lines TO weir_migrate;

ALTER TABLE provider_invoices ENABLE ROW LEVEL SECURITY;
ALTER TABLE provider_invoices FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON provider_invoices TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON provider_invoices TO weir_reader, weir_migrate USING (true) WITH CHECK (true);

ALTER TABLE provider_invoice_lines ENABLE ROW LEVEL SECURITY;
ALTER TABLE provider_invoice_lines FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON provider_invoice_lines TO weir_api USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
CREATE POLICY pipeline ON provider_invoice_lines TO weir_reader, weir_migrate USING (true) WITH CHECK (true);
