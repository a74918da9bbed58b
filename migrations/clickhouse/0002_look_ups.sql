-- Look-ups that are not by team and time: the events of a journal and an event by its receipt are found
-- by position, a user's by the user. The order of the table has neither first. Data that were
-- there before get the indexes when their parts are merged.
ALTER TABLE usage_events {on_cluster} ADD INDEX IF NOT EXISTS positions position TYPE minmax GRANULARITY 1;

ALTER TABLE usage_events {on_cluster} ADD INDEX IF NOT EXISTS users user TYPE bloom_filter(0.01) GRANULARITY 4;

ALTER TABLE rejected_events {on_cluster} ADD INDEX IF NOT EXISTS positions position TYPE minmax GRANULARITY 1;
