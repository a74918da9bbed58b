-- Lines of meters that do not add up say what was seen, and have no price: their period has one, at its close.
-- Views of usage are of what is priced, so they leave them out.
ALTER TABLE usage_events {on_cluster}
    MODIFY COLUMN `lines.status` Array(Enum8('priced' = 1, 'unlimited' = 2, 'unpriced' = 3, 'observed' = 4));

CREATE OR REPLACE VIEW usage_lines {on_cluster} AS
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
    lines.total_before AS total_before, arrayEnumerate(lines.meter) AS line_number
WHERE status != 'observed';
