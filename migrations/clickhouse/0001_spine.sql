-- The archive. {engine} and {on_cluster} are filled in by `weir migrate`, which runs in the archive's
-- database. docs/FORMATS.md defines the columns.
-- Row identity is (partition, position, index). `sign` and `rating_run` make corrections rows:
-- every view multiplies by sign. Partitions are months of append time, never of event time.
-- An insert is repeated with its token when its answer was lost; the tables remember the newest
-- 10,000 tokens, and the views take each row once even where a repeat came later than that.
-- Inserts are on disk before they are answered: `archived` must not outlive the rows it speaks of.

CREATE TABLE IF NOT EXISTS usage_events {on_cluster} (
    position Int64, `index` UInt32, identity UInt128, content_hash UInt64, partition UInt32,
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
    PROJECTION identities (SELECT partition, position, `index`, identity, content_hash ORDER BY (partition, position, `index`))
) ENGINE = {engine}
PARTITION BY toYYYYMM(append_time)
ORDER BY (tenant_id, team, time, partition, position, `index`, rating_run, sign)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS rejected_events {on_cluster} (
    position Int64, `index` UInt32, identity UInt128, content_hash UInt64, partition UInt32,
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
ORDER BY (tenant_id, team, append_time, partition, position, `index`)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- How far the archive has come: one row per insert group, written after its rows.
CREATE TABLE IF NOT EXISTS archived {on_cluster} (
    partition UInt32, from_x Int64, to_x Int64, r Int64, c FixedString(32), rows UInt64, others UInt64,
    archived_at DateTime64(6, 'UTC') DEFAULT now64(6)
) ENGINE = {engine}
ORDER BY (partition, to_x)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per line of an event; an event without lines has none here. Each event is taken once.
-- Both column lists are the table's order: parts are merged as they stand, in constant memory, and
-- conditions on those columns reach the table.
CREATE VIEW IF NOT EXISTS usage_lines {on_cluster} AS
SELECT tenant_id, team, user, app, key, feature, event_id, source, type, subject, time, append_time, outcome,
    partition, position, `index`, catalog_version, rules_version, hold, sign, rating_run, line_number,
    meter, unit, quantity, status, card, card_version, currency, charge,
    cost_card, cost_card_version, cost_currency, cost, dimensions, total_before
FROM (SELECT * FROM usage_events
    ORDER BY tenant_id, team, time, partition, position, `index`, rating_run, sign
    LIMIT 1 BY tenant_id, team, time, partition, position, `index`, rating_run, sign)
ARRAY JOIN lines.meter AS meter, lines.unit AS unit, lines.quantity AS quantity, lines.status AS status,
    lines.card AS card, lines.card_version AS card_version, lines.currency AS currency, lines.charge AS charge,
    lines.cost_card AS cost_card, lines.cost_card_version AS cost_card_version,
    lines.cost_currency AS cost_currency, lines.cost AS cost, lines.dimensions AS dimensions,
    lines.total_before AS total_before, arrayEnumerate(lines.meter) AS line_number;

-- Usage, charge and cost by hour (UTC) of event time. A charge without any known price is NULL, and
-- so is a cost; where some are known, `unpriced_lines` and `uncosted_lines` say how many are not.
CREATE VIEW IF NOT EXISTS usage_by_hour {on_cluster} AS
SELECT tenant_id, team, meter, unit, dimensions, currency, cost_currency, toStartOfHour(line.time) AS hour,
    sum(line.quantity * line.sign) AS quantity, sum(line.charge * line.sign) AS charge, sum(line.cost * line.sign) AS cost,
    sum(line.sign) AS events, sumIf(line.sign, line.charge IS NULL) AS unpriced_lines, sumIf(line.sign, line.cost IS NULL) AS uncosted_lines
FROM usage_lines AS line
GROUP BY tenant_id, team, meter, unit, dimensions, currency, cost_currency, hour;

-- The same by day (UTC).
CREATE VIEW IF NOT EXISTS usage_by_day {on_cluster} AS
SELECT tenant_id, team, meter, unit, dimensions, currency, cost_currency, toDate(line.time) AS day,
    sum(line.quantity * line.sign) AS quantity, sum(line.charge * line.sign) AS charge, sum(line.cost * line.sign) AS cost,
    sum(line.sign) AS events, sumIf(line.sign, line.charge IS NULL) AS unpriced_lines, sumIf(line.sign, line.cost IS NULL) AS uncosted_lines
FROM usage_lines AS line
GROUP BY tenant_id, team, meter, unit, dimensions, currency, cost_currency, day;

-- Margins: charge minus cost of lines that have both, in one currency; NULL where the currencies
-- differ, a charge is unknown (its currency is empty) or a cost is.
CREATE VIEW IF NOT EXISTS margin_by_team {on_cluster} AS
SELECT tenant_id, team, currency, cost_currency,
    sum(line.charge * line.sign) AS charge, sum(line.cost * line.sign) AS cost,
    sum(line.sign) AS events, sumIf(line.sign, line.charge IS NULL) AS unpriced_lines, sumIf(line.sign, line.cost IS NULL) AS uncosted_lines,
    if(currency = cost_currency AND unpriced_lines = 0 AND uncosted_lines = 0, charge - cost, NULL) AS margin
FROM usage_lines AS line
GROUP BY tenant_id, team, currency, cost_currency;

CREATE VIEW IF NOT EXISTS margin_by_model {on_cluster} AS
SELECT tenant_id, line.dimensions['provider'] AS provider, line.dimensions['model'] AS model, currency, cost_currency,
    sum(line.charge * line.sign) AS charge, sum(line.cost * line.sign) AS cost,
    sum(line.sign) AS events, sumIf(line.sign, line.charge IS NULL) AS unpriced_lines, sumIf(line.sign, line.cost IS NULL) AS uncosted_lines,
    if(currency = cost_currency AND unpriced_lines = 0 AND uncosted_lines = 0, charge - cost, NULL) AS margin
FROM usage_lines AS line
GROUP BY tenant_id, provider, model, currency, cost_currency;

CREATE VIEW IF NOT EXISTS margin_by_day {on_cluster} AS
SELECT tenant_id, toDate(line.time) AS day, currency, cost_currency,
    sum(line.charge * line.sign) AS charge, sum(line.cost * line.sign) AS cost,
    sum(line.sign) AS events, sumIf(line.sign, line.charge IS NULL) AS unpriced_lines, sumIf(line.sign, line.cost IS NULL) AS uncosted_lines,
    if(currency = cost_currency AND unpriced_lines = 0 AND uncosted_lines = 0, charge - cost, NULL) AS margin
FROM usage_lines AS line
GROUP BY tenant_id, day, currency, cost_currency;
