-- A part is one file with all columns until it is this long, not two files a column: an insert
-- group writes, syncs and soon merges a handful of files instead of two hundred.
ALTER TABLE usage_events {on_cluster} MODIFY SETTING min_bytes_for_wide_part = 268435456;
ALTER TABLE rejected_events {on_cluster} MODIFY SETTING min_bytes_for_wide_part = 268435456;
