-- The archive. {database}, {engine} and {on_cluster} are filled in by `weir migrate`.
-- Row identity is (partition, position, index). `sign` and `rating_run` make corrections rows:
-- every view multiplies by sign. Partitions are months of append time, never of event time.

CREATE TABLE IF NOT EXISTS {database}.usage_events {on_cluster} (
    position Int64, index UInt32, identity UInt128, content_hash UInt64, partition UInt32,
    tenant_id UUID, event_id String, source LowCardinality(String), type LowCardinality(String),
    subject String, team String, user String, app LowCardinality(String), key LowCardinality(String), feature LowCardinality(String),
    time DateTime64(6, 'UTC'), has_client_time Bool, append_time DateTime64(6, 'UTC'),
    outcome Enum8('rated' = 1, 'unmetered' = 2, 'unpriced' = 3),
    hold Nullable(UUID), hold_end Bool, catalog_version UInt64, rules_version UInt32,
    verdict Enum8('none' = 0, 'new' = 1, 'duplicate' = 2, 'conflict' = 3), checked_to Int64,
    origin_partition UInt32, origin_position Int64, origin_index UInt32,
    quote_charge Nullable(Decimal(38, 12)), quote_currency LowCardinality(String), quote_catalog_version UInt64, quote_not_after DateTime64(6, 'UTC'),
    lines Nested (
        meter LowCardinality(String), unit LowCardinality(String), quantity Decimal(38, 12),
        status Enum8('priced' = 1, 'unlimited' = 2, 'unpriced' = 3),
        card LowCardinality(String), card_version UInt32, currency LowCardinality(String), charge Nullable(Decimal(38, 12)),
        cost_card LowCardinality(String), cost_card_version UInt32, cost_currency LowCardinality(String), cost Nullable(Decimal(38, 12)),
        dimensions Map(String, String), total_before Decimal(38, 12)
    ),
    raw String, raw_hash UInt128, sign Int8, rating_run UInt32,
    PROJECTION identities (SELECT partition, position, index, identity, content_hash ORDER BY partition, position, index)
) ENGINE = {engine}
PARTITION BY toYYYYMM(append_time)
ORDER BY (tenant_id, team, time, partition, position, index)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS {database}.rejected_events {on_cluster} (
    position Int64, index UInt32, identity UInt128, content_hash UInt64, partition UInt32,
    tenant_id UUID, event_id String, source LowCardinality(String), type LowCardinality(String),
    subject String, team String, user String, app LowCardinality(String), key LowCardinality(String), feature LowCardinality(String),
    time Nullable(DateTime64(6, 'UTC')), append_time DateTime64(6, 'UTC'),
    outcome Enum8('duplicate' = 1, 'conflict' = 2, 'rejected' = 3), reason LowCardinality(String), detail String,
    twin_position Int64, twin_index UInt32,
    door LowCardinality(String), door_partition UInt32, door_offset Int64, door_index UInt32,
    hold Nullable(UUID), catalog_version UInt64,
    verdict Enum8('none' = 0, 'new' = 1, 'duplicate' = 2, 'conflict' = 3), checked_to Int64,
    origin_partition UInt32, origin_position Int64, origin_index UInt32,
    raw String
) ENGINE = {engine}
PARTITION BY toYYYYMM(append_time)
ORDER BY (tenant_id, team, append_time, partition, position, index)
SETTINGS non_replicated_deduplication_window = 10000;

-- How far the archive has come: one row per insert group, written after its rows.
CREATE TABLE IF NOT EXISTS {database}.archived {on_cluster} (
    partition UInt32, from_x Int64, to_x Int64, r Int64, c FixedString(32), rows UInt64, others UInt64,
    archived_at DateTime64(6, 'UTC') DEFAULT now64(6)
) ENGINE = {engine}
ORDER BY (partition, to_x)
SETTINGS non_replicated_deduplication_window = 10000;

-- One row per line of an event. An event without lines has none here.
CREATE VIEW IF NOT EXISTS {database}.usage_lines {on_cluster} AS
SELECT tenant_id, team, user, app, key, feature, event_id, source, type, subject, time, append_time, outcome,
    partition, position, index, catalog_version, rules_version, hold, sign, rating_run, line_number,
    line.1 AS meter, line.2 AS unit, line.3 AS quantity, line.4 AS status, line.5 AS card, line.6 AS card_version,
    line.7 AS currency, line.8 AS charge, line.9 AS cost_card, line.10 AS cost_card_version, line.11 AS cost_currency,
    line.12 AS cost, line.13 AS dimensions
FROM {database}.usage_events
ARRAY JOIN arrayZip(lines.meter, lines.unit, lines.quantity, lines.status, lines.card, lines.card_version, lines.currency,
        lines.charge, lines.cost_card, lines.cost_card_version, lines.cost_currency, lines.cost, lines.dimensions) AS line,
    arrayEnumerate(lines.meter) AS line_number;

-- Usage, charge and cost by hour (UTC) of event time.
CREATE VIEW IF NOT EXISTS {database}.usage_by_hour {on_cluster} AS
SELECT tenant_id, team, meter, unit, dimensions, currency, cost_currency, toStartOfHour(time) AS hour,
    sum(quantity * sign) AS quantity, sum(charge * sign) AS charge, sum(cost * sign) AS cost,
    sum(sign) AS events, countIf(status = 'unpriced') AS unpriced_lines, countIf(cost IS NULL) AS uncosted_lines
FROM {database}.usage_lines
GROUP BY tenant_id, team, meter, unit, dimensions, currency, cost_currency, hour;

-- The same by day (UTC).
CREATE VIEW IF NOT EXISTS {database}.usage_by_day {on_cluster} AS
SELECT tenant_id, team, meter, unit, dimensions, currency, cost_currency, toDate(time) AS day,
    sum(quantity * sign) AS quantity, sum(charge * sign) AS charge, sum(cost * sign) AS cost,
    sum(sign) AS events, countIf(status = 'unpriced') AS unpriced_lines, countIf(cost IS NULL) AS uncosted_lines
FROM {database}.usage_lines
GROUP BY tenant_id, team, meter, unit, dimensions, currency, cost_currency, day;

-- Margins are NULL where charge and cost are in different currencies or a cost is unknown.
CREATE VIEW IF NOT EXISTS {database}.margin_by_team {on_cluster} AS
SELECT tenant_id, team, currency, cost_currency, sum(charge * sign) AS charge, sum(cost * sign) AS cost,
    if(currency = cost_currency AND countIf(cost IS NULL OR charge IS NULL) = 0, charge - cost, NULL) AS margin
FROM {database}.usage_lines GROUP BY tenant_id, team, currency, cost_currency;

CREATE VIEW IF NOT EXISTS {database}.margin_by_model {on_cluster} AS
SELECT tenant_id, dimensions['provider'] AS provider, dimensions['model'] AS model, currency, cost_currency,
    sum(charge * sign) AS charge, sum(cost * sign) AS cost,
    if(currency = cost_currency AND countIf(cost IS NULL OR charge IS NULL) = 0, charge - cost, NULL) AS margin
FROM {database}.usage_lines GROUP BY tenant_id, provider, model, currency, cost_currency;

CREATE VIEW IF NOT EXISTS {database}.margin_by_day {on_cluster} AS
SELECT tenant_id, toDate(time) AS day, currency, cost_currency, sum(charge * sign) AS charge, sum(cost * sign) AS cost,
    if(currency = cost_currency AND countIf(cost IS NULL OR charge IS NULL) = 0, charge - cost, NULL) AS margin
FROM {database}.usage_lines GROUP BY tenant_id, day, currency, cost_currency;
