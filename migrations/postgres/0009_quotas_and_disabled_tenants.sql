-- How much usage a tenant may report in a day or month (UTC), and tenants that may do nothing for now.

CREATE TABLE ingest_quotas (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    period     text COLLATE "C" NOT NULL CHECK (period IN ('day', 'month')),
    events     bigint CHECK (events BETWEEN 0 AND 1000000000000000),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, period)
);
COMMENT ON TABLE ingest_quotas IS 'Without a row, or with null, nothing is limited.';

CREATE TABLE ingest_counts (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    period       text COLLATE "C" NOT NULL CHECK (period IN ('day', 'month')),
    period_start date NOT NULL,
    events       bigint NOT NULL CHECK (events >= 0),
    PRIMARY KEY (tenant_id, period)
);
COMMENT ON TABLE ingest_counts IS 'Events that ingest has accepted over HTTP in the current period, for quotas. What is billed is in the ledger.';

ALTER TABLE tenants ADD COLUMN disabled_at timestamptz;
COMMENT ON COLUMN tenants.disabled_at IS 'Since when its keys, tokens and doors are refused; what is in the log is rated and posted all the same.';

REVOKE ALL ON ingest_quotas, ingest_counts FROM PUBLIC;
GRANT SELECT ON ingest_quotas, ingest_counts TO weir_reader;
GRANT SELECT, INSERT ON ingest_quotas TO weir_api;
GRANT UPDATE (events, changed_at) ON ingest_quotas TO weir_api;
GRANT SELECT ON ingest_counts TO weir_api;
GRANT ALL ON ingest_quotas, ingest_counts TO weir_migrate;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['ingest_quotas', 'ingest_counts'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON %I TO weir_api USING (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)
            WITH CHECK (tenant_id = nullif(current_setting(''app.tenant'', true), '''')::uuid)', name);
        EXECUTE format('CREATE POLICY pipeline ON %I TO weir_writer, weir_reader, weir_archiver, weir_migrate USING (true) WITH CHECK (true)', name);
    END LOOP;
END $$;

-- Ingest says what it has accepted since it last did, and hears all quotas with what is counted
-- against them. It may write nothing else, so this is a function.
CREATE FUNCTION count_ingested(counted_tenants uuid[], counted bigint[])
RETURNS TABLE (tenant_id uuid, period text, quota bigint, used bigint, ends_at timestamptz)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH periods AS (
        SELECT p.period, date_trunc(p.period, clock_timestamp() AT TIME ZONE 'UTC') AS starts
        FROM (VALUES ('day'), ('month')) AS p (period)
    ), said AS (
        INSERT INTO ingest_counts AS known (tenant_id, period, period_start, events)
        SELECT c.tenant, p.period, p.starts::date, c.events
        FROM unnest(counted_tenants, counted) AS c (tenant, events) CROSS JOIN periods p
        ORDER BY c.tenant, p.period
        ON CONFLICT (tenant_id, period) DO UPDATE SET period_start = excluded.period_start,
            events = excluded.events + CASE WHEN known.period_start = excluded.period_start THEN known.events ELSE 0 END
        RETURNING known.tenant_id, known.period, known.period_start, known.events
    )
    SELECT q.tenant_id, q.period, q.events,
        coalesce(s.events, CASE WHEN k.period_start = p.starts::date THEN k.events END, 0),
        (p.starts + ('1 ' || p.period)::interval) AT TIME ZONE 'UTC'
    FROM ingest_quotas q JOIN periods p USING (period)
    LEFT JOIN said s ON s.tenant_id = q.tenant_id AND s.period = q.period
    LEFT JOIN ingest_counts k ON k.tenant_id = q.tenant_id AND k.period = q.period
    WHERE q.events IS NOT NULL
$$;
REVOKE ALL ON FUNCTION count_ingested(uuid[], bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION count_ingested(uuid[], bigint[]) TO weir_reader;

-- Authentication comes before a tenant may be read.
CREATE FUNCTION tenant_is_disabled(asked uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT disabled_at IS NOT NULL FROM tenants WHERE tenant_id = asked
$$;
REVOKE ALL ON FUNCTION tenant_is_disabled(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenant_is_disabled(uuid) TO weir_api;
