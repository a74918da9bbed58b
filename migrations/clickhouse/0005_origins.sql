-- A late event stands where its copy does, and its receipt says where it was accepted: it is found by
-- its origin too. Data that were there before get the index when their parts are merged.
ALTER TABLE usage_events {on_cluster} ADD INDEX IF NOT EXISTS origins origin_position TYPE minmax GRANULARITY 1;

ALTER TABLE rejected_events {on_cluster} ADD INDEX IF NOT EXISTS origins origin_position TYPE minmax GRANULARITY 1;
